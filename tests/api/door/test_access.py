"""Who may do what over the door: the rules of the control API's Unix socket."""

from __future__ import annotations

from pathlib import Path

import pytest

from platformd.api.door import serving
from platformd.api.server import PeerCredentials
from platformd.coordination.codec import frames
from platformd.coordination.codec.replies import ProblemReply
from tests.api.door.wire import connect, door

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
    (frames.TXN, (), ()),
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
