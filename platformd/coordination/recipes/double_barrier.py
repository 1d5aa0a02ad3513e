"""Double barriers: a number of parties begin together, and none goes on before all have ended.

The recipe is ZooKeeper's and etcd's, with rounds, so that one name serves again and again. Below
``double-barriers/NAME/`` are:

``parties/LEASE``  who waits or is inside, bound to its lease: a party that dies is out by itself
``round``          there while a round is on; its ``create_revision`` is the round's *epoch*, its value the members
``left/LEASE``     which members have left in order, until the round is closed

Each party keeps a view of these keys by one watch and decides from it (``_View``); three transactions change them:

- *open*: there is no round and the first ``count`` parties are all there, each compared: at the epoch every
  member was alive. Who comes first or completes the number does it.
- *leave*: the own place goes and the mark comes, in one revision: whoever goes without a mark is *missing*.
- *close*: no member is there any more. Whoever sees that does it, late comers of the next round included, so that a
  round whose members all died keeps nobody waiting.

A place that is gone never comes back (its ``create_revision`` would be another), so a view that lags behind can only
do these too late, when a compare refuses them, never too early.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import AsyncIterator, Iterable, Sequence
from functools import partial
from typing import Final, NamedTuple, TypeVar

import msgspec
import trio

from platformd.coordination.contract import (
    Compare,
    Delete,
    Event,
    Get,
    GetResult,
    KeyValue,
    Operation,
    Put,
    Store,
    TxnResult,
    prefix_end,
)
from platformd.coordination.recipes.lease import KeptLease, Lost, beside, kept_lease
from platformd.coordination.recipes.places import (
    FIRST_DELAY,
    INTERRUPTIONS,
    MAX_DELAY,
    insist,
    place_key,
    queue_prefix,
    take_place,
)
from platformd.core.errors import Conflict, InvalidInput

DOUBLE_BARRIERS: Final = "double-barriers"
"""Where double barriers are: ``double-barriers/NAME/…``."""
MAX_PARTIES: Final = 100
"""Parties of one round: opening it compares each one's place in one transaction, which takes 128 operations."""
MAX_OWNER: Final = 512
"""Characters of what a party says of itself."""


T = TypeVar("T")


class TooFew(Conflict):
    """The parties did not come together in time; ``details`` has how many there were and how many it takes."""

    code = "too_few"


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """A party of a round."""

    lease: int
    """Its lease."""
    revision: int
    """When it came."""
    owner: str
    """What it says of itself."""


class _Says(msgspec.Struct, frozen=True):
    """The value of a party's place, in JSON."""

    parties: int
    owner: str


class _Place(NamedTuple):
    """A party's place; their order is that of their coming."""

    revision: int
    key: bytes
    lease: int
    says: _Says


class _Round:
    """A round as it is known: its members, and what became of them."""

    def __init__(self, epoch: int, members: Iterable[Member], prefix: bytes) -> None:
        self.epoch = epoch
        self.members = {place_key(prefix, member.lease): member for member in members}
        self.missing: list[Member] = []
        self.broken = trio.Event()
        self.over = False

    def settle(self, places: dict[bytes, _Place], left: set[bytes]) -> None:
        """See who is missing by now."""
        for key, member in self.members.items():
            if key not in left and member not in self.missing and not _stands(places, key, member.revision):
                self.missing.append(member)
                self.broken.set()

    def emptied(self, places: dict[bytes, _Place]) -> bool:
        """Whether all members have gone."""
        return not any(_stands(places, key, member.revision) for key, member in self.members.items())


