"""The native engine's sockets for plain nng programs: pynng and nngcat, TCP and TLS, and what is told of losses."""

from __future__ import annotations

import shutil
import ssl
from contextlib import asynccontextmanager

import msgspec
import pynng
import pytest
import trio
import trio.lowlevel
import trio.testing
import trustme

from platformd.core.clock import SystemClock
from platformd.core.errors import InvalidInput, PlatformError
from platformd.core.settings import QueueSettings
from platformd.queues.contract import Record, StreamConfig
from platformd.queues.native.broker import REPORT_SECONDS, losses
from platformd.queues.native.engine import open_native
from platformd.queues.native.sockets import tcp_listens

IN_TIME = 10_000
"""Milliseconds."""


@asynccontextmanager
async def opened(directory, **settings):
    """An engine with stream ``s`` on ``s.>``."""
    queues = QueueSettings(**settings)
    async with open_native(directory / "streams", directory / "q", queues, SystemClock()) as streams:
        await streams.put_stream("s", StreamConfig(subjects=("s.>",)))
        yield streams


async def until(holds):
    """Return when something is so, of which nobody tells."""
    with trio.fail_after(10):
        while not holds():  # noqa: ASYNC110 - there is no event for it
            await trio.sleep(0.002)


async def exchange(streams, push_url, live_url, tls=None):
    """Push a record and hear it live; what was heard."""

    def dial(socket, url):
        socket.tls_config = tls
        socket.dial(url, block=True)

    with (
        pynng.Push0(send_timeout=IN_TIME) as push,
        pynng.Sub0(topics=b"s.", recv_timeout=IN_TIME) as subscriber,
    ):
        before = streams.socket_statistics().live_subscribers
        for socket, url in ((push, push_url), (subscriber, live_url)):
            if tls is not None:
                await trio.to_thread.run_sync(dial, socket, url)
            else:
                await trio.to_thread.run_sync(socket.dial, url)
        await until(lambda: streams.socket_statistics().live_subscribers == before + 1)
        await trio.to_thread.run_sync(push.send, b"s.a\nhello")
        return await trio.to_thread.run_sync(subscriber.recv)


async def test_a_plain_program_needs_two_lines(tmp_path):
    """What README shows: a PUSH socket publishes and a SUB socket follows, with pynng and nothing of ours."""
    async with opened(tmp_path) as streams:
        assert set(streams.addresses) == {"ingest", "fetch", "push", "live"}
        assert await exchange(streams, streams.addresses["push"], streams.addresses["live"]) == b"s.a\nhello"
        assert [d.payload for d in await streams.read("s")] == [b"hello"]
        counts = streams.socket_statistics()
        assert (counts.push_messages, counts.push_records, counts.push_refused) == (1, 1, 0)
        assert (counts.live_records, counts.live_dropped) == (1, 0)


async def test_tcp_on_loopback(tmp_path):
    """Each socket listens at the addresses that its setting names, and the ports that were found are told."""
    anywhere = ("tcp://127.0.0.1:0", "tcp://localhost:0")
    names = {f"listen_{role}": anywhere for role in ("ingest", "fetch", "push", "live")}
    async with opened(tmp_path, **names) as streams:
        found = streams.addresses
        tcp = {f"{role}-tcp{n}" for role in ("ingest", "fetch", "push", "live") for n in ("", "-2")}
        assert set(found) == {"ingest", "fetch", "push", "live"} | tcp
        assert len({found[name] for name in tcp}) == len(tcp)
        assert not any(found[name].endswith(":0") for name in tcp)
        for n in ("", "-2"):
            assert await exchange(streams, found[f"push-tcp{n}"], found[f"live-tcp{n}"]) == b"s.a\nhello"
        assert len(await streams.read("s")) == 2


