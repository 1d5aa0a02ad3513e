"""``platformd publish``: put records into a stream, over the queue socket."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import click

from platformd.cli.options import Session, connection_options, examples, output_option

if TYPE_CHECKING:
    from io import BufferedReader

    from platformd.client.queues import Durability, Pending, Published, Record

MAX_PAYLOAD_BYTES: Final = 64 << 20
"""The largest payload that is read into memory; the daemon's own limit (queues.max_record) is lower."""
READ_BYTES: Final = 256 << 10
"""How much of standard input is read at once with ``--lines``: the lines in it go as one batch, so that a
slow input is published as it comes and a fast one in large batches."""
MAX_IN_FLIGHT: Final = 8
"""Batches that wait for their acknowledgement at once."""


@click.command(
    epilog=examples(
        "platformd publish alerts.note 'seeing is good'",
        "platformd publish alerts.ztf --file packet.avro --msg-id 2469...15 --header survey=ztf",
        "platformd publish alerts.ztf --file *.avro",
        "journalctl -f -o json | platformd publish logs.host --lines --durability os",
    )
)
@click.argument("subject")
@click.argument("payload", required=False)
@click.option(
    "-f", "--file", "files", multiple=True, metavar="FILE", type=click.Path(path_type=Path), help="A file: one record."
)
@click.argument("more_files", nargs=-1, type=click.Path(path_type=Path), metavar="[FILE…]")
@click.option("--lines", is_flag=True, help="Standard input: one record for each line.")
@click.option("--stream", default="", metavar="NAME", help="The stream it is for (default: found by the subject).")
@click.option("--msg-id", default="", metavar="ID", help="The record's id: the same one is not stored twice.")
@click.option("-H", "--header", "headers", multiple=True, metavar="KEY=VALUE", help="A header; may be repeated.")
@click.option(
    "--durability",
    type=click.Choice(("fsync", "os", "memory")),
    default="fsync",
    show_default=True,
    help="What the acknowledgement means.",
)
@connection_options
@output_option("table", "json", "yaml")
@click.pass_obj
def command(
    session: Session,
    subject: str,
    payload: str | None,
    files: Sequence[Path],
    more_files: Sequence[Path],
    lines: bool,
    stream: str,
    msg_id: str,
    headers: Sequence[str],
    durability: Durability,
    output: str,
) -> None:
    """Publish records to SUBJECT: PAYLOAD, the content of files, or standard input.

    Returns when every record is acknowledged with the durability that was asked for.
    """
    from platformd.cli.records import queue_address
    from platformd.client.queues import Producer

    if files and payload is not None:  # the shell has expanded `--file *.avro`
        files, payload = (*files, Path(payload), *more_files), None
    batches = _batches(
        _Template(subject, msg_id, _headers(headers)),
        payload,
        files,
        surplus=more_files if not files else (),
        lines=lines,
    )
    tally = Tally()
    with (
        Producer(
            queue_address(session, "ingest"), stream=stream, durability=durability, max_in_flight=MAX_IN_FLIGHT
        ) as producer,
        _progress(len(files) or None, shown=lines or len(files) > 1) as advance,
    ):
        _publish(producer.submit, batches, tally, advance)
    _print(tally, output)


@dataclass
class Tally:
    """What was acknowledged."""

    stream: str = ""
    published: int = 0
    duplicates: int = 0
    first_sequence: int = 0
    last_sequence: int = 0

    def add(self, acknowledged: Published) -> None:
        """Count one batch's acknowledgement."""
        self.stream = acknowledged.stream
        self.published += acknowledged.appended
        self.duplicates += len(acknowledged.duplicates)
        if acknowledged.appended:
            self.first_sequence = self.first_sequence or acknowledged.first_sequence
            self.last_sequence = acknowledged.first_sequence + acknowledged.appended - 1


@dataclass(frozen=True)
class _Template:
    """What all records of one invocation have in common."""

    subject: str
    msg_id: str
    headers: dict[str, str]

    def record(self, payload: bytes) -> Record:
        from platformd.client.queues import Record

        return Record(subject=self.subject, payload=payload, msg_id=self.msg_id, headers=self.headers)


