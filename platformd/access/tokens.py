"""The tokens that there are: in the store for good, in memory for asking.

One key for each, ``/platformd/tokens/ID``, with the hash of its secret; users' keys live elsewhere, so no door leads
there. All are held in memory, and followed by a watch, so that a request is checked without waiting and a change made
by whoever else has the store counts as well. A token that was revoked or has expired is kept for a while: whoever still
shows it is told so by name, and not that it is unknown.

When it was used last is coarse on purpose: a write for each request would make each read a write.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import Final, Never

import msgspec
import trio

from platformd.access.peers import checked_role
from platformd.access.secrets import digest, new_token
from platformd.coordination.contract import Compare, Delete, FutureRevision, Put, Store, prefix_end
from platformd.core.clock import Clock, rfc3339
from platformd.core.errors import (
    Conflict,
    Gone,
    InvalidInput,
    LimitReached,
    NotFound,
    OutcomeUnknown,
    PlatformError,
    Unavailable,
)
from platformd.core.ids import is_name
from platformd.model.access import Principal, Role

log = logging.getLogger("platformd.access")

PREFIX: Final = b"/platformd/tokens/"
KEPT_NS: Final = 30 * 86400 * 10**9
"""How long a token that is revoked or expired is still known by name."""
USED_NS: Final = 600 * 10**9
"""``last_used_at`` is at most so much behind; a restart of the daemon can lose as much."""
SWEEP: Final = 60.0
"""Seconds between looks at what has to be written or forgotten."""
AGAIN: Final = 1.0
"""Seconds before a store that could not be reached is asked again."""


class Token(msgspec.Struct, frozen=True, kw_only=True):
    """A token, without its secret. Times are nanoseconds since the epoch."""

    id: str
    name: str
    role: Role
    tenant: str | None = None
    hash: bytes
    """SHA-256 of all of it."""
    created: int
    created_by: str
    expires: int | None = None
    revoked: int | None = None
    used: int | None = None
    """About when it was shown last."""
    revision: int = msgspec.field(default=0)
    """Of the store; not in the value."""

    @property
    def principal(self) -> Principal:
        """Who shows it."""
        return Principal(name=f"token:{self.name}", role=self.role, how="token", tenant=self.tenant)

    def ended(self, now: int) -> str | None:
        """Why it does not count any more, or ``None``."""
        if self.revoked is not None:
            return f"was revoked at {rfc3339(self.revoked)}"
        if self.expires is not None and self.expires <= now:
            return f"expired at {rfc3339(self.expires)}"
        return None


def document(token: Token, now: int) -> dict[str, object]:
    """A token as it is shown: its hash stays where it is."""

    def when(ns: int | None) -> str | None:
        return None if ns is None else rfc3339(ns)

    ended = token.ended(now)
    return {
        "id": token.id,
        "name": token.name,
        "role": token.role,
        "tenant": token.tenant,
        "state": "active" if ended is None else "revoked" if token.revoked is not None else "expired",
        "created_at": when(token.created),
        "created_by": token.created_by,
        "expires_at": when(token.expires),
        "revoked_at": when(token.revoked),
        "last_used_at": when(token.used),
    }


class Tokens:
    """All tokens of the store.

    Args:
        store: the daemon's store.
        clock: tells when.
        limit: how many there may be.
        random_bytes: where secrets come from.
    """

    def __init__(
        self, store: Store, clock: Clock, limit: int, random_bytes: Callable[[int], bytes] = os.urandom
    ) -> None:
        self._store, self._clock, self._limit, self._random = store, clock, limit, random_bytes
        self._by_id: dict[str, Token] = {}
        self._used: dict[str, int] = {}
        """Uses that are not written yet."""
        self._changed = trio.lowlevel.ParkingLot()

    def all(self) -> list[Token]:
        """Every token that is known, by name, with uses that are not written yet."""
        known = [
            msgspec.structs.replace(token, used=self._used.get(token.id, token.used)) for token in self._by_id.values()
        ]
        return sorted(known, key=lambda token: (token.name, token.created))

    def get(self, token_id: str) -> Token | None:
        """The token of that id."""
        return self._by_id.get(token_id)

    def note_use(self, token: Token) -> None:
        """It was shown just now."""
        self._used[token.id] = self._clock.time_ns()

    async def wait_ended(self, token_id: str) -> None:
        """Wait until a token does not count any more."""
        while (token := self._by_id.get(token_id)) is not None and token.ended(self._clock.time_ns()) is None:
            left = None if token.expires is None else (token.expires - self._clock.time_ns()) / 1e9
            with trio.move_on_after(float("inf") if left is None else max(left, 0.0)):
                await self._changed.park()

    async def create(
        self, name: str, role: str, tenant: str | None, by: Principal, *, expires: int | None = None
    ) -> tuple[Token, str]:
        """A new token and its secret, which nobody can be told again.

        Raises:
            InvalidInput: the name, the role or the tenant is none, or they do not go together; it has expired already.
            Conflict: there is an active token of that name.
            LimitReached: there are too many.
        """
        now = self._clock.time_ns()
        if not is_name(name):
            raise InvalidInput(f"{name!r} cannot name a token", subject="name", hint="lower-case letters, digits, '-'")
        checked, bound = checked_role(role, tenant, subject=f"token {name}")
        if expires is not None and expires <= now:
            raise InvalidInput("it would have expired already", subject=f"token {name}")
        if any(one.name == name and one.ended(now) is None for one in self._by_id.values()):
            raise Conflict("there is one of that name", subject=f"token {name}", hint="revoke it, or take another name")
        if len(self._by_id) >= self._limit:
            raise LimitReached(f"there are {self._limit}, which is access.max_tokens", subject="tokens")
        token_id, secret = new_token(self._random)
        token = Token(
            id=token_id,
            name=name,
            role=checked,
            tenant=bound,
            hash=digest(secret),
            created=now,
            created_by=by.name,
            expires=expires,
        )
        return await self._write(token), secret

    async def revoke(self, word: str) -> Token:
        """End the token whose id or name is ``word``; what was revoked already is left as it is.

        Raises:
            NotFound: there is none.
        """
        found = [token for token in self.all() if word in (token.id, token.name)]
        now = self._clock.time_ns()
        active = [token for token in found if token.ended(now) is None]
        if not found:
            raise NotFound("there is no such token", subject=f"token {word}", hint="`platformd token ls` shows all")
        for token in active:
            return await self._write(msgspec.structs.replace(token, revoked=now))
        return found[-1]

    async def _write(self, token: Token) -> Token:
        """Store a new state; again with what is there, if only its use was noted meanwhile."""
        key = PREFIX + token.id.encode()
        value = _encode(token)
        compare = [Compare(key, "mod_revision", "==", token.revision)]
        result = await self._store.txn(compare, [Put(key, value)])
        if not result.succeeded:
            raise Conflict("it was changed at the same moment", subject=f"token {token.name}", hint="try again")
        written = msgspec.structs.replace(token, revision=result.revision)
        self._know(written)
        return written

    def _know(self, token: Token) -> None:
        known = self._by_id.get(token.id)
        if known is None or known.revision <= token.revision:
            self._by_id[token.id] = token
            self._changed.unpark_all()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> Never:
        """Follow the store and write uses down. Started when all tokens are known."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self._follow)
            task_status.started()
            while True:
                await trio.sleep(SWEEP)
                await self.sweep()
        raise AssertionError  # it is only ever cancelled

    async def _follow(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        started = False
        while True:
            try:
                listing = await self._store.list(PREFIX, prefix_end(PREFIX))
            except Unavailable:
                if not started:
                    raise
                await trio.sleep(AGAIN)
                continue
            known = {kv.key[len(PREFIX) :].decode() for kv in listing.items}
            for gone in self._by_id.keys() - known:
                self._forget(gone)
            for kv in listing.items:
                self._know(_decode(kv.value, kv.mod_revision))
            if not started:
                started = True
                task_status.started()
            try:
                await self._follow_from(listing.revision + 1)
            except (Gone, FutureRevision):
                continue
            except (LimitReached, Unavailable, OutcomeUnknown) as error:
                # What is known goes on to hold; whoever was revoked elsewhere meanwhile is let in until it is back.
                log.warning("tokens are not followed: %s", error)
                await trio.sleep(AGAIN)

    async def _follow_from(self, revision: int) -> None:
        async with self._store.watch(PREFIX, prefix_end(PREFIX), start_revision=revision) as batches:
            async for batch in batches:
                for event in batch.events:
                    if event.type == "delete":
                        self._forget(event.kv.key[len(PREFIX) :].decode())
                    else:
                        self._know(_decode(event.kv.value, event.kv.mod_revision))

    def _forget(self, token_id: str) -> None:
        self._by_id.pop(token_id, None)
        self._used.pop(token_id, None)
        self._changed.unpark_all()

    async def sweep(self) -> None:
        """Write down when tokens were used, and forget what ended long ago."""
        now = self._clock.time_ns()
        for token in list(self._by_id.values()):
            ended = token.revoked or token.expires
            if token.ended(now) is not None and ended is not None and now - ended > KEPT_NS:
                key = PREFIX + token.id.encode()
                await self._store.txn([Compare(key, "mod_revision", "==", token.revision)], [Delete(key)])
                self._forget(token.id)
            elif (used := self._used.get(token.id)) is not None and used - (token.used or 0) >= USED_NS:
                try:
                    await self._write(msgspec.structs.replace(token, used=used))
                except PlatformError:
                    continue  # it was changed just now, or the store is away: there is another look
                self._used.pop(token.id, None)


def _encode(token: Token) -> bytes:
    return msgspec.msgpack.encode(msgspec.structs.replace(token, revision=0))


def _decode(value: bytes, revision: int) -> Token:
    return msgspec.structs.replace(msgspec.msgpack.decode(value, type=Token), revision=revision)
