"""The native engine and its zstd: where it is missing, and what it says of damage."""

from __future__ import annotations

import sys

import pytest
import trio

from platformd.core.clock import SystemClock
from platformd.core.errors import Corrupted, Unsupported
from platformd.core.settings import QueueSettings
from platformd.queues.contract import Record, StreamConfig
from platformd.queues.native.engine import open_native

SETTINGS = QueueSettings(segment_size="64KiB", max_batch="64KiB", max_record="16KiB")
PLAIN = StreamConfig(subjects=("a",))
PACKED = StreamConfig(subjects=("a",), compression="zstd")


def opened(directory):
    return open_native(directory / "streams", directory / "q", SETTINGS, SystemClock())


async def fill(streams, batches=100):
    for _ in range(batches):
        await streams.publish([Record(subject="a", payload=b"0123456789" * 200)])


async def until_packed(directory):
    log = directory / "streams" / "s" / "log"
    with trio.fail_after(120):
        while True:
            if len(list(log.glob("*.seg"))) == 1:
                return sorted(log.glob("*.zst"))
            await trio.sleep(0.005)


async def test_without_zstd_only_compression_is_refused(tmp_path, monkeypatch, caplog):
    """The engine opens without the package's module, says so, keeps plain streams, and refuses others by name."""
    monkeypatch.setitem(sys.modules, "zstandard._cffi", None)
    async with opened(tmp_path) as streams:
        assert "pip install zstandard==" in caplog.text
        await streams.put_stream("s", PLAIN)
        await fill(streams, 3)
        with pytest.raises(Unsupported, match="zstandard"):
            await streams.put_stream("s", PACKED)
        assert streams.stream("s").config == PLAIN


async def test_compressed_segments_without_zstd_are_a_problem_of_their_stream(tmp_path, monkeypatch):
    """A stream that was compressed is kept out and says why; with zstd it is there again."""
    async with opened(tmp_path) as streams:
        await streams.put_stream("s", PACKED)
        await fill(streams)
        await until_packed(tmp_path)
        await streams.put_stream("s", PLAIN)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "zstandard._cffi", None)
        async with opened(tmp_path) as streams:
            assert "zstd is not here" in str(streams.problems["s"])
    async with opened(tmp_path) as streams:
        assert streams.stream("s").messages == 100


async def test_a_damaged_frame_is_an_error_that_names_the_file(tmp_path):
    """Damage inside of a compressed segment is found when it is read, with the file and the place in it."""
    async with opened(tmp_path) as streams:
        await streams.put_stream("s", PACKED)
        await fill(streams)
        packed = await until_packed(tmp_path)
    content = bytearray(packed[1].read_bytes())
    content[100] ^= 1
    packed[1].write_bytes(content)
    async with opened(tmp_path) as streams:
        with pytest.raises(Corrupted, match=f"offset 80 of .*{packed[1].name}"):
            await streams.read("s", limit=1000)
        assert len(await streams.read("s", limit=10)) == 10


async def test_a_damaged_header_keeps_the_stream_out(tmp_path):
    """A compressed segment without a valid header is a problem of its stream that names the file."""
    async with opened(tmp_path) as streams:
        await streams.put_stream("s", PACKED)
        await fill(streams)
        packed = await until_packed(tmp_path)
    content = bytearray(packed[0].read_bytes())
    content[40] ^= 1
    packed[0].write_bytes(content)
    async with opened(tmp_path) as streams:
        assert isinstance(streams.problems["s"], Corrupted)
        assert f"offset 0 of {packed[0]}" in str(streams.problems["s"])
