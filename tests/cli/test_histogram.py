"""The latency histogram of the benchmark."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from platformd.cli.histogram import BAR, ROWS, Histogram

VALUES = st.lists(st.integers(0, 10**8), min_size=1, max_size=200)


def of(values: list[int]) -> Histogram:
    made = Histogram()
    for value in values:
        made.add(value)
    return made


@given(VALUES, st.sampled_from([0.0, 0.5, 0.9, 0.99, 0.999, 1.0]))
def test_quantiles_are_exact_to_three_percent(values: list[int], part: float) -> None:
    """A quantile is never below the true one, and above it by less than a counter is wide."""
    true = sorted(values)[max(0, math.ceil(part * len(values)) - 1)]
    found = of(values).quantile(part)
    assert true <= found <= true + true / 32
    assert of(values).quantile(1.0) == max(values)


@given(VALUES, VALUES)
def test_histograms_are_added_and_sent(one: list[int], two: list[int]) -> None:
    """Two that are merged are one of all values, also after a way through documents."""
    merged = Histogram.from_document(of(one).to_document())
    merged.merge(of(two))
    assert merged.to_document() == of(one + two).to_document()
    assert merged.summary() == of(one + two).summary()


@given(VALUES)
def test_a_plot_has_few_rows_and_all_values(values: list[int]) -> None:
    """Every value is in some row's percentage, the longest bar has its length, and the last edge is the maximum."""
    lines = of(values).plot()
    assert 1 <= len(lines) <= ROWS
    parts = [float(line.split("%")[0].split()[-1]) for line in lines]
    assert abs(sum(parts) - 100) <= 0.05 * len(lines) + 0.01
    assert max(line.count("█") for line in lines) == BAR


def test_what_a_histogram_says() -> None:
    """Counts, the mean and quantiles in seconds; nothing of nothing."""
    made = of([1000] * 98 + [2000, 50_000])
    made.add(-5, times=0)
    assert made.summary() | {"count": 100, "mean": 0.0015, "p50": 0.001007, "max": 0.05} == made.summary()
    assert Histogram().summary() == {"count": 0}
    assert Histogram().plot() == []
    assert of([1000, 1000, 3000]).plot() == [
        f"≤  1.02ms   66.7%  {'█' * 40}", "≤  2.05ms    0.0%", f"≤     3ms   33.3%  {'█' * 20}",
    ]  # fmt: skip
