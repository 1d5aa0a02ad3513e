"""A stream in memory behind fake producers and consumers, whose real ones are tested with the queues."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pytest

from platformd.client import queues
from platformd.client.queues import Delivery, Published, Record
from platformd.core.errors import StorageFull
from tests.client.fake_api import FakeApi


class Pending:
    """An acknowledgement that comes when it is waited for."""

    def __init__(self, wait: Callable[[], Published]) -> None:
        self.wait = wait


class Log:
    """A stream in memory with the engine's rules: sequences, and de-duplication by (subject, msg_id)."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.ids: set[tuple[str, str]] = set()
        self.options: dict[str, Any] = {}
        self.batches: list[int] = []
        self.waiting = self.most_waiting = 0
        self.fail_after: int | None = None
        self.acked: list[int] = []
        self.others: list[tuple[str, int, float | str]] = []
        self.fetches: list[tuple[str, str, int, float]] = []
        self.on_empty: Callable[[], None] = lambda: None

    def append(self, records: Sequence[Record]) -> Published:
        self.waiting -= 1
        if self.fail_after is not None and len(self.records) >= self.fail_after:
            raise StorageFull("the disk is full", subject="stream/alerts")
        first, duplicates = len(self.records) + 1, []
        for i, record in enumerate(records):
            if record.msg_id and (record.subject, record.msg_id) in self.ids:
                duplicates.append(i)
            else:
                self.ids.add((record.subject, record.msg_id))
                self.records.append(record)
        appended = len(records) - len(duplicates)
        return Published(
            stream="alerts",
            first_sequence=first if appended else first - 1,
            appended=appended,
            duplicates=tuple(duplicates),
        )

    def producer(self, address: str, **options: Any) -> Log:
        self.options = {"address": address} | options
        return self

    def submit(self, records: Sequence[Record]) -> Pending:
        self.batches.append(len(records))
        self.waiting += 1
        self.most_waiting = max(self.most_waiting, self.waiting)
        return Pending(lambda: self.append(records))

    def consumer(self, address: str, stream: str, name: str, **options: Any) -> Log:
        self.options = {"address": address} | options
        self.name, self.stream, self.cursor = name, stream, 0
        return self

    def fetch(self, *, max_records: int, wait: float) -> tuple[Delivery, ...]:
        self.fetches.append((self.stream, self.name, max_records, wait))
        found = self.records[self.cursor : self.cursor + max_records]
        deliveries = tuple(
            Delivery(
                sequence=self.cursor + i + 1, subject=r.subject, payload=r.payload, msg_id=r.msg_id, headers=r.headers,
                time_ns=1_769_860_800_000_000_000, append_time_ns=1_769_860_800_500_000_000, deliveries=1,
            )
            for i, r in enumerate(found)
        )  # fmt: skip
        self.cursor += len(found)
        if not found:
            self.on_empty()
        return deliveries

    def ack(self, deliveries: Iterable[Delivery]) -> int:
        self.acked += [d.sequence for d in deliveries]
        return len(self.acked)

    def nak(self, deliveries: Iterable[Delivery], delay: float) -> int:
        self.others += [("nak", d.sequence, delay) for d in deliveries]
        return len(self.others)

    def term(self, deliveries: Iterable[Delivery], reason: str) -> int:
        self.others += [("term", d.sequence, reason) for d in deliveries]
        return len(self.others)

    def __enter__(self) -> Log:
        return self

    def __exit__(self, *_exception: object) -> None:
        """Nothing is held."""


@pytest.fixture
def log(api: FakeApi, monkeypatch: pytest.MonkeyPatch) -> Log:
    """The stream ``alerts`` of a daemon that names its sockets."""
    log = Log()
    api.status = {"queues": {"sockets": {"ingest": "ipc:///i", "fetch": "ipc:///f"}}}
    api.put("streams", "alerts")
    monkeypatch.setattr(queues, "Producer", log.producer)
    monkeypatch.setattr(queues, "Consumer", log.consumer)
    return log


def fill(log: Log, *payloads: bytes) -> None:
    for i, payload in enumerate(payloads):
        log.records.append(Record(subject="alerts.a", payload=payload, msg_id=f"m{i}" if i else "", headers={}))
