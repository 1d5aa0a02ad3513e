"""The demonstration's packets: where they come from, sending them, and taking what comes out at the end."""

from __future__ import annotations

import hashlib
import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from platformd.client.queues import Consumer, Delivery, Pending, Producer, Record
from platformd.core.errors import InvalidInput, PlatformError
from platformd.pipelines import messages, ztf
from platformd.pipelines.avro import PacketReader, split_packets
from platformd.pipelines.projection import PacketError

MAX_FILE: Final = 256 << 20
"""Bytes of a file that is read."""
BATCH_RECORDS: Final = 32
"""Packets that are sent together when nothing paces them."""
BATCH_BYTES: Final = 1 << 20
"""Bytes of packets after which a batch is sent."""
IN_FLIGHT: Final = 8
"""Batches that wait for their acknowledgement."""
READY: Final = 2000
"""Generated packets (some 20 KB each) that are made before the first is sent."""
POLL: Final = 0.25
"""Seconds that a receiver waits before it looks whether it is to end."""


@dataclass(frozen=True)
class Packet:
    """One packet to send."""

    payload: bytes
    msg_id: str
    file: str
    """Where it was read; empty for a generated one."""
    identified: bool
    """Whether ``msg_id`` is the packet's own id."""


@dataclass
class Source:
    """Where packets come from."""

    name: str
    expected: int
    """How many there are; at least, for files, which may have several."""
    packets: Iterable[Packet]
    refused: list[tuple[str, str]] = field(default_factory=list)
    """Files that could not be sent, and why."""


@dataclass
class Sent:
    """What became of the sending."""

    stored: int = 0
    duplicates: int = 0
    """Packets that the stream had already."""
    files: dict[int, str] = field(default_factory=dict)
    """By sequence: the file of a packet that nothing else identifies."""
    started: float = 0.0
    """On ``time.monotonic``."""


def open_source(alerts: Path | None, count: int, seed: int) -> Source:
    """The packets to replay.

    Raises:
        InvalidInput: the directory cannot be read, or there is nothing in it.
    """
    if alerts is None:
        return Source(f"synthetic packets (seed {seed})", count, _generated(count, seed))
    try:
        files = sorted(p for p in alerts.iterdir() if p.is_file() and not p.name.startswith("."))
    except OSError as error:
        raise InvalidInput(f"cannot be read: {error.strerror}", subject=str(alerts)) from error
    if not files:
        raise InvalidInput("has no files", subject=str(alerts), hint="give a directory of Avro object container files")
    source = Source(str(alerts), len(files), ())
    source.packets = _read(files, source.refused)
    return source


def _generated(count: int, seed: int) -> Iterator[Packet]:
    """Made before they are sent, so that what is measured is the pipeline; beyond ``READY``, on the way."""
    packets = (
        Packet(ztf.encoded(packet), str(packet["candid"]), "", identified=True) for packet in ztf.packets(count, seed)
    )
    return itertools.chain(list(itertools.islice(packets, READY)), packets)


def _read(files: list[Path], refused: list[tuple[str, str]]) -> Iterator[Packet]:
    reader = PacketReader({"candid"})
    for path in files:
        try:
            size = path.stat().st_size
            if size > MAX_FILE:
                refused.append((path.name, f"has {size} bytes; the limit is {MAX_FILE}"))
                continue
            data = path.read_bytes()
        except OSError as error:
            refused.append((path.name, f"cannot be read: {error.strerror}"))
            continue
        try:
            payloads = split_packets(data)
        except PacketError:
            payloads = [data]  # it goes as it is: to find that out is the pipeline's job
        for payload in payloads:
            yield _packet(payload, path.name, reader)


def _packet(payload: bytes, file: str, reader: PacketReader) -> Packet:
    try:
        candid = reader.read(payload).get("candid")
    except PacketError:
        candid = None
    if isinstance(candid, (int, str)) and not isinstance(candid, bool) and 0 < len(str(candid)) <= 64:
        return Packet(payload, str(candid), file, identified=True)
    return Packet(payload, hashlib.sha256(payload).hexdigest()[:32], file, identified=False)


