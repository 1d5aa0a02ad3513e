"""The live subscriber: over every transport, over a lost connection, and against what is no live socket."""

from __future__ import annotations

import socket
import threading
from contextlib import contextmanager, nullcontext

import pytest
import trio

from platformd.client.queues import LiveRecord, Subscriber
from platformd.client.subscriber import _Frames
from platformd.core.clock import SystemClock
from platformd.core.errors import InvalidInput, PlatformError, Unauthorized, Unavailable
from platformd.core.settings import QueueSettings
from platformd.queues.contract import Record, StreamConfig
from platformd.queues.native.engine import open_native
from tests.client.certificates import Site

BOTH = ("tcp://127.0.0.1:0", "tls+tcp://127.0.0.1:0")
HELLO = b"\0SP\0\0\x20\0\0"


def frame(message, ipc=False):
    return b"\1" * ipc + len(message).to_bytes(8, "big") + message


async def follow(streams, subscriber):
    """Publish two records, one on another subject; what the subscriber hears."""
    await trio.to_thread.run_sync(subscriber.connect)
    await streams.publish([Record(subject="s.other", payload=b"no"), Record(subject="s.a.b", payload=b"1\n2")])
    heard = ()
    with trio.fail_after(30):
        while not heard:
            heard = await trio.to_thread.run_sync(subscriber.receive)
    return heard


async def test_it_follows_over_every_transport(tmp_path):
    """Records that match come over a Unix socket, TCP and TLS; who is not wanted hears so at once."""
    site = Site(tmp_path / "site")
    settings = QueueSettings(listen_live=BOTH, listen_ingest=BOTH, **site.settings())
    async with open_native(tmp_path / "s", tmp_path / "q", settings, SystemClock()) as streams:
        await streams.put_stream("s", StreamConfig(subjects=("s.>",)))
        found = streams.addresses
        for name, tls in (("live", None), ("live-tcp", None), ("live-tls", site.client())):
            with Subscriber(found[name], "s.*.b", tls=tls) as subscriber:
                assert await follow(streams, subscriber) == (LiveRecord("s.a.b", b"1\n2"),)
        for address, tls, error, says in (
            (found["live-tls"], site.client(certificate=""), Unauthorized, "asks for a certificate"),
            (found["live-tls"], site.client(ca="other-ca"), InvalidInput, "local issuer"),
            (found["live-tcp"].replace("tcp:", "tls+tcp:"), site.client(), InvalidInput, "is not TLS"),
            (found["live-tls"].replace("tls+tcp:", "tcp:"), None, InvalidInput, "TLS is spoken there"),
            (found["ingest-tcp"], None, InvalidInput, "the socket there is ingest or fetch, not live"),
        ):
            with Subscriber(address, tls=tls) as subscriber, pytest.raises(error, match=says):
                await trio.to_thread.run_sync(subscriber.connect)


RECORDS, SIZE = 400, 20_000
"""More than a connection and the daemon's buffer hold."""


async def flood(streams, quick):
    """Publish all that; a quick reader hears each record."""
    for first in range(0, RECORDS, 20):
        payloads = [b"%08d" % n + bytes(SIZE) for n in range(first, first + 20)]
        await streams.publish([Record(subject="s.a", payload=payload) for payload in payloads])
        heard = 0
        while heard < 20:
            heard += len(await trio.to_thread.run_sync(quick.receive))


def numbers(found):
    return [int(record.payload[:8]) for record in found]


@pytest.mark.parametrize("policy", ["drop_oldest", "block", "disconnect"])
async def test_a_slow_reader_gets_what_it_asked_for(tmp_path, policy):
    """One that sleeps loses the oldest, or waits for all, or is sent away; each loss counts, nobody is held up."""
    settings = QueueSettings(live_buffer="1MiB")
    async with open_native(tmp_path / "s", tmp_path / "q", settings, SystemClock()) as streams:
        await streams.put_stream("s", StreamConfig(subjects=("s.>",)))
        address = streams.addresses["live"]
        with trio.fail_after(60), Subscriber(address, on_slow=policy) as slow, Subscriber(address) as quick:
            await trio.to_thread.run_sync(slow.connect)
            await trio.to_thread.run_sync(quick.connect)
            await flood(streams, quick)
            got = []
            ends = pytest.raises(Unavailable, match="faster than they were taken")
            with ends if policy == "disconnect" else nullcontext():
                while not got or got[-1] < RECORDS - 1:
                    got += numbers(await trio.to_thread.run_sync(slow.receive))
        assert got == sorted(set(got))
        counts = streams.socket_statistics()
        if policy == "disconnect":
            assert got == list(range(len(got)))
            assert counts.live_disconnected == 1
        else:
            assert counts.live_dropped == RECORDS - len(got)
        assert (len(got) == RECORDS) == (policy == "block")


@contextmanager
def speaker(*connections):
    """A server that says to each connection what it is told, and closes it."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve():
            for said in connections:
                connection, _ = server.accept()
                with connection:
                    connection.sendall(said)
                    connection.recv(8)

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"tcp://127.0.0.1:{server.getsockname()[1]}"
        thread.join()


def test_a_lost_connection_is_made_again(tmp_path):
    """After a loss it connects again, goes on with whole records, and counts the loss."""
    cut = frame(b"s.a\nfirst") + frame(b"s.a\ncut off")[:-3]
    with (
        speaker(HELLO + cut, HELLO + frame(b"s.a\nsecond")) as address,
        Subscriber(address, timeout=10.0) as subscriber,
    ):
        records = iter(subscriber)
        assert [next(records).payload, next(records).payload] == [b"first", b"second"]
        assert subscriber.losses == 1


@pytest.mark.parametrize("garbage", [frame(b"no line feed"), b"\xff" * 16])
def test_garbage_is_told(garbage):
    """What is no record ends with an error that says so, and is not taken into memory."""
    with speaker(HELLO + garbage) as address, Subscriber(address) as subscriber:
        with pytest.raises(PlatformError, match="is no record"):
            subscriber.receive(wait=10)


def test_nobody_there(tmp_path):
    """Without a daemon it tries until its time is over; arguments are checked before."""
    with Subscriber(f"ipc://{tmp_path}/none.sock", timeout=0.05) as subscriber, pytest.raises(Unavailable):
        subscriber.receive()
    for arguments in (("nonsense",), ("inproc://x",), (f"ipc://{tmp_path}/x", "a..b")):
        with pytest.raises(InvalidInput):
            Subscriber(*arguments)
    with pytest.raises(InvalidInput, match="drop_oldest, block, disconnect"):
        Subscriber(f"ipc://{tmp_path}/x", on_slow="explode")


def test_frames_are_found_however_they_are_cut():
    """Messages come out whole for any way of cutting the bytes, on Unix sockets and TCP."""
    for ipc in (True, False):
        data = b"".join(frame(message, ipc) for message in (b"a\n1", b"b\n", b"c\n" + bytes(50)))
        for step in range(1, len(data)):
            frames = _Frames(ipc=ipc)
            found = [m for i in range(0, len(data), step) for m in frames.add(data[i : i + step])]
            assert found == [b"a\n1", b"b\n", b"c\n" + bytes(50)]
