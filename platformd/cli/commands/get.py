"""``platformd get``: show resources, once or as they change."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

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
    from platformd.cli.targets import Wanted
    from platformd.client.watching import Change
    from platformd.core.errors import PlatformError


@click.command(
    epilog=examples(
        "platformd get streams",
        "platformd get schemas -o wide",
        "platformd get pipeline alerts -o yaml",
        "platformd get stream/alerts pipeline/alerts",
        "platformd get all -l team=transients -o wide",
        "platformd get streams,pipelines --watch -o json",
    )
)
@click.argument("what", nargs=-1, metavar="KIND[,KIND…] [NAME…] | KIND/NAME… | all", shell_complete=complete_target)
@click.option("-l", "--selector", default="", metavar="TERMS", help="Only what has these labels: a=b,c!=d,e,!f.")
@click.option("-w", "--watch", is_flag=True, help="Go on showing what changes.")
@tenant_option
@connection_options
@output_option("table", "wide", "json", "yaml", "name")
@click.pass_obj
def command(session: Session, what: Sequence[str], selector: str, watch: bool, tenant: str, output: str) -> int:
    """Show resources.

    A name alone prints that resource (-o json, -o yaml); several print a list, which `platformd apply -f`
    takes as it is. With --watch each change is a line, or a JSON document on one line.
    """
    from platformd.cli.targets import parse_targets
    from platformd.core.errors import InvalidInput

    wanted = parse_targets(what)
    named = any(target.names for target in wanted)
    if named and selector:
        raise InvalidInput("a selector chooses among all; leave the names out", subject=f"-l {selector}")
    if watch:
        _watch(session, wanted, selector, tenant, output)
        return 0
    documents, errors = _read(session, wanted, selector, tenant)
    single = named and sum(len(target.names) for target in wanted) == 1
    _print(documents, wanted, output, single=single, prefix=len(wanted) > 1, tenant=tenant)
    return _report(errors, output)


def _read(
    session: Session, wanted: Iterable[Wanted], selector: str, tenant: str
) -> tuple[list[dict[str, Any]], list[PlatformError]]:
    """The documents, and what went wrong with names that could not be read."""
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
        if not target.names:
            for page in session.client.pages(target.kind, tenant=tenant, selector=selector):
                documents += page.items
    return documents, errors


def _print(
    documents: list[dict[str, Any]], wanted: Sequence[Wanted], output: str, *, single: bool, prefix: bool, tenant: str
) -> None:
    from platformd.cli.output import as_json, as_yaml, echo, note, subject

    if output == "json" and not (single and not documents):
        echo(as_json(documents[0] if single else {"items": documents}))
    elif output == "yaml" and documents:
        echo(as_yaml(documents))
    elif output == "name":
        for document in documents:
            echo(subject(document))
    elif output in ("table", "wide") and documents:
        echo("\n\n".join(_tables(documents, wanted, wide=output == "wide", prefix=prefix)))
    elif output in ("table", "wide") and not single:
        kinds = ", ".join(dict.fromkeys(target.kind.plural for target in wanted))
        note(f"no {kinds} in tenant {tenant}")


def _tables(documents: list[dict[str, Any]], wanted: Sequence[Wanted], *, wide: bool, prefix: bool) -> Iterator[str]:
    import sys

    from platformd.cli.output import Table, coloured, row_of, titles_of

    for kind in dict.fromkeys(target.kind.name for target in wanted):
        found = next(target.kind for target in wanted if target.kind.name == kind)
        rows = [row_of(found, d, wide=wide, prefix=prefix) for d in documents if d.get("kind", kind) == kind]
        if rows:
            table = Table(titles_of(found, wide=wide), colour=coloured(sys.stdout))
            yield "\n".join(table.lines(rows))


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
        import sys

        from platformd.cli.output import Table, coloured, titles_of

        self._kind, self._output = kind, output
        titles = titles_of(kind, wide=output == "wide", watching=True)
        self._table = Table(titles, colour=coloured(sys.stdout))
        # The longest event comes after the listing has set the columns.
        self._table.fit([["modified" if title == "EVENT" else "" for title in titles]])
        self._waiting: list[list[str]] | None = []

    def __call__(self, change: Change) -> None:
        from platformd.cli.output import as_json, as_yaml, echo, row_of, subject

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
            echo(as_json(event, indent=0) if self._output == "json" else "---\n" + as_yaml([event]))

    def _flush(self) -> None:
        from platformd.cli.output import echo

        if self._waiting is not None:
            for line in self._table.lines(self._waiting):
                echo(line)
            self._waiting = None
