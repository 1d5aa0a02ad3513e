"""``platformd history``: who changed what, when and why."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import click

from platformd.cli.options import (
    Session,
    complete_target,
    connection_options,
    examples,
    output_option,
    tenant_option,
)

PAGE: Final = 100
"""Records that are asked for at once."""


@click.command(
    epilog=examples(
        "platformd history stream/alerts",
        "platformd history pipeline alerts --limit 5 -o yaml",
        "platformd history                       # everything, the newest first",
        "platformd history streams --actor user:alice",
        "platformd history -A --actor controller:streams",
    )
)
@click.argument("what", nargs=-1, metavar="[KIND [NAME] | KIND/NAME]", shell_complete=complete_target)
@click.option("--actor", default="", metavar="WHO", help="Only changes by user:NAME, token:NAME, controller:NAME.")
@click.option(
    "--limit", type=click.IntRange(min=1), default=20, show_default=True, metavar="N", help="At most so many."
)
@click.option("-A", "--all-tenants", is_flag=True, help="Those of all tenants.")
@click.option("--diff/--no-diff", default=True, show_default=True, help="Show the fields that changed.")
@tenant_option
@connection_options
@output_option("table", "json", "yaml")
@click.pass_obj
def command(
    session: Session,
    what: Sequence[str],
    actor: str,
    limit: int,
    all_tenants: bool,
    diff: bool,
    tenant: str,
    output: str,
) -> None:
    """Show what happened to resources, the newest first; also to those that are gone."""
    from platformd.cli.output import as_yaml, echo, note, print_json, safe

    found = list(records(session, what, actor, limit, "-" if all_tenants else tenant))
    if output == "json":
        print_json({"items": found})
    elif output == "yaml":
        for text in [as_yaml(found)] if found else []:
            echo(text)
    elif not found:
        note("nothing is known to have happened")
    else:
        for record in found:
            for line in record_lines(record, named=len(what) != 1 or "/" not in what[0], diff=diff):
                echo(safe(line))


def records(session: Session, what: Sequence[str], actor: str, limit: int, tenant: str) -> Iterator[Mapping[str, Any]]:
    """The records that are asked for, the newest first, page by page.

    Raises:
        InvalidInput: that is not one resource, or one kind.
    """
    from platformd.cli.targets import parse_targets
    from platformd.client.http import make_request, path_of
    from platformd.core.errors import InvalidInput

    wanted = parse_targets(what) if what else []
    names = [name for target in wanted for name in target.names]
    if len(wanted) > 1 or len(names) > 1:
        raise InvalidInput("is more than one", subject=" ".join(what), hint="ask for one resource, one kind or all")
    query = {"kind": wanted[0].kind.plural} if wanted and not names else {}
    path = (
        path_of(wanted[0].kind.plural, names[0], "history", tenant=tenant)
        if names
        else path_of("history", tenant=tenant)
    )
    cursor, left = None, limit
    while left > 0:
        asked = {"limit": str(min(left if not (actor and names) else PAGE, PAGE))} | query
        asked |= ({"actor": actor} if actor and not names else {}) | ({"cursor": cursor} if cursor else {})
        page = session.client.send(make_request("GET", path, query=asked)).check().json()
        for record in page["items"]:
            if left > 0 and (not actor or record.get("actor") == actor):
                yield record
                left -= 1
        cursor = page.get("cursor")
        if cursor is None:
            return


def record_lines(record: Mapping[str, Any], *, named: bool = True, diff: bool = True) -> Iterator[str]:
    """A record for people: when, what, who and why; then the fields that changed."""
    from platformd.cli.differences import MISSING, Difference

    when = str(record.get("at", ""))[:19].replace("T", " ")
    subject = f" {str(record.get('kind', '')).lower()}/{record.get('name')}" if named else ""
    why = f": {record['reason']}" if record.get("reason") else ""
    yield f"{when}{subject} {record.get('what')} by {record.get('actor')}{why} (revision {record.get('revision')})"
    if not diff:
        return
    for change in record.get("changes", ()):
        one = Difference(str(change.get("path")), change.get("before", MISSING), change.get("after", MISSING))
        yield "    " + one.line()
    if record.get("more"):
        yield f"    and {record['more']} more"
