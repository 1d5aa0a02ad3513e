"""``platformd edit``: change a resource in your editor."""

from __future__ import annotations

from collections.abc import Sequence

import click

from platformd.cli.options import (
    Session,
    change_options,
    complete_target,
    connection_options,
    examples,
    output_option,
    tenant_option,
)


@click.command(
    epilog=examples(
        "platformd edit pipeline alerts",
        "EDITOR=nano platformd edit stream/alerts",
        "platformd edit stream/alerts --dry-run   # have it checked, and see what would change",
    )
)
@click.argument("what", nargs=-1, metavar="KIND NAME… | KIND/NAME…", shell_complete=complete_target)
@change_options
@tenant_option
@connection_options
@output_option("table", "json", "yaml", "name")
@click.pass_obj
def command(session: Session, what: Sequence[str], dry_run: bool, tenant: str, output: str) -> None:
    """Change resources in $VISUAL or $EDITOR.

    What is refused comes back into the editor with the reasons on top. What somebody else changed meanwhile is merged
    with what you changed; where both changed the same field, you are asked. Whatever goes wrong, what you wrote is kept
    in a file.
    """
    from platformd.cli.editing import Edit
    from platformd.cli.output import note
    from platformd.cli.targets import parse_targets

    for target in parse_targets(what, need_names=True):
        for name in target.names:
            edit = Edit(session, target.kind, name, tenant, dry_run=dry_run)
            done = edit.run()
            if done is None:
                note(f"{edit.subject} is as it was")
            else:
                print_change(edit.subject, done.outcome, done.before, done.resource, output, dry_run=dry_run)


def print_change(subject: str, outcome: str, before: object, resource: object, output: str, *, dry_run: bool) -> None:
    """What a change did to a resource, with the fields that it changed."""
    from platformd.cli.differences import NOISE, differences
    from platformd.cli.output import as_yaml, echo, print_json, safe

    found = differences(before, resource, ignore=NOISE | {"status"})
    result = {
        "outcome": outcome,
        "dry_run": dry_run,
        "diff": [one.document() for one in found],
        "resource": resource,
    }
    if output == "json":
        print_json(result)
    elif output == "yaml":
        echo(as_yaml([result]))
    elif output == "name":
        echo(subject)
    else:
        echo(f"{subject} {outcome}{' (dry run)' if dry_run else ''}")
        for one in found:
            echo("    " + safe(one.line()))
