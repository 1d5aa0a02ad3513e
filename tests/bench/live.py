"""The sockets for plain nng programs: live fan-out beside NATS core, and what one PUSH program can store.

    python -m tests.bench.live [--quick] [--json]

Publisher and subscriber are Python programs without a client library's share in them: the publisher sends what was
encoded before (batches of 512 to push; 64 KiB of PUB lines to NATS), the subscriber counts the bytes that its socket
gives and divides by the size of a message. Ours also keeps the records: they are in the log before they are live. What
a real nng SUB socket takes, which makes two system calls a message, is a row of its own; for it the publisher waits for
the subscriber, since who is slower than live loses. Records have 128 bytes of payload.
"""

from __future__ import annotations

import multiprocessing
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pynng

from platformd.client.queues import Producer, Record
from platformd.queues.codec import encode_batch
from tests.bench.harness import Figure, run
from tests.bench.queues import hosted
from tests.support.nats import nats_server

PAYLOAD = bytes(128)
SUBJECT = "small.a"
BATCH = 512
FRAME = 1 + 8 + len(SUBJECT) + 1 + len(PAYLOAD)
"""A message of live on a Unix socket."""
NATS_MESSAGE = len(f"MSG {SUBJECT} 1 {len(PAYLOAD)}\r\n") + len(PAYLOAD) + 2
SUB_HELLO = b"\0SP\0\0\x21\0\0"
WINDOW = 4096
"""Messages under way to a SUB socket, which loses what is over its buffer."""


def count_bytes(address: Any, family: int, greeting: bytes, ready: Any, seconds: float, out: Any) -> None:
    """Say how many bytes a second come, from the first one on."""
    with socket.socket(family) as stream:
        stream.connect(address)
        stream.sendall(greeting)
        stream.recv(4096)
        ready.set()
        buffer = bytearray(1 << 18)
        total, begin = 0, 0.0
        while not begin or time.perf_counter() - begin < seconds:
            got = stream.recv_into(buffer)
            begin = begin or time.perf_counter()
            total += got
        out.value = total / (time.perf_counter() - begin)


def measured(
    address: Any, family: int, greeting: bytes, publish: Callable[[], None], seconds: float, subscribers: int
) -> float:
    """Bytes a second that all subscribers together get, while ``publish`` is called again and again."""
    context = multiprocessing.get_context("spawn")
    ready = [context.Event() for _ in range(subscribers)]
    values = [context.Value("d", 0.0) for _ in range(subscribers)]
    counters = [
        context.Process(target=count_bytes, args=(address, family, greeting, event, seconds, value))
        for event, value in zip(ready, values, strict=True)
    ]
    for counter in counters:
        counter.start()
    for event in ready:
        event.wait()
    while any(counter.is_alive() for counter in counters):
        publish()
    return float(sum(value.value for value in values))


def fan_out(sockets: Path, seconds: float, subscribers: int) -> float:
    """Records a second from one plain program with batches (durability os) to live subscribers, all together."""
    batch = bytes(encode_batch([Record(subject=SUBJECT, payload=PAYLOAD)] * BATCH, 1))
    with pynng.Push0(dial=f"ipc://{sockets}/push.sock", send_buffer_size=16) as push:
        live = str(sockets / "live.sock")
        got = measured(live, socket.AF_UNIX, SUB_HELLO, lambda: push.send(batch), seconds, subscribers)
    return got / FRAME


def nats_fan_out(seconds: float, subscribers: int) -> float:
    """The same of NATS core, on loopback TCP."""
    line = f"PUB {SUBJECT} {len(PAYLOAD)}\r\n".encode() + PAYLOAD + b"\r\n"
    block = line * ((1 << 16) // len(line))
    with nats_server() as server, socket.create_connection(("127.0.0.1", server.port)) as publisher:
        publisher.recv(4096)
        publisher.sendall(b'CONNECT {"verbose":false}\r\n')
        greeting = b'CONNECT {"verbose":false}\r\nSUB small.> 1\r\nPING\r\n'
        got = measured(
            ("127.0.0.1", server.port), socket.AF_INET, greeting, lambda: publisher.sendall(block), seconds, subscribers
        )
    return got / NATS_MESSAGE


def followed(sockets: Path, seconds: float) -> float:
    """Records a second that pynng's SUB socket receives, with the publisher waiting for it."""
    records = [Record(subject=SUBJECT, payload=PAYLOAD, time_ns=1)] * BATCH
    with (
        Producer(f"ipc://{sockets}/ingest.sock", durability="os") as producer,
        pynng.Sub0(dial=f"ipc://{sockets}/live.sock", topics=b"", recv_buffer_size=8192) as subscriber,
    ):
        sent = got = 0
        begin = time.perf_counter()
        while time.perf_counter() - begin < seconds:
            while sent - got < WINDOW:
                producer.submit(records)
                sent += BATCH
            for _ in range(BATCH):
                subscriber.recv()
            got += BATCH
        return got / (time.perf_counter() - begin)


def pushed(sockets: Path, seconds: float) -> float:
    """Records a second that pynng's PUSH socket sends, one message each."""
    message = SUBJECT.encode() + b"\n" + PAYLOAD
    with pynng.Push0(dial=f"ipc://{sockets}/push.sock", send_buffer_size=1024) as push:
        count, begin = 0, time.perf_counter()
        while time.perf_counter() - begin < seconds:
            for _ in range(100):
                push.send(message)
            count += 100
        return count / (time.perf_counter() - begin)


def figures(quick: bool) -> Iterator[Figure]:
    """All rows."""
    seconds = 0.5 if quick else 3.0
    with tempfile.TemporaryDirectory(prefix="live-bench-", dir=".") as directory, hosted(Path(directory)) as sockets:
        for subscribers in (1, 4):
            ours = fan_out(sockets, seconds, subscribers)
            theirs = nats_fan_out(seconds, subscribers)
            name = f"live fan-out, 128 B, {subscribers} subscriber{'s' if subscribers > 1 else ''} together"
            yield Figure(name=name, value=ours, unit="records/s", peer="NATS core", peer_value=theirs)
        yield Figure(name="the same to pynng's SUB socket", value=followed(sockets, seconds), unit="records/s")
        yield Figure(name="push from pynng's PUSH socket", value=pushed(sockets, seconds), unit="records/s")


if __name__ == "__main__":
    run(figures)