def send(source: Source, address: str, subject: str, rate: float | None, progress: Callable[[int], None]) -> Sent:
    """Publish all packets of a source, durably.

    Args:
        source: the packets.
        address: the ingest socket.
        subject: where they go.
        rate: packets per second; ``None`` for as fast as they are taken.
        progress: told how many more were sent.
    """
    sent = Sent(started=time.monotonic())
    waiting: deque[tuple[Pending, list[Packet]]] = deque()
    paced = 0
    with Producer(address, max_in_flight=IN_FLIGHT) as producer:
        for batch in _batches(source.packets, 1 if rate is not None else BATCH_RECORDS):
            if rate is not None:
                time.sleep(max(0.0, sent.started + paced / rate - time.monotonic()))
                paced += 1
            now = time.time_ns()
            records = [Record(subject=subject, payload=p.payload, msg_id=p.msg_id, time_ns=now) for p in batch]
            try:
                waiting.append((producer.submit(records), batch))
            except PlatformError as error:
                _refuse(batch, error, source)
            while len(waiting) >= IN_FLIGHT:
                _settle(*waiting.popleft(), source, sent)
            progress(len(batch))
        while waiting:
            _settle(*waiting.popleft(), source, sent)
    return sent


def _batches(packets: Iterable[Packet], most: int) -> Iterator[list[Packet]]:
    batch: list[Packet] = []
    size = 0
    for packet in packets:
        if batch and (len(batch) >= most or size + len(packet.payload) > BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(packet)
        size += len(packet.payload)
        if len(batch) >= most:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _settle(pending: Pending, batch: list[Packet], source: Source, sent: Sent) -> None:
    """Take the acknowledgement of a batch."""
    try:
        published = pending.wait()
    except InvalidInput as error:
        _refuse(batch, error, source)
        return
    except PlatformError as error:
        if error.status != 413:
            raise
        _refuse(batch, error, source)
        return
    there = set(published.duplicates)
    sent.stored += published.appended
    sent.duplicates += len(there)
    sequence = published.first_sequence
    for position, packet in enumerate(batch):
        if position in there:
            continue
        if not packet.identified:
            sent.files[sequence] = packet.file
        sequence += 1


def _refuse(batch: list[Packet], error: PlatformError, source: Source) -> None:
    source.refused += [(packet.file or packet.msg_id, error.message) for packet in batch]


@dataclass
class Output:
    """What one subject delivered."""

    subject: str
    dead: bool = False
    """Whether it is the dead letters'."""
    ids: list[str] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)
    """Seconds from publishing to delivery."""
    dead_letters: list[dict[str, Any]] = field(default_factory=list)


class Receiver(threading.Thread):
    """Takes the records of one output subject until it is told to end.

    Args:
        address: the fetch socket.
        stream: the stream of the subject.
        consumer: a consumer of that stream, filtered to the subject.
        output: filled in.
    """

    def __init__(self, address: str, stream: str, consumer: str, output: Output) -> None:
        super().__init__(name=f"receiver of {output.subject}", daemon=True)
        self._address, self._stream, self._consumer = address, stream, consumer
        self._ending = threading.Event()
        self.output = output
        self.error: PlatformError | None = None

    @property
    def count(self) -> int:
        """How many records came."""
        return len(self.output.ids) + len(self.output.dead_letters)

    def end(self) -> None:
        """End soon."""
        self._ending.set()

    def run(self) -> None:
        """Take records."""
        try:
            with Consumer(self._address, self._stream, self._consumer) as consumer:
                while not self._ending.is_set():
                    deliveries = consumer.fetch(wait=POLL)
                    now = time.time_ns()
                    for delivery in deliveries:
                        self._take(delivery, now)
                    if deliveries:
                        consumer.ack(deliveries)
        except PlatformError as error:
            self.error = error

    def _take(self, delivery: Delivery, now: int) -> None:
        if messages.REASON in delivery.headers:
            self.output.dead_letters.append(dead_letter_document(delivery))
            return
        self.output.ids.append(messages.read_envelope(delivery.payload).id)
        self.output.latencies.append((now - int(delivery.headers[messages.PUBLISHED])) / 1e9)


def dead_letter_document(delivery: Delivery) -> dict[str, Any]:
    """A dead letter for people and programs: why, where, and which packet it was."""
    try:
        candid = PacketReader({"candid"}).read(delivery.payload).get("candid")
    except PacketError:
        candid = None
    origin = delivery.headers.get(messages.ORIGIN, "")
    size = delivery.headers.get(messages.ORIGINAL_SIZE) or len(delivery.payload)
    return {
        "reason": delivery.headers[messages.REASON],
        "stage": delivery.headers.get(messages.STAGE, ""),
        "origin": origin,
        "id": candid,
        "file": None,
        "bytes": int(size),
    }
