"""Stores with one fault each, which a checker must find: what is proved by them is the checker."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import trio

from platformd.coordination.contract import Compare, KeyValue, Listing, Operation, Put, TxnResult
from platformd.core.errors import OutcomeUnknown, Unavailable
from tests.support.memory_store import MemoryStore

RARELY = 0.1


class Delayed(MemoryStore):
    """No fault: requests take their time, before and after they are done."""

    def __init__(self, seed: object) -> None:
        self.random = random.Random(f"{seed}")
        super().__init__(self._wait)

    async def _wait(self, _: str) -> None:
        await trio.sleep(self.random.random())

    def unlucky(self) -> bool:
        """Whether it goes wrong this time."""
        return self.random.random() < RARELY


class Forgetful(Delayed):
    """No fault: now and then nobody is told what came of a transaction, which is done, not done, or done later."""

    async def txn(
        self, compares: Sequence[Compare], then: Sequence[Operation], otherwise: Sequence[Operation] = ()
    ) -> TxnResult:
        fate = self.random.random()
        if fate > 3 * RARELY:
            return await super().txn(compares, then, otherwise)
        if fate > 2 * RARELY:
            await super().txn(compares, then, otherwise)
        elif fate > RARELY:
            trio.lowlevel.spawn_system_task(super().txn, compares, then, otherwise)
        raise OutcomeUnknown("nobody knows", subject="test")


class StaleReads(Delayed):
    """A get may be answered from a state that was already over when it was asked."""

    async def get(self, key: bytes, *, revision: int = 0) -> KeyValue | None:
        old = self._at(max(self.revision - 10, 1)).get(key)
        now = await super().get(key, revision=revision)
        return old if self.unlucky() and not revision else now


class StaleLists(Delayed):
    """A list may be answered from a state that was already over when it was asked."""

    async def list(self, key: bytes, end: bytes | None, **how: Any) -> Listing:
        if self.random.random() < 0.5 and not how.get("revision"):
            how["revision"] = max(self.revision - 10, 1)
        return await super().list(key, end, **how)


class TornLists(Delayed):
    """A list may be put together from two states."""

    async def list(self, key: bytes, end: bytes | None, **how: Any) -> Listing:
        first = await super().list(key, end, **how)
        second = await super().list(key, end, **how)
        half = len(first.items) // 2
        if len(first.items) != len(second.items):
            return first
        items = first.items[:half] + second.items[half:]
        return Listing(items=items, revision=second.revision, more=second.more, count=second.count)


class LostUpdates(Delayed):
    """Compares are looked at some time before the change is made."""

    async def txn(
        self, compares: Sequence[Compare], then: Sequence[Operation], otherwise: Sequence[Operation] = ()
    ) -> TxnResult:
        succeeded = all(self._holds(compare) for compare in compares)
        done = await super().txn([], then if succeeded else otherwise)
        return TxnResult(succeeded=succeeded, revision=done.revision, results=done.results)


class LostWrites(Delayed):
    """A write may be acknowledged and not be there."""

    async def txn(
        self, compares: Sequence[Compare], then: Sequence[Operation], otherwise: Sequence[Operation] = ()
    ) -> TxnResult:
        kept = dict(self.keys), self.revision, list(self.history)
        if not self.unlucky():
            return await super().txn(compares, then, otherwise)
        self.pause, pause = _at_once, self.pause
        told = await super().txn(compares, then, otherwise)
        self.pause = pause
        self.keys, self.revision, self.history = kept
        return told


async def _at_once(_: str) -> None:
    await trio.lowlevel.cancel_shielded_checkpoint()


class TwiceDone(Delayed):
    """A write may be done a second time, as by a client that tries again what was done."""

    async def txn(
        self, compares: Sequence[Compare], then: Sequence[Operation], otherwise: Sequence[Operation] = ()
    ) -> TxnResult:
        if self.unlucky():
            await super().txn(compares, then, otherwise)
        return await super().txn(compares, then, otherwise)


class UnknownTwiceDone(Delayed):
    """A write whose outcome nobody is told may be done twice."""

    async def txn(
        self, compares: Sequence[Compare], then: Sequence[Operation], otherwise: Sequence[Operation] = ()
    ) -> TxnResult:
        done = await super().txn(compares, then, otherwise)
        if self.unlucky():
            await super().txn(compares, then, otherwise)
            raise OutcomeUnknown("nobody knows", subject="test")
        return done


class RefusedButDone(Delayed):
    """A write that is refused may be done all the same."""

    async def txn(
        self, compares: Sequence[Compare], then: Sequence[Operation], otherwise: Sequence[Operation] = ()
    ) -> TxnResult:
        done = await super().txn(compares, then, otherwise)
        if self.unlucky():
            raise Unavailable("not now", subject="test")
        return done


class HalfDone(Delayed):
    """The puts of a transaction may come one after the other."""

    async def txn(
        self, compares: Sequence[Compare], then: Sequence[Operation], otherwise: Sequence[Operation] = ()
    ) -> TxnResult:
        if not compares and len(then) > 1 and self.random.random() < 0.5:
            first = next(one for one in then if isinstance(one, Put))
            done = await super().txn([], [first])
            rest = await super().txn([], [one for one in then if one is not first])
            told = list(rest.results)
            told.insert(list(then).index(first), done.results[0])
            return TxnResult(succeeded=True, revision=rest.revision, results=tuple(told))
        return await super().txn(compares, then, otherwise)


CORRECT = (Delayed, Forgetful)
FAULTY = (
    StaleReads, StaleLists, TornLists, LostUpdates, LostWrites, TwiceDone, UnknownTwiceDone, RefusedButDone, HalfDone,
)  # fmt: skip
