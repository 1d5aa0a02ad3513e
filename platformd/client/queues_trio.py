"""Records in and out, for trio programs: the clients of ``queues``, each on worker threads of its own.

The same calls, to be awaited::

    async with open_producer(ingest) as producer:
        await producer.publish("alerts.ztf", packet, msg_id=candid)

    async with open_consumer(fetch, "alerts", "archive") as consumer:
        while True:
            deliveries = await consumer.fetch()
            await store(deliveries)
            await consumer.ack(deliveries)

A call that is cancelled returns at once. What it had begun goes on without it: a record may be stored or not, and what
was fetched for a cancelled ``fetch`` comes with the next one. Many tasks may publish at once: what they have while one
batch waits for the disk goes together.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any, Final, Generic, Protocol, TypeVar

import trio

from platformd.client.consumer import Consumer
from platformd.client.producer import Pending, Producer
from platformd.client.subscriber import LiveRecord, Subscriber
from platformd.core.errors import OutcomeUnknown, PlatformError
from platformd.queues.contract import Delivery, Published, Record

MAX_WAITING: Final = 64
"""Batches of one producer that wait for their turn; with more, ``publish`` waits."""

T = TypeVar("T")


class _Job:
    """A batch, and what became of it."""

    def __init__(self, records: Sequence[Record], **expectations: int | None) -> None:
        self.records = records
        self.expectations = expectations
        self.done = trio.Event()
        self.published: Published | None = None
        self.error: BaseException | None = None


class TrioProducer:
    """Publishes records, from any number of tasks; made by ``open_producer``."""

    def __init__(self, token: trio.lowlevel.TrioToken) -> None:
        self._token = token
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._room = trio.Semaphore(MAX_WAITING)
        self._closed = False
        self._ended = trio.Event()

    async def publish(
        self,
        subject: str,
        payload: bytes,
        *,
        msg_id: str = "",
        headers: Mapping[str, str] | None = None,
        time_ns: int = 0,
        expect_last_sequence: int | None = None,
        expect_last_subject_sequence: int | None = None,
    ) -> Published:
        """Publish one record; returns when it is acknowledged. Raises: as ``Producer.publish``."""
        record = Record(subject=subject, payload=payload, msg_id=msg_id, headers=dict(headers or {}), time_ns=time_ns)
        return await self.publish_batch(
            [record],
            expect_last_sequence=expect_last_sequence,
            expect_last_subject_sequence=expect_last_subject_sequence,
        )

    async def publish_batch(
        self,
        records: Sequence[Record],
        *,
        expect_last_sequence: int | None = None,
        expect_last_subject_sequence: int | None = None,
    ) -> Published:
        """Publish records, in order, to one stream; returns when they are acknowledged.

        Raises: as ``Producer.publish_batch``; ``trio.ClosedResourceError`` when the block is over.
        """
        if self._closed:
            raise trio.ClosedResourceError
        job = _Job(
            records,
            expect_last_sequence=expect_last_sequence,
            expect_last_subject_sequence=expect_last_subject_sequence,
        )
        async with self._room:
            self._jobs.put(job)
            await job.done.wait()
        if job.error is not None:
            raise job.error
        assert job.published is not None
        return job.published

    def _run(self, producer: Producer) -> None:
        """In the thread: submit what there is, then wait for the oldest, until the end."""
        waiting: deque[tuple[_Job, Pending]] = deque()
        ending = False
        try:
            while waiting or not ending:
                with suppress(queue.Empty):
                    while not ending:
                        job = self._jobs.get(block=not waiting)
                        if job is None:
                            ending = True
                        else:
                            self._begin(producer, job, waiting)
                if waiting:
                    job, pending = waiting.popleft()
                    self._settle(job, pending.wait)
        finally:
            producer.close()
            self._abandon(job for job, _ in waiting)
            with suppress(trio.RunFinishedError):
                self._token.run_sync_soon(self._ended.set)

    def _abandon(self, waiting: Iterable[_Job]) -> None:
        """The thread ends before its time, which is a defect of ours: nobody may wait for ever."""
        left = list(waiting)
        with suppress(queue.Empty):
            while True:
                left += [job for job in [self._jobs.get(block=False)] if job is not None]
        for job in left:
            job.error = OutcomeUnknown("the producer ended", subject="batch")
            self._tell(job)

    async def _close(self) -> None:
        self._closed = True
        self._jobs.put(None)
        await self._ended.wait()

    def _begin(self, producer: Producer, job: _Job, waiting: deque[tuple[_Job, Pending]]) -> None:
        try:
            waiting.append((job, producer.submit(job.records, **job.expectations)))
        except PlatformError as error:
            job.error = error
            self._tell(job)

    def _settle(self, job: _Job, wait: Callable[[], Published]) -> None:
        try:
            job.published = wait()
        except PlatformError as error:
            job.error = error
        self._tell(job)

    def _tell(self, job: _Job) -> None:
        with suppress(trio.RunFinishedError):
            self._token.run_sync_soon(job.done.set)


@asynccontextmanager
async def open_producer(address: str, **options: Any) -> AsyncIterator[TrioProducer]:
    """A producer, for as long as the block runs; at its end everything that was published is acknowledged or failed.

    Args:
        address: as for ``Producer``, and so are the ``options``.

    Raises:
        InvalidInput: an argument is not valid.
    """
    producer = Producer(address, **options)
    shell = TrioProducer(trio.lowlevel.current_trio_token())
    threading.Thread(target=shell._run, args=(producer,), name="producer", daemon=True).start()  # noqa: SLF001
    try:
        yield shell
    finally:
        await shell._close()  # noqa: SLF001 - cancelled, it leaves the thread to its end, which the timeout bounds


class _Closing(Protocol):
    def close(self) -> None: ...


_Client = TypeVar("_Client", bound=_Closing)


class _Shell(Generic[_Client]):
    """A client that one thread at a time uses."""

    def __init__(self, client: _Client) -> None:
        self._client = client
        self._turn = trio.CapacityLimiter(1)  # a thread that was left alone keeps its place until it ends

    async def _do(self, function: Callable[..., T], *arguments: Any, **options: Any) -> T:
        call = partial(function, *arguments, **options)
        return await trio.to_thread.run_sync(call, abandon_on_cancel=True, limiter=self._turn)

    async def aclose(self) -> None:
        """Close the connection, when a call that goes on without its task has ended: within about a second."""
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(self._client.close, limiter=self._turn)


class TrioConsumer(_Shell[Consumer]):
    """Fetches and acknowledges for one consumer of one stream; made by ``open_consumer``."""

    def __init__(self, client: Consumer) -> None:
        super().__init__(client)
        self._fetched: deque[tuple[Delivery, ...]] = deque()

    @property
    def lag(self) -> int:
        """As ``Consumer.lag``."""
        return self._client.lag

    @property
    def ack_pending(self) -> int:
        """As ``Consumer.ack_pending``."""
        return self._client.ack_pending

    async def fetch(
        self, *, max_records: int = 256, max_bytes: int = 1 << 20, wait: float = 5.0
    ) -> tuple[Delivery, ...]:
        """As ``Consumer.fetch``; what a cancelled call had fetched comes first, as it was."""

        def fetch(piece: float) -> None:
            self._fetched.append(self._client.fetch(max_records=max_records, max_bytes=max_bytes, wait=piece))

        deadline = trio.current_time() + wait
        while not self._fetched:
            # In pieces, so that a call that was cancelled is soon out of the way of the next.
            await self._do(fetch, max(min(deadline - trio.current_time(), 1.0), 0.0))
            if self._fetched and not self._fetched[0] and trio.current_time() < deadline:
                self._fetched.popleft()
        return self._fetched.popleft()

    async def ack(self, deliveries: Iterable[Delivery]) -> int:
        """As ``Consumer.ack``."""
        return await self._do(self._client.ack, tuple(deliveries))

    async def nak(self, deliveries: Iterable[Delivery], delay: float = 0.0) -> int:
        """As ``Consumer.nak``."""
        return await self._do(self._client.nak, tuple(deliveries), delay)

    async def in_progress(self, deliveries: Iterable[Delivery]) -> int:
        """As ``Consumer.in_progress``."""
        return await self._do(self._client.in_progress, tuple(deliveries))

    async def term(self, deliveries: Iterable[Delivery], reason: str = "") -> int:
        """As ``Consumer.term``."""
        return await self._do(self._client.term, tuple(deliveries), reason)


@asynccontextmanager
async def open_consumer(address: str, stream: str, name: str, **options: Any) -> AsyncIterator[TrioConsumer]:
    """A consumer's connection, for as long as the block runs; the arguments are ``Consumer``'s.

    Raises:
        InvalidInput: an argument is not valid.
    """
    shell = TrioConsumer(Consumer(address, stream, name, **options))
    try:
        yield shell
    finally:
        await shell.aclose()


class TrioSubscriber(_Shell[Subscriber]):
    """Follows what is published live; made by ``open_subscriber``."""

    def __init__(self, client: Subscriber) -> None:
        super().__init__(client)
        self._heard: deque[LiveRecord] = deque()

    @property
    def losses(self) -> int:
        """As ``Subscriber.losses``."""
        return self._client.losses

    async def connect(self) -> None:
        """As ``Subscriber.connect``."""
        await self._do(self._client.connect)

    async def receive(self) -> LiveRecord:
        """The next record, however long it takes. Raises: as ``Subscriber.connect``."""

        def receive() -> None:
            self._heard.extend(self._client.receive())

        if self._heard:
            await trio.lowlevel.checkpoint()
        while not self._heard:
            await self._do(receive)
        return self._heard.popleft()

    def __aiter__(self) -> TrioSubscriber:
        return self

    async def __anext__(self) -> LiveRecord:
        return await self.receive()


@asynccontextmanager
async def open_subscriber(address: str, subject: str = ">", **options: Any) -> AsyncIterator[TrioSubscriber]:
    """A live subscriber that is connected, for as long as the block runs; the arguments are ``Subscriber``'s.

    Raises: as ``Subscriber`` and ``Subscriber.connect``.
    """
    shell = TrioSubscriber(Subscriber(address, subject, **options))
    try:
        await shell.connect()
        yield shell
    finally:
        await shell.aclose()
