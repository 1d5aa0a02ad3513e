"""The clients for trio: over TLS, from many tasks, and when they are cancelled."""

from __future__ import annotations

from functools import partial

import pytest
import trio

from platformd.client.queues_trio import open_consumer, open_producer, open_subscriber
from platformd.core.clock import SystemClock
from platformd.core.errors import InvalidInput, NotFound
from platformd.core.settings import QueueSettings
from platformd.queues.contract import ConsumerConfig, Record, StreamConfig
from platformd.queues.native.engine import open_native
from tests.client.certificates import Site

TLS = ("tls+tcp://127.0.0.1:0",)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    return Site(tmp_path_factory.mktemp("site"))


@pytest.fixture
async def streams(tmp_path, site):
    """The native engine with the stream ``s`` and its consumer ``c``, on TLS."""
    settings = QueueSettings(listen_ingest=TLS, listen_fetch=TLS, listen_live=TLS, **site.settings())
    async with open_native(tmp_path / "s", tmp_path / "q", settings, SystemClock()) as opened:
        await opened.put_stream("s", StreamConfig(subjects=("s.>",)))
        await opened.put_consumer("s", "c", ConsumerConfig())
        yield opened


async def test_records_go_round_over_tls(streams, site):
    """What a task publishes others fetch and hear live, sealed."""
    tls, found = site.client(), streams.addresses
    async with (
        open_subscriber(found["live-tls"], "s.*", tls=tls) as subscriber,
        open_producer(found["ingest-tls"], tls=tls) as producer,
        open_consumer(found["fetch-tls"], "s", "c", tls=tls) as consumer,
    ):
        with trio.fail_after(30):
            assert (await producer.publish("s.a", b"1", msg_id="1")).first_sequence == 1
            (delivery,) = await consumer.fetch()
            assert (delivery.payload, delivery.msg_id) == (b"1", "1")
            assert await consumer.in_progress([delivery]) == 1
            assert await consumer.ack([delivery]) == 1
            assert await consumer.fetch(wait=0) == ()
            assert (consumer.lag, consumer.ack_pending, subscriber.losses) == (0, 0, 0)
            assert (await anext(subscriber)).payload == b"1"
    with pytest.raises(InvalidInput, match="local issuer"):
        async with open_subscriber(found["live-tls"], tls=site.client(ca="other-ca")):
            pass


async def test_many_tasks_publish_at_once(streams):
    """Each task gets its own acknowledgement or refusal, and a task's records keep their order."""
    refused = []

    async def publish(producer, name):
        for i in range(10):
            await producer.publish(f"s.{name}", str(i).encode())
        try:
            await producer.publish("elsewhere", b"")
        except NotFound as error:
            refused.append(error)
        with pytest.raises(InvalidInput):
            await producer.publish("not a subject", b"")

    async with open_producer(streams.addresses["ingest"]) as producer, trio.open_nursery() as nursery:
        for name in range(20):
            nursery.start_soon(publish, producer, name)
    assert len(refused) == 20
    with pytest.raises(trio.ClosedResourceError):
        await producer.publish("s.0", b"late")
    for name in range(20):
        assert [d.payload for d in await streams.read("s", subject=f"s.{name}")] == [b"%d" % i for i in range(10)]


async def test_a_cancelled_fetch_loses_nothing(streams):
    """What comes for a fetch that was cancelled is the next one's."""
    async with open_consumer(streams.addresses["fetch"], "s", "c") as consumer:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(consumer.fetch, wait=30))
            with trio.fail_after(30):
                while streams.consumers("s")[0].waiting == 0:  # noqa: ASYNC110 - the engine tells nobody
                    await trio.sleep(0.001)
            nursery.cancel_scope.cancel()
        await streams.publish([Record(subject="s.a", payload=b"1")])
        with trio.fail_after(30):
            (delivery,) = await consumer.fetch(wait=20)
            assert (delivery.payload, delivery.deliveries) == (b"1", 1)
            assert await consumer.ack([delivery]) == 1


async def test_a_cancelled_publish_returns_at_once(tmp_path):
    """A task that is cancelled while the daemon is away does not wait for it, nor does the end of the block."""
    with trio.move_on_after(0.05) as scope:
        async with open_producer(f"ipc://{tmp_path}/none.sock", timeout=1.0) as producer:
            await producer.publish("s.a", b"1")
    assert scope.cancelled_caught
