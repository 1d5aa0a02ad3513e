"""``platformd backup``: a copy of the store while the daemon works."""

from __future__ import annotations

from pathlib import Path

import click

from platformd.cli.options import Session, connection_options, examples, output_option


@click.command(
    epilog=examples(
        "platformd backup store-2026-11-22.db",
        "platformd backup /mnt/safe/store.db -o json",
        "platformd restore store-2026-11-22.db --state-dir ./state",
    )
)
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@connection_options
@output_option("table", "json")
@click.pass_obj
def command(session: Session, output: str, file: Path) -> None:
    """Copy the store of the running daemon into FILE, exact as of one revision, while it goes on working.

    In it is what the daemon is told and knows: resources, keys, leases. The records of streams are not. It holds
    every secret that the store has: only you can read FILE, which must not be there yet (5).
    """
    from platformd.cli.output import echo, print_json
    from platformd.cli.progress import bar
    from platformd.client.backup import fetch_backup
    from platformd.core.quantities import format_bytes

    with bar("copying") as progress:
        done = fetch_backup(session.target(), file, progress)
    if output == "json":
        print_json(done)
        return
    echo(f"{done.path}: revision {done.revision}, {format_bytes(done.size_bytes)}, sha256 {done.sha256}")
