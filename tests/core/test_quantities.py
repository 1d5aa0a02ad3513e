"""Durations and sizes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from platformd.core.errors import InvalidInput
from platformd.core.quantities import format_bytes, format_seconds, seconds, size_bytes


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0),
        ("500ms", 0.5),
        ("30s", 30),
        ("5m", 300),
        ("1h30m", 5400),
        ("7d", 604800),
        ("1.5s", 1.5),
        ("20us", 2e-5),
    ],
)
def test_durations_are_read(text: str, value: float) -> None:
    """Each unit counts as it is named, and units add up."""
    assert seconds(text) == pytest.approx(value)


@pytest.mark.parametrize("text", ["", "5", "s", "5 s", "-5s", "5S", "1h-1m", "5sx", "1e3s"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    """A number without a unit, or anything else, is refused with an example of what is right."""
    with pytest.raises(InvalidInput) as caught:
        seconds(text)
    assert caught.value.hint is not None
    assert "30s" in caught.value.hint


@pytest.mark.parametrize(
    ("text", "value"), [("0", 0), ("512", 512), ("1KiB", 1024), ("1.5MiB", 1572864), ("2GiB", 2**31)]
)
def test_sizes_are_read(text: str, value: int) -> None:
    """Sizes have binary units or none."""
    assert size_bytes(text) == value


@pytest.mark.parametrize("text", ["", "KiB", "1KB", "1 KiB", "-1", "1kib"])
def test_what_is_no_size_is_refused(text: str) -> None:
    """Decimal units and the like are refused."""
    with pytest.raises(InvalidInput):
        size_bytes(text)


@given(st.floats(min_value=0, max_value=1e8))
def test_formatted_durations_can_be_read_again(value: float) -> None:
    """What is shown to a person is a duration that the platform would take."""
    text = format_seconds(value)
    if "e" not in text:
        assert seconds(text) == pytest.approx(value, rel=0.05, abs=1e-6)


@given(st.integers(min_value=0, max_value=2**50))
def test_formatted_sizes_can_be_read_again(value: int) -> None:
    """What is shown to a person is a size that the platform would take."""
    assert size_bytes(format_bytes(value)) == pytest.approx(value, rel=0.06)