class Party:
    """What a party knows once all have entered; after the block too.

    Args:
        name: of the double barrier.
        key: of the round.
        known: the round.
        lease: what its place is bound to.
    """

    def __init__(self, name: str, key: bytes, known: _Round, lease: KeptLease) -> None:
        self.name = name
        self.key = key
        """Compare its ``create_revision`` with ``epoch`` in a transaction to write only while the round is on."""
        self.epoch = known.epoch
        """The revision at which all had entered: higher than that of every round before."""
        self.members = tuple(known.members.values())
        """All of the round, this one included, in the order in which they came."""
        self.broken = known.broken
        """Set when a member ended without leaving: it died, or an error or a cancellation ended its block."""
        self.lease_id = lease.id
        self.lost = lease.lost
        """Set when it may not rely on being a member any more."""
        self._known = known

    @property
    def missing(self) -> tuple[Member, ...]:
        """The members that ended without leaving, as far as is known."""
        return tuple(self._known.missing)


@contextlib.asynccontextmanager
async def double_barrier(
    store: Store,
    name: str,
    parties: int,
    *,
    ttl: float = 15.0,
    wait: float = math.inf,
    owner: str = "",
    cancel: bool = True,
) -> AsyncIterator[Party]:
    """A block that ``parties`` enter together and leave together.

    It is entered once all are there, and left once each member has left or is missing. Who comes while a
    round is on, or beyond the number, waits for the next one, first come first served. A block that ends by an
    exception does not wait for the others; they see that party as missing.

    Args:
        store: any engine.
        name: any text; ``/`` has no meaning in it.
        parties: how many it takes, 1 to ``MAX_PARTIES``.
        ttl: how long others wait for a party that died, seconds.
        wait: how long to wait for the others to come, seconds; 0 only tries.
        owner: what the others read of this party.
        cancel: cancel the block when its membership is lost, and raise ``Lost``; otherwise only ``lost`` is set, and
            leaving raises.

    Raises:
        TooFew: ``wait`` is over and the round has not begun.
        Conflict: others wait there for another number of parties.
        InvalidInput: ``parties``, ``name`` or ``owner`` is out of its bounds.
        Lost: the lease ended, or its place was removed.
    """
    if not 1 <= parties <= MAX_PARTIES:
        raise InvalidInput(f"{parties} parties; a double barrier takes 1 to {MAX_PARTIES}", subject=name)
    if len(owner) > MAX_OWNER:
        raise InvalidInput(f"the owner has {len(owner)} characters; it may have {MAX_OWNER}", subject=name)
    async with kept_lease(store, ttl) as lease:  # revoked at the end, and the place goes with it
        view = _View(queue_prefix(DOUBLE_BARRIERS, name))
        async with beside(partial(view.follow, store)):
            entrant = _Entrant(store, name, parties, view, lease)
            with lease.guard():
                known = await entrant.enter(wait, owner)
            async with beside(entrant.notice):
                with lease.guard() if cancel else contextlib.nullcontext():
                    yield Party(name, view.round_key, known, lease)
            await entrant.leave(known)


