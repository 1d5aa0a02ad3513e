"""The live feed beside core NATS: records a second from a prepared publisher to readers that only count bytes.

Both servers get prepared pieces of their protocols and are read without being parsed, so that they are what is
measured. The publisher stays less than the live buffer ahead of the readers; what a reader misses counts for nobody.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from time import perf_counter, sleep

from platformd.client.endpoints import Endpoint
from platformd.client.link import Link
from platformd.client.queues import Record
from platformd.queues.codec import encode_batch, encode_publish
from tests.bench.harness import Figure, at_least
from tests.bench.queues_host import Host, hosted
from tests.bench.queues_peers import PAYLOAD
from tests.native import sp

BATCH = 256
AHEAD = 40_000
"""Records that the publisher may be ahead of the slowest reader; the live buffer holds 55,000."""
UNDER_WAY = 8
SUBJECT = "live.a"


class _Reader:
    """A subscriber that counts."""

    def __init__(self, url: str) -> None:
        self._raw = sp.Raw(url, sp.hello(sp.SUB))
        self._bytes = 0
        self._size = len(sp.frame(SUBJECT.encode() + b"\n" + bytes(PAYLOAD)))
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    @property
    def records(self) -> int:
        """So far."""
        return self._bytes // self._size

    def _run(self) -> None:
        buffer = bytearray(1 << 20)
        self._raw.socket.settimeout(30)
        while taken := self._raw.socket.recv_into(buffer):
            self._bytes += taken
        self._raw.socket.close()

    def join(self) -> None:
        """The other side is gone."""
        self._thread.join()


def _publish(host: Host, readers: list[_Reader], seconds: float) -> float:
    """Deliveries a second, of all readers together."""
    record = Record(subject=SUBJECT, payload=bytes(PAYLOAD), time_ns=1)
    frame = encode_publish(encode_batch([record] * BATCH, 1), durability="os")
    link = Link(Endpoint(address=host.address("ingest")), timeout=10)
    pending = deque([link.request(frame, timeout=10)])
    sent, begin = BATCH, perf_counter()
    while perf_counter() - begin < seconds:
        if len(pending) == UNDER_WAY:
            exchange = pending.popleft()
            exchange.receive(10)
            link.release(exchange)
        if sent - min(reader.records for reader in readers) > AHEAD:
            sleep(0.0005)
            continue
        pending.append(link.request(frame, timeout=10))
        sent += BATCH
    rate = sum(reader.records for reader in readers) / (perf_counter() - begin)
    for exchange in pending:
        exchange.receive(10)
    link.close()
    return rate


def live(directory: Path, seconds: float, core: float | None) -> Iterator[Figure]:
    """Live to one subscriber and to four; ``core`` is NATS core's rate to one."""
    for count in (1, 4):
        with ExitStack() as stack:
            with hosted(directory / "engine") as host:
                host.stream("live", max_bytes=4 << 30)
                readers = [_Reader(host.address("live")) for _ in range(count)]
                for reader in readers:
                    stack.callback(reader.join)
                rate = _publish(host, readers, seconds)
                host.delete("live")
        if count > 1:
            yield Figure(name=f"live, os, deliveries to {count} subscribers", value=rate, unit="records/s")
        else:
            yield Figure(
                name="live, os, publish to one subscriber",
                value=rate,
                unit="records/s",
                peer="NATS core" if core else None,
                peer_value=core,
                ratio_aim=at_least(1) if core else None,
            )
