"""``platformd demo``: the main job on a private daemon, from nothing."""

from __future__ import annotations

from pathlib import Path

import click

from platformd.cli.demo_options import DemoOptions
from platformd.cli.options import examples, output_option

_DEFAULTS = DemoOptions()


@click.command(
    epilog=examples(
        "platformd demo",
        "platformd demo --alerts ./packets --json",
        "platformd demo --filter 'candidate.rb >= 0.8' --rate 50",
        "platformd demo --keep            # then: platformd tui",
    )
)
@click.option(
    "--alerts",
    metavar="DIR",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Replay the Avro files of this directory. Without it packets are generated.",
)
@click.option("--filter", "expression", metavar="EXPR", help="A CEL expression over a packet, for the filter stage.")
@click.option(
    "--rate",
    metavar="N",
    type=click.FloatRange(min=0, min_open=True),
    help="Packets per second. Without it: as fast as they are taken.",
)
@click.option(
    "--count",
    metavar="N",
    type=click.IntRange(min=1),
    default=_DEFAULTS.count,
    show_default=True,
    help="How many packets are generated.",
)
@click.option("--seed", metavar="N", type=int, default=0, show_default=True, help="What generated packets follow from.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document; the same as -o json.")
@click.option("--keep", is_flag=True, help="Stay up afterwards and say how to attach.")
@click.option(
    "--state-dir",
    metavar="DIR",
    type=click.Path(file_okay=False, path_type=Path),
    help="Keep the daemon's state here. Without it: in a temporary directory.",
)
@output_option("table", "json")
def command(
    alerts: Path | None,
    expression: str | None,
    rate: float | None,
    count: int,
    seed: int,
    as_json: bool,
    keep: bool,
    state_dir: Path | None,
    output: str,
) -> int:
    """Run the main job once, on a private daemon.

    Starts a daemon on a temporary state directory, creates a stream and a pipeline of three stages (filter,
    annotate, route), replays survey alert packets into it and prints what came of them.
    """
    from platformd.cli.demo import run_demo

    return run_demo(
        DemoOptions(
            alerts=alerts,
            filter=expression,
            rate=rate,
            count=count,
            json=as_json or output == "json",
            keep=keep,
            state_dir=state_dir,
            seed=seed,
        )
    )
