"""``platformd consume``: read a stream's records, over the queue socket."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import click

from platformd.cli.options import Session, complete_name, connection_options, examples, output_option

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from platformd.client.queues import Consumer, Delivery

MAX_FETCH: Final = 256
"""Records that are asked for at once."""
WAIT_SECONDS: Final = 0.5
"""How long one fetch waits for records when following. Ctrl-C is noticed between fetches."""
PREVIEW: Final = 40
"""Characters of a payload that a table shows."""
TERMINATED: Final = 143
"""Exit code after SIGTERM: 128 + 15."""


def _streams(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    return complete_name(context, "streams", incomplete)


@click.command(
    epilog=examples(
        "platformd consume alerts",
        "platformd consume alerts --subject 'alerts.ztf.>' --from new -o json",
        "platformd consume alerts --from 42 --count 1 -o raw --delimiter '' > packet.avro",
        "platformd consume alerts --consumer archive --follow -o json >> archive.jsonl",
    )
)
@click.argument("stream", shell_complete=_streams)
@click.option(
    "--consumer",
    metavar="NAME",
    help="A durable consumer: goes on where it was; made when it is not there. Without it one is made and removed.",
)
@click.option("--subject", metavar="PATTERN", help="Only records whose subject matches: * one token, > the rest.")
@click.option(
    "--from",
    "start",
    default="all",
    metavar="all|new|SEQ",
    help="Where a consumer that is made starts.",
    show_default=True,
)
@click.option("--count", type=click.IntRange(min=1), metavar="N", help="End after so many records.")
@click.option(
    "--follow/--no-follow", default=None, help="Wait for further records (default: only with --from new) or end."
)
@click.option(
    "--ack/--no-ack",
    default=True,
    show_default=True,
    help="Acknowledge records of --consumer once they are written; without it they are delivered again.",
)
@click.option(
    "--delimiter", default="\n", metavar="TEXT", help=r"After each payload with -o raw (default: a newline; \0)."
)
@connection_options
@output_option("table", "json", "raw")
@click.pass_obj
def command(
    session: Session,
    stream: str,
    consumer: str | None,
    subject: str | None,
    start: str,
    count: int | None,
    follow: bool | None,
    ack: bool,
    delimiter: str,
    output: str,
) -> None:
    """Read the records of STREAM.

    -o json prints one document on each line (payload in base64, text where it is UTF-8), -o raw the
    payloads alone.
    """
    from platformd.cli.records import queue_address
    from platformd.client.queues import Consumer as QueueConsumer

    config = _config(subject, start)
    address = queue_address(session, "fetch")
    writer = _writer(output, stream, delimiter)
    follow = start == "new" if follow is None else follow
    with (
        _terminable(),
        _cursor(session, stream, consumer, config, asked_subject=subject) as cursor,
        QueueConsumer(address, stream, cursor.name) as fetching,
    ):
        _consume(fetching, writer, count=count, follow=follow, ack=ack and cursor.explicit)


@dataclass(frozen=True)
class _Cursor:
    name: str
    explicit: bool
    """Whether its records are to be acknowledged."""


def _consume(fetching: Consumer, writer: Writer, *, count: int | None, follow: bool, ack: bool) -> None:
    left = count
    while left is None or left > 0:
        wanted = MAX_FETCH if left is None else min(MAX_FETCH, left)
        deliveries = fetching.fetch(max_records=wanted, wait=WAIT_SECONDS if follow else 0.0)
        if not deliveries and not follow:
            return
        if not deliveries:
            continue
        writer.write(deliveries)
        if ack:
            fetching.ack(deliveries)
        if left is not None:
            left -= len(deliveries)


def _config(subject: str | None, start: str) -> dict[str, Any]:
    """The consumer to make, with the fields of ``ConsumerConfig``."""
    from platformd.core.errors import InvalidInput
    from platformd.model.subjects import subject_error

    config: dict[str, Any] = {"filter_subject": subject or ">"}
    wrong = subject_error(config["filter_subject"], pattern=True)
    if wrong:
        raise InvalidInput(wrong, subject=f"--subject {subject}")
    if start in ("all", "new"):
        return config | {"deliver_policy": start}
    if not (start.isascii() and start.isdigit()) or int(start) < 1:
        raise InvalidInput("is not all, new or a sequence from 1 on", subject=f"--from {start}")
    return config | {"deliver_policy": "by_sequence", "start_sequence": int(start)}


@contextmanager
def _cursor(
    session: Session, stream: str, name: str | None, config: dict[str, Any], *, asked_subject: str | None
) -> Iterator[_Cursor]:
    """The consumer to fetch with; one that nobody named is removed afterwards."""
    from platformd.client import control
    from platformd.core.errors import PlatformError

    if name is not None:
        yield _Cursor(name, explicit=_ensure(session, stream, name, config, asked_subject) == "explicit")
        return
    name = f"cli-{os.urandom(6).hex()}"
    session.client.send(control.put_consumer(stream, name, config | {"ack_policy": "none"})).check()
    try:
        yield _Cursor(name, explicit=False)
    finally:
        try:
            session.client.send(control.delete_consumer(stream, name)).check()
        except PlatformError as error:
            from platformd.cli.output import note

            note(f"the consumer {name} of stream {stream} could not be removed: {error.message}")


def _ensure(session: Session, stream: str, name: str, config: dict[str, Any], asked_subject: str | None) -> str:
    """Have the durable consumer ``name``; its ack policy. One that is there is taken as it is."""
    from platformd.client import control
    from platformd.core.errors import Conflict

    known = control.read_page(session.client.send(control.list_consumers(stream))).items
    info = next((item for item in known if item.get("name") == name), None)
    if info is None:
        info = session.client.send(control.put_consumer(stream, name, config)).check().json()
    has: dict[str, Any] = info.get("config") or {}
    if asked_subject is not None and has.get("filter_subject", asked_subject) != asked_subject:
        raise Conflict(
            f"it is there with the subject {has['filter_subject']!r}",
            subject=f"consumer/{name}",
            hint="leave --subject out, or take another name",
        )
    return str(has.get("ack_policy", "explicit"))


@contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM end the block as an error would, so that what was made is removed."""

    def stop(_signal: int, _frame: object) -> None:
        raise click.exceptions.Exit(TERMINATED)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class Writer:
    """Writes records to standard output and flushes, so that what is acknowledged has been written."""

    def write(self, deliveries: Sequence[Delivery]) -> None:
        """Write ``deliveries``."""
        data = b"".join(self.encode(delivery) for delivery in deliveries)
        sys.stdout.flush()
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()

    def encode(self, delivery: Delivery) -> bytes:
        """One record, with what ends it."""
        raise NotImplementedError


