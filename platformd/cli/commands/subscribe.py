"""``platformd subscribe``: follow subjects over the control API, without a consumer."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import click

from platformd.cli.options import Session, connection_options, examples, output_option, tenant_option
from platformd.cli.stream_output import complete_stream

if TYPE_CHECKING:
    from platformd.client.http import Target
    from platformd.client.tailing import SlowPolicy, Tailed, TailState
    from platformd.core.errors import PlatformError

MAX_STREAMS: Final = 32
"""Streams that are followed at once: each has a connection."""
WAITING: Final = 64
"""Events of several streams that wait to be printed; what comes then waits at the daemon."""


@click.command(
    epilog=examples(
        "platformd subscribe 'alerts.>'",
        "platformd subscribe alerts.ztf --from all -o json",
        "platformd subscribe 'alerts.>' --from 1000 --count 10 --format '{{sequence}} {{subject}} {{text}}'",
        "platformd subscribe 'logs.>' --last 20 -o raw",
        "platformd subscribe 'fast.>' --on-slow drop_oldest > /dev/null",
    )
)
@click.argument("subject")
@click.option("--stream", metavar="NAME", help="Only of this stream.", shell_complete=complete_stream)
@click.option("--from", "start", default="new", show_default=True, metavar="all|new|SEQ", help="Where to begin.")
@click.option("--last", type=click.IntRange(min=1), metavar="N", help="Begin so many sequences before the end.")
@click.option("--count", type=click.IntRange(min=1), metavar="N", help="End after so many records.")
@click.option(
    "--on-slow",
    type=click.Choice(("block", "drop_oldest", "disconnect")),
    default="block",
    show_default=True,
    help="When records come faster than they are printed: they wait in the log, the oldest are dropped, or it ends.",
)
@click.option("--format", "form", metavar="TEMPLATE", help="As for `platformd consume`.")
@click.option("--delimiter", default="\n", metavar="TEXT", help=r"After each record with -o raw and --format.")
@tenant_option
@connection_options
@output_option("table", "json", "raw")
@click.pass_obj
def command(
    session: Session,
    subject: str,
    stream: str | None,
    start: str,
    last: int | None,
    count: int | None,
    on_slow: SlowPolicy,
    form: str | None,
    delimiter: str,
    tenant: str,
    output: str,
) -> None:
    """Print the records of SUBJECT (a pattern: * one token, > the rest) as they come, until Ctrl-C or --count.

    It reads the log itself: nothing is kept at the daemon, and a lost connection goes on where it was. To share
    the work, or to go on tomorrow, use `platformd consume --consumer`. What is dropped is said on standard error.
    """
    from platformd.cli.records import Seen, streams_of, terminable, writer
    from platformd.client.tailing import TailState
    from platformd.core.errors import InvalidInput
    from platformd.model.subjects import subject_error

    wrong = subject_error(subject, pattern=True)
    if wrong:
        raise InvalidInput(wrong, subject=subject)
    printed = writer(output, delimiter=delimiter, form=form)
    names = [stream] if stream is not None else streams_of(session, subject, tenant)
    if len(names) > MAX_STREAMS:
        hint = "name one with --stream, or take a narrower subject"
        raise InvalidInput(
            f"it is in {len(names)} streams, at most {MAX_STREAMS} are followed", subject=subject, hint=hint
        )
    tails = {
        name: TailState(
            name, tenant=tenant, subject=subject, after=_after(session, name, tenant, start, last), on_slow=on_slow
        )
        for name in names
    }
    left = count
    with terminable():
        for name, event in _events(session, tails):
            if event.type == "dropped":
                _note_drop(name, event)
            elif event.type == "record":
                printed.write([Seen.of_document(event.document, name)])
                if left is not None:
                    left -= 1
                    if left == 0:
                        return


def _after(session: Session, stream: str, tenant: str, start: str, last: int | None) -> int | None:
    """The sequence to begin after; ``None`` for now."""
    from platformd.client.tailing import stream_info
    from platformd.core.errors import InvalidInput

    if last is not None:
        newest = session.client.send(stream_info(stream, tenant=tenant)).check().json()["last_sequence"]
        return max(0, int(newest) - last)
    if start in ("all", "new"):
        return 0 if start == "all" else None
    if not (start.isascii() and start.isdigit()) or int(start) < 1:
        hint = "a time needs a consumer: `platformd consume STREAM --from 10m --follow`"
        raise InvalidInput("is not all, new or a sequence from 1 on", subject=f"--from {start}", hint=hint)
    return int(start) - 1


def _note_drop(stream: str, event: Tailed) -> None:
    from platformd.cli.output import note

    why = "they were removed before" if event.document.get("reason") == "removed" else "this reader is too slow"
    said = event.document
    note(f"{said.get('records')} records of stream {stream} did not come: {why} ({said.get('total')} in all)")


def _events(session: Session, tails: dict[str, TailState]) -> Iterator[tuple[str, Tailed]]:
    """What all tails say: one as it comes, several each through a thread of its own."""
    if len(tails) == 1:
        ((name, state),) = tails.items()
        for event in session.client.tail(state, _lost):
            yield name, event
        return
    merged = _Merged()
    try:
        for name, state in tails.items():
            # A thread may wait for its daemon to say something: it ends with the process at the latest.
            threading.Thread(target=merged.follow, args=(session.target(), name, state), daemon=True).start()
        while True:
            found = merged.waiting.get()
            if not isinstance(found, tuple):
                raise found
            yield found
    finally:
        merged.over.set()


class _Over(Exception):
    """Nobody reads any more."""


class _Merged:
    """Several tails on their way to one reader."""

    def __init__(self) -> None:
        self.waiting: queue.Queue[tuple[str, Tailed] | PlatformError] = queue.Queue(WAITING)
        self.over = threading.Event()

    def follow(self, target: Target, name: str, state: TailState) -> None:
        from platformd.client.blocking import Client
        from platformd.core.errors import PlatformError

        try:
            with Client(target) as client:
                for event in client.tail(state, self._lost):
                    self._put((name, event))
        except PlatformError as error:
            with contextlib.suppress(_Over):
                self._put(error)
        except _Over:
            return

    def _put(self, found: tuple[str, Tailed] | PlatformError) -> None:
        while not self.over.is_set():
            with contextlib.suppress(queue.Full):
                self.waiting.put(found, timeout=0.2)
                return
        raise _Over

    def _lost(self, error: PlatformError, delay: float) -> None:
        if self.over.is_set():
            raise _Over
        _lost(error, delay)


def _lost(error: PlatformError, delay: float) -> None:
    from platformd.cli.output import note
    from platformd.client.blocking import FIRST_DELAY

    if delay == FIRST_DELAY:  # once for each loss, however long it lasts
        note(f"the connection was lost ({error.message}); trying until it is back")