class _View:
    """The keys of a double barrier as they were at one revision after the other.

    Args:
        prefix: where they are.
    """

    def __init__(self, prefix: bytes) -> None:
        self.places_prefix = prefix + b"parties/"
        self.left_prefix = prefix + b"left/"
        self.round_key = prefix + b"round"
        self.revision = 0
        self.places: dict[bytes, _Place] = {}
        self.left: set[bytes] = set()
        """Places that were left in order."""
        self.round: _Round | None = None
        self.changed = trio.Event()
        """Set at the next change."""
        self._prefix = prefix

    async def follow(self, store: Store) -> None:
        """Keep the view, however long the store is out of reach."""
        delay = 0.0
        while True:
            try:
                listing = await store.list(self._prefix, prefix_end(self._prefix))
                self._replace(listing.items, listing.revision)
                start = listing.revision + 1
                async with store.watch(self._prefix, prefix_end(self._prefix), start_revision=start) as batches:
                    async for batch in batches:
                        delay = 0.0
                        for _, events in itertools.groupby(batch.events, key=_revision):
                            self._take_in(list(events))
            except INTERRUPTIONS:
                pass  # list again
            delay = min(delay * 2, MAX_DELAY) or FIRST_DELAY
            await trio.sleep(delay)

    def _replace(self, items: Iterable[KeyValue], revision: int) -> None:
        self.places.clear()
        self.left.clear()
        known = None
        for kv in items:
            if kv.key == self.round_key:
                known = kv
            else:
                self._take_in_key(kv, there=True)
        self._see_round(known)
        self._settle(revision)

    def _take_in(self, events: list[Event]) -> None:
        """All changes of one revision."""
        for event in events:
            there = event.type == "put"
            if event.kv.key == self.round_key:
                self._see_round(event.kv if there else None)
            else:
                self._take_in_key(event.kv, there=there)
        self._settle(events[-1].kv.mod_revision)

    def _take_in_key(self, kv: KeyValue, *, there: bool) -> None:
        if kv.key.startswith(self.left_prefix):
            place = self.places_prefix + kv.key.removeprefix(self.left_prefix)
            (self.left.add if there else self.left.discard)(place)
        elif kv.key.startswith(self.places_prefix):
            self.places.pop(kv.key, None)
            says = _decoded(kv.value, _Says) if there else None
            if says is not None:  # else it is gone, or somebody else's
                self.places[kv.key] = _Place(kv.create_revision, kv.key, kv.lease, says)

    def _see_round(self, kv: KeyValue | None) -> None:
        if self.round is not None and (kv is None or kv.create_revision != self.round.epoch):
            self.round.over = True
            self.round = None
        if kv is not None and self.round is None:
            self.round = self.read_round(kv)

    def read_round(self, kv: KeyValue) -> _Round:
        """The round that its key speaks of; one that cannot be read has no members, and so it is closed."""
        return _Round(kv.create_revision, _decoded(kv.value, list[Member]) or [], self.places_prefix)

    def waiting(self) -> list[_Place]:
        """The places of those who are in no round, first come first."""
        inside = self.round.members if self.round is not None else {}
        return sorted(place for place in self.places.values() if place.key not in inside)

    def _settle(self, revision: int) -> None:
        if self.round is not None:
            self.round.settle(self.places, self.left)
        self.revision = revision
        self.changed.set()
        self.changed = trio.Event()


