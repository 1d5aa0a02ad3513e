"""TLS on the control API: what is let in, certificates as principals, files that change, and peers that misbehave."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path
from typing import Any

import pytest
import trio

from platformd.api import access
from platformd.api.server.sockets import bind_tcp
from platformd.api.server.tls import Certificates, TlsSocket
from platformd.core.errors import InvalidInput
from platformd.core.settings import AccessSettings, HttpSettings
from tests.api.conftest import Served, Start
from tests.api.peer import Peer
from tests.api.wire import Client
from tests.client.certificates import Site

PATIENCE = 30.0


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path / "site")


async def secured(start: Start, site: Site, **more: Any) -> Served:
    """A server with TLS on loopback."""
    served: Served = await start(listen="127.0.0.1:0", **(site.settings() | more))
    assert served.addresses[1].startswith("https://127.0.0.1:")
    return served


async def connected(served: Served, site: Site, certificate: str = "", ca: str = "ca") -> Client:
    """A connection over TLS, closed with the test."""
    context = ssl.create_default_context(cafile=str(site.file(ca)))
    if certificate:
        context.load_cert_chain(site.file(certificate))
    port = int(served.addresses[1].rpartition(":")[2])
    with trio.fail_after(PATIENCE):
        stream = await trio.open_ssl_over_tcp_stream("127.0.0.1", port, ssl_context=context, https_compatible=True)
        try:
            await stream.do_handshake()
        except trio.BrokenResourceError:
            await trio.aclose_forcefully(stream)
            raise
    client = Client(stream)  # type: ignore[arg-type]  # sends and receives as a socket does
    served.clients.append(client)
    return client


async def test_the_api_over_tls(start: Start, site: Site) -> None:
    """Requests, a long answer in pieces, a WebSocket and a token, as over plain sockets; without TLS there is none."""
    served = await secured(start, site)
    local = await served.client()
    secret = (await local.request("POST", "/v1/tokens", {"name": "ops", "role": "operator"})).json["token"]
    bearer = {"Authorization": f"Bearer {secret}", "Host": "gw.example.org"}
    client = await connected(served, site)
    body = {"name": "s", "spec": {"description": "d" * 200_000}}
    assert (await client.request("POST", "/v1/services", {})).status == 401
    assert (await client.request("POST", "/v1/services", body, bearer)).status == 201
    assert len((await client.request("GET", "/v1/services", headers=bearer)).body) > 200_000
    watch = await Peer.open(
        (await connected(served, site)).stream, "/v1/watch", {"Authorization": bearer["Authorization"]}
    )
    assert (await watch.json())["data"]["name"] == "s"
    plain = await Client.connect_tcp("127.0.0.1", int(served.addresses[1].rpartition(":")[2]))
    await plain.stream.send_all(b"GET /status HTTP/1.1\r\nHost: localhost\r\n\r\n")
    with trio.fail_after(PATIENCE):
        assert not (await plain.ended()).startswith(b"HTTP")
    await plain.aclose()
    assert (await client.request("GET", "/status")).status == 200


async def test_certificates_are_principals(start: Start, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A certificate of the site is who the settings say; a token counts more; a stranger's is no certificate."""
    served = await secured(start, site)
    grants = AccessSettings(certificates=("email:client@site.example=operator",))
    monkeypatch.setattr(served.context.gate, "peers", type(served.context.gate.peers)(grants))
    client = await connected(served, site, "client")
    who = (await client.request("GET", "/v1/access/whoami")).json
    assert who == {"name": "certificate:client@site.example", "role": "operator", "tenant": None, "how": "certificate"}
    assert (await client.request("POST", "/v1/services", {"name": "s", "spec": {}})).status == 201
    local = await served.client()
    secret = (await local.request("POST", "/v1/tokens", {"name": "look", "role": "reader"})).json["token"]
    bearer = {"Authorization": f"Bearer {secret}"}
    assert (await client.request("GET", "/v1/access/whoami", headers=bearer)).json["name"] == "token:look"
    with pytest.raises((trio.BrokenResourceError, EOFError)), trio.fail_after(PATIENCE):
        await (await connected(served, site, "stranger")).request("GET", "/status")


