"""``platformd bench``: what a running daemon does on this machine."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from platformd.cli.options import Session, connection_options, examples, output_option

if TYPE_CHECKING:
    from platformd.cli.bench_queues import Outcome, Side


@click.group(epilog=examples("platformd bench queues", "platformd bench queues --size 64KiB --batch 16 --duration 10s"))
def command() -> None:
    """Measure the daemon, with programs like yours."""


@command.command(
    epilog=examples(
        "platformd bench queues",
        "platformd bench queues --consumers 0 --durability os --producers 2",
        "platformd bench queues --batch 1 --in-flight 1        # one record at a time: what a synchronous caller waits",
        "platformd bench queues --rate 10000 --batch 10 --duration 30s   # latencies at a load",
        "platformd bench queues --size 82KiB --count 10000 --batch 12",
        "platformd bench queues --producers 0 --count 1000000  # only deliver",
        "platformd bench queues -o json > today.json",
    )
)
@click.option("--producers", type=click.IntRange(0, 64), default=1, show_default=True, metavar="N", help="Processes.")
@click.option("--consumers", type=click.IntRange(0, 64), default=1, show_default=True, metavar="N", help="Processes.")
@click.option("--size", default="128B", show_default=True, metavar="SIZE", help="A record's payload, random bytes.")
@click.option(
    "--batch", type=click.IntRange(1, 65_536), default=512, show_default=True, metavar="N", help="Records of a batch."
)
@click.option(
    "--durability",
    type=click.Choice(("fsync", "os", "memory")),
    default="fsync",
    show_default=True,
    help="What an acknowledgement means.",
)
@click.option(
    "--in-flight", type=click.IntRange(1, 64), default=8, show_default=True, metavar="N", help="Batches on their way."
)
@click.option("--duration", default="5s", show_default=True, metavar="DURATION", help="How long to publish.")
@click.option(
    "--count", type=click.IntRange(min=1), metavar="N", help="Publish so many records, however long it takes."
)
@click.option(
    "--rate", type=click.FloatRange(min=0, min_open=True), metavar="R", help="Records a second, all together."
)
@click.option("--ack/--no-ack", default=True, show_default=True, help="Whether consumers acknowledge.")
@click.option("--shared", is_flag=True, help="All consumers share the records; otherwise each gets all.")
@click.option("--max-bytes", default="4GiB", show_default=True, metavar="SIZE", help="The disk it may use.")
@connection_options
@output_option("table", "json", "yaml")
@click.pass_obj
def queues(session: Session, /, output: str, **options: Any) -> None:
    """Publish and deliver records through a stream that is removed afterwards, also after Ctrl-C.

    Producers and consumers are processes with the Python client. A publishing latency is from handing a batch over to
    its acknowledgement, a delivery latency from publishing to the record in the consumer's hands.
    """
    from platformd.cli.bench_queues import QueueBench
    from platformd.cli.records import terminable

    plan = _plan(options)
    with terminable(), _progress() as tell:
        outcome = QueueBench(session, plan, tell).run()
    _print(outcome, output)


def _plan(options: dict[str, Any]) -> Any:
    from platformd.cli.bench_queues import Plan
    from platformd.core.errors import InvalidInput
    from platformd.core.quantities import seconds, size_bytes

    size, duration, count = size_bytes(options["size"]), seconds(options["duration"]), options["count"] or 0
    size_bytes(options["max_bytes"])
    if not options["producers"] and not options["consumers"]:
        raise InvalidInput("are both 0: there is nothing to measure", subject="--producers and --consumers")
    if not options["producers"] and not count:
        count = 500_000
    if not count and duration <= 0:
        raise InvalidInput("is no time to measure in", subject=f"--duration {options['duration']}")
    return Plan(
        producers=options["producers"],
        consumers=options["consumers"],
        size=size,
        batch=options["batch"],
        durability=options["durability"],
        in_flight=options["in_flight"],
        duration=duration,
        count=count,
        rate=options["rate"] or 0.0,
        acknowledge=options["ack"],
        shared=options["shared"],
        max_bytes=options["max_bytes"],
    )


@contextmanager
def _progress() -> Iterator[Callable[[str, float, int], None]]:
    """A progress bar on standard error, if it is a terminal, with how many records a second go now."""
    if not sys.stderr.isatty():
        yield lambda _what, _part, _records: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description:<10}"),
        BarColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("starting", total=1.0, rate="")
        said, since, counted = "", 0.0, 0

        def tell(what: str, part: float, records: int) -> None:
            nonlocal said, since, counted
            now = time.monotonic()
            if what != said:
                said, since, counted = what, now, records
            elif now - since >= 0.5:
                progress.update(task, rate=f"{(records - counted) / (now - since):,.0f} records/s")
                since, counted = now, records
            progress.update(task, description=what, completed=part)

        yield tell


def _print(outcome: Outcome, output: str) -> None:
    from platformd.cli.output import Table, echo, print_document

    if output != "table":
        document = _document(outcome)
        print_document(document, output)
        return
    sides = [(name, side) for name, side in _sides(outcome) if side.workers]
    titles = ("", "WORKERS", "RECORDS", "RECORDS/S", "MB/S", "P50", "P99", "P99.9", "MAX")
    for line in Table(titles).lines([_row(name, side) for name, side in sides]):
        echo(line)
    for name, side in sides:
        if not side.latency.count:
            continue
        what = "a batch until its acknowledgement" if name == "publish" else "from publishing to the consumer"
        echo(f"\n{name}: {what}")
        for line in side.latency.plot():
            echo(f"  {line}")
    echo("")
    for line in _notes(outcome):
        echo(line)


def _sides(outcome: Outcome) -> list[tuple[str, Side]]:
    return [("publish", outcome.published), ("deliver", outcome.delivered)]


def _row(name: str, side: Side) -> list[str]:
    from platformd.cli.output import NONE
    from platformd.core.quantities import format_seconds

    seconds = side.seconds or 1.0
    latencies = [side.latency.quantile(part) / 1e6 for part in (0.5, 0.99, 0.999, 1.0)]
    return [
        name,
        str(side.workers),
        f"{side.records:,}",
        f"{side.records / seconds:,.0f}",
        f"{side.bytes / seconds / 1e6:,.1f}",
        *(format_seconds(latency) if side.latency.count else NONE for latency in latencies),
    ]


def _notes(outcome: Outcome) -> Iterator[str]:
    from platformd.core.quantities import format_seconds

    if outcome.sync_seconds is not None:
        yield f"fdatasync of 4 KiB in the daemon's directory: {format_seconds(outcome.sync_seconds)} (median)"
    if outcome.daemon_cores is not None:
        yield f"the daemon used {outcome.daemon_cores:.2f} cores"
    if outcome.removed:
        yield f"{outcome.removed:,} records were removed (--max-bytes), maybe before they were delivered"
    for limit in outcome.limits():
        yield f"limited by {limit}"


def _document(outcome: Outcome) -> dict[str, Any]:
    import msgspec

    plan = outcome.plan
    return {
        "plan": {name: getattr(plan, name) for name in plan.__dataclass_fields__},
        **{name: msgspec.to_builtins(side.document()) for name, side in _sides(outcome) if side.workers},
        "daemon_cores": outcome.daemon_cores,
        "busy_cores": outcome.busy_cores,
        "fdatasync_seconds": outcome.sync_seconds,
        "removed": outcome.removed,
        "limited_by": outcome.limits(),
    }
