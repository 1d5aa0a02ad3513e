"""Records and deliveries for property tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

from platformd.core.errors import InvalidInput
from platformd.queues.contract import Delivery, Record

_TOKENS = st.text(alphabet=st.characters(min_codepoint=33, max_codepoint=126, exclude_characters=".*>"), min_size=1)
SUBJECTS = st.lists(_TOKENS, min_size=1, max_size=4).map(".".join).filter(lambda s: len(s) <= 255)
IDS = st.text(max_size=60)
HEADERS = st.dictionaries(st.text(max_size=8), st.text(max_size=8), max_size=3)
SEQUENCES = st.integers(0, 2**64 - 1)
TIMES = st.integers(1, 2**64 - 1)

RECORDS = st.builds(
    Record, subject=SUBJECTS, payload=st.binary(max_size=70), msg_id=IDS, headers=HEADERS, time_ns=TIMES
)
DELIVERIES = st.builds(
    Delivery,
    sequence=SEQUENCES,
    subject=SUBJECTS,
    payload=st.binary(max_size=70),
    msg_id=IDS,
    headers=HEADERS,
    time_ns=TIMES,
    append_time_ns=SEQUENCES,
    deliveries=st.integers(0, 2**32 - 1),
)


def decoded_or_refused(decode: Callable[[], Any]) -> Any:
    """What ``decode`` gives, or the message of its refusal; any other error passes through."""
    try:
        return decode()
    except InvalidInput as error:
        return error.message
