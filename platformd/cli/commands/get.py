"""``platformd get``: show resources, once or as they change."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from platformd.cli.options import (
    Session,
    complete_target,
    connection_options,
    examples,
    kinds_on_line,
    output_option,
    tenant_option,
)

if TYPE_CHECKING:
    from platformd.cli.targets import Wanted
    from platformd.client.watching import Change
    from platformd.core.errors import PlatformError


def complete_order(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The columns of the kind that is named already, in the case that is begun."""
    from platformd.cli.output import titles_of

    kinds = kinds_on_line(context.ensure_object(Session).environ)
    sign, begun = ("-", incomplete[1:]) if incomplete.startswith("-") else ("", incomplete)
    titles = titles_of(kinds[0] if len(kinds) == 1 else None, wide=True)
    return [CompletionItem(sign + title.lower()) for title in titles if title.lower().startswith(begun.lower())]


@click.command(
    epilog=examples(
        "platformd get streams",
        "platformd get schemas -o wide",
        "platformd get pipeline alerts -o yaml",
        "platformd get stream/alerts pipeline/alerts",
        "platformd get all -l team=transients -o wide",
        "platformd get pipelines -A --field-selector status.state=error",
        "platformd get streams --sort-by age --limit 10",
        "platformd get streams -o jsonpath='$.items[?@.status.state == \"error\"].name'",
        "platformd get stream alerts -o jsonpath='{.name} has {.status.messages}'",
        "platformd get streams,pipelines --watch -o json",
    )
)
@click.argument("what", nargs=-1, metavar="KIND[,KIND…] [NAME…] | KIND/NAME… | all", shell_complete=complete_target)
@click.option("-l", "--selector", default="", metavar="TERMS", help="Only what has these labels: a=b,c!=d,e,!f.")
@click.option("--field-selector", default="", metavar="TERMS", help="Only what has this: status.state=error,spec.x!=y.")
@click.option("-A", "--all-tenants", is_flag=True, help="Those of all tenants.")
@click.option(
    "--sort-by",
    default="",
    metavar="[-]COLUMN|PATH",
    shell_complete=complete_order,
    help="In this order; with - the other way round.",
)
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="At most so many (default: all, page by page).")
@click.option("--cursor", metavar="CURSOR", help="Go on where a listing with --limit ended.")
@click.option("-w", "--watch", is_flag=True, help="Go on showing what changes.")
@tenant_option
@connection_options
@output_option("table", "wide", "json", "yaml", "name")
@click.pass_obj
def command(
    session: Session,
    what: Sequence[str],
    selector: str,
    field_selector: str,
    all_tenants: bool,
    sort_by: str,
    limit: int | None,
    cursor: str | None,
    watch: bool,
    tenant: str,
    output: str,
) -> int:
    """Show resources.

    A name alone prints that resource (-o json, -o yaml); several print a list, which `platformd apply -f`
    takes as it is. With --watch each change is a line, or a JSON document on one line.
    """
    from platformd.cli.listing import Pager, Selection, print_listing
    from platformd.cli.targets import parse_targets
    from platformd.client.control import ALL_TENANTS
    from platformd.core.errors import InvalidInput

    wanted = parse_targets(what)
    named = any(target.names for target in wanted)
    choosing = {"-l": selector, "--field-selector": field_selector, "-A": all_tenants, "--limit": limit} | {
        "--cursor": cursor
    }
    if named and any(choosing.values()):
        chosen = next(name for name, value in choosing.items() if value)
        raise InvalidInput("chooses among all; leave the names out", subject=chosen)
    if watch and (sort_by or limit or cursor or field_selector or all_tenants):
        raise InvalidInput("only -l chooses what is watched", subject="--watch")
    if (limit or cursor) and len(wanted) != 1:
        raise InvalidInput("--limit and --cursor are for one kind", subject=" ".join(what))
    if watch:
        _watch(session, wanted, selector, tenant, output)
        return 0
    if named:
        return _named(session, wanted, sort_by, tenant, output)
    selection = Selection(
        tenant=ALL_TENANTS if all_tenants else tenant,
        selector=selector,
        fields=field_selector,
        sort_by=sort_by,
        limit=limit,
        cursor=cursor,
    )
    kinds = [target.kind for target in wanted]
    print_listing(Pager(session.client, selection), kinds, output, prefix=len(kinds) > 1)
    return 0


