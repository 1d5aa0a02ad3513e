"""A store in memory whose leases end on the test's clock, and one on disk."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from platformd.coordination.contract import Store
from platformd.coordination.sqlite import open_sqlite
from platformd.core.clock import SystemClock
from platformd.core.settings import StoreSettings
from tests.support.memory_store import MemoryStore


@pytest.fixture
def memory(nursery: trio.Nursery) -> MemoryStore:
    """A store in memory; its leases end by themselves."""
    store = MemoryStore()
    nursery.start_soon(store.leases.run)
    return store


@pytest.fixture
async def embedded(tmp_path: Path) -> AsyncIterator[Store]:
    """The embedded store."""
    async with open_sqlite(tmp_path / "store.db", StoreSettings(), SystemClock()) as store:
        yield store
