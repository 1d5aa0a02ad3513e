"""A native engine under test, driven through its C boundary and its sockets, with no Python of the project between."""

from __future__ import annotations

import select
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pynng

from platformd.queues.native._native import ffi, lib

NO_EXPECTATION = 2**64 - 1
FSYNC = 2
Item = tuple[str, str, bytes]
"""Subject, msg_id, payload."""
OPTIONS = {
    "segment_size": 1 << 20,
    "max_batch": 1 << 20,
    "max_record": 1 << 19,
    "max_pending_appends": 1 << 20,
    "max_streams": 4,
    "max_consumers": 4,
    "max_waiting_fetches": 2,
}
SOCKETS = ("ingest", "fetch", "push", "live")
"""In the order of ``enum pd_socket``."""
BROKER_OPTIONS = {
    "push_buffer": 1 << 16,
    "push_durability": 1,
    "live_subscribers": 4,
    "live_buffer": 1 << 20,
    "live_timeout_ms": 60_000,
    "live_policy": 1,
}


def pad(data: bytes) -> bytes:
    """``data`` with zeros up to a multiple of 8."""
    return data + bytes(-len(data) % 8)


def batch(items: Sequence[Item]) -> bytes:
    """A batch, by the table at the head of ``native/src/batch.c``."""
    subjects = list(dict.fromkeys(subject for subject, _, _ in items))
    records = b""
    for subject, identity, payload in items:
        name = identity.encode()
        size = len(pad(bytes(24 + len(name) + len(payload))))
        head = struct.pack("<IHHIIQ", size, subjects.index(subject), len(name), 0, len(payload), 1)
        records += pad(head + name + payload)
    table = b"".join(bytes([len(subject)]) + subject.encode() for subject in subjects)
    offset = len(pad(bytes(64 + len(table))))
    body = (
        struct.pack("<HHIIIQ", 0, len(subjects), len(items), 0, offset, 0) + table.ljust(offset - 64, b"\0") + records
    )
    crc = lib.pd_crc32c(0, body, len(body))
    return struct.pack("<4sIQQIIII", b"PDB1", 40 + len(body), 0, 0, 0, 0, 0, crc) + body


def request(
    op: int, stream: str, consumer: str = "", *, flags: int = 0, args: tuple[int, int, int], body: bytes = b""
) -> bytes:
    """A request, by the table at the head of ``native/src/wire.c``."""
    names = stream.encode() + consumer.encode()
    return pad(struct.pack("<BBHHHQII", 1, op, flags, len(stream), len(consumer), *args) + names) + body


def publish(stream: str, items: Sequence[Item], durability: int = FSYNC) -> bytes:
    """A publish request."""
    return request(1, stream, flags=durability, args=(NO_EXPECTATION, 0, 0), body=batch(items))


def fetch(stream: str, consumer: str, wait_ms: int = 0, records: int = 100) -> bytes:
    """A fetch request."""
    return request(2, stream, consumer, args=(wait_ms, records, 1 << 20))


def ack(stream: str, consumer: str, sequences: Sequence[int]) -> bytes:
    """An ack request."""
    body = b"".join(struct.pack("<QIB3x", sequence, 0, 0) for sequence in sequences)
    return request(3, stream, consumer, args=(0, len(sequences), 0), body=body)


class Reply(NamedTuple):
    """A reply, taken apart."""

    op: int
    status: int
    r1: int
    r2: int
    r3: int
    detail: str
    body: bytes


def reply(frame: bytes) -> Reply:
    """A reply frame, taken apart."""
    version, op, status, length, r1, r2, r3 = struct.unpack_from("<BBHIQII", frame)
    assert version == 1
    end = len(pad(frame[: 24 + length]))
    return Reply(op, status, r1, r2, r3, frame[24 : 24 + length].decode(), frame[end:])


def deliveries(block: bytes) -> list[tuple[int, int]]:
    """Sequence and number of deliveries of each record of a delivery block."""
    if not block:
        return []
    _, at = struct.unpack_from("<II", block)
    found = []
    while at < len(block):
        sequence, _, count, _, length = struct.unpack_from("<QQIII", block, at)
        found.append((sequence, count))
        at += 24 + length
    return found


