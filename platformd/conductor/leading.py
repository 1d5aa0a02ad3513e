"""Who leads, when several daemons share one store: only its controllers run.

Leading is owning a key that is bound to a lease: the daemon that dies loses it with its lease, and the others, who
watch it, try to have it. A leader that cannot keep its lease alive stops its controllers before the lease can end, and
whatever it still had on its way is refused by its fence (``fencing``): no object is worked on by two.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Final, Never

import trio

from platformd.conductor.fencing import fenced
from platformd.coordination.contract import Compare, Store
from platformd.coordination.recipes import Collision, Lost, Owner, claim, owner_of
from platformd.coordination.recipes.places import gone, insist
from platformd.core.errors import OutcomeUnknown, Unavailable

log = logging.getLogger(__name__)

RETRY: Final = 1.0
"""Seconds until a store that could not be asked is asked again."""


class Leading:
    """Leads whenever it can.

    Args:
        store: what the daemons share.
        key: what the leader owns.
        ttl: how long the others wait after a leader died, seconds.
    """

    def __init__(self, store: Store, key: bytes, ttl: float) -> None:
        self._store, self._key, self._ttl = store, key, ttl
        self.leads = False
        """Whether this daemon leads."""

    async def leader(self) -> Owner | None:
        """Who leads; ``None`` for nobody."""
        return await owner_of(self._store, self._key)

    async def run(self, work: Callable[[], Awaitable[None]]) -> Never:
        """Do ``work``, which never ends, whenever this daemon leads; it is cancelled when it does no more."""
        while True:
            try:
                async with claim(self._store, self._key, ttl=self._ttl) as held:
                    with fenced(Compare(self._key, "create_revision", "==", held.revision)):
                        self.leads = True
                        log.info("this daemon leads, since revision %d", held.revision)
                        await work()
            except Collision as error:
                log.info("another daemon leads: %s", error.message)
                await self._wait()
            except Lost as error:
                log.warning("this daemon leads no more: %s", error)
            except (Unavailable, OutcomeUnknown) as error:
                log.warning("whether this daemon leads cannot be found out: %s", error)
                await trio.sleep(RETRY)
            finally:
                self.leads = False

    async def _wait(self) -> None:
        kv = await insist(lambda: self._store.get(self._key))
        if kv is not None:
            await gone(self._store, self._key, kv.create_revision)