async def test_a_taken_port_is_refused_and_everything_given_back(tmp_path):
    """Two engines cannot have one port: the second says which address, and can start without it."""
    async with opened(tmp_path / "a", listen_live=("tcp://127.0.0.1:0",)) as first:
        taken = first.addresses["live-tcp"]
        with pytest.raises(PlatformError, match=taken):
            async with opened(tmp_path / "b", listen_push=(taken,)):
                pass
        async with opened(tmp_path / "b") as second:
            assert await exchange(second, second.addresses["push"], second.addresses["live"]) == b"s.a\nhello"


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"listen_push": ("tcp://0.0.0.0:7071",)}, "not a loopback address"),
        ({"listen_live": ("tcp://*:7071",)}, "not a loopback address"),
        ({"listen_fetch": ("tcp://[2001:db8::1]:7071",)}, "not a loopback address"),
        ({"listen_ingest": ("tcp://queues.example:7071",)}, "not a loopback address"),
        ({"listen_push": ("tls+tcp://127.0.0.1:7071",)}, "needs a certificate"),
        ({"listen_push": ("tls+tcp://10.1.2.3:7071",), "cert_file": "c", "key_file": "k"}, "no way to tell who"),
        ({"listen_push": ("7071",)}, "is not an address"),
        ({"listen_push": ("ws://127.0.0.1:7071",)}, "is not an address"),
        ({"listen_push": ("tcp://127.0.0.1:70710",)}, "is not an address"),
        ({"listen_push": ("tcp://127.0.0.1:",)}, "is not an address"),
    ],
)
def test_addresses_that_may_not_be_had(settings, says):
    """Without TLS loopback only, elsewhere only with a way to tell who connects: each refusal names its setting."""
    with pytest.raises(InvalidInput, match=says) as caught:
        tcp_listens(QueueSettings(**settings))
    assert caught.value.subject == f"queues.{next(iter(settings))}"
    assert caught.value.hint


class Site:
    """The authority of a site, and one that is not trusted there."""

    def __init__(self, directory):
        self.directory = directory
        self.authority, self.stranger = trustme.CA(), trustme.CA()
        server = self.authority.issue_cert("127.0.0.1", "localhost")
        self.file("cert", b"".join(blob.bytes() for blob in server.cert_chain_pems))
        self.file("key", server.private_key_pem.bytes())
        self.file("ca", self.authority.cert_pem.bytes())

    def file(self, name, content):
        (self.directory / f"{name}.pem").write_bytes(content)

    def settings(self, *files):
        return {setting: str(self.directory / f"{name}.pem") for setting, name in files}

    def client(self, authority=None):
        """What a client shows whose certificate that authority has signed; ``None``: no certificate."""
        own = authority.issue_cert("client@site.example") if authority else None
        return pynng.TLSConfig(
            pynng.TLSConfig.MODE_CLIENT,
            server_name="localhost",
            ca_string=self.authority.cert_pem.bytes().decode(),
            own_key_string=own and own.private_key_pem.bytes().decode(),
            own_cert_string=own and own.cert_chain_pems[0].bytes().decode(),
        )


CERTIFICATE = (("cert_file", "cert"), ("key_file", "key"))


async def test_tls_with_client_certificates(tmp_path):
    """Who has a certificate of the site's authority may publish and follow; strangers and the nameless may not."""
    site = Site(tmp_path)
    files = site.settings(*CERTIFICATE, ("client_ca_file", "ca"))
    addresses = {"listen_push": ("tls+tcp://127.0.0.1:0",), "listen_live": ("tls+tcp://127.0.0.1:0",)}
    async with opened(tmp_path, **addresses, **files) as streams:
        push, live = streams.addresses["push-tls"], streams.addresses["live-tls"]
        assert push.startswith("tls+tcp://127.0.0.1:")
        for wrong in (site.client(), site.client(site.stranger)):
            with pynng.Push0(send_timeout=300, tls_config=wrong) as nobody:
                nobody.dial(push, block=False)
                with pytest.raises(pynng.Timeout):
                    await trio.to_thread.run_sync(nobody.send, b"s.a\nintruder")
            with pynng.Sub0(topics=b"", recv_timeout=300, tls_config=wrong) as nobody:
                nobody.dial(live, block=False)
                await streams.publish([Record(subject="s.b", payload=b"secret")])
                with pytest.raises(pynng.Timeout):
                    await trio.to_thread.run_sync(nobody.recv)
        await until(lambda: streams.socket_statistics().live_subscribers == 0)
        assert await exchange(streams, push, live, site.client(site.authority)) == b"s.a\nhello"
        assert [d.payload for d in await streams.read("s", subject="s.a")] == [b"hello"]


async def test_tls_without_client_certificates_on_loopback(tmp_path):
    """A certificate alone is enough on loopback: the traffic is sealed, anybody may connect."""
    site = Site(tmp_path)
    files = site.settings(*CERTIFICATE)
    addresses = {"listen_push": ("tls+tcp://127.0.0.1:0",), "listen_live": ("tls+tcp://127.0.0.1:0",)}
    async with opened(tmp_path, **addresses, **files) as streams:
        found = streams.addresses
        assert await exchange(streams, found["push-tls"], found["live-tls"], site.client()) == b"s.a\nhello"
        trusting = ssl.create_default_context(cadata=site.authority.cert_pem.bytes().decode())
        host, port = found["live-tls"].removeprefix("tls+tcp://").split(":")
        stream = await trio.open_ssl_over_tcp_stream(host, int(port), ssl_context=trusting)
        async with stream:
            await stream.send_all(b"\0SP\0\0\x21\0\0")
            assert await stream.receive_some(8) == b"\0SP\0\0\x20\0\0"


