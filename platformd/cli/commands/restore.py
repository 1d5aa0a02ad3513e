"""``platformd restore``: a state directory goes on from a backup."""

from __future__ import annotations

from pathlib import Path

import click

from platformd.cli.options import Session, examples, output_option


@click.command(
    epilog=examples(
        "platformd restore store.db --state-dir ./state",
        "platformd restore store.db --force",
        "platformd restore store.db --check",
    )
)
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--state-dir", metavar="DIR", help="Where all state lives (default: as for `platformd run`).")
@click.option("--force", is_flag=True, help="Replace a store that is there; it is kept under another name.")
@click.option("--check", is_flag=True, help="Only see that the backup is whole, and what is in it.")
@output_option("table", "json")
@click.pass_obj
def command(session: Session, output: str, file: Path, state_dir: str | None, force: bool, check: bool) -> None:
    """Make the store of a state directory what the backup FILE has. The daemon must be stopped (else: 5).

    The restored store goes on at a revision far beyond the backup's, so that nobody sees time run backwards: clients
    that watch are told to list anew, and do. Leases keep their ids and begin their time again. The records of
    streams are not in a backup.
    """
    from platformd.cli.output import echo, print_json
    from platformd.coordination.backup import check_backup, restore
    from platformd.core.quantities import format_bytes
    from platformd.core.settings import load

    if check:
        facts = check_backup(file)
        if output == "json":
            print_json(facts)
        else:
            echo(
                f"{file}: whole; revision {facts.revision}, {facts.keys} keys, {facts.leases} leases, "
                f"{format_bytes(facts.size_bytes)}"
            )
        return
    overrides = {"daemon": {} if state_dir is None else {"state_dir": state_dir}}
    directory = load(None, session.environ, overrides).state_path
    done = restore(file, directory, force=force)
    if output == "json":
        print_json(done)
        return
    echo(f"{done.path}: {done.backup.keys} keys and {done.backup.leases} leases of revision {done.backup.revision}")
    echo(f"It goes on at revision {done.revision}; everything older is compacted.")
    if done.replaced is not None:
        echo(f"What was there before is {done.replaced}.")
