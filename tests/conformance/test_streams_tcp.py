"""What every queue engine promises to programs that come over TCP, with TLS and without."""

from __future__ import annotations

import msgspec
import pytest

from platformd.client.queues import ClientTls, Consumer, Producer
from platformd.core.errors import InvalidInput, PlatformError, Unauthorized, Unavailable
from platformd.queues.contract import ConsumerConfig, StreamConfig
from tests.client.certificates import Site
from tests.conformance.streams_engines import ENGINES, SETTINGS, in_thread, payloads, records
from tests.support.ports import free_port

TLS, TCP = "tls+tcp://127.0.0.1:0", "tcp://127.0.0.1:0"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    return Site(tmp_path_factory.mktemp("site"))


@pytest.fixture(params=ENGINES)
async def streams(request, tmp_path, site):
    """Each engine with the stream ``s`` and its consumer ``c``, on TCP and on TLS with client certificates."""
    both = (TLS, TCP)
    settings = msgspec.structs.replace(SETTINGS, listen_ingest=both, listen_fetch=both, **site.settings())
    async with ENGINES[request.param](tmp_path).open(settings) as opened:
        await opened.put_stream("s", StreamConfig(subjects=("a.>",)))
        await opened.put_consumer("s", "c", ConsumerConfig())
        yield opened


def publish(address, tls=None, timeout=30.0, payload=b"x"):
    with Producer(address, tls=tls, timeout=timeout) as producer:
        return producer.publish("a.b", payload)


def take(address, tls=None, timeout=30.0):
    with Consumer(address, "s", "c", tls=tls, timeout=timeout) as consumer:
        deliveries = consumer.fetch(wait=0)
        consumer.ack(deliveries)
        return payloads(deliveries)


async def test_records_go_over_tcp_and_tls(streams, site):
    """Producers and consumers do over TCP, sealed and not, what they do over a Unix socket."""
    addresses = streams.addresses
    assert (await in_thread(publish, addresses["ingest-tls"], site.client(), payload=b"1")).first_sequence == 1
    named = site.client(server_name="localhost")
    assert (await in_thread(publish, addresses["ingest-tls"], named, payload=b"2")).first_sequence == 2
    assert (await in_thread(publish, addresses["ingest-tcp"], payload=b"3")).first_sequence == 3
    assert await in_thread(take, addresses["fetch-tls"], site.client()) == ["1", "2", "3"]
    await streams.publish(records("4"))
    assert await in_thread(take, addresses["fetch-tcp"]) == ["4"]


WRONG = [
    ({"ca": "other-ca"}, InvalidInput, "unable to get local issuer"),
    ({"server_name": "elsewhere.example"}, InvalidInput, "not valid for 'elsewhere.example'"),
    ({"certificate": ""}, Unauthorized, "asks for a certificate, and we have none"),
    ({"certificate": "expired"}, Unauthorized, "our certificate has expired"),
    ({"certificate": "stranger"}, Unauthorized, "does not know the authority"),
]


async def test_what_is_wrong_with_a_certificate_is_said(streams, site):
    """A certificate that is refused, ours or the daemon's, ends the attempt at once, with the reason and what to do."""
    for i, (wrong, error, says) in enumerate(WRONG):
        role, go = (("ingest", publish), ("fetch", take))[i % 2]
        with pytest.raises(error, match=says) as caught:
            await in_thread(go, streams.addresses[f"{role}-tls"], site.client(**wrong))
        assert caught.value.subject == streams.addresses[f"{role}-tls"]
        assert caught.value.hint
    assert streams.stream("s").last_sequence == 0


async def test_plain_and_sealed_do_not_meet(streams, site):
    """A client without TLS at a port with it hears so, and the other way round."""
    addresses = streams.addresses
    with pytest.raises(InvalidInput, match="TLS is spoken there") as caught:
        await in_thread(publish, addresses["ingest-tls"].replace("tls+tcp", "tcp"))
    assert addresses["ingest-tls"] in caught.value.hint
    with pytest.raises(InvalidInput, match="is not TLS"):
        await in_thread(take, addresses["fetch-tcp"].replace("tcp://", "tls+tcp://"), site.client())


def test_nobody_there(site):
    """Where nobody listens the clients try until their time is over, and the producer says that nothing was stored."""
    nowhere = f"tls+tcp://127.0.0.1:{free_port()}"
    with pytest.raises(Unavailable, match=r"nobody listens there.*nothing was stored"):
        publish(nowhere, site.client(), timeout=0.1)
    with pytest.raises(Unavailable, match="nobody listens there"):
        take(nowhere, site.client(), timeout=0.1)


@pytest.mark.parametrize(
    ("address", "tls"),
    [
        ("tcp://127.0.0.1", None),
        ("tcp://127.0.0.1:x", None),
        ("tls+tcp://127.0.0.1:70000", None),
        ("tcp://127.0.0.1:1", ClientTls(ca_file="/etc/ssl/certs/ca-certificates.crt")),
        ("tls+tcp://127.0.0.1:1", ClientTls(ca_file="/no/such/file.pem")),
        ("tls+tcp://127.0.0.1:1", ClientTls(cert_file="/no/such/file.pem")),
    ],
)
def test_arguments_are_checked_before_anything_is_dialled(address, tls):
    """Addresses that are none, files that are not there, and files without TLS are refused by both clients at once."""
    with pytest.raises(InvalidInput):
        Producer(address, tls=tls)
    with pytest.raises(InvalidInput):
        Consumer(address, "s", "c", tls=tls)


async def test_an_engine_without_a_socket_says_so(tmp_path):
    """An address of a socket that an engine has not is refused by name when it starts."""
    for name, engine in ENGINES.items():
        (tmp_path / name).mkdir()
        settings = msgspec.structs.replace(SETTINGS, listen_push=(TCP,))
        if name == "native":
            async with engine(tmp_path / name).open(settings) as opened:
                assert "push-tcp" in opened.addresses
        else:
            with pytest.raises(PlatformError, match="no push socket"):
                async with engine(tmp_path / name).open(settings):
                    pass