class _Entrant:
    """One party: what it does at the barrier.

    Args:
        store: where the barrier is.
        name: its name.
        count: how many parties it takes.
        view: its keys.
        lease: this party's.
    """

    def __init__(self, store: Store, name: str, count: int, view: _View, lease: KeptLease) -> None:
        self._store = store
        self._name = name
        self._count = count
        self._view = view
        self._lease = lease
        self._key = place_key(view.places_prefix, lease.id)
        self._revision = 0

    async def enter(self, wait: float, owner: str) -> _Round:
        """Wait for the round that this party is a member of.

        Raises: as ``double_barrier``.
        """
        value = msgspec.json.encode(_Says(self._count, owner))
        self._revision = await take_place(self._store, self._key, value, self._lease.id)
        view, deadline = self._view, trio.current_time() + wait
        while view.revision < self._revision:
            await view.changed.wait()
        while True:
            changed = view.changed
            if view.round is not None and self._key in view.round.members:
                return view.round
            self._check()
            if await self._move_on():
                await changed.wait()  # what was done is seen soon
                continue
            with trio.move_on_at(deadline) as patience:
                await changed.wait()
            if patience.cancelled_caught:
                return await self._withdraw(wait)

    def _check(self) -> None:
        if not self._stands():
            raise Lost("its place was removed", subject=self._name)
        first = self._view.waiting()[0].says.parties
        if first != self._count:
            raise Conflict(
                f"the others wait for {first} parties, this one for {self._count}",
                subject=self._name,
                hint="all must name the same number",
            )

    def _stands(self) -> bool:
        return _stands(self._view.places, self._key, self._revision)

    async def _move_on(self) -> bool:
        """Open or close a round if it is time and this party's turn to; whether it did."""
        known, waiting = self._view.round, self._view.waiting()
        own = waiting.index(self._view.places[self._key])
        if known is not None:
            return known.emptied(self._view.places) and own == 0 and await self._close(known.epoch)
        return len(waiting) >= self._count and own in {0, self._count - 1} and await self._open(waiting[: self._count])

    async def _open(self, places: list[_Place]) -> bool:
        members = [Member(lease=place.lease, revision=place.revision, owner=place.says.owner) for place in places]
        compares = [Compare(place.key, "create_revision", "==", place.revision) for place in places]
        compares.append(Compare(self._view.round_key, "create_revision", "==", 0))
        return (await self._insist(compares, [Put(self._view.round_key, msgspec.json.encode(members))])).succeeded

    async def _close(self, epoch: int) -> bool:
        view = self._view
        then = [Delete(view.round_key), Delete(view.left_prefix, prefix_end(view.left_prefix))]
        compares = [Compare(view.round_key, "create_revision", "==", epoch)]
        return (await self._insist(compares, then)).succeeded

    async def _withdraw(self, waited: float) -> _Round:
        """Go away; or the round, if it began with this party in the last moment.

        Raises:
            TooFew: it did not.
        """
        view, known = self._view, 0
        while True:
            compares = [
                Compare(self._key, "create_revision", "==", self._revision),
                Compare(view.round_key, "create_revision", "==", known),
            ]
            result = await self._insist(compares, [Delete(self._key)], [Get(self._key), Get(view.round_key)])
            if result.succeeded or not (own := _items(result, 0)) or own[0].create_revision != self._revision:
                break
            found = _items(result, 1)
            known = found[0].create_revision if found else 0
            if found and self._key in view.read_round(found[0]).members:
                while view.round is None or view.round.epoch < known:
                    await view.changed.wait()
                return view.round
        there = 1 + sum(place.key != self._key for place in view.waiting())
        raise TooFew(
            f"{there} of {self._count} parties were there, also after {waited:g}s",
            subject=self._name,
            details={"parties": there, "wanted": self._count},
        )

    async def notice(self) -> None:
        """Tell the holder when its place is removed."""
        while self._stands():
            await self._view.changed.wait()
        self._lease.lose("its place was removed")

    async def leave(self, known: _Round) -> None:
        """Leave in order, and wait for the others.

        Raises:
            Lost: the place is not there any more.
        """
        view = self._view
        mark = view.left_prefix + self._key.removeprefix(view.places_prefix)
        own = Compare(self._key, "create_revision", "==", self._revision)
        result = await self._insist([own], [Delete(self._key), Put(mark, b"")], [Get(mark), Get(view.round_key)])
        if not result.succeeded:  # an earlier attempt whose answer was lost, or the place was removed
            found = _items(result, 1)
            if not _items(result, 0) and found and found[0].create_revision == known.epoch:
                raise Lost("its place was removed before it left", subject=self._name)
        while not known.over:
            changed = view.changed
            if known.emptied(view.places):
                await self._close(known.epoch)
            await changed.wait()
        if known.members[self._key] in known.missing:
            raise Lost("its place was removed before it left", subject=self._name)

    async def _insist(
        self, compares: list[Compare], then: Sequence[Operation], otherwise: Sequence[Operation] = ()
    ) -> TxnResult:
        """None of the transactions changes anything when it is asked again."""
        return await insist(lambda: self._store.txn(compares, then, otherwise))


def _stands(places: dict[bytes, _Place], key: bytes, revision: int) -> bool:
    """Whether this life of a place is there."""
    return key in places and places[key].revision == revision


def _items(result: TxnResult, index: int) -> tuple[KeyValue, ...]:
    """What a read of a transaction found."""
    found = result.results[index]
    return found.items if isinstance(found, GetResult) else ()


def _decoded(value: bytes, kind: type[T]) -> T | None:
    try:
        return msgspec.json.decode(value, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def _revision(event: Event) -> int:
    return event.kv.mod_revision
