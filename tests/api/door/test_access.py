"""Who may do what over the door: the rules of the control API's Unix socket."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from platformd.access import Gate, open_gate
from platformd.api.door import serving
from platformd.client.store import RemoteStore, connect_store
from platformd.client.store_blocking import connect_store_blocking
from platformd.client.target import Credentials, Target
from platformd.coordination.codec import frames
from platformd.coordination.codec.replies import ProblemReply
from platformd.coordination.contract import Put
from platformd.coordination.recipes import user_keys
from platformd.coordination.sqlite import open_sqlite
from platformd.core.clock import SystemClock
from platformd.core.errors import Forbidden, Unauthorized, Unavailable
from platformd.core.peers import PeerCredentials
from platformd.core.settings import AccessSettings, StoreSettings
from platformd.model.access import Principal, Scope, allowed, scope_of
from tests.api.door.wire import connect, door
from tests.support.daemon import short_directory
from tests.support.store_door import served

READS = [
    (frames.GET, b"k"),
    (frames.LIST, b"", None),
    (frames.WATCH, b"k", None, 0, False, None, 1000),
    (frames.LEASES,),
    (frames.STATUS,),
    (frames.PING,),
]
WRITES = [
    (frames.TXN, (), ((frames.PUT, b"k", b"v"),)),
    (frames.TXN, (), ((frames.DELETE, b"a", b"z"),)),
    (frames.GRANT, 10),
    (frames.KEEP_ALIVE, 1),
    (frames.REVOKE, 1),
    (frames.COMPACT, 1),
]


async def test_others_may_only_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer that is neither the daemon's user, nor root, nor of its group reads everything and changes nothing."""
    stranger = PeerCredentials(pid=1, uid=54321, gid=54321)
    monkeypatch.setattr(serving, "peer_credentials", lambda _: stranger)
    async with door(tmp_path) as address, await connect(address) as raw:
        await raw.hello()
        for number, (kind, *fields) in enumerate(READS, 1):
            await raw.send((kind, number, *fields))
            assert not isinstance(await raw.receive(), ProblemReply), kind
        for number, (kind, *fields) in enumerate(WRITES, 101):
            await raw.send((kind, number, *fields))
            reply = await raw.receive()
            while reply.id != number:  # what the watch says
                reply = await raw.receive()
            assert isinstance(reply, ProblemReply), kind
            assert reply.problem["code"] == "forbidden"
        await raw.send((frames.STATUS, 999))
        status = (await raw.receive()).fact
        assert (status.keys, status.leases) == (0, 0)


async def test_socket_has_the_control_sockets_mode(tmp_path: Path) -> None:
    """The door's file is as open as the control socket's would be."""
    async with door(tmp_path) as address:
        assert address.with_suffix(".store").stat().st_mode & 0o777 == 0o660


MINE, THEIRS = "survey", "planets"
WHO = [
    Principal(name="ops", role="operator", how="token"),
    Principal(name="survey", role="tenant", how="token", tenant=MINE),
    Principal(name="look", role="reader", how="token"),
    Principal(name="guest", role="reader", how="token", tenant=MINE),
    Principal(name="none", role=None, how="peer"),
]
Ask = tuple[Any, ...]


def _asks(key: bytes) -> Iterator[tuple[str, Ask]]:
    """Requests about one key and those below it, each with its operation."""
    end = key[:-1] + bytes([key[-1] + 1])
    yield "kv.read", (frames.GET, key)
    yield "kv.read", (frames.LIST, key, end)
    yield "kv.read", (frames.WATCH, key, end, 0, False, None, 1000)
    for place in ((0, 1), (1, 0)):
        for operation, form in (
            ("kv.read", (frames.READ, key)),
            ("kv.read", (frames.READ, key, end)),
            ("kv.write", (frames.PUT, key, b"v")),
            ("kv.write", (frames.DELETE, key)),
            ("kv.write", (frames.DELETE, key, end)),
        ):
            yield operation, (frames.TXN, (), *(((form,) if here else ()) for here in place))
    yield "kv.read", (frames.TXN, ((key, "version", "==", 9),), ())


