"""Published clients of etcd, doing what our benchmark's program does: ``python coordination_clients.py NAME PORT KEYS
TASKS SECONDS``.

A program of its own that needs nothing of ours, since the clients want versions of grpc and protobuf that belong into
an environment of their own. Durable puts of 256 B over so many keys by so many tasks; prints one JSON document. Ends
with 3 if the client is not installed here.
"""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from collections.abc import Awaitable, Callable
from time import perf_counter

NOT_INSTALLED = 3

VALUE = b"v" * 256

Samples = list[float]


class Load:
    """What tasks are to do, and how long each put took, seconds."""

    def __init__(self, keys: int, tasks: int, seconds: float) -> None:
        self.tasks = tasks
        self.samples: Samples = []
        self._keys = keys
        self._seconds = seconds
        self._begin = perf_counter()

    def goes_on(self) -> bool:
        """Whether there is time left."""
        return perf_counter() - self._begin < self._seconds

    def key(self, number: int) -> bytes:
        """One of the keys."""
        return b"/bench/%08d" % (number * 7919 % self._keys)

    async def run(self, put: Callable[[bytes, bytes], Awaitable[object]]) -> None:
        """All tasks of an asyncio client."""

        async def work(task: int) -> None:
            number = task
            while self.goes_on():
                begin = perf_counter()
                await put(self.key(number), VALUE)
                self.samples.append(perf_counter() - begin)
                number += self.tasks

        await put(self.key(0), VALUE)  # connects
        self._begin = perf_counter()
        await asyncio.gather(*(work(task) for task in range(self.tasks)))

    def run_threads(self, put: Callable[[bytes, bytes], object]) -> None:
        """All tasks of a blocking client."""

        def work(task: int) -> None:
            number = task
            while self.goes_on():
                begin = perf_counter()
                put(self.key(number), VALUE)
                self.samples.append(perf_counter() - begin)
                number += self.tasks

        put(self.key(0), VALUE)
        self._begin = perf_counter()
        threads = [threading.Thread(target=work, args=(task,)) for task in range(self.tasks)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def document(self) -> dict[str, float]:
        """The figures."""
        seconds = perf_counter() - self._begin
        ordered = sorted(self.samples)
        return {
            "rate": len(ordered) / seconds,
            "p50": ordered[len(ordered) // 2] * 1000,
            "p99": ordered[len(ordered) * 99 // 100] * 1000,
        }


def aetcd(load: Load, port: int) -> None:
    """The package aetcd: asyncio over grpc.aio."""
    import aetcd

    async def main() -> None:
        async with aetcd.Client("127.0.0.1", port) as client:
            await load.run(client.put)

    asyncio.run(main())


def etcd3(load: Load, port: int) -> None:
    """The package etcd3 (python-etcd3): threads over grpc."""
    import etcd3

    client = etcd3.client("127.0.0.1", port)
    load.run_threads(client.put)


def etcd_client(load: Load, port: int) -> None:
    """The package etcd-client-py: asyncio over the client of Rust."""
    import etcd_client

    async def main() -> None:
        async with etcd_client.Client([f"http://127.0.0.1:{port}"]).connect() as client:
            await load.run(client.put)

    asyncio.run(main())


CLIENTS = {"aetcd": aetcd, "etcd3": etcd3, "etcd-client-py": etcd_client}


def main() -> int:
    """Run one client."""
    name, port, keys, tasks, seconds = sys.argv[1:]
    load = Load(int(keys), int(tasks), float(seconds))
    try:
        CLIENTS[name](load, int(port))
    except ImportError as error:
        sys.stdout.write(f"{error}\n")
        return NOT_INSTALLED
    sys.stdout.write(json.dumps(load.document()) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
