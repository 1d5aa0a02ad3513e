"""Listings: order, pages, and tables that fit their terminal."""

from __future__ import annotations

import io
import sys
import tracemalloc

import pytest

from platformd.cli import output
from platformd.cli.output import Table, echo, padded_to, shrunk, width_of
from platformd.cli.sorting import Order
from platformd.core.errors import InvalidInput
from platformd.model.kinds import BY_PLURAL

from ..client.fake_api import FakeApi
from .conftest import Cli

STREAM = BY_PLURAL["streams"]


def names(order: str, *documents: dict[str, object], limit: int | None = None) -> list[object]:
    return [document["name"] for document in Order(order, STREAM).sorted(documents, limit)]


def test_columns_paths_and_both_directions() -> None:
    """Numbers go by size, text with numbers as people count, and what has nothing there is last either way."""
    some = [
        {"name": "node-10", "created_at": "2026-01-02T00:00:00Z", "status": {"messages": 5}},
        {"name": "node-9", "created_at": "2026-01-01T00:00:00Z", "status": {"messages": 30}},
        {"name": "x", "status": {}},
    ]
    assert names("name", *some) == ["node-9", "node-10", "x"]
    assert names("-name", *some) == ["x", "node-10", "node-9"]
    assert names("status.messages", *some) == ["node-10", "node-9", "x"]
    assert names("-status.messages", *some) == ["node-9", "node-10", "x"]
    assert names("AGE", *some) == ["node-10", "node-9", "x"]
    assert names("-age", *some, limit=1) == ["node-9"]
    title = next(column.title for column in STREAM.columns if column.path == "status.messages")
    assert names(title.lower(), *some) == ["node-10", "node-9", "x"]


def test_a_column_that_there_is_not_is_refused() -> None:
    """With the one that may have been meant."""
    with pytest.raises(InvalidInput) as caught:
        Order("stat", STREAM)
    assert "STATE" in str(caught.value.hint)


def test_a_limit_ends_the_listing_and_says_where_it_goes_on(cli: Cli, api: FakeApi) -> None:
    """Nothing beyond the limit is fetched; the cursor goes on there; sorting looks at all."""
    for name in "abcde":
        api.put("streams", name, status={"state": "active", "messages": ord(name)})
    api.page_limit = 2
    first = cli("get", "streams", "--limit", "3", "-o", "name")
    assert first.out.split() == ["stream/a", "stream/b", "stream/c"]
    assert first.err.split()[-2:] == ["--cursor", "c"]
    assert [seen.query["limit"] for seen in api.seen] == ["3", "1"]
    rest = cli("get", "streams", "--cursor", "c", "-o", "name")
    assert (rest.out.split(), rest.err) == (["stream/d", "stream/e"], "")
    highest = cli("get", "streams", "--sort-by=-status.messages", "--limit", "2", "-o", "name")
    assert highest.out.split() == ["stream/e", "stream/d"]
    assert cli("get", "streams", "--limit", "9", "-o", "name").err == ""
    for words in (("stream/a", "--limit", "1"), ("all", "--limit", "1"), ("streams", "-w", "--sort-by", "age")):
        assert cli("get", *words).code == 2


def test_pages_of_every_format_join_into_one_output(cli: Cli, api: FakeApi) -> None:
    """JSON is one document and YAML a stream of them, as if there were one page."""
    for name in "abcde":
        api.put("streams", name)
    whole = {form: cli("get", "streams", "-o", form).out for form in ("json", "yaml", "name")}
    api.page_limit = 2
    assert {form: cli("get", "streams", "-o", form).out for form in whole} == whole
    api.objects.clear()
    assert cli("get", "streams", "-o", "json").json() == {"items": []}


def test_many_resources_do_not_fill_memory(cli: Cli, api: FakeApi) -> None:
    """A listing of many pages keeps one of them."""
    for number in range(800):
        api.put("streams", f"s{number:05}", spec={"description": "x" * 2000})
    api.page_limit = 20
    cli("get", "streams", "-o", "name")  # what is loaded is loaded
    tracemalloc.start()
    try:
        ran = cli("get", "streams")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(ran.out.splitlines()) == 801
    assert peak < 800 * 2000  # all of them are more than twice that, decoded


def test_a_line_fits_its_terminal() -> None:
    """The widest column that is no name is cut, with a sign that it was; others keep their place."""
    table = Table(("NAME", "STATE", "MESSAGE", "AGE"), width=40)
    lines = table.lines([["a-long-name", "active", "m" * 60, "1m"], ["b", "error", "short", "2m"]])
    assert [len(line) for line in lines] == [40, 39, 39]
    assert "m…   1m" in lines[1]
    assert lines[2].split() == ["b", "error", "short", "2m"]
    assert Table(("NAME", "MESSAGE")).lines([["a", "m" * 300]])[1].endswith("m" * 300)


def test_widths_shrink_evenly_and_not_below_their_titles() -> None:
    """Of two long columns the longer one goes first, then both; a terminal that is too narrow wraps."""
    titles = ("NAME", "A", "B")
    assert shrunk([4, 30, 50], titles, 70) == [4, 30, 30]
    assert sum(shrunk([4, 30, 50], titles, 50)) == 44
    assert shrunk([4, 30, 50], titles, 10) == [4, 10, 10]
    assert shrunk([4, 5, 6], titles, 80) == [4, 5, 6]


def test_signs_of_two_columns_stay_in_their_column() -> None:
    """East Asian signs are two wide, combining ones none, and a cut never splits one."""
    assert (width_of("日本"), width_of("e\u0301"), width_of("abc")) == (4, 1, 3)
    assert padded_to("日本", 6) == "日本  "
    assert padded_to("日本語", 4) == "日… "
    assert padded_to("abcdef", 4) == "abc…"


def test_a_terminal_that_knows_only_ascii(monkeypatch: pytest.MonkeyPatch) -> None:
    """Our signs become plain ones, others a question mark; nothing fails."""
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    echo("a → b… ü")
    stream.flush()
    assert stream.buffer.getvalue() == b"a -> b... ?\n"


def test_only_a_terminal_has_a_width(monkeypatch: pytest.MonkeyPatch) -> None:
    """What goes into a file or a pipe is never cut."""
    assert output.terminal_width() is None
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "77")
    assert output.terminal_width() == 77
