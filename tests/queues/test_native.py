"""The native engine's own: damage, leftovers of crashes, its sockets and its boundary to C."""

from __future__ import annotations

import socket
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import trio
import trio.testing

from platformd.core.clock import SystemClock
from platformd.core.errors import Conflict, Corrupted, InvalidInput, NotFound, PlatformError
from platformd.core.settings import QueueSettings
from platformd.queues.codec import Status, columns
from platformd.queues.codec.frames import pack_acks
from platformd.queues.contract import Ack, ConsumerConfig, Record, StreamConfig
from platformd.queues.native import streams as streams_module
from platformd.queues.native._native import ffi, lib
from platformd.queues.native.engine import open_native
from platformd.queues.native.sockets import MAX_SOCKET_PATH, ROLES, prepare, socket_paths

A = StreamConfig(subjects=("a",))
B = StreamConfig(subjects=("b",))


def opened(directory, sockets="q"):
    return open_native(directory / "streams", directory / sockets, QueueSettings(), SystemClock())


def record(payload, subject="a"):
    return [Record(subject=subject, payload=payload)]


@pytest.fixture
async def written(tmp_path):
    """The directory of an engine that was closed, with streams ``s`` (three records, consumer ``c``) and ``t``."""
    async with opened(tmp_path) as streams:
        await streams.put_stream("s", A)
        await streams.put_stream("t", B)
        await streams.put_consumer("s", "c", ConsumerConfig())
        for i in range(3):
            await streams.publish(record(b"%d" % i * 1000))
        await streams.publish(record(b"t", "b"))
    return tmp_path


def segment(directory, stream="s"):
    (path,) = (directory / "streams" / stream / "log").glob("*.seg")
    return path


def config(directory, stream="s"):
    return directory / "streams" / stream / "config.json"


async def test_a_torn_tail_is_cut_and_reported(written):
    """Half a batch at the end of the log is cut, reported, and its sequence given to the next."""
    path = segment(written)
    data = path.read_bytes()
    last = data.rindex(b"PDB1")
    path.write_bytes(data[: last + 500])
    async with opened(written) as streams:
        assert streams.problems == {}
        assert streams.cut_bytes == {"s": 500}
        assert streams.stream("s").last_sequence == 2
        assert (await streams.publish(record(b"new"))).first_sequence == 3
        assert [d.payload[:3] for d in await streams.read("s")] == [b"000", b"111", b"new"]


async def test_damage_in_the_middle_is_an_error_that_names_the_file(written):
    """A damaged stream answers everything with what is wrong where; the others go on."""
    path = segment(written)
    data = bytearray(path.read_bytes())
    data[data.index(b"PDB1", 100) + 200] ^= 1
    path.write_bytes(data)
    async with opened(written) as streams:
        assert list(streams.problems) == ["s"]
        for ask in (streams.stream, streams.consumers):
            with pytest.raises(Corrupted, match=path.name):
                ask("s")
        with pytest.raises(Corrupted, match=path.name):
            await streams.publish(record(b"x"))
        with pytest.raises(Corrupted, match=path.name):
            await streams.fetch("s", "c")
        with pytest.raises(Corrupted, match=path.name):
            await streams.put_stream("s", A)
        with pytest.raises(Conflict, match="'s'"):
            await streams.put_stream("u", A)
        assert [s.name for s in streams.streams()] == ["t"]
        assert (await streams.publish(record(b"x", "b"))).first_sequence == 2


async def test_a_repaired_stream_opens_without_a_restart(written):
    """After the file is restored, putting the stream opens it with its records and consumers."""
    path = segment(written)
    good = path.read_bytes()
    path.write_bytes(b"x" * 100 + good[100:])
    async with opened(written) as streams:
        assert list(streams.problems) == ["s"]
        path.write_bytes(good)
        assert (await streams.put_stream("s", A)).messages == 3
        assert streams.problems == {}
        assert len(await streams.fetch("s", "c")) == 3


async def test_a_damaged_stream_can_be_deleted(written):
    """Deleting a damaged stream removes it and frees its name and subjects."""
    segment(written).write_bytes(b"x" * 100 + segment(written).read_bytes()[100:])
    config(written, "t").write_text("{}")
    async with opened(written) as streams:
        assert sorted(streams.problems) == ["s", "t"]
        await streams.delete_stream("s")
        await streams.delete_stream("t")
        assert streams.problems == {}
        assert (await streams.put_stream("s", A)).messages == 0


