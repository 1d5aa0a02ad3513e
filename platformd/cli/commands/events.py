"""``platformd events``: what happened to resources, as controllers tell it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import click

from platformd.cli.options import (
    Session,
    complete_target,
    connection_options,
    examples,
    output_option,
    tenant_option,
)

if TYPE_CHECKING:
    from platformd.cli.output import Table

TITLES: Final = ("LAST", "TYPE", "OBJECT", "REASON", "COUNT", "MESSAGE")
"""The columns of a table of events."""


@click.command(
    epilog=examples(
        "platformd events",
        "platformd events pipeline/alerts",
        "platformd events pipelines --type warning -A",
        "platformd events --watch -o json",
    )
)
@click.argument("what", nargs=-1, metavar="[KIND [NAME] | KIND/NAME]", shell_complete=complete_target)
@click.option("--type", "type_", type=click.Choice(("normal", "warning")), help="Only events of this type.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="The newest N at most.")
@click.option("-A", "--all-tenants", is_flag=True, help="Those of all tenants.")
@click.option("-w", "--watch", is_flag=True, help="Go on showing what happens.")
@tenant_option
@connection_options
@output_option("table", "json", "yaml", "name")
@click.pass_obj
def command(
    session: Session,
    what: Sequence[str],
    type_: str | None,
    limit: int | None,
    all_tenants: bool,
    watch: bool,
    tenant: str,
    output: str,
) -> None:
    """Show events, the newest last; of all resources, of a kind, or of one.

    The same event again is one line with a count. What people and programs changed is in `platformd history`.
    """
    from platformd.cli.output import as_yaml, echo, note, print_json, subject, table_of
    from platformd.client.control import ALL_TENANTS
    from platformd.core.errors import InvalidInput

    if watch and (all_tenants or limit):
        raise InvalidInput("-A and --limit are for what is there now", subject="--watch")
    terms = selection(what) | ({"spec.type": type_} if type_ else {})
    table = table_of(TITLES)
    if watch:
        _watch(session, terms, tenant, output, table)
        return
    found = events_of(session, terms, ALL_TENANTS if all_tenants else tenant)[-limit if limit else 0 :]
    if output == "json":
        print_json({"items": found})
    elif output == "yaml":
        for text in [as_yaml(found)] if found else []:
            echo(text)
    elif output == "name":
        for event in found:
            echo(subject(event))
    elif found:
        for line in table.lines([event_row(event) for event in found]):
            echo(line)
    else:
        note("nothing happened that is still known")


def selection(what: Sequence[str]) -> dict[str, str]:
    """The fields of events about what the words name.

    Raises:
        InvalidInput: that is not one resource, or one kind.
    """
    from platformd.cli.targets import parse_targets
    from platformd.core.errors import InvalidInput

    if not what:
        return {}
    wanted = parse_targets(what)
    if len(wanted) > 1 or len(wanted[0].names) > 1:
        raise InvalidInput("is more than one", subject=" ".join(what), hint="ask for one resource, one kind or all")
    kind = {"spec.about.kind": wanted[0].kind.name}
    return kind | ({"spec.about.name": wanted[0].names[0]} if wanted[0].names else {})


def events_of(session: Session, terms: Mapping[str, str], tenant: str) -> list[Mapping[str, Any]]:
    """The events whose fields are as ``terms`` says, the newest last; the daemon keeps a bounded number of them."""
    from platformd.client.reading import as_kind

    fields = ",".join(f"{path}={value}" for path, value in terms.items())
    found: list[Mapping[str, Any]] = []
    for page in session.client.pages(as_kind("events"), tenant=tenant, fields=fields):
        found += [event for event in page.items if _fits(event, terms)]
    return sorted(found, key=lambda event: str((event.get("status") or {}).get("last_at") or ""))


def event_row(event: Mapping[str, Any]) -> list[str]:
    """An event as a row of ``TITLES``."""
    import time

    from platformd.cli.output import NONE, cell, lookup, safe

    about = lookup(event, "spec.about") or {}
    return [
        cell(lookup(event, "status.last_at"), "age", time.time_ns()),
        safe(str(lookup(event, "spec.type"))),
        safe(f"{str(about.get('kind')).lower()}/{about.get('name')}"),
        safe(str(lookup(event, "spec.reason"))),
        str(lookup(event, "status.count")),
        safe(str(lookup(event, "spec.message") or NONE)),
    ]


def _fits(event: Mapping[str, Any], terms: Mapping[str, str]) -> bool:
    from platformd.cli.output import lookup

    return all(lookup(event, path) == value for path, value in terms.items())


def _watch(session: Session, terms: Mapping[str, str], tenant: str, output: str, table: Table) -> None:
    from platformd.cli.output import as_yaml, echo, note, print_json, subject
    from platformd.core.errors import Gone

    if output == "table":
        table.fit([["9999d", "warning", "x" * 24, "x" * 20, "999", ""]])
        echo(table.header())
    while True:
        try:
            for change in session.client.watch(["events"], tenant=tenant):
                event = change.document
                if event is None or change.type == "deleted" or not _fits(event, terms):
                    continue
                if output == "json":
                    print_json(event, indent=0)
                elif output == "yaml":
                    echo("---\n" + as_yaml([event]))
                else:
                    echo(subject(event) if output == "name" else table.line(event_row(event)))
        except Gone:
            note("history between was compacted away: what is known now follows")
