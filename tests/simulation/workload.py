"""Clients that do random things to a few keys of any store, all at once, and write down what they were told.

What a client asks depends on its seed and on what it was told before, so a run is the same again only as far as the
operating system and the store's other processes let it be.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

import trio

from platformd.coordination.contract import Compare, Delete, Get, KeyValue, Listing, Operation, Order, Put, Store
from platformd.core.errors import OutcomeUnknown, PlatformError
from tests.simulation.history import Fetch, History, Outcome, Range, Request, Result, Txn

KEYS = tuple(b"k/%d" % number for number in range(5))
"""Few, so that clients meet."""

END = b"k0"
"""The end of their range."""

LATE_NS = 2_000_000
"""How late an impatient client gives up, at most."""


@dataclass(frozen=True)
class Mix:
    """What clients do, as weights."""

    get: int = 6
    past: int = 1
    """Gets and lists at a revision that the client has heard of, or the next ones after it."""
    list: int = 2
    put: int = 5
    swap: int = 5
    """Compare-and-swap on the state that the client saw last."""
    delete: int = 2
    delete_range: int = 1
    multi: int = 3
    """Several keys in one transaction, reads among them, with an otherwise."""
    impatience: float = 0.0
    """Share of transactions that are cancelled after a moment."""
    cancelled: Outcome = Outcome.FAILED
    """What it means to have been cancelled: the engines promise that it was not done, the door does not know."""


class Client:
    """One client of a store, that asks one thing after the other."""

    def __init__(self, number: int, history: History, seed: object, mix: Mix) -> None:
        self.number = number
        self._history = history
        self._random = random.Random(f"{seed}/{number}")
        self._mix = mix
        self._writes = 0
        self._seen: dict[bytes, KeyValue | None] = {}
        self._newest = 1
        self._pages: list[tuple[Range, Listing]] = []

    async def step(self, store: Store) -> Outcome:
        """Ask one thing; an error of the store is an outcome like any other."""
        request = self._choose()
        invoked_at = self._history.now()
        outcome: Outcome | None = None
        result, refusal = None, ""
        try:
            with trio.CancelScope() as scope:
                if isinstance(request, Txn) and self._random.random() < self._mix.impatience:
                    scope.deadline = trio.current_time() + self._random.randrange(LATE_NS) / 1e9
                result = await _ask(store, request)
                outcome = Outcome.OK
            if outcome is None:
                outcome, refusal = self._mix.cancelled, "cancelled"
        except OutcomeUnknown as error:
            outcome, refusal = Outcome.UNKNOWN, error.code
        except PlatformError as error:
            outcome, refusal = Outcome.FAILED, error.code
        done = self._history.add(self.number, request, invoked_at, outcome, result, refusal)
        self._learn(request, result)
        return done.outcome

    def _learn(self, request: Request, result: Result) -> None:
        if isinstance(request, Fetch) and not request.revision:
            assert result is None or isinstance(result, KeyValue)
            self._seen[request.key] = result
        if isinstance(request, Range) and isinstance(result, Listing) and result.more and request.order == "key":
            self._pages = [(request, result)]
        self._newest = max(self._newest, getattr(result, "revision", 0), getattr(result, "mod_revision", 0))

    # --- what to ask ---

    def _choose(self) -> Request:
        makers: list[tuple[int, Callable[[], Request]]] = [
            (self._mix.get, lambda: Fetch(self._key())),
            (self._mix.past, self._past),
            (self._mix.list, self._list),
            (self._mix.put, lambda: Txn((), (self._put(),))),
            (self._mix.swap, self._swap),
            (self._mix.delete, lambda: Txn((), (Delete(self._key()),))),
            (self._mix.delete_range, lambda: Txn((), (Delete(*self._span()),))),
            (self._mix.multi, self._multi),
        ]
        (make,) = self._random.choices([make for _, make in makers], [weight for weight, _ in makers])
        return make()

    def _key(self) -> bytes:
        return self._random.choice(KEYS)

    def _span(self) -> tuple[bytes, bytes]:
        first, last = sorted(self._random.sample((*KEYS, END), 2))
        return first, last

    def _list(self) -> Request:
        if self._pages and self._random.random() < 0.5:
            then, page = self._pages.pop()  # the next page, of the same moment or of now
            return Range(
                page.items[-1].key + b"\x00", then.end, revision=self._random.choice((0, page.revision)), limit=1
            )
        orders: tuple[Order, ...] = ("key", "-key", "mod_revision", "-mod_revision")
        return Range(*self._span(), limit=self._random.choice((0, 0, 2)), order=self._random.choice(orders))

    def _put(self, key: bytes | None = None) -> Put:
        self._writes += 1
        return Put(key or self._key(), b"%d.%d" % (self.number, self._writes))

    def _past(self) -> Request:
        revision = max(1, self._newest + self._random.randrange(-20, 8))
        return Fetch(self._key(), revision) if self._random.random() < 0.5 else Range(*self._span(), revision=revision)

    def _compare(self, key: bytes) -> Compare:
        known = self._seen.get(key)
        if known is None:
            return Compare(key, self._random.choice(("version", "create_revision", "mod_revision")), "==", 0)
        if self._random.random() < 0.5:
            return Compare(key, "value", "==", known.value)
        return Compare(key, "mod_revision", self._random.choice(("==", "<", "!=")), known.mod_revision)

    def _swap(self) -> Request:
        key = self._key()
        change = self._put(key) if self._random.random() < 0.8 else Delete(key)
        return Txn((self._compare(key),), (change,), (Get(key),))

    def _multi(self) -> Request:
        keys = self._random.sample(KEYS, 3)
        compares = tuple(self._compare(key) for key in keys[:1] if self._random.random() < 0.5)
        operations: list[Operation] = [self._put(keys[0]), self._put(keys[1])]
        operations.append(self._random.choice((Delete(keys[2]), Get(*self._span()), Get(keys[0]))))
        self._random.shuffle(operations)
        otherwise = self._random.choice(((), (Get(*self._span()),), (self._put(keys[2]),)))
        return Txn(compares, tuple(operations), otherwise if compares else ())


async def _ask(store: Store, request: Request) -> Result:
    if isinstance(request, Fetch):
        return await store.get(request.key, revision=request.revision)
    if isinstance(request, Range):
        return await store.list(
            request.key, request.end, revision=request.revision, limit=request.limit, order=request.order
        )
    return await store.txn(request.compares, request.then, request.otherwise)


async def run(
    store_of: Callable[[int], Awaitable[Store]],
    history: History,
    *,
    seed: object,
    clients: Iterable[int],
    until: Callable[[], bool],
    mix: Mix | None = None,
) -> None:
    """Have clients work until it is enough.

    Args:
        store_of: the store that a client asks next; waits while there is none.
        history: where everything is written down.
        seed: of the choices.
        clients: the numbers of those who work at once.
        until: whether it is enough, asked before each operation.
        mix: what they do.
    """

    async def work(number: int) -> None:
        client = Client(number, history, seed, mix or Mix())
        while not until():
            await client.step(await store_of(number))

    async with trio.open_nursery() as nursery:
        for number in clients:
            nursery.start_soon(work, number)


def always(store: Store) -> Callable[[int], Awaitable[Store]]:
    """The same store for everyone, at any time."""

    async def store_of(_: int) -> Store:
        await trio.lowlevel.checkpoint()
        return store

    return store_of
