"""``-o jsonpath=…``."""

from __future__ import annotations

import pytest

from platformd.cli.queries import compile_output
from platformd.core.errors import InvalidInput, NotFound

from ..client.fake_api import FakeApi
from .conftest import Cli

DOCUMENT = {
    "name": "a",
    "count": 3,
    "labels": {"x.y": "z"},
    "status": {"state": "active", "gone": None},
    "items": [{"name": "b", "n": 1}, {"name": "c", "n": 2}],
}


@pytest.mark.parametrize(
    ("query", "printed"),
    [
        ("name", "a"),
        (".status.state", "active"),
        ("$.status.state", "active"),
        ("count", "3"),
        (".status.gone", "null"),
        ("['labels']['x.y']", "z"),
        ("items[*].name", "b\nc"),
        ("$.items[?@.n > 1]", '{"name":"c","n":2}'),
        ("$.items[?@.n > 9].name", ""),
        ("{.name}", "a"),
        ("{.items[*].name}", "b c"),
        ('{.name}{"\\t"}{.status.state}{"\\n"}', "a\tactive"),
        ("{.name} is {.status.state}!", "a is active!"),
        ("{.items[?@.name == '}'].name}-", "-"),
    ],
)
def test_what_a_query_prints(query: str, printed: str) -> None:
    """Paths with and without the root, filters, and templates with text between."""
    assert compile_output(query)(DOCUMENT) == printed


@pytest.mark.parametrize("query", ["", "$.[", "a b", "{.name", "{{.name}}", "{range .items[*]}", "{'x}", '{"\\x"}'])
def test_what_is_no_query_is_refused(query: str) -> None:
    """A mistake is found before anything is asked, and says how a query looks."""
    with pytest.raises(InvalidInput) as caught:
        compile_output(query)
    assert caught.value.hint


def test_a_single_place_where_nothing_is_is_an_error() -> None:
    """A typing error must not look like an empty value to a script."""
    with pytest.raises(NotFound, match="nothing"):
        compile_output(".status.stat")(DOCUMENT)


def test_it_holds_for_every_command_that_prints_json(cli: Cli, api: FakeApi) -> None:
    """One resource, a listing, and a command that knows nothing of queries; errors stay lines."""
    api.put("streams", "a")
    api.put("streams", "b", status={"state": "active"})
    api.status = {"version": "1.2.3"}
    assert cli("get", "stream", "b", "-o", "jsonpath=.status.state").out == "active\n"
    assert cli("get", "streams", "-o", "jsonpath=items[*].name").out == "a\nb\n"
    assert cli("-o", "jsonpath={.version}", "status").out == "1.2.3\n"
    assert cli("get", "streams", "-o", "jsonpath=$.items[?@.name == 'x']").out == ""
    missing = cli("get", "stream", "c", "-o", "jsonpath=.name")
    assert (missing.code, missing.out) == (3, "")
    assert missing.err.startswith("error: ")
    refused = cli("get", "streams", "-o", "jsonpath=$.[")
    assert refused.code == 2
    assert "JSONPath" in refused.err
    assert cli("kv", "get", "a", "-o", "raw=x").code == 2