@pytest.mark.parametrize(
    "content", [b"", b"{", b'{"format": 9, "config": {"subjects": ["a"]}}', b'{"format": 1}', None]
)
async def test_an_unreadable_configuration_is_an_error_that_names_the_file(written, content):
    """A configuration that is broken, of another format or missing keeps its stream out, by its file's name."""
    if content is None:
        config(written).unlink()
    else:
        config(written).write_bytes(content)
    async with opened(written) as streams:
        with pytest.raises(Corrupted) as caught:
            streams.stream("s")
        assert caught.value.subject == str(config(written))
        assert streams.stream("t").messages == 1


async def test_a_damaged_consumer_does_not_take_its_stream_along(written):
    """A consumer that cannot be opened answers with what is wrong; its stream and a new one go on."""
    path = written / "streams" / "s" / "consumers" / "c.json"
    path.write_text("nonsense")
    async with opened(written) as streams:
        assert list(streams.problems) == ["s/c"]
        with pytest.raises(Corrupted) as caught:
            await streams.fetch("s", "c")
        assert caught.value.subject == str(path)
        assert streams.consumers("s") == ()
        assert len(await streams.read("s")) == 3
        await streams.delete_consumer("s", "c")
        await streams.put_consumer("s", "c", ConsumerConfig())
        assert len(await streams.fetch("s", "c")) == 3


async def test_a_deletion_that_a_crash_cut_short_is_finished(written):
    """A stream whose deletion had begun is gone after the next opening, and other leftovers do no harm."""
    config(written).rename(config(written).with_name("deleted.json"))
    (written / "streams" / "half").mkdir()
    (written / "streams" / "stray.txt").write_text("x")
    config(written, "t").with_name(".config.json.new").write_text("{")
    async with opened(written) as streams:
        assert [s.name for s in streams.streams()] == ["t"]
        assert streams.problems == {}
        with pytest.raises(NotFound):
            streams.stream("s")
    assert not (written / "streams" / "s").exists()


async def test_a_journal_without_its_consumer_is_removed(written):
    """A consumer whose deletion a crash cut short does not come back to life under its name."""
    async with opened(written) as streams:
        await streams.ack("s", "c", [Ack(sequence=d.sequence) for d in await streams.fetch("s", "c")])
    (written / "streams" / "s" / "consumers" / "c.json").unlink()
    async with opened(written) as streams:
        assert streams.consumers("s") == ()
        await streams.put_consumer("s", "c", ConsumerConfig())
        assert len(await streams.fetch("s", "c")) == 3


async def test_a_cancelled_publish_disturbs_nobody(tmp_path):
    """A task that gave up on its publish leaves the others' answers alone."""
    async with opened(tmp_path) as streams:
        await streams.put_stream("s", A)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(streams.publish, record(b"cancelled") * 2)
            await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
        assert (await streams.publish(record(b"x"))).appended == 1
        assert streams.statistics().appended_records in (1, 3)


async def test_statistics_count(tmp_path):
    """The counters say what was done since the opening."""
    async with opened(tmp_path) as streams:
        await streams.put_stream("s", A)
        await streams.put_consumer("s", "c", ConsumerConfig())
        await streams.publish([Record(subject="a", payload=b"", msg_id="1")] * 2)
        await streams.ack("s", "c", [Ack(sequence=d.sequence) for d in await streams.fetch("s", "c")])
        counted = streams.statistics()
        assert (counted.appends, counted.appended_records, counted.duplicates) == (1, 1, 1)
        assert (counted.delivered_records, counted.acks) == (1, 1)
        assert counted.syncs >= 1


async def test_sockets_are_the_groups(tmp_path):
    """The sockets are there, for the daemon's user and group only."""
    async with opened(tmp_path) as streams:
        assert streams.addresses == {role: f"ipc://{tmp_path}/q/{role}.sock" for role in ROLES}
        for role in ("ingest", "fetch"):
            mode = (tmp_path / "q" / f"{role}.sock").stat().st_mode
            assert stat.S_ISSOCK(mode)
            assert stat.S_IMODE(mode) == 0o660


async def test_stale_sockets_are_replaced(tmp_path):
    """A socket that a crash left behind is in nobody's way."""
    (tmp_path / "q").mkdir()
    for role in ("ingest", "fetch"):
        left = socket.socket(socket.AF_UNIX)
        left.bind(str(tmp_path / "q" / f"{role}.sock"))
        left.close()
    async with opened(tmp_path) as streams:
        assert streams.streams() == ()


