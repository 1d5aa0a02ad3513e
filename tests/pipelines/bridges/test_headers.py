"""Headers go both ways and come out as they went in."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from platformd.pipelines.bridges import headers

NAMES = st.text(alphabet="abcK-", min_size=1, max_size=4)


@given(st.lists(st.tuples(NAMES, st.none() | st.binary(max_size=6))))
def test_they_come_out_as_they_went_in(given_headers: list[tuple[str, bytes | None]]) -> None:
    """Names that come twice, values that are not text and those that are none survive, in order for each name."""
    back = headers.to_kafka(headers.from_kafka(given_headers))
    assert sorted(back, key=lambda h: h[0]) == sorted(given_headers, key=lambda h: h[0])


def test_our_own_are_not_sent() -> None:
    """What says where a record came from is not a header of the record that is sent on."""
    own = {headers.TOPIC: "t", headers.PARTITION: "1", headers.OFFSET: "2", f"{headers.KEY};base64": "/w=="}
    assert headers.to_kafka(own | {"mine": "x"}) == [("mine", b"x")]


@pytest.mark.parametrize(
    ("found", "value"),
    [({}, None), ({"k": "a"}, b"a"), ({"k;base64": "/w=="}, b"\xff"), ({"k;base64": "not base64"}, b"not base64")],
)
def test_one_value(found: dict[str, str], value: bytes | None) -> None:
    """A header's value is found with its mark; a mark that is none is taken as it stands."""
    assert headers.value_of(found, "k") == value
