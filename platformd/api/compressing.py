"""Answers in gzip, for clients that say they take it (Accept-Encoding, RFC 9110 §12.5.3).

Not for streams, which must leave piece by piece, nor for what is too small to gain. The ETag stays: it says which
revision it is, for If-Match, not which bytes.

Compressing what holds a secret beside what an attacker chose tells the secret by its length (BREACH), where the
attacker can make somebody's browser ask with that person's rights, again and again. Here nobody can: there are no
cookies, a token is in a header that a foreign page cannot set, and requests from foreign pages are refused by their
Origin.
"""

from __future__ import annotations

import gzip
from functools import partial
from typing import Final

import trio
from quart import Response

from platformd.api.asked import asked

MIN_BYTES: Final = 1024
"""A smaller answer is sent as it is."""
LEVEL: Final = 1
"""On JSON: four fifths of what the best level saves, in a tenth of its time."""
THREAD_BYTES: Final = 64 * 1024
"""A larger answer is compressed in a thread, since it takes more than a millisecond."""
_TEXT: Final = ("application/json", "application/problem+json", "application/x-ndjson", "text/")
_SINGLE: Final = (200, 201, 202)


async def compress(response: Response) -> None:
    """Compress the body of ``response`` if the client wants it and it gains by it."""
    if response.content_type is None or not response.content_type.startswith(_TEXT):
        return
    if "Content-Encoding" in response.headers or (response.content_length or 0) < MIN_BYTES:
        return  # a stream has no length
    response.vary.add("Accept-Encoding")
    if not _taken() or response.status_code not in _SINGLE:
        return
    body: bytes = await response.get_data(as_text=False)
    shrink = partial(gzip.compress, body, LEVEL, mtime=0)
    packed = await trio.to_thread.run_sync(shrink) if len(body) > THREAD_BYTES else shrink()
    response.set_data(packed)
    response.headers["Content-Encoding"] = "gzip"


def _taken() -> bool:
    given = asked.headers.get("Accept-Encoding", "")
    for word in given.lower().split(","):
        name, _, parameters = word.partition(";")
        if name.strip() in {"gzip", "*"}:
            quality = parameters.replace(" ", "")
            return quality not in {"q=0", "q=0.0", "q=0.00", "q=0.000"}
    return False
