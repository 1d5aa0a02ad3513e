"""A lease that is kept alive beside a block, and the telling of its holder when it may be lost."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import partial
from typing import Final

import trio

from platformd.coordination.contract import Store
from platformd.core.errors import Conflict, NotFound, OutcomeUnknown, PlatformError, Unavailable
from platformd.core.keeping import Keeping

END_SECONDS: Final = 2.0
"""How long giving a lease back may take at the end of a block; after that it ends by itself."""


class Lost(Conflict):
    """What was held is held no more, or may not be: the lease ended, or nobody answered for its whole time to live."""

    code = "lost"


class KeptLease:
    """A lease that is being kept alive.

    Args:
        lease_id: the lease.
        keeping: when to ask, and until when to rely on it.
    """

    def __init__(self, lease_id: int, keeping: Keeping) -> None:
        self.id = lease_id
        self.lost = trio.Event()
        """Set once nothing that is held by this lease may be relied on."""
        self._keeping = keeping
        self._reason: Lost | None = None
        self._guards: set[trio.CancelScope] = set()

    @property
    def deadline(self) -> float:
        """Until when it may be relied on if no keep-alive comes through any more, on trio's clock."""
        return self._keeping.deadline

    def lose(self, reason: str) -> None:
        """Tell the holder that it has lost what it held."""
        if self._reason is None:
            self._reason = Lost(reason, subject=f"lease {self.id:x}", hint="stop, then ask for it again")
            self.lost.set()
            for guard in self._guards:
                guard.cancel()

    @contextlib.contextmanager
    def guard(self) -> Iterator[None]:
        """Cancel the block when the lease is lost.

        Raises:
            Lost: it was, and the block did not end before it noticed.
        """
        with trio.CancelScope() as scope:
            self._guards.add(scope)
            if self._reason is not None:
                scope.cancel()
            try:
                yield
            finally:
                self._guards.discard(scope)
        if scope.cancelled_caught and self._reason is not None:
            raise self._reason

    async def keep(self, store: Store) -> None:
        """Keep it alive until it is lost."""
        keeping = self._keeping
        while self._reason is None:
            await trio.sleep_until(min(keeping.due, keeping.deadline))
            asked_at = trio.current_time()
            if keeping.over(asked_at):
                self.lose(f"no keep-alive came through for {keeping.ttl:g}s")
                return
            try:
                with trio.move_on_at(keeping.deadline) as patience:
                    lease = await store.leases.keep_alive(self.id)
                    keeping.kept(asked_at, lease.ttl)
                if patience.cancelled_caught:
                    keeping.failed(trio.current_time())
            except NotFound:
                self.lose("it ended, or was revoked")
            except (Unavailable, OutcomeUnknown):
                keeping.failed(trio.current_time())


@contextlib.asynccontextmanager
async def kept_lease(store: Store, ttl: float = 15.0, *, lease_id: int = 0) -> AsyncIterator[KeptLease]:
    """A lease that lives as long as the block, and at most ``ttl`` seconds longer.

    An exception leaves the block as it is. Losing the lease does not end the block by itself: see
    ``KeptLease.lost`` and ``KeptLease.guard``.

    Args:
        store: any engine.
        ttl: the time to live; how long others wait for what a crashed holder held.
        lease_id: keep this one alive instead of granting one; it is not revoked at the end.

    Raises:
        NotFound: ``lease_id`` is not there.
        Unavailable, OutcomeUnknown: the store does not answer.
    """
    asked_at = trio.current_time()
    lease = await (store.leases.keep_alive(lease_id) if lease_id else store.leases.grant(ttl))
    kept = KeptLease(lease.id, Keeping(asked_at, lease.ttl))
    try:
        async with beside(partial(kept.keep, store)):
            yield kept
    finally:
        if not lease_id:
            await at_the_end(partial(store.leases.revoke, lease.id))


@contextlib.asynccontextmanager
async def beside(task: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
    """Run ``task`` as long as the block. What the block raises comes out as it is, not wrapped in a group."""
    failure: BaseException | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(task)
        try:
            yield
        except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - raised again as soon as the nursery is closed
            failure = error
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure


async def at_the_end(give_back: Callable[[], Awaitable[object]]) -> None:
    """Give something back although all around may be cancelled; what cannot be given back ends with its lease."""
    with (
        trio.move_on_after(END_SECONDS, shield=True),
        contextlib.suppress(NotFound, Unavailable, OutcomeUnknown),
    ):
        await give_back()


def out_of_reach(error: PlatformError) -> bool:
    """Whether ``error`` says nothing about the keys, only that the store could not be asked just now."""
    return isinstance(error, Unavailable | OutcomeUnknown)
