"""Streams with compression: nothing that a reader sees is another than without; or it is refused by name."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
import trio

from platformd.core.errors import Unsupported
from platformd.queues.contract import ConsumerConfig, StreamConfig
from tests.conformance.streams_engines import ENGINES, acks, records
from tests.conformance.streams_packing_host import CONFIG, SETTINGS, record

ROOT = Path(__file__).resolve().parents[2]
ROUNDS = int(os.environ.get("PLATFORMD_KILL_ROUNDS", "4"))
LAST = 1500


@pytest.fixture(params=ENGINES)
def engine(request, tmp_path):
    """Each engine, not open yet."""
    return ENGINES[request.param](tmp_path)


@pytest.fixture(params=[name for name, engine in ENGINES.items() if "compression" not in engine.refuses])
def packing(request, tmp_path):
    """Each engine that compresses, not open yet."""
    return ENGINES[request.param](tmp_path)


async def publish(streams, first, last):
    for begin in range(first, last + 1, 50):
        await streams.publish([record(number) for number in range(begin, min(begin + 50, last + 1))])


async def until(holds):
    with trio.fail_after(120):
        while True:
            if holds():
                return
            await trio.sleep(0.005)


async def until_packed(engine, streams):
    """Until every segment but the newest is compressed."""
    await until(lambda: len(list((engine.directory / "s" / "log").glob("*.seg"))) == 1)
    return streams.stream("s")


async def everything(streams, **options):
    kept = []
    while page := await streams.read("s", after=kept[-1].sequence if kept else 0, limit=1000, **options):
        kept += page
    return kept


async def test_compression_is_kept_or_refused_by_name(engine):
    """A stream with compression is made, or Unsupported says that it is compression that the engine does not do."""
    async with engine.open() as streams:
        if "compression" in engine.refuses:
            with pytest.raises(Unsupported, match="compression 'zstd'"):
                await streams.put_stream("s", CONFIG)
            assert streams.streams() == ()
        else:
            assert (await streams.put_stream("s", CONFIG)).config.compression == "zstd"


async def test_what_is_read_is_what_was_published(packing):
    """Records, seeks by sequence and time, acknowledgements and ids are the same of compressed segments, and they are
    smaller; also after a restart."""
    async with packing.open(SETTINGS) as streams:
        await streams.put_stream("s", CONFIG)
        await publish(streams, 1, LAST)
        info = await until_packed(packing, streams)
        assert info.bytes * 3 < info.uncompressed_bytes
        before = await everything(streams)
    async with packing.open(SETTINGS) as streams:
        assert msgspec.structs.replace(streams.stream("s"), publish_rate=0, publish_bytes_rate=0) == (
            msgspec.structs.replace(info, publish_rate=0, publish_bytes_rate=0)
        )
        assert await everything(streams) == before
        assert [(d.subject, d.msg_id, d.payload) for d in before] == [
            (r.subject, r.msg_id, r.payload) for r in map(record, range(1, LAST + 1))
        ]
        assert len(await everything(streams, subject="a.1")) == LAST // 3
        await streams.put_consumer("s", "c", ConsumerConfig(filter_subject="a.2"))
        middle = before[LAST // 2]
        first_then = next(d.sequence for d in before if d.append_time_ns >= middle.append_time_ns)
        await streams.seek("s", "c", "by_time", time_ns=middle.append_time_ns)
        (found,) = await streams.fetch("s", "c", max_records=1)
        assert first_then <= found.sequence < first_then + 3
        await streams.seek("s", "c", "by_sequence", sequence=4)
        taken = await streams.fetch("s", "c", max_records=LAST)
        assert [d.sequence for d in taken] == list(range(5, LAST + 1, 3))
        assert await streams.ack("s", "c", acks(taken)) == len(taken)
        assert (await streams.publish([record(7), record(LAST)])).duplicates == (0, 1)


async def test_removing_works_on_compressed_segments(packing):
    """A purge by subject, one of the oldest, and limits in bytes (which count what is on the disk) hold as ever."""
    async with packing.open(SETTINGS) as streams:
        await streams.put_stream("s", CONFIG)
        await publish(streams, 1, LAST)
        await until_packed(packing, streams)
        assert await streams.purge("s", subject="a.1") == LAST // 3
        assert await streams.purge("s", before=601) == 400
        info = streams.stream("s")
        assert (info.first_sequence, info.messages) == (602, 600)
    async with packing.open(SETTINGS) as streams:
        kept = await everything(streams)
        assert [d.sequence for d in kept] == [n for n in range(602, LAST + 1) if n % 3 != 1]
        limited = msgspec.structs.replace(CONFIG, max_bytes=info.bytes - 1)
        await streams.put_stream("s", limited)
        await until(lambda: streams.stream("s").bytes <= limited.max_bytes)
        assert 0 < streams.stream("s").messages < 600


async def test_compression_can_be_turned_on_and_off(packing):
    """Turned on, old segments are compressed; turned off, they stay so and new ones are not."""
    plain = StreamConfig(subjects=("a.>",))
    log = packing.directory / "s" / "log"
    async with packing.open(SETTINGS) as streams:
        await streams.put_stream("s", plain)
        await publish(streams, 1, 800)
        assert not list(log.glob("*.zst"))
        await streams.put_stream("s", CONFIG)
        await until_packed(packing, streams)
        packed = set(log.glob("*.zst"))
        await streams.put_stream("s", plain)
        await publish(streams, 801, LAST)
        assert set(log.glob("*.zst")) == packed
        assert len(list(log.glob("*.seg"))) > 2
        assert len(await everything(streams)) == LAST


def killed_while_publishing(engine, batches):
    """Kill the host when it has printed so many lines; the last sequence that was acknowledged to it."""
    command = [
        *(sys.executable, "-m", "tests.conformance.streams_packing_host", engine.name),
        str(engine.directory.parent),
    ]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        for _ in range(batches):
            line = process.stdout.readline()
    finally:
        process.kill()
        rest = process.stdout.read().splitlines(keepends=True)
        process.wait()
        process.stdout.close()
    whole = [line, *(last for last in rest if last.endswith("\n"))]
    return int(whole[-1])


def test_kill_9_while_segments_are_compressed_loses_nothing(packing):
    """Killed again and again while it publishes and compresses, every acknowledged record is there once, in order."""

    async def look():
        async with packing.open(SETTINGS) as streams:
            return await everything(streams)

    choose = random.Random(3)
    for _ in range(ROUNDS):
        acknowledged = killed_while_publishing(packing, choose.randrange(10, 60))
        kept = trio.run(look)
        assert [d.sequence for d in kept] == list(range(1, len(kept) + 1))
        assert [d.payload for d in kept] == [record(d.sequence).payload for d in kept]
        assert len(kept) >= acknowledged
        assert not list((packing.directory / "s" / "log").glob("*.new"))


async def test_the_id_of_a_removed_record_is_known_until_a_restart(engine):
    """An id is known after a restart if its record is kept. One whose record was removed is known until then; after it
    the record may be stored again."""
    async with engine.open() as streams:
        await streams.put_stream("s", StreamConfig(subjects=("a.>",)))
        await streams.publish(records("1", "2", "3", ids=True))
        await streams.purge("s", before=3)
        assert (await streams.publish(records("1", "3", ids=True))).duplicates == (0, 1)
        await streams.purge("s")
        assert (await streams.publish(records("1", "3", ids=True))).duplicates == (0, 1)
        await streams.publish(records("4", ids=True))
    async with engine.open() as streams:
        assert (await streams.publish(records("4", ids=True))).duplicates == (0,)
        published = await streams.publish(records("1", ids=True))
        assert published.appended + len(published.duplicates) == 1
