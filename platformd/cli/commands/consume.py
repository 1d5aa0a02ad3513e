"""``platformd consume``: read a stream's records, over the queue socket."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import click

from platformd.cli.options import (
    Session,
    connection_options,
    examples,
    output_option,
    tenant_option,
)
from platformd.cli.queue_options import queue_options, queue_place
from platformd.cli.stream_output import complete_consumer, complete_stream

if TYPE_CHECKING:
    from platformd.cli.records import Writer
    from platformd.client.queues import Consumer, Delivery

MAX_FETCH: Final = 256
"""Records that are asked for at once, when nobody says."""
FORGOTTEN: Final = 3600.0
"""Seconds without a fetch after which the daemon removes a consumer that nobody named: when we could not."""
WAIT_SECONDS: Final = 0.5
"""How long one fetch waits for records when following. Ctrl-C is noticed between fetches."""


@click.command(
    epilog=examples(
        "platformd consume alerts",
        "platformd consume alerts --subject 'alerts.ztf.>' --from new -o json",
        "platformd consume alerts --from 42 --count 1 -o raw --delimiter '' > packet.avro",
        "platformd consume alerts --consumer archive --follow -o json >> archive.jsonl",
        "platformd consume alerts --from 10m --format '{{sequence}} {{header survey}} {{text}}'",
        "platformd consume alerts --consumer archive --count 1 --nak 30s   # look at the next one, and leave it",
    )
)
@click.argument("stream", shell_complete=complete_stream)
@click.option(
    "--consumer",
    metavar="NAME",
    help="A durable consumer: goes on where it was; made when it is not there. Without it one is made and removed.",
    shell_complete=complete_consumer,
)
@click.option("--subject", metavar="PATTERN", help="Only records whose subject matches: * one token, > the rest.")
@click.option(
    "--from",
    "start",
    default="all",
    metavar="WHERE",
    help="Where a consumer that is made starts: all, new, last, last-per-subject, a sequence, a time (RFC 3339) or how "
    "long ago (10m).",
    show_default=True,
)
@click.option("--count", type=click.IntRange(min=1), metavar="N", help="End after so many records.")
@click.option(
    "--batch", type=click.IntRange(1, 65_536), default=MAX_FETCH, metavar="N", help="Ask for so many at once."
)
@click.option(
    "--follow/--no-follow", default=None, help="Wait for further records (default: only with --from new) or end."
)
@click.option("--idle", metavar="DURATION", help="Wait for further records, and end when none came for so long.")
@click.option(
    "--ack/--no-ack",
    default=True,
    show_default=True,
    help="Acknowledge records of --consumer once they are written; without it they are delivered again.",
)
@click.option("--nak", metavar="DELAY", help="Instead of acknowledging, have them delivered again after this (0, 30s).")
@click.option("--term", is_flag=True, help="Instead of acknowledging, have them never delivered again.")
@click.option("--reason", default="", metavar="TEXT", help="With --term: why, for the dead letter.")
@click.option(
    "--format",
    "form",
    metavar="TEMPLATE",
    help=r"Print {{sequence}} {{subject}} {{text}} {{payload}} "
    "{{size}} {{time}} {{append_time}} {{msg_id}} {{deliveries}} {{header NAME}} {{headers}} {{stream}} {{json}} so.",
)
@click.option(
    "--delimiter", default="\n", metavar="TEXT", help=r"After each record with -o raw and --format (a newline; \0)."
)
@tenant_option
@queue_options
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
    batch: int,
    follow: bool | None,
    idle: str | None,
    ack: bool,
    nak: str | None,
    term: bool,
    reason: str,
    form: str | None,
    delimiter: str,
    tenant: str,
    output: str,
) -> None:
    """Read the records of STREAM.

    -o json prints one document on each line (payload in base64, text where it is UTF-8), -o raw the
    payloads alone.
    """
    from platformd.cli.records import Seen, engine_stream, terminable, writer
    from platformd.client.queues import Consumer as QueueConsumer

    place = _Place(session, stream, tenant)
    address, tls = queue_place(session, "fetch")
    config = _config(subject, start)
    said = _said(ack=ack, nak=nak, term=term, reason=reason, named=consumer is not None)
    reading = Reading(
        write=_written(writer(output, delimiter=delimiter, form=form), stream, Seen.of_delivery),
        said=said,
        left=count,
        batch=batch,
        follow=(start == "new" or idle is not None) if follow is None else follow,
        idle=_seconds(idle),
    )
    with (
        terminable(),
        _cursor(place, consumer, config, asked_subject=subject) as cursor,
        QueueConsumer(address, engine_stream(session, stream, tenant), cursor.name, tls=tls) as fetching,
    ):
        reading.run(fetching, answer=cursor.explicit)


@dataclass(frozen=True)
class _Place:
    session: Session
    stream: str
    tenant: str


@dataclass(frozen=True)
class _Cursor:
    name: str
    explicit: bool
    """Whether something is to be said of its records."""


Said = Callable[["Consumer", "tuple[Delivery, ...]"], object]


@dataclass
class Reading:
    """How to read, and how far it is."""

    write: Callable[[tuple[Delivery, ...]], None]
    said: Said | None
    """What becomes of records once they are written; ``None``: nothing."""
    left: int | None
    """Records to read; ``None``: all."""
    batch: int
    follow: bool
    idle: float
    """Seconds without a record that end it; 0: none do."""

    def run(self, fetching: Consumer, *, answer: bool) -> None:
        """Read until there is an end."""
        quiet_since = time.monotonic()
        while self.left is None or self.left > 0:
            wanted = self.batch if self.left is None else min(self.batch, self.left)
            deliveries = fetching.fetch(max_records=wanted, wait=WAIT_SECONDS if self.follow else 0.0)
            if deliveries:
                self.write(deliveries)
                if answer and self.said is not None:
                    self.said(fetching, deliveries)
                if self.left is not None:
                    self.left -= len(deliveries)
                quiet_since = time.monotonic()
            elif not self.follow or (self.idle and time.monotonic() - quiet_since >= self.idle):
                return


def _written(
    writer: Writer, stream: str, seen: Callable[[Delivery, str], Any]
) -> Callable[[tuple[Delivery, ...]], None]:
    return lambda deliveries: writer.write([seen(delivery, stream) for delivery in deliveries])


def _said(*, ack: bool, nak: str | None, term: bool, reason: str, named: bool) -> Said | None:
    from platformd.core.errors import InvalidInput

    options = ["--no-ack"] * (not ack) + ["--nak"] * (nak is not None) + ["--term"] * term
    if len(options) > 1:
        raise InvalidInput("exclude each other", subject=" and ".join(options))
    if options and options != ["--no-ack"] and not named:
        raise InvalidInput("is about a durable consumer", subject=options[0], hint="name it with --consumer")
    if reason and not term:
        raise InvalidInput("says why records are given up", subject="--reason", hint="give --term as well")
    if nak is not None:
        delay = _seconds(nak)
        return lambda consumer, deliveries: consumer.nak(deliveries, delay)
    if term:
        return lambda consumer, deliveries: consumer.term(deliveries, reason)
    return (lambda consumer, deliveries: consumer.ack(deliveries)) if ack else None


def _seconds(duration: str | None) -> float:
    from platformd.core.quantities import seconds

    return seconds(duration) if duration else 0.0


def _config(subject: str | None, start: str) -> dict[str, Any]:
    """The consumer to make, with the fields of ``ConsumerConfig``."""
    from platformd.cli.records import parse_start
    from platformd.core.errors import InvalidInput
    from platformd.model.subjects import subject_error

    wrong = subject_error(subject or ">", pattern=True)
    if wrong:
        raise InvalidInput(wrong, subject=f"--subject {subject}")
    return {"filter_subject": subject or ">"} | parse_start(start, "--from").config()


@contextmanager
def _cursor(place: _Place, name: str | None, config: dict[str, Any], *, asked_subject: str | None) -> Iterator[_Cursor]:
    """The consumer to fetch with; one that nobody named is removed afterwards."""
    from platformd.client import control
    from platformd.core.errors import PlatformError

    if name is not None:
        yield _Cursor(name, explicit=_ensure(place, name, config, asked_subject) != "none")
        return
    name = f"cli-{os.urandom(6).hex()}"
    send, stream, tenant = place.session.client.send, place.stream, place.tenant
    send(
        control.put_consumer(stream, name, config | {"ack_policy": "none", "inactive_after": FORGOTTEN}, tenant=tenant)
    ).check()
    try:
        yield _Cursor(name, explicit=False)
    finally:
        try:
            send(control.delete_consumer(stream, name, tenant=tenant)).check()
        except PlatformError as error:
            from platformd.cli.output import note

            note(f"the consumer {name} of stream {stream} could not be removed: {error.message}")


def _ensure(place: _Place, name: str, config: dict[str, Any], asked_subject: str | None) -> str:
    """Have the durable consumer ``name``; its ack policy. One that is there is taken as it is."""
    from platformd.client import control
    from platformd.core.errors import Conflict

    send = place.session.client.send
    known = control.read_page(send(control.list_consumers(place.stream, tenant=place.tenant))).items
    info = next((item for item in known if item.get("name") == name), None)
    if info is None:
        info = send(control.put_consumer(place.stream, name, config, tenant=place.tenant)).check().json()
    has: dict[str, Any] = info.get("config") or {}
    if asked_subject is not None and has.get("filter_subject", asked_subject) != asked_subject:
        raise Conflict(
            f"it is there with the subject {has['filter_subject']!r}",
            subject=f"consumer/{name}",
            hint="leave --subject out, or take another name",
        )
    return str(has.get("ack_policy", "explicit"))