def _publish(
    submit: Callable[[Sequence[Record]], Pending],
    batches: Iterator[list[Record]],
    tally: Tally,
    advance: Callable[[int], None],
) -> None:
    from platformd.core.errors import PlatformError

    waiting: deque[Pending] = deque()

    def settle() -> None:
        acknowledged = waiting.popleft().wait()
        tally.add(acknowledged)
        advance(acknowledged.appended + len(acknowledged.duplicates))

    try:
        for batch in batches:
            if len(waiting) >= MAX_IN_FLIGHT:
                settle()
            waiting.append(submit(batch))
        while waiting:
            settle()
    except PlatformError as error:
        count = tally.published + tally.duplicates
        if count:
            said = f"{count} records before were acknowledged"
            error.hint = f"{error.hint}; {said}" if error.hint else said
        raise


def _batches(
    template: _Template, payload: str | None, files: Sequence[Path], *, surplus: Sequence[Path], lines: bool
) -> Iterator[list[Record]]:
    """The records to publish, in batches. What cannot be meant is refused before the first.

    Raises:
        InvalidInput: the options contradict each other.
    """
    from platformd.core.errors import InvalidInput

    if surplus:
        raise InvalidInput("is one payload too many", subject=str(surplus[0]), hint="quote a payload with spaces")
    if lines and (payload is not None or files):
        raise InvalidInput("reads standard input; leave PAYLOAD and --file out", subject="--lines")
    if template.msg_id and (lines or len(files) > 1):
        raise InvalidInput("names one record, and several would have it", subject="--msg-id")
    if payload is None and not files and sys.stdin.isatty():
        raise InvalidInput("nothing to publish", subject=template.subject, hint="give PAYLOAD, --file, or pipe it in")
    if lines:
        return ([template.record(line) for line in chunk] for chunk in _lines())
    if files:
        return ([template.record(_content(path))] for path in files)
    content = payload.encode() if payload is not None and payload != "-" else _bounded(sys.stdin.buffer.read, "-")
    return iter([[template.record(content)]])


def _headers(pairs: Sequence[str]) -> dict[str, str]:
    from platformd.core.errors import InvalidInput

    headers = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not (key and equals):
            raise InvalidInput("is not KEY=VALUE", subject=f"--header {pair}")
        headers[key] = value
    return headers


def _content(path: Path) -> bytes:
    from platformd.core.errors import InvalidInput

    try:
        with path.open("rb") as file:
            return _bounded(file.read, str(path))
    except OSError as error:
        raise InvalidInput(f"cannot be read: {error.strerror}", subject=str(path)) from error


def _bounded(read: Callable[[int], bytes], origin: str) -> bytes:
    data = read(MAX_PAYLOAD_BYTES + 1)
    if len(data) > MAX_PAYLOAD_BYTES:
        raise _too_large(origin)
    return data


def _too_large(origin: str) -> Exception:
    from platformd.core.errors import TooLarge

    return TooLarge(f"is larger than {MAX_PAYLOAD_BYTES} bytes", subject=origin)


def _lines() -> Iterator[list[bytes]]:
    """Standard input's lines, in chunks as they come."""
    rest = bytearray()
    source = cast("BufferedReader", sys.stdin.buffer)
    while chunk := source.read1(READ_BYTES):
        if b"\n" not in chunk:
            rest += chunk
            if len(rest) > MAX_PAYLOAD_BYTES:
                raise _too_large("a line of standard input")
            continue
        *whole, last = (bytes(rest) + chunk).split(b"\n")
        rest = bytearray(last)
        yield whole
    if rest:
        yield [bytes(rest)]


@contextmanager
def _progress(total: int | None, *, shown: bool) -> Iterator[Callable[[int], None]]:
    """A progress bar on standard error while many records go, if it is a terminal."""
    if not shown or not sys.stderr.isatty():
        yield lambda _count: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("published"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("published", total=total)
        yield lambda count: progress.advance(task, count)


def _print(tally: Tally, output: str) -> None:
    from platformd.cli.output import as_json, as_yaml, echo

    document: dict[str, Any] = {
        "stream": tally.stream,
        "published": tally.published,
        "duplicates": tally.duplicates,
        "first_sequence": tally.first_sequence,
        "last_sequence": tally.last_sequence,
    }
    if output != "table":
        echo(as_json(document) if output == "json" else as_yaml([document]))
        return
    parts = []
    if tally.published:
        first, last = tally.first_sequence, tally.last_sequence
        parts.append(f"{tally.published} published (sequence {first if first == last else f'{first} to {last}'})")
    if tally.duplicates:
        parts.append(f"{tally.duplicates} already there")
    echo(f"stream/{tally.stream} {', '.join(parts)}" if parts else "nothing was published: the input is empty")