async def test_beyond_loopback_nobody_is_anything_without_a_token(
    start: Start, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even a reader: everything but a token or a known certificate is 401, or 403 with an unknown certificate."""
    monkeypatch.setattr(access, "_over_loopback", lambda: False)
    served = await secured(start, site)
    client = await connected(served, site)
    for path in ("/", "/status", "/metrics", "/v1/kv/a", "/nothing"):
        assert (await client.request("GET", path)).status == 401, path
    named = await connected(served, site, "client")
    assert (await named.request("GET", "/status")).status == 403


async def test_foreign_pages_are_refused_over_tls_too(start: Start, site: Site) -> None:
    """An Origin must be this very server, scheme and all."""
    served = await secured(start, site)
    client = await connected(served, site)
    for origin, status in (("https://gw:1", 200), ("http://gw:1", 403), ("https://evil.example", 403)):
        assert (await client.request("GET", "/status", headers={"Host": "gw:1", "Origin": origin})).status == status


async def test_new_certificates_count_for_new_connections(
    start: Start, site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    """Changed files are read again, open connections go on, and files that cannot be used change nothing."""
    served = await secured(start, site)
    before = await connected(served, site)
    cert = site.file("cert").read_bytes()
    site.file("cert").write_bytes(b"not a certificate")
    assert (await (await connected(served, site)).request("GET", "/status")).status == 200
    assert "goes on to count" in caplog.text
    site.file("cert").write_bytes(cert)
    other = Site(site.directory / "other")
    for name in ("cert", "key"):
        other.file(name).replace(site.file(name))
    after = await connected(served, site, ca="other/ca")
    assert (await after.request("GET", "/status")).status == 200
    with pytest.raises(trio.BrokenResourceError):
        await connected(served, site)
    assert (await before.request("GET", "/status")).status == 200


async def test_bad_peers_cost_only_their_own_connection(start: Start, site: Site) -> None:
    """Noise, a handshake that stops half way, and a lost connection: others are served, and the stop does not wait."""
    served = await secured(start, site, max_connections=4)
    client = await connected(served, site)
    port = int(served.addresses[1].rpartition(":")[2])
    streams = []
    for data in (b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00\x01", b"", b"\x00" * 600, b"\x16\x03\x01", b""):
        streams.append(await trio.open_tcp_stream("127.0.0.1", port))
        await streams[-1].send_all(data)
        assert (await client.request("GET", "/status")).status == 200
    served.stop()
    with trio.fail_after(PATIENCE):
        await served.done.wait()
    for stream in streams:
        await stream.aclose()


async def test_a_cancelled_send_is_taken_up_again(site: Site) -> None:
    """What a cancelled ``send`` had taken is sent once, and the stream goes on where it was."""
    ours, theirs = trio.socket.socketpair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    context = Certificates(HttpSettings(**site.settings())).context()  # type: ignore[arg-type]
    trusting = ssl.create_default_context(cafile=str(site.file("ca")))
    tls = TlsSocket(ours, context)
    client = trio.SSLStream(trio.SocketStream(theirs), trusting, server_hostname="localhost")
    wanted = bytes(range(256)) * 4000
    received = bytearray()

    async def cancel_soon(scope: trio.CancelScope) -> None:
        await trio.lowlevel.checkpoint()
        scope.cancel()

    async def send() -> None:
        await tls.handshake()
        rest, calls = memoryview(wanted), 0
        while rest:
            calls += 1
            with trio.CancelScope() as scope:
                if calls % 3 == 0:  # in the middle of waiting for room, or while nothing is waited for
                    nursery.start_soon(cancel_soon, scope)
                elif calls % 3 == 1:
                    scope.cancel()
                rest = rest[await tls.send(rest) :]
        tls.shutdown(socket.SHUT_WR)

    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            await client.do_handshake()
            while data := await client.receive_some(7777):
                received += data
        assert received == wanted
        # Our side has ended; theirs may still say something, which is dropped.
        await client.send_all(b"late")
        assert await tls.recv(100)
    tls.close()
    theirs.close()


def test_what_is_listened_on(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """Beyond loopback with a certificate, or with a setting that says how bad it is, loudly; else not."""
    with pytest.raises(InvalidInput, match="without TLS"):
        bind_tcp(HttpSettings(listen="0.0.0.0:0"))
    bound = bind_tcp(HttpSettings(listen="0.0.0.0:0", **site.settings()))  # type: ignore[arg-type]
    assert bound.address.startswith("https://0.0.0.0:")
    bound.release()
    assert not caplog.records
    bind_tcp(HttpSettings(listen="0.0.0.0:0", insecure=True)).release()
    assert "can read tokens" in caplog.text


def test_only_new_tls_is_spoken(site: Site) -> None:
    """TLS 1.2 at least; a file that is no certificate is named."""
    made = Certificates(HttpSettings(**site.settings()))  # type: ignore[arg-type]
    assert made.context().minimum_version == ssl.TLSVersion.TLSv1_2
    with pytest.raises(InvalidInput) as caught:
        Certificates(HttpSettings(cert_file=str(site.file("none")), key_file=""))
    assert caught.value.subject == str(site.file("none"))
