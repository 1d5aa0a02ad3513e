"""What every queue engine promises of streams that validate: on every way in, the whole batch or nothing."""

from __future__ import annotations

import json

import pytest

from platformd.client.queues import Producer
from platformd.core.errors import InvalidInput, PlatformError
from platformd.queues.contract import Record, RecordFormat, StreamConfig
from tests.conformance.streams_engines import ENGINES, in_thread, payloads

SCHEMA = json.dumps({"type": "object", "required": ["id"], "properties": {"id": {"type": "integer"}}})
CHECKED = StreamConfig(subjects=("a.>",), format=RecordFormat(encoding="json", schema=SCHEMA, validate=True))


@pytest.fixture(params=ENGINES)
def engine(request, tmp_path):
    """Each engine, not open yet."""
    return ENGINES[request.param](tmp_path)


@pytest.fixture
async def streams(engine):
    """The engine, open, with a stream that validates and one that does not."""
    async with engine.open() as opened:
        await opened.put_stream("checked", CHECKED)
        await opened.put_stream("free", StreamConfig(subjects=("b.>",)))
        yield opened


def numbered(*numbers: object, subject: str = "a.b") -> list[Record]:
    return [Record(subject=subject, payload=json.dumps({"id": n}).encode()) for n in numbers]


async def test_a_batch_that_does_not_fit_is_refused_whole(streams):
    """In process: positions, paths and reasons are said, and nothing of the batch is stored."""
    await streams.publish(numbered(1))
    with pytest.raises(InvalidInput) as refused:
        await streams.publish(numbered(2, "x", 3))
    assert [e.path for e in refused.value.errors] == ["records[1].id"]
    assert streams.stream("checked").last_sequence == 1
    await streams.publish(numbered(2))
    assert payloads(await streams.read("checked")) == ['{"id": 1}', '{"id": 2}']


async def test_the_socket_refuses_the_same(streams):
    """Over the ingest socket the publisher gets the same answer, with what is wrong and where, and can go on."""

    def publish() -> str:
        with Producer(streams.addresses["ingest"]) as producer:
            assert producer.publish_batch(numbered(1, 2)).first_sequence == 1
            with pytest.raises(InvalidInput) as refused:
                producer.publish_batch(numbered(3, "x"))
            assert producer.publish_batch(numbered(4)).first_sequence == 3
            assert producer.publish_batch(numbered("x", subject="b.c")).stream == "free"
            return refused.value.message

    said = await in_thread(publish)
    assert "records[1].id" in said
    assert "integer" in said
    assert payloads(await streams.read("checked")) == ['{"id": 1}', '{"id": 2}', '{"id": 4}']


async def test_batches_under_way_keep_their_order(streams):
    """Records of one producer are stored in its order, whatever each of its batches takes to check; a refused batch
    leaves no gap in the sequences."""

    def publish() -> list[type[PlatformError] | None]:
        outcomes: list[type[PlatformError] | None] = []
        with Producer(streams.addresses["ingest"], max_in_flight=8) as producer:
            sizes = [400 if i % 3 == 0 else 1 for i in range(30)]
            pending = [producer.submit(numbered(*[i] * n if i % 5 else ["x"])) for i, n in enumerate(sizes)]
            for one in pending:
                try:
                    one.wait()
                    outcomes.append(None)
                except PlatformError as error:
                    outcomes.append(type(error))
        return outcomes

    outcomes = await in_thread(publish)
    assert outcomes == [None if i % 5 else InvalidInput for i in range(30)]
    found = [json.loads(d.payload)["id"] for d in await streams.read("checked", limit=10_000)]
    assert found == sorted(found)
    assert set(found) == {i for i in range(30) if i % 5}
    assert streams.stream("checked").last_sequence == len(found)


async def test_it_holds_from_the_first_moment_after_a_restart(engine):
    """A stream that validates does so when the engine is opened again, before anybody tells it anything."""
    async with engine.open() as streams:
        await streams.put_stream("checked", CHECKED)
    async with engine.open() as streams:
        assert streams.stream("checked").config == CHECKED
        with pytest.raises(InvalidInput):
            await streams.publish(numbered("x"))

        def publish() -> None:
            with Producer(streams.addresses["ingest"]) as producer, pytest.raises(InvalidInput):
                producer.publish_batch(numbered("x"))

        await in_thread(publish)
        assert streams.stream("checked").last_sequence == 0


async def test_a_format_can_be_changed(streams):
    """From the next batch on the new format counts, on both ways in; what is stored stays as it is."""
    await streams.publish(numbered(1))
    await streams.put_stream("checked", StreamConfig(subjects=("a.>",), format=RecordFormat(encoding="json")))
    await streams.publish(numbered("x"))
    strict = RecordFormat(encoding="utf-8", validate=True)
    await streams.put_stream("checked", StreamConfig(subjects=("a.>",), format=strict))
    with pytest.raises(InvalidInput, match="utf-8"):
        await streams.publish([Record(subject="a.b", payload=b"\xff")])
    await streams.publish([Record(subject="a.b", payload=b"not JSON")])
    assert streams.stream("checked").last_sequence == 3


async def test_duplicates_and_refusals(streams):
    """A refused record is not remembered: its id is free for the one that fits."""
    bad = Record(subject="a.b", payload=b"{}", msg_id="1")
    with pytest.raises(InvalidInput):
        await streams.publish([bad])
    good = Record(subject="a.b", payload=b'{"id": 1}', msg_id="1")
    assert (await streams.publish([good])).appended == 1
    assert (await streams.publish([good])).duplicates == (0,)
