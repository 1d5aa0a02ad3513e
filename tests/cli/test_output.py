"""Tables and cells: kubectl's conventions, and nothing that could upset a terminal."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from platformd.cli import output
from platformd.cli.output import Table, as_yaml, cell, row_of, safe, titles_of
from platformd.core.clock import parse_rfc3339
from platformd.model.kinds import KINDS
from platformd.model.node import NODE
from platformd.model.pipeline import PIPELINE
from platformd.model.stream import STREAM

NOW = parse_rfc3339("2026-01-31T15:12:30Z")

STREAMS = [
    {
        "kind": "Stream", "name": "alerts", "created_at": "2026-01-31T12:00:00.000000Z",
        "spec": {"subjects": ["alerts.>", "ztf.*"]},
        "status": {"state": "active", "messages": 1234567, "bytes": 1536, "messages_per_second": 12.34, "consumers": 3,
                   "first_sequence": 1, "last_sequence": 1234567},
    },
    {"kind": "Stream", "name": "x", "created_at": "2026-01-31T15:12:01Z", "spec": {}, "status": {"state": "pending"}},
]  # fmt: skip

STREAM_TABLE = """\
NAME     STATE     SUBJECTS         MESSAGES   BYTES    RATE     CONSUMERS   AGE
alerts   active    alerts.>,ztf.*   1234567    1.5KiB   12.3/s   3           3h12m
x        pending   <none>           <none>     <none>   <none>   <none>      29s
"""

PIPELINES = [
    {
        "kind": "Pipeline", "name": "ztf", "created_at": "2026-01-28T12:00:00Z", "spec": {"source": "alerts.>"},
        "status": {
            "state": "degraded", "message": "stage b lacks workers",
            "stages": [
                {"name": "filter", "workers_ready": 1, "workers_desired": 1},
                {"name": "route", "workers_ready": 0, "workers_desired": 2},
            ],
        },
    }
]  # fmt: skip

PIPELINE_TABLE = """\
NAME           STATE      SOURCE     STAGES                  MESSAGE                 AGE
pipeline/ztf   degraded   alerts.>   filter 1/1, route 0/2   stage b lacks workers   3d3h
"""

NODES = [
    {
        "kind": "Node", "name": "n1", "created_at": "2026-01-31T15:10:00Z", "spec": {},
        "status": {"state": "passing", "cpu_percent": 7.26, "memory_used_bytes": 3 << 30,
                   "memory_total_bytes": 8 << 30},
    }
]  # fmt: skip

NODE_TABLE = """\
NAME   EVENT      STATE     CPU%   MEM-USED   MEM-TOTAL   AGE
n1     modified   passing   7.3    3.0GiB     8.0GiB      2m30s
"""


def table_of(kind: Any, documents: list[dict[str, Any]], **options: Any) -> str:
    wide, event = options.get("wide", False), options.get("event")
    table = Table(titles_of(kind, wide=wide, watching=event is not None))
    return (
        "\n".join(table.lines([row_of(kind, d, **{"wide": False, "now_ns": NOW} | options) for d in documents])) + "\n"
    )


def test_the_table_of_streams() -> None:
    """Counts, bytes, rates, lists and what is not there."""
    assert table_of(STREAM, STREAMS) == STREAM_TABLE


def test_the_table_of_pipelines_wide_and_with_kinds() -> None:
    """Stages as name and workers, the wide column, and names with their kind."""
    assert table_of(PIPELINE, PIPELINES, wide=True, prefix=True) == PIPELINE_TABLE


def test_the_table_of_watched_nodes() -> None:
    """Percents, memory, and what happened."""
    assert table_of(NODE, NODES, event="modified") == NODE_TABLE


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.plural)
def test_titles_follow_the_conventions(kind: Any) -> None:
    """NAME first, AGE last, upper case, no spaces, every format known; 80 columns leave room for each."""
    titles = titles_of(kind, wide=True)
    assert (titles[0], titles[-1]) == ("NAME", "AGE")
    assert all(title == title.upper() and " " not in title for title in titles)
    assert {column.format for column in kind.columns} <= {"text", *output._FORMS}
    assert len(Table(titles_of(kind, wide=False)).header()) < 80


@pytest.mark.parametrize(
    ("value", "style", "expected"),
    [
        (None, "count", "<none>"),
        ("", "text", "<none>"),
        ([], "text", "<none>"),
        (0, "count", "0"),
        (False, "text", "false"),
        ({"a": 1, "b": [True]}, "text", "a=1,b=true"),
        (0, "rate", "0/s"),
        (0.04, "rate", "0.0/s"),
        (123.4, "rate", "123/s"),
        (0.0012, "seconds", "1.2ms"),
        ("2026-01-31T15:12:31Z", "age", "0s"),
        ("2026-01-31T15:11:31.5Z", "age", "58s"),
        ("yesterday", "age", "yesterday"),
        ("many", "count", "many"),
        ({"not": "a list"}, "stages", "not=a list"),
        ([{"name": "f"}], "stages", "name=f"),
        (5, "furlongs", "5"),
        ("a\x1b[2Jb\nc\u202ed", "text", "a\ufffd[2Jb c\ufffdd"),
    ],
)
def test_cells(value: Any, style: str, expected: str) -> None:
    """Each format, and values that do not fit theirs are shown as they are."""
    assert cell(value, style, NOW) == expected


@settings(deadline=None)
@given(st.text())
def test_no_text_reaches_the_terminal_with_control_characters(text: str) -> None:
    """Whatever a server says stays on its line and moves no cursor."""
    assert safe(text).isprintable()
    assert len(safe(text)) == len(text)


def test_a_growing_table_keeps_its_columns() -> None:
    """A later row that is wider widens what follows; one that is narrower does not."""
    table = Table(("NAME", "STATE", "AGE"))
    lines = [
        table.header(),
        table.line(("a", "b", "c")),
        table.line(("longname", "b", "c")),
        table.line(("a", "b", "c")),
    ]
    assert lines == ["NAME   STATE   AGE", "a      b       c", "longname   b       c", "a          b       c"]


def test_states_are_coloured_without_moving_columns() -> None:
    """Colour adds to the line and changes nothing of its text."""
    import click

    row = ("a", "running", "1s")
    plain, coloured = (Table(("NAME", "STATE", "AGE"), colour=c).line(row) for c in (False, True))
    assert coloured == "a      \x1b[32mrunning\x1b[0m   1s"
    assert click.unstyle(coloured) == plain


@pytest.mark.parametrize(
    ("environ", "terminal", "expected"),
    [({}, True, True), ({}, False, False), ({"NO_COLOR": "1"}, True, False), ({"TERM": "dumb"}, True, False)],
)
def test_colours_only_where_they_are_welcome(
    monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], terminal: bool, expected: bool
) -> None:
    """Only on a terminal, and never against NO_COLOR."""

    class Stream:
        def isatty(self) -> bool:
            return terminal

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert output.coloured(Stream()) is expected  # type: ignore[arg-type]


def test_yaml_keeps_order_and_separates_documents() -> None:
    """Members stay in the server's order; strings that look like other things are quoted."""
    assert as_yaml([{"b": "on", "a": "2026-01-31"}, {"c": None}]) == "b: 'on'\na: '2026-01-31'\n---\nc: null"