def _named(session: Session, wanted: Sequence[Wanted], sort_by: str, tenant: str, output: str) -> int:
    """Print the resources that were named, and what went wrong with those that could not be read."""
    from platformd.client import control
    from platformd.core.errors import NotFound

    documents: list[dict[str, Any]] = []
    errors: list[PlatformError] = []
    for target in wanted:
        for name in target.names:
            try:
                documents.append(session.client.send(control.get(target.kind, name, tenant=tenant)).check().json())
            except NotFound as error:
                errors.append(error)
    if sort_by:
        from platformd.cli.sorting import Order

        documents = [*Order(sort_by, wanted[0].kind if len(wanted) == 1 else None).sorted(documents, None)]  # type: ignore[list-item]
    single = sum(len(target.names) for target in wanted) == 1
    _print(documents, wanted, output, single=single, prefix=len(wanted) > 1)
    return _report(errors, output)


def _print(
    documents: list[dict[str, Any]], wanted: Sequence[Wanted], output: str, *, single: bool, prefix: bool
) -> None:
    from platformd.cli.output import as_yaml, echo, print_json, subject

    if output == "json" and not (single and not documents):
        print_json(documents[0] if single else {"items": documents})
    elif output == "yaml" and documents:
        echo(as_yaml(documents))
    elif output == "name":
        for document in documents:
            echo(subject(document))
    elif output in ("table", "wide") and documents:
        echo("\n\n".join(_tables(documents, wanted, wide=output == "wide", prefix=prefix)))


def _tables(documents: list[dict[str, Any]], wanted: Sequence[Wanted], *, wide: bool, prefix: bool) -> Iterator[str]:
    from platformd.cli.output import row_of, table_of, titles_of

    for kind in dict.fromkeys(target.kind.name for target in wanted):
        found = next(target.kind for target in wanted if target.kind.name == kind)
        rows = [row_of(found, d, wide=wide, prefix=prefix) for d in documents if d.get("kind", kind) == kind]
        if rows:
            yield "\n".join(table_of(titles_of(found, wide=wide), wide=wide).lines(rows))


def _report(errors: Sequence[PlatformError], output: str) -> int:
    from platformd.cli.main import report

    codes = [report(error, as_json=output == "json") for error in errors]
    return codes[0] if codes else 0


def _watch(session: Session, wanted: Sequence[Wanted], selector: str, tenant: str, output: str) -> None:
    """Print changes until something ends it."""
    from platformd.cli.output import note
    from platformd.client.blocking import FIRST_DELAY
    from platformd.core.errors import Gone

    kinds = list({target.kind.name: target.kind for target in wanted}.values())
    names = {(target.kind.name, name) for target in wanted for name in target.names}
    whole = {target.kind.name for target in wanted if not target.names}
    show = _Shower(kinds[0] if len(kinds) == 1 else None, output)

    def lost(error: PlatformError, delay: float) -> None:
        if delay == FIRST_DELAY:  # once for each loss, however long it lasts
            note(f"the watch was lost ({error.message}); trying until it is back")

    while True:
        try:
            for change in session.client.watch(kinds, tenant=tenant, selector=selector, on_lost=lost):
                document = change.document
                if document is None or document["kind"] in whole or (document["kind"], document["name"]) in names:
                    show(change)
        except Gone:
            note("history between was compacted away: what is there now follows")


class _Shower:
    """Prints changes. Rows of the first listing wait for its end, so that the columns fit them."""

    def __init__(self, kind: Any, output: str) -> None:
        from platformd.cli.output import table_of, titles_of

        self._kind, self._output = kind, output
        titles = titles_of(kind, wide=output == "wide", watching=True)
        self._table = table_of(titles, wide=output == "wide")
        # The longest event comes after the listing has set the columns.
        self._table.fit([["modified" if title == "EVENT" else "" for title in titles]])
        self._waiting: list[list[str]] | None = []

    def __call__(self, change: Change) -> None:
        from platformd.cli.output import as_yaml, echo, print_json, row_of, subject

        document = change.document
        if self._output in ("table", "wide"):
            wide, prefix = self._output == "wide", self._kind is None
            if document is None:
                self._flush()
                return
            row = row_of(self._kind, document, wide=wide, prefix=prefix, event=change.type)
            if self._waiting is not None:
                self._waiting.append(row)
            else:
                echo(self._table.line(row))
        elif document is not None and self._output == "name":
            echo(subject(document))
        elif document is not None:
            event = {"type": change.type, "revision": change.revision, "resource": document}
            if self._output == "json":
                print_json(event, indent=0)
            else:
                echo("---\n" + as_yaml([event]))

    def _flush(self) -> None:
        from platformd.cli.output import echo

        if self._waiting is not None:
            for line in self._table.lines(self._waiting):
                echo(line)
            self._waiting = None