@pytest.mark.parametrize("who", WHO, ids=lambda who: who.name)
async def test_the_door_asks_the_same_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, who: Principal) -> None:
    """What touches a key is let through exactly when the table allows it in the key's scope; all of it is audited."""
    monkeypatch.setattr(Gate, "peer", lambda *_: who)
    refused: list[str] = []
    monkeypatch.setattr(Gate, "refused", lambda _gate, _who, operation, *_: refused.append(operation))
    numbers = itertools.count(1)
    expected: list[str] = []
    async with door(tmp_path) as address, await connect(address) as raw:
        await raw.hello()

        async def ask(operation: str, request: Ask, *, may: bool) -> None:
            number = next(numbers)
            await raw.send((request[0], number, *request[1:]))
            while (reply := await raw.receive()).id != number:
                pass  # what a watch says
            is_refused = isinstance(reply, ProblemReply) and reply.problem["code"] in ("forbidden", "unauthorized")
            assert is_refused is not may, (operation, request)
            if is_refused:
                expected.append(operation)

        for whose, key in ((MINE, b"tenants/survey/k"), (THEIRS, b"tenants/planets/k"), (None, b"k")):
            for operation, request in _asks(key):
                await ask(operation, request, may=allowed(who, operation, scope_of(who, whose)))
        everything = (frames.LIST, b"tenants/survey/", None)
        await ask("kv.read", everything, may=allowed(who, "kv.read", "other"))
        await ask("store.manage", (frames.COMPACT, 1), may=allowed(who, "store.manage", "global"))
        await ask("store.read", (frames.STATUS,), may=allowed(who, "store.read", "global"))
        own: Scope = "own" if who.tenant else "global"
        await ask("leases.write", (frames.GRANT, 10), may=allowed(who, "leases.write", own))
        await ask("leases.read", (frames.LEASES,), may=who.tenant is None and allowed(who, "leases.read", "global"))
    assert refused == expected


async def test_a_token_counts_more_than_the_peer(tmp_path: Path) -> None:
    """Whoever shows one is who it says, in both clients; revoked, the connection ends and its owner is told why."""
    async with open_sqlite(tmp_path / "store.db", StoreSettings(), SystemClock()) as store:
        async with open_gate(AccessSettings(), store, SystemClock()) as gate:
            root = Principal(name="user:root", role="admin", how="peer")
            _, secret = await gate.tokens.create("survey", "tenant", MINE, root)
            with short_directory() as short:
                async with served(user_keys(store), short, gate=gate) as address:
                    target = Target(unix=str(address), credentials=Credentials(token=secret))
                    await _asked_with(target, gate)
                    wrong = Target(unix=str(address), credentials=Credentials(token=secret[:-1]))
                    with pytest.raises(Unauthorized, match="not a token"):
                        async with connect_store(wrong):
                            pass


async def _asked_with(target: Target, gate: Gate) -> None:
    async with connect_store(target, patience=0.2) as remote:
        await remote.txn([], [Put(b"tenants/survey/a", b"v")])
        with pytest.raises(Forbidden, match="outside the keys of tenant survey"):
            await remote.get(b"a")
        await trio.to_thread.run_sync(_asked_blocking, target)
        await gate.tokens.revoke("survey")
        with pytest.raises(Unavailable, match="token survey was revoked"):
            await _ask_until_it_ends(remote)


async def _ask_until_it_ends(remote: RemoteStore) -> None:
    while True:  # the connection is still there for a moment
        await remote.get(b"tenants/survey/a")


def _asked_blocking(target: Target) -> None:
    with connect_store_blocking(target) as store:
        found = store.get(b"tenants/survey/a")
        assert found is not None
        with pytest.raises(Forbidden):
            store.get(b"tenants/planets/a")