class Rig:
    """An engine with its broker on sockets in ``directory``."""

    def __init__(self, directory: Path, **options: int) -> None:
        self.urls = {name: f"ipc://{directory}/{name}" for name in SOCKETS}
        self.broker_options = BROKER_OPTIONS | {key: options.pop(key) for key in BROKER_OPTIONS if key in options}
        self.error = ffi.new("pd_error *")
        engine, event_fd = ffi.new("pd_engine **"), ffi.new("int *")
        made = ffi.new("pd_options *", OPTIONS | options)
        self.check(lib.pd_engine_open(str(directory / "streams").encode(), made, engine, event_fd, self.error))
        self.engine, self.event_fd = engine[0], event_fd[0]

    def check(self, status: int) -> None:
        """Raise what the engine says unless it says PD_OK."""
        assert status == 0, ffi.string(self.error.text).decode()

    def serve(self) -> None:
        """Start the broker."""
        names, addresses = lib.pd_nng_names(), []
        while names[len(addresses)] != ffi.NULL:
            pointer = pynng.ffi.addressof(pynng.lib, ffi.string(names[len(addresses)]).decode())
            addresses.append(ffi.cast("void *", int(pynng.ffi.cast("uintptr_t", pointer))))
        functions = ffi.new("void *[]", [*addresses, ffi.NULL])
        urls = [ffi.new("char[]", url.encode()) for url in self.urls.values()]
        listens = ffi.new("pd_listen[]", [{"socket": i, "url": url} for i, url in enumerate(urls)])
        made = ffi.new("pd_broker_options *", self.broker_options)
        self.check(lib.pd_broker_start(self.engine, functions, listens, len(urls), made, self.error))

    def stream(self, name: str, *subjects: str) -> None:
        """Open a stream without limits that remembers ids for long."""
        strings = [ffi.new("char[]", subject.encode()) for subject in subjects]
        config = ffi.new("pd_stream_config *", {"duplicate_window_ns": 10**15, "duplicate_limit": 10**6})
        array = ffi.new("char *[]", strings)
        self.check(lib.pd_stream_open(self.engine, name.encode(), array, len(strings), config, self.error))

    def consumer(self, stream: str, name: str, ack_wait: float = 3600.0, max_ack_pending: int = 1000) -> None:
        """Open a consumer of everything."""
        config = ffi.new(
            "pd_consumer_config *",
            {"start_sequence": 1, "ack_wait_ns": int(ack_wait * 1e9), "max_ack_pending": max_ack_pending},
        )
        self.check(lib.pd_consumer_open(self.engine, stream.encode(), name.encode(), b">", config, self.error))

    def info(self, stream: str, consumer: str) -> Any:
        """The consumer's pd_consumer_info."""
        info = ffi.new("pd_consumer_info *")
        self.check(lib.pd_consumer_info_get(self.engine, stream.encode(), consumer.encode(), info, self.error))
        return info

    def sockets(self) -> Any:
        """What push and live did: pd_socket_statistics."""
        statistics = ffi.new("pd_socket_statistics *")
        lib.pd_broker_statistics(self.engine, statistics)
        return statistics

    def wait_until(self, holds: Callable[[], bool]) -> None:
        """Return when something is so, of which nobody tells; fail after ten seconds."""
        until = time.monotonic() + 10
        while not holds():
            assert time.monotonic() < until
            select.select([], [], [], 0.001)

    def wait_until_parked(self, stream: str, consumer: str, fetches: int) -> None:
        """Return when so many fetches wait at the consumer; there is nothing to be told by, so look often."""
        while self.info(stream, consumer).waiting != fetches:
            select.select([], [], [], 0.001)

    def connect(self, door: str) -> pynng.Req0:
        """A client's socket, connected."""
        return pynng.Req0(dial=self.urls[door], recv_timeout=10_000, send_timeout=10_000, resend_time=2**31 - 1)

    def ask(self, socket: Any, frame: bytes) -> Reply:
        """Send a request and wait for its reply."""
        socket.send(frame)
        return reply(socket.recv())


@contextmanager
def serving(directory: Path, **options: int) -> Iterator[Rig]:
    """A rig with stream ``s`` (``s.>``) and its consumer ``c``, served until the block ends."""
    rig = Rig(directory, **options)
    try:
        rig.stream("s", "s.>")
        rig.consumer("s", "c")
        rig.serve()
        yield rig
    finally:
        lib.pd_engine_stop(rig.engine)
        lib.pd_engine_free(rig.engine)


def switches(prefix: str) -> dict[str, int]:
    """How often each of this process's threads named PREFIX… has gone to sleep."""
    counts: dict[str, int] = {}
    for task in Path("/proc/self/task").iterdir():
        lines = (task / "status").read_text().splitlines()
        fields = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
        if fields["Name"].startswith(prefix):
            counts[f"{fields['Name']}-{task.name}"] = int(fields["voluntary_ctxt_switches"])
    return counts


def mode(path: Path) -> int:
    """Permission bits of a file."""
    return path.stat().st_mode & 0o777
