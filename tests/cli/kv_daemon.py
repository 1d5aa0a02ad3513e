"""One daemon for all tests of a module about keys and locks; each test gets an empty store."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from platformd.client import kv
from platformd.client.blocking import Client
from tests.support.daemon import DaemonProcess, short_directory


@pytest.fixture(scope="module")
def running() -> Iterator[DaemonProcess]:
    """A daemon."""
    with short_directory() as directory, DaemonProcess(directory) as process:
        yield process


@pytest.fixture
def daemon(running: DaemonProcess, monkeypatch: pytest.MonkeyPatch) -> DaemonProcess:
    """It, with nothing in its store, and the environment pointing at it."""
    with running.client as client:
        empty(client)
    monkeypatch.setenv("PLATFORMD_SOCKET", str(running.socket))
    return running


def empty(client: Client) -> None:
    """Remove all keys and leases."""
    while page := kv.read_document(client.send(kv.leases_page()))["items"]:
        for lease in page:
            client.send(kv.revoke(lease["id"])).check()
    while page := kv.read_document(client.send(kv.list_page(b"", keys_only=True)))["items"]:
        keys = [kv.bytes_of(item, "key") or b"" for item in page]
        for i in range(0, len(keys), 100):
            then = [{"op": "delete"} | kv.members_of("key", key) for key in keys[i : i + 100]]
            client.send(kv.txn({"then": then})).check()
