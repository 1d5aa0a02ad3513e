"""``platformd publish``: put records into a stream, over the queue socket."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from platformd.cli.options import (
    Session,
    connection_options,
    dry_run_option,
    examples,
    output_option,
    tenant_option,
)
from platformd.cli.queue_options import queue_options, queue_place
from platformd.cli.stream_output import complete_stream

if TYPE_CHECKING:
    from platformd.client.queues import Durability, Pending, Published, Record

MAX_IN_FLIGHT: Final = 8
"""Batches that wait for their acknowledgement at once."""


@click.command(
    epilog=examples(
        "platformd publish alerts.note 'seeing is good'",
        "platformd publish alerts.ztf --file packet.avro --msg-id 2469...15 --header survey=ztf",
        "platformd publish alerts.ztf --file *.avro",
        "journalctl -f -o json | platformd publish logs.host --lines --durability os",
        'platformd publish load.test \'{"n": {{n}}, "at": "{{time}}", "x": "{{random 100}}"}\' --count 1000 --rate 50',
        "platformd publish alerts.note hello --queue-url tls+tcp://queues.example:7071 --queue-ca-file site.pem",
        "platformd publish 'orders.{{n}}' --count 10 --msg-id 'run7-{{n}}' -- 'order {{n}}'",
    )
)
@click.argument("subject")
@click.argument("payload", required=False)
@click.option(
    "-f", "--file", "files", multiple=True, metavar="FILE", type=click.Path(path_type=Path), help="A file: one record."
)
@click.argument("more_files", nargs=-1, type=click.Path(path_type=Path), metavar="[FILE…]")
@click.option("--lines", is_flag=True, help="Standard input: one record for each line.")
@click.option("--count", type=click.IntRange(min=1), metavar="N", help="Publish PAYLOAD so often, as a template.")
@click.option("--rate", type=click.FloatRange(min=0, min_open=True), metavar="R", help="At most R records a second.")
@click.option(
    "--template/--no-template",
    default=None,
    help="Whether SUBJECT, PAYLOAD, lines, headers and ids are templates (default: with --count). Not files. "
    "{{n}} is the record's number from 1 on, {{time}} now (RFC 3339), {{unix}} and {{unixnano}} now in seconds and "
    r"nanoseconds, {{id}} 32 random hex digits, {{random}}, {{random SIZE}} and {{random FROM TO}} letters, \{{ is {{.",
)
@click.option(
    "--stream",
    default="",
    metavar="NAME",
    help="The stream it is for (default: found by the subject).",
    shell_complete=complete_stream,
)
@click.option("--msg-id", default="", metavar="ID", help="The record's id: the same one is not stored twice.")
@click.option("-H", "--header", "headers", multiple=True, metavar="KEY=VALUE", help="A header; may be repeated.")
@click.option(
    "--durability",
    type=click.Choice(("fsync", "os", "memory")),
    default="fsync",
    show_default=True,
    help="What the acknowledgement means.",
)
@dry_run_option
@tenant_option
@queue_options
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
    count: int | None,
    rate: float | None,
    template: bool | None,
    stream: str,
    msg_id: str,
    headers: Sequence[str],
    durability: Durability,
    dry_run: bool,
    tenant: str,
    output: str,
) -> None:
    """Publish records to SUBJECT: PAYLOAD, the content of files, or standard input.

    Returns when every record is acknowledged with the durability that was asked for.
    """
    from platformd.cli.record_sources import Asked, batches_of, paced
    from platformd.cli.records import engine_stream, stream_of, terminable
    from platformd.client.queues import Producer

    if files and payload is not None:  # the shell has expanded `--file *.avro`
        files, payload = (*files, Path(payload), *more_files), None
    asked = Asked(
        subject,
        payload,
        files,
        surplus=more_files if not files else (),
        lines=lines,
        count=count,
        template=count is not None if template is None else template,
        msg_id=msg_id,
        headers=headers,
    )
    batches = batches_of(asked)
    if dry_run:
        from platformd.cli import rehearsing

        _print_would(rehearsing.records(session, batches, stream, tenant), output)
        return
    if tenant != "default" and not stream:
        stream = stream_of(session, subject, tenant)
    stream = engine_stream(session, stream, tenant) if stream else ""
    tally = Tally()
    address, tls = queue_place(session, "ingest")
    with (
        terminable(),
        Producer(address, tls=tls, stream=stream, durability=durability, max_in_flight=MAX_IN_FLIGHT) as producer,
        _progress(count or len(files) or None, shown=lines or (count or len(files)) > 1) as advance,
    ):
        _publish(producer.submit, batches if rate is None else paced(batches, rate), tally, advance)
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


def _print_would(would: dict[str, Any], output: str) -> None:
    from platformd.cli.output import echo, print_document

    if output != "table":
        print_document(would, output)
    else:
        where = ", ".join(f"stream/{name}" for name in would["streams"]) or "no stream"
        echo(f"{where} {would['records']} records, {would['bytes']} bytes published (dry run)")


def _print(tally: Tally, output: str) -> None:
    from platformd.cli.output import echo, print_document

    document: dict[str, Any] = {
        "stream": tally.stream,
        "published": tally.published,
        "duplicates": tally.duplicates,
        "first_sequence": tally.first_sequence,
        "last_sequence": tally.last_sequence,
    }
    if output != "table":
        print_document(document, output)
        return
    parts = []
    if tally.published:
        first, last = tally.first_sequence, tally.last_sequence
        parts.append(f"{tally.published} published (sequence {first if first == last else f'{first} to {last}'})")
    if tally.duplicates:
        parts.append(f"{tally.duplicates} already there")
    echo(f"stream/{tally.stream} {', '.join(parts)}" if parts else "nothing was published: the input is empty")