@pytest.mark.parametrize("broken", ["cert", "key", "ca"])
async def test_files_that_are_not_certificates_are_named(tmp_path, broken):
    """Missing or broken PEM files stop the start, and the error names the file."""
    site = Site(tmp_path)
    files = site.settings(*CERTIFICATE, ("client_ca_file", "ca"))
    for content in (b"nonsense", None):
        if content is None:
            (tmp_path / f"{broken}.pem").unlink()
        else:
            site.file(broken, content)
        with pytest.raises(InvalidInput, match=f"{broken}.pem"):
            async with opened(tmp_path, listen_push=("tls+tcp://127.0.0.1:0",), **files):
                pass


async def test_losses_are_told_once_in_a_while(tmp_path, caplog):
    """The first record that push does not store is in the log at once, those after it together, later."""
    clock = trio.testing.MockClock()

    def settled(streams, count):
        return streams.socket_statistics().push_refused == count

    async def scenario():
        async with opened(tmp_path) as streams:
            with pynng.Push0(dial=streams.addresses["push"], send_timeout=IN_TIME) as push:
                push.send(b"nothing")
                while not caplog.messages:
                    await trio.lowlevel.checkpoint()
                assert "1 invalid" in caplog.text
                for _ in range(3):
                    push.send(b"elsewhere\nx")
                while not settled(streams, 4):
                    await trio.lowlevel.checkpoint()
                assert "not captured" not in caplog.text
                clock.jump(REPORT_SECONDS)
                while len(caplog.messages) < 2:
                    await trio.lowlevel.checkpoint()
                assert "3 not captured" in caplog.messages[1]
                assert "no stream captures the subject elsewhere" in caplog.messages[1]

    await trio.to_thread.run_sync(lambda: trio.run(scenario, clock=clock))


async def test_live_losses_are_an_advisory(tmp_path):
    """Who listens to advisories hears that live dropped records, and how many."""
    async with opened(tmp_path, live_buffer="4KiB") as streams, streams.advisories() as advisories:
        with pynng.Sub0(dial=streams.addresses["live"], topics=b""):
            await until(lambda: streams.socket_statistics().live_subscribers == 1)
            await streams.publish([Record(subject="s.a", payload=bytes(5000))])
            with trio.fail_after(10):
                told = await anext(advisories)
    assert told.kind == "live_dropped"
    assert told.detail.startswith("1 records did not reach")


async def test_what_a_loss_says(tmp_path):
    """Nothing happened: nothing is said; each reason is counted since the last time."""
    async with opened(tmp_path) as streams:
        none = streams.socket_statistics()
    some = msgspec.structs.replace(none, push_full=2, push_failed=1, push_refusal="the disk is full", live_timeouts=1)
    assert losses(none, none) == {}
    assert losses(some, some) == {}
    said = losses(none, some)
    assert "2 full, 1 failed" in said["push"]
    assert said["push"].endswith("the disk is full")
    assert "1 that took nothing were disconnected" in said["live"]


@pytest.mark.system
async def test_nngcat_publishes_and_follows(tmp_path):
    """Debian's nngcat, a program that knows nothing of platformd, feeds a stream and follows it from a shell."""
    if shutil.which("nngcat") is None:
        pytest.skip("nngcat is not installed (Debian: nng-utils)")
    async with opened(tmp_path) as streams:
        push, live = streams.addresses["push"], streams.addresses["live"]
        follow = ["nngcat", "--sub", "--dial", live, "--subscribe", "s.", "--raw", "--count", "2"]
        heard = []

        async def listen():
            done = await trio.run_process(follow, capture_stdout=True)
            heard.append(done.stdout)

        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(listen)
                await until(lambda: streams.socket_statistics().live_subscribers == 1)
                for count, payload in enumerate(("hello", "world"), 1):
                    await trio.run_process(["nngcat", "--push", "--dial", push, "--data", f"s.a\n{payload}"])
                    await until(lambda count=count: streams.stream("s").messages == count)
        assert heard == [b"s.a\nhellos.a\nworld"]
        assert [d.payload for d in await streams.read("s")] == [b"hello", b"world"]
