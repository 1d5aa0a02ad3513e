"""Resources printed as they come, page by page: what is in memory is one page, however many there are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from platformd.cli.output import (
    NONE,
    as_json,
    as_yaml,
    chosen_query,
    echo,
    note,
    print_json,
    row_of,
    safe,
    subject,
    table_of,
    titles_of,
)
from platformd.client.control import ALL_TENANTS
from platformd.model.kind import Kind

if TYPE_CHECKING:
    from platformd.client.blocking import Client

Document = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Which resources of a kind are wanted, and in which order."""

    tenant: str
    selector: str = ""
    """By labels."""
    fields: str = ""
    """By fields."""
    sort_by: str = ""
    """A column or a path; empty: by name, as the daemon sends them."""
    limit: int | None = None
    """How many at most."""
    cursor: str | None = None
    """Where the listing goes on."""


class Pager:
    """Reads the resources of a kind that are wanted; afterwards ``cursor`` says where more are, if there are more."""

    def __init__(self, client: Client, selection: Selection) -> None:
        self._client, self.selection = client, selection
        self.cursor: str | None = None

    def pages(self, kind: Kind) -> Iterator[list[Document]]:
        """Its resources, in pages that are not empty.

        Raises:
            InvalidInput: the order is none.
        """
        wanted = self.selection
        if not wanted.sort_by:
            yield from self._unsorted(kind, wanted.limit)
            return
        from platformd.cli.sorting import Order

        order = Order(wanted.sort_by, kind)
        found = order.sorted((document for page in self._unsorted(kind, None) for document in page), wanted.limit)
        if found:
            yield found

    def _unsorted(self, kind: Kind, limit: int | None) -> Iterator[list[Document]]:
        wanted, left = self.selection, limit
        pages = self._client.pages(
            kind,
            tenant=wanted.tenant,
            selector=wanted.selector,
            fields=wanted.fields,
            limit=limit,
            cursor=wanted.cursor,
        )
        for page in pages:
            items: list[Document] = list(page.items)
            if items:
                yield items
            if left is not None:
                left -= len(items)
                if left <= 0:
                    self.cursor = page.cursor
                    return


def print_listing(pager: Pager, kinds: Sequence[Kind], output: str, *, prefix: bool) -> None:
    """Print all that ``pager`` finds of ``kinds``."""
    tenant = pager.selection.tenant
    if output == "json":
        _json(document for kind in kinds for page in pager.pages(kind) for document in page)
    elif output == "yaml":
        _yaml(page for kind in kinds for page in pager.pages(kind))
    elif output == "name":
        for kind in kinds:
            for page in pager.pages(kind):
                echo("\n".join(map(subject, page)))
    else:
        found = 0
        for kind in kinds:
            shown = _table(
                kind, pager.pages(kind), _Look(output == "wide", prefix, tenant == ALL_TENANTS), gap=found > 0
            )
            found += shown
        if not found:
            where = "any tenant" if tenant == ALL_TENANTS else f"tenant {tenant}"
            note(f"no {', '.join(kind.plural for kind in kinds)} in {where}")
    if pager.cursor is not None:
        note(f"there are more: go on with --cursor {pager.cursor}")


def _json(documents: Iterable[Document]) -> None:
    """One JSON document, written as its items come; a query is asked of the whole."""
    if chosen_query() is not None:
        print_json({"items": list(documents)})
        return
    opened = False
    for document in documents:
        text = "\n".join(f"    {line}" for line in as_json(document).split("\n"))
        echo((",\n" if opened else '{\n  "items": [\n') + text, newline=False)
        opened = True
    echo("\n  ]\n}" if opened else '{\n  "items": []\n}')


def _yaml(pages: Iterable[Sequence[Document]]) -> None:
    opened = False
    for page in pages:
        if opened:
            echo("---")
        echo(as_yaml(page))
        opened = True


@dataclass(frozen=True)
class _Look:
    """What a table shows."""

    wide: bool
    prefix: bool
    tenants: bool

    def titles(self, kind: Kind) -> list[str]:
        return [*(["TENANT"] if self.tenants else []), *titles_of(kind, wide=self.wide)]

    def row(self, kind: Kind, document: Document) -> list[str]:
        tenant = [safe(str(document.get("tenant", NONE)))] if self.tenants else []
        return [*tenant, *row_of(kind, document, wide=self.wide, prefix=self.prefix)]


def _table(kind: Kind, pages: Iterable[Sequence[Document]], look: _Look, *, gap: bool) -> int:
    """Print a kind's table; how many rows it has. The first page sets the columns, later ones may widen them."""
    rows = 0
    table = table_of(look.titles(kind), wide=look.wide)
    for page in pages:
        cells = [look.row(kind, document) for document in page]
        if not rows and gap:
            echo("")
        lines = table.lines(cells)
        echo("\n".join(lines if not rows else lines[1:]))
        rows += len(cells)
    return rows
