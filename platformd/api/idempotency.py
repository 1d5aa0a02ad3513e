"""Idempotency-Key: a POST that is sent again is answered again, and not done again.

A client that does not know whether its request was done (its connection broke, the daemon was restarted) sends it once
more with the key that it had. The key is written into the store before the request is carried out and the answer after
it, so both survive a restart. Only successes are kept: a request that was refused has done nothing, and may be tried
again with the same key.

What a key was used for is known by a hash of the method, the path, the query, the content type and the body. The same
key for something else is refused; so is one whose first request is still being carried out, and one whose daemon ended
in between: what came of that is known to nobody, and the client has to look.

Keys are kept for ``http.idempotency_age``, and the newest ``http.idempotency_keys`` of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any, Final, Literal

import msgspec
from quart import Response, g, request

from platformd.api.access import principal
from platformd.api.context import ApiContext
from platformd.coordination.contract import Compare, Delete, Operation, Put, prefix_end
from platformd.core.errors import InvalidInput, KeyInUse, KeyOutcomeUnknown, KeyReused
from platformd.core.quantities import seconds

HEADER: Final = "Idempotency-Key"
REPLAYED: Final = "Idempotency-Replayed"
"""The header of an answer that was kept."""
MAX_KEY: Final = 255
"""Characters of a key."""
MAX_KEPT_BYTES: Final = 256 * 1024
"""The largest answer that is kept whole; of a larger one only that it was given."""
ROOT: Final = b"/platformd/idempotency/"
_KEPT_HEADERS: Final = ("Content-Type", "ETag", "Location", "Platformd-Outcome")
_PAGE: Final = 1000


class _Kept(msgspec.Struct, array_like=True, frozen=True):
    fingerprint: bytes
    at: float
    """Seconds since the epoch."""
    state: Literal["begun", "done", "large"]
    status: int = 0
    headers: dict[str, str] = {}
    body: bytes = b""


class _Claim(msgspec.Struct, frozen=True):
    """A request with a key that is being carried out."""

    place: bytes
    fingerprint: bytes
    revision: int


class Idempotency:
    """The keys of this store."""

    def __init__(self, context: ApiContext) -> None:
        self._store, self._clock = context.store, context.clock
        self._max = context.settings.http.idempotency_keys
        self._age = seconds(context.settings.http.idempotency_age)
        self._running: set[bytes] = set()
        self._places: dict[bytes, None] | None = None
        """All keys, the oldest first; read when the first one comes."""

    async def begin(self, *, offered: bool) -> Response | None:
        """Before a request: the answer that was kept for it, if there is one.

        Args:
            offered: whether the operation is one that a key is for.

        Raises:
            InvalidInput: the key is none, or the operation takes none.
            KeyReused: the key was used for another request.
            KeyInUse: its first request is still being carried out.
            KeyOutcomeUnknown: its first request did not come to an end.
        """
        key = request.headers.get(HEADER)
        if key is None or request.method != "POST":
            return None
        if not offered:
            raise InvalidInput("this operation takes no key", subject=HEADER, hint="leave it out")
        if not 0 < len(key) <= MAX_KEY or not key.isascii() or not key.isprintable():
            raise InvalidInput(f"is not 1 to {MAX_KEY} printable ASCII characters", subject=HEADER)
        place, fingerprint = self._place(key), await _fingerprint()
        if place in self._running:
            raise KeyInUse("a request with this key is being carried out", subject=HEADER, hint="wait, and ask again")
        self._running.add(place)  # nothing is awaited between the look and this
        g.idempotency = _Claim(place, fingerprint, 0)
        found = await self._store.get(place)
        if found is not None:
            kept = msgspec.msgpack.decode(found.value, type=_Kept)
            if self._now() - kept.at < self._age:
                return _replay(kept, fingerprint)
        claimed = _Kept(fingerprint, self._now(), "begun")
        unchanged = Compare(place, "mod_revision", "==", 0 if found is None else found.mod_revision)
        drop = await self._overflow(place)
        result = await self._store.txn([unchanged], [_put(place, claimed), *drop])
        if not result.succeeded:  # another daemon of the same store
            raise KeyInUse("a request with this key is being carried out", subject=HEADER, hint="wait, and ask again")
        g.idempotency = _Claim(place, fingerprint, result.revision)
        return None

    async def end(self, response: Response) -> None:
        """After a request: keep its answer, or forget a key whose request was refused."""
        claim: _Claim | None = g.get("idempotency")
        if claim is None or not claim.revision:
            return
        unchanged = [Compare(claim.place, "mod_revision", "==", claim.revision)]
        body: bytes = await response.get_data(as_text=False)
        if response.status_code == 500 or (response.status_code == 503 and b'"outcome_unknown"' in body):
            return  # it stays as begun: nobody knows more
        if response.status_code >= 400:
            self._forget([claim.place])
            await self._store.txn(unchanged, [Delete(claim.place)])
            return
        large = len(body) > MAX_KEPT_BYTES
        kept = _Kept(
            claim.fingerprint,
            self._now(),
            "large" if large else "done",
            response.status_code,
            {name: response.headers[name] for name in _KEPT_HEADERS if name in response.headers},
            b"" if large else body,
        )
        await self._store.txn(unchanged, [_put(claim.place, kept)])

    def release(self) -> None:
        """When a request is over, however it ended."""
        claim: _Claim | None = g.get("idempotency")
        if claim is not None:
            self._running.discard(claim.place)

    def _place(self, key: str) -> bytes:
        """Where a key is kept: each user has keys of their own."""
        return ROOT + hashlib.sha256(f"{principal().name}\n{key}".encode()).hexdigest()[:40].encode()

    async def _overflow(self, place: bytes) -> list[Operation]:
        """Remember ``place`` as the newest; what has to go for it."""
        if self._places is None:
            self._places = dict.fromkeys(await self._load())
        self._forget([place])
        too_many = list(self._places)[: max(0, len(self._places) + 1 - self._max)]
        self._forget(too_many)
        self._places[place] = None
        return [Delete(one) for one in too_many[:_PAGE]]

    async def _load(self) -> list[bytes]:
        start, found = ROOT, list[tuple[int, bytes]]()
        while True:
            page = await self._store.list(start, prefix_end(ROOT), limit=_PAGE, keys_only=True)
            found += [(kv.mod_revision, kv.key) for kv in page.items]
            if not page.more:
                return [key for _, key in sorted(found)]
            start = page.items[-1].key + b"\x00"

    def _forget(self, places: Iterable[bytes]) -> None:
        for place in places:
            if self._places is not None:
                self._places.pop(place, None)

    def _now(self) -> float:
        return self._clock.time_ns() / 1e9


def _put(place: bytes, kept: _Kept) -> Put:
    return Put(place, msgspec.msgpack.encode(kept))


def _replay(kept: _Kept, fingerprint: bytes) -> Response:
    if kept.fingerprint != fingerprint:
        raise KeyReused("this key was used for another request", subject=HEADER, hint="a new request has a new key")
    if kept.state != "done":
        what = "was cut off" if kept.state == "begun" else f"was answered with {kept.status}, too much to be kept"
        raise KeyOutcomeUnknown(
            f"the first request with this key {what}",
            subject=HEADER,
            hint="look whether it was done; if it was not, ask again with a new key",
        )
    return Response(kept.body, kept.status, kept.headers | {REPLAYED: "true"})


async def _fingerprint() -> bytes:
    body: Any = await request.get_data(cache=True, as_text=False, parse_form_data=False)
    target: bytes = request.scope["raw_path"] + b"?" + request.query_string
    head = b"%s %s\n%s\n" % (request.method.encode(), target, request.mimetype.encode())
    return hashlib.sha256(head + body).digest()