async def test_another_engines_sockets_are_left_alone(tmp_path):
    """Where an engine listens already, a second is refused, and the first goes on."""
    async with opened(tmp_path) as streams:
        await streams.put_stream("s", A)
        with pytest.raises(Conflict, match="another process listens") as caught:
            async with opened(tmp_path):
                pass
        assert caught.value.subject == str(tmp_path / "q" / "ingest.sock")
        assert (await streams.publish(record(b"x"))).first_sequence == 1


def test_a_file_in_the_place_of_a_socket_is_not_removed(tmp_path):
    """What is not a socket is somebody's, and is refused."""
    (tmp_path / "ingest.sock").write_text("mine")
    with pytest.raises(Conflict, match="place of a socket"):
        prepare(socket_paths(tmp_path))
    assert (tmp_path / "ingest.sock").read_text() == "mine"


def test_long_socket_paths_are_refused_with_the_limit():
    """A path that no Unix socket can have is refused before anything is opened."""
    fits = Path("/" + "x" * (MAX_SOCKET_PATH - len("//ingest.sock")))
    assert len(str(socket_paths(fits)["ingest"])) == MAX_SOCKET_PATH
    with pytest.raises(InvalidInput, match="108 bytes; the limit for a Unix socket is 107"):
        socket_paths(fits.with_name(fits.name + "x"))


async def test_a_directory_that_is_none_is_an_error(tmp_path):
    """When the directory cannot be made, opening fails and leaves nothing running."""
    (tmp_path / "streams").write_text("in the way")
    with pytest.raises(PlatformError, match="cannot be used") as caught:
        async with opened(tmp_path):
            pass
    assert caught.value.subject == str(tmp_path / "streams")
    assert not (tmp_path / "q" / "ingest.sock").exists()


class _StuckLibrary:
    """The C library, except that stopping does not end until it is let go."""

    def __init__(self):
        self.let_go = threading.Event()
        self.stopped = threading.Event()

    def __getattr__(self, name):
        return getattr(lib, name)

    def pd_engine_stop(self, engine):
        self.let_go.wait()
        lib.pd_engine_stop(engine)
        self.stopped.set()


async def test_a_stop_that_hangs_does_not_hold_the_process(tmp_path, monkeypatch, caplog):
    """A stop over its deadline is left behind and said aloud, and its memory is not pulled from under it."""
    stuck = _StuckLibrary()
    monkeypatch.setattr(streams_module, "lib", stuck)
    monkeypatch.setattr(streams_module, "STOP_DEADLINE", 0.05)
    with trio.fail_after(3):
        async with opened(tmp_path) as streams:
            await streams.put_stream("s", A)
            await streams.publish(record(b"x"))
    assert "did not stop" in caplog.text
    stuck.let_go.set()
    assert stuck.stopped.wait(5)


def test_the_boundary_agrees_with_the_codec():
    """C and Python have the same status codes, the same acknowledgement and the same checksum."""
    codes = {name.removeprefix("PD_"): code for code, name in ffi.typeof("enum pd_status").elements.items()}
    assert {s.name: s.value for s in Status} == codes
    numbers = {name: getattr(lib, f"PD_COLUMN_{name}") for name in dir(columns) if hasattr(lib, f"PD_COLUMN_{name}")}
    assert numbers == {name: getattr(columns, name) for name in numbers}
    assert len(numbers) == lib.PD_COLUMNS
    packed = pack_acks([Ack(sequence=7, kind="term", delay=0.5)])
    ack = ffi.from_buffer("pd_ack[]", packed)[0]
    assert len(packed) == ffi.sizeof("pd_ack")
    assert (ack.sequence, ack.delay_ms, ack.kind) == (7, 500, 3)


def test_the_codec_imports_neither_trio_nor_the_engine():
    """A program that only speaks the format stays light."""
    code = "import sys, platformd.queues.codec; print(sorted({'trio', 'pynng'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


async def test_streams_are_listed_while_one_is_deleted(tmp_path, nursery):
    """Who looks at all streams sees one that goes or does not, and never fails over it."""
    async with opened(tmp_path) as streams:
        await streams.put_stream("t", B)
        seen = set()
        for _ in range(20):
            await streams.put_stream("s", A)
            gone = trio.Event()

            async def delete(gone=gone):
                await streams.delete_stream("s")
                gone.set()

            nursery.start_soon(delete)
            while not gone.is_set():
                seen.add(tuple(info.name for info in streams.streams()))
                await trio.lowlevel.checkpoint()
        assert seen <= {("s", "t"), ("t",)}
        assert streams.stream_for("a") is None