def _writer(output: str, stream: str, delimiter: str) -> Writer:
    if output == "raw":
        return _Raw(delimiter.replace("\\0", "\0").replace("\\n", "\n").encode())
    return _Json(stream) if output == "json" else _Rows()


class _Raw(Writer):
    def __init__(self, delimiter: bytes) -> None:
        self._delimiter = delimiter

    def encode(self, delivery: Delivery) -> bytes:
        return delivery.payload + self._delimiter


class _Json(Writer):
    def __init__(self, stream: str) -> None:
        self._stream = stream

    def encode(self, delivery: Delivery) -> bytes:
        from platformd.cli.output import as_json
        from platformd.cli.records import delivery_document

        return as_json(delivery_document(delivery, self._stream), indent=0).encode() + b"\n"


class _Rows(Writer):
    def __init__(self) -> None:
        from platformd.cli.output import Table

        self._table = Table(("SEQUENCE", "SUBJECT", "TIME", "SIZE", "MSG-ID", "PAYLOAD"))
        self._begun = False

    def write(self, deliveries: Sequence[Delivery]) -> None:
        rows = [self._row(delivery) for delivery in deliveries]
        self._table.fit(rows)
        lines = [self._table.line(row) for row in rows]
        if not self._begun:
            lines.insert(0, self._table.header())
            self._begun = True
        sys.stdout.write("\n".join(lines) + "\n")
        sys.stdout.flush()

    def _row(self, delivery: Delivery) -> list[str]:
        from platformd.cli.output import NONE, safe
        from platformd.cli.records import text_of
        from platformd.core.clock import rfc3339
        from platformd.core.quantities import format_bytes

        text = text_of(delivery.payload)
        return [
            str(delivery.sequence),
            safe(delivery.subject),
            rfc3339(delivery.time_ns)[:23] + "Z",
            format_bytes(len(delivery.payload)),
            safe(delivery.msg_id) or NONE,
            "<binary>" if text is None else safe(text[:PREVIEW] + ("…" if len(text) > PREVIEW else "")),
        ]
