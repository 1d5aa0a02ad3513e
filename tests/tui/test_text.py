"""Values, histories, columns and heights: the pure parts under the screen."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from tui.format import bar, bytes_, count, mean_time, percent, plain, rate, span, sparkline
from tui.history import LIMIT, Ring, growing
from tui.layout import LEAST_LOG, roomy, share_heights
from tui.overview import PIPELINE_COLUMNS, STREAM_COLUMNS
from tui.table import Column, Row, Run, changed_spans, fit, fixed, header, pad, row_line, rule

LINES = st.lists(st.tuples(st.text(alphabet="ab ▁█é漢", max_size=8), st.sampled_from(["", "good", "dim"]))).map(
    lambda runs: tuple(Run(*run) for run in runs)
)


def width_of(line: tuple[Run, ...]) -> int:
    """The cells of a line."""
    return sum(cell_len(run.text) for run in line)


@pytest.mark.parametrize(
    ("value", "width", "text"),
    [(0, 5, "0"), (1234, 7, "1,234"), (1234567, 8, "1234567"), (1234567, 9, "1,234,567"), (1234567, 6, "1.23M"),
     (12345678, 6, "12.35M"), (999_999, 5, "1000k"), (9_876_543_210, 7, "9.88G"), (-1234, 7, "-1,234")],
)  # fmt: skip
def test_counts(value: int, width: int, text: str) -> None:
    """A count is exact where it fits and short where it does not."""
    assert count(value, width) == text


@given(st.integers(0, 10**17), st.integers(5, 20))
def test_counts_fit(value: int, width: int) -> None:
    """No count is wider than its column."""
    assert len(count(value, width)) <= width


def test_small_texts() -> None:
    """Rates, sizes, shares and times are short."""
    assert [rate(v) for v in (0, 0.04, 0.4, 12.34, 123.4, 12345)] == ["0", "0", "0.4", "12.3", "123", "12,345"]
    assert [bytes_(v) for v in (0, 812, 65536, 3 << 30)] == ["0B", "812B", "64.0K", "3.0G"]
    assert [span(v) for v in (-1, 12.9, 300, 11520, 400000)] == ["0s", "12s", "5m", "3h12m", "4d15h"]
    assert [mean_time(v) for v in (None, 0.00085, 0.0123, 1.2, 250.0)] == ["-", "850us", "12.3ms", "1.2s", "250s"]
    assert percent(7.4) == "  7%"


def test_foreign_text_is_harmless() -> None:
    """Escape sequences, line ends and direction marks of other programs do not reach the terminal."""
    assert plain("a\x1b[2Jb\r\n\tc\u202ed\u2028e") == "a [2Jb c d e"
    assert plain("x" * 600, 10) == "xxxxxxxxx…"


def test_bars() -> None:
    """A bar fills its width, shows eighths, and at least a sliver of anything."""
    assert bar(0.5, 4) == ("██", "░░")
    assert bar(0.0, 3) == ("", "░░░")
    assert bar(0.0001, 3) == ("▏", "░░")
    assert bar(7.0, 3) == ("███", "")


def test_sparklines() -> None:
    """A sparkline is right-aligned, scaled, blank where nothing is known, and shows anything above nothing."""
    assert sparkline([0, 1, 2, 4], 6) == "  ▁▃▅█"
    assert sparkline([1, None, 1], 3) == "█ █"
    assert sparkline([0, 0], 2) == "▁▁"
    assert sparkline([0.001, 100], 2) == "▂█"
    assert sparkline([50], 1, top=100) == "▅"
    assert sparkline([1, 2], 0) == ""


def test_rings_are_bounded() -> None:
    """A ring keeps its newest samples, also after a long silence, and survives a clock that is set back."""
    ring = Ring().push(1000.0, 1.0).push(1002.5, 2.0)
    assert ring.values == (1.0, 1.0, 2.0)
    assert ring.push(990.0, 3.0).values == (1.0, 1.0, 3.0)
    long = ring.push(10**9, 5.0)
    assert len(long.values) == LIMIT
    assert (long.last, long.ago(3), long.ago(10**6)) == (5.0, 2.0, 2.0)


def test_growth() -> None:
    """A lag grows when it rose over the last seconds by more than noise."""
    rising = steady = Ring()
    for i in range(30):
        rising, steady = rising.push(float(i), 10.0 * i), steady.push(float(i), 100.0 + i % 2)
    assert growing(rising)
    assert not growing(steady)
    assert not growing(rising.advance(60.0))
    assert not growing(Ring())


def test_columns_give_way_by_rank() -> None:
    """Columns of high rank go first, those of rank 0 stay, and what is left over is shared up to a limit."""
    columns = (
        Column("A", 10, grow=1, most=12),
        Column("B", 10, rank=2),
        Column("C", 5, rank=1),
        Column("D", 5, grow=1),
    )
    assert fit(columns, 36) == [(0, 10), (1, 10), (2, 5), (3, 5)]
    assert fit(columns, 35) == [(0, 12), (2, 5), (3, 14)]
    assert fit(columns, 10) == [(0, 10), (3, 5)]


@pytest.mark.parametrize("columns", [STREAM_COLUMNS, PIPELINE_COLUMNS])
@pytest.mark.parametrize("width", [78, 98, 118, 158, 198, 300])
def test_tables_fill_the_width(columns: tuple[Column, ...], width: int) -> None:
    """At every usual width the fitted columns are within it, and all columns that may stay do."""
    fitted = fit(columns, width)
    assert sum(w for _, w in fitted) + 2 * (len(fitted) - 1) <= width
    assert {i for i, c in enumerate(columns) if c.rank == 0} <= {i for i, _ in fitted}
    assert width_of(header(columns, fitted, width)) == width
    if width >= 158:
        assert len(fitted) == len(columns)


@given(LINES, st.integers(0, 40), st.booleans())
def test_padding_is_exact(line: tuple[Run, ...], width: int, right: bool) -> None:
    """A padded line has exactly its width, whatever is in it."""
    assert width_of(pad(line, width, right=right)) == width


@given(LINES, LINES, st.integers(1, 40))
def test_changed_spans_cover_the_changes(old: tuple[Run, ...], new: tuple[Run, ...], width: int) -> None:
    """Drawing the changed stretches over the old line gives the new one; equal lines have none."""
    before, after = pad(old, width), pad(new, width)
    spans = changed_spans(before, after)
    assert changed_spans(after, after) == []
    assert all(x >= 0 and x + cells <= width for x, cells in spans)
    drawn = {cell for x, cells in spans for cell in range(x, x + cells)}
    left = [[(c, r.tone) for r in line for c in r.text for _ in range(cell_len(c))] for line in (before, after)]
    assert all(x in drawn for x in range(width) if left[0][x] != left[1][x])


def test_a_changed_number_is_drawn_alone() -> None:
    """One changed cell of a row is one stretch."""
    columns = (Column("A", 5), Column("B", 5, right=True), Column("C", 5))
    fitted = fit(columns, 19)
    lines = [row_line(Row("k", (fixed(Run("a")), fixed(Run(n)), fixed(Run("c")))), columns, fitted, 19) for n in "12"]
    assert changed_spans(*lines) == [(11, 1)]


def test_a_tail_takes_the_rest() -> None:
    """A heading row's text takes the place of the columns after its cells."""
    columns = (Column("A", 5), Column("B", 5), Column("C", 5))
    line = row_line(Row("k", (fixed(Run("abc")),), tail=(Run("a long word"),)), columns, fit(columns, 19), 19)
    assert "".join(run.text for run in line) == "abc    a long word "
    assert width_of(rule("Streams 3", 12)) == 12


@given(st.integers(8, 80), st.integers(3, 200), st.integers(3, 200))
def test_heights_are_shared(available: int, streams: int, pipelines: int) -> None:
    """The parts fill the height; the log keeps its least; nobody is starved for the other."""
    first, second, log = share_heights(available, streams, pipelines)
    assert first + second + log == available
    if available >= 11:
        assert log >= LEAST_LOG
        half = (available - LEAST_LOG) // 2
        assert first >= min(streams, half)
        assert second >= min(pipelines, half)
    if streams + pipelines + LEAST_LOG <= available:
        assert (first, second) == (streams, pipelines)


def test_space_is_only_used_when_there_is_some() -> None:
    """Empty lines between the parts come with height to spare."""
    assert roomy(40, 5, 6)
    assert not roomy(18, 5, 6)
