"""A conductor over a real store in a temporary directory."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from platformd.conductor import Conductor
from platformd.coordination.contract import Store
from platformd.coordination.sqlite import open_sqlite
from platformd.core.clock import SystemClock
from platformd.core.ids import uuid7
from platformd.core.settings import StoreSettings
from platformd.model.kinds import KINDS


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with open_sqlite(tmp_path / "store.db", StoreSettings(), SystemClock()) as opened:
        yield opened


@pytest.fixture
def conductor(store: Store) -> Conductor:
    return Conductor(store, SystemClock(), uuid7(SystemClock()), KINDS)
