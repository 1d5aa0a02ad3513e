"""What the commands about records share: where they are, what is asked of them, and how they are printed."""

from __future__ import annotations

import abc
import base64
import re
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

import click
import msgspec

from platformd.cli.output import NONE, Table, as_json, json_text, safe
from platformd.cli.queue_options import queue_place
from platformd.cli.templates import Template, Word
from platformd.core.clock import parse_rfc3339, rfc3339
from platformd.core.errors import Conflict, InvalidInput, NotFound
from platformd.core.quantities import format_bytes, seconds

if TYPE_CHECKING:
    from platformd.cli.options import Session
    from platformd.client.queues import Delivery

PREVIEW: Final = 40
"""Characters of a payload that a table shows."""
TERMINATED: Final = 143
"""Exit code after SIGTERM: 128 + 15."""


def queue_address(session: Session, socket: Literal["ingest", "fetch"]) -> str:
    """The nng address of a queue socket, as the daemon names it.

    Raises: as ``queue_place``.
    """
    return queue_place(session, socket)[0]


def engine_stream(session: Session, stream: str, tenant: str) -> str:
    """What the queue sockets call a tenant's stream.

    Raises:
        NotFound: there is no such stream.
    """
    if tenant == "default":
        return stream
    from platformd.client.tailing import stream_info

    return str(session.client.send(stream_info(stream, tenant=tenant)).check().json()["name"])


def streams_of(session: Session, subject: str, tenant: str) -> list[str]:
    """The tenant's streams that capture something of ``subject``, which may be a pattern.

    Raises:
        NotFound: there is none.
    """
    from platformd.client.reading import as_kind
    from platformd.model.subjects import patterns_overlap

    found = [
        str(document["name"])
        for page in session.client.pages(as_kind("streams"), tenant=tenant)
        for document in page.items
        if any(patterns_overlap(pattern, subject) for pattern in document.get("spec", {}).get("subjects", ()))
    ]
    if not found:
        hint = "platformd stream ls shows what streams capture"
        raise NotFound(f"no stream of tenant {tenant} captures it", subject=subject, hint=hint)
    return found


def stream_of(session: Session, subject: str, tenant: str) -> str:
    """The tenant's stream that captures ``subject``.

    Raises:
        NotFound: there is none.
        Conflict: there are several.
    """
    found = streams_of(session, subject, tenant)
    if len(found) > 1:
        raise Conflict(f"it is in {', '.join(found)}", subject=subject, hint="say which with --stream")
    return found[0]


@dataclass(frozen=True)
class Start:
    """Where to begin in a stream."""

    policy: str
    """A ``DeliverPolicy``."""
    sequence: int = 1
    time_ns: int = 0

    def config(self) -> dict[str, Any]:
        """As members of a ``ConsumerConfig``."""
        config: dict[str, Any] = {"deliver_policy": self.policy}
        if self.policy == "by_sequence":
            config["start_sequence"] = self.sequence
        if self.policy == "by_time":
            config["start_time_ns"] = self.time_ns
        return config

    def target(self) -> dict[str, Any]:
        """As the body of a seek."""
        to: dict[str, Any] = {"policy": self.policy}
        if self.policy == "by_sequence":
            to["sequence"] = self.sequence
        if self.policy == "by_time":
            to["time"] = rfc3339(self.time_ns)
        return to


START_HELP: Final = "all, new, last, last-per-subject, a sequence, a time (RFC 3339) or how long ago (10m)"
_POLICIES: Final = {"all": "all", "new": "new", "last": "last", "last-per-subject": "last_per_subject"}


def parse_start(text: str, option: str) -> Start:
    """Where ``text`` says to begin.

    Raises:
        InvalidInput: it says nothing of the kind.
    """
    if text in _POLICIES:
        return Start(_POLICIES[text])
    if text.isascii() and text.isdigit() and int(text) >= 1:
        return Start("by_sequence", sequence=int(text))
    try:
        if re.fullmatch(r"([0-9.]+[a-z]+)+", text):
            return Start("by_time", time_ns=time.time_ns() - int(seconds(text) * 1e9))
        return Start("by_time", time_ns=parse_rfc3339(text))
    except (InvalidInput, ValueError) as error:
        raise InvalidInput(
            "is not all, new or a sequence from 1 on", subject=f"{option} {text}", hint=f"write {START_HELP}"
        ) from error


@contextmanager
def terminable() -> Iterator[None]:
    """Let SIGTERM end the block as an error would, so that what was made is removed."""

    def stop(_signal: int, _frame: object) -> None:
        raise click.exceptions.Exit(TERMINATED)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A record to print, wherever it comes from."""

    stream: str
    sequence: int
    subject: str
    payload: bytes
    msg_id: str
    headers: Mapping[str, str]
    time: str | None
    append_time: str | None
    deliveries: int

    @classmethod
    def of_delivery(cls, delivery: Delivery, stream: str) -> Seen:
        """From a queue socket."""
        return cls(
            stream=stream,
            sequence=delivery.sequence,
            subject=delivery.subject,
            payload=delivery.payload,
            msg_id=delivery.msg_id,
            headers=delivery.headers,
            time=_stamp(delivery.time_ns),
            append_time=_stamp(delivery.append_time_ns),
            deliveries=delivery.deliveries,
        )

    @classmethod
    def of_document(cls, document: Mapping[str, Any], stream: str) -> Seen:
        """From the API."""
        return cls(
            stream=stream,
            sequence=int(document["sequence"]),
            subject=str(document["subject"]),
            payload=base64.b64decode(document["payload"]),
            msg_id=str(document.get("msg_id") or ""),
            headers=document.get("headers") or {},
            time=document.get("time"),
            append_time=document.get("append_time"),
            deliveries=int(document.get("deliveries") or 0),
        )

    def document(self) -> dict[str, Any]:
        """JSON types: as the API shows it, with ``text`` where the payload is UTF-8 and ``content`` where it is
        MessagePack and says so.
        """
        document: dict[str, Any] = {
            "stream": self.stream,
            "sequence": self.sequence,
            "subject": self.subject,
            "time": self.time,
            "append_time": self.append_time,
            "deliveries": self.deliveries,
            "msg_id": self.msg_id,
            "headers": self.headers,
            "payload": base64.b64encode(self.payload).decode(),
        }
        text = text_of(self.payload)
        return document | (self._content() if text is None else {"text": text})

    def _content(self) -> dict[str, Any]:
        """``{"content": …}`` when the record says that it is MessagePack and is; else nothing.

        What a pipeline makes of a packet is MessagePack, and a person wants to see the annotations.
        """
        if not self.headers.get("content-type", "").endswith("msgpack"):
            return {}
        try:
            return {"content": msgspec.to_builtins(msgspec.msgpack.decode(self.payload))}
        except (msgspec.DecodeError, TypeError, ValueError):
            return {}


def _stamp(time_ns: int) -> str | None:
    try:
        return rfc3339(time_ns)
    except (ValueError, OverflowError, OSError):
        return None  # a producer's clock may say anything


def text_of(payload: bytes) -> str | None:
    """``payload`` as text, when it is UTF-8."""
    try:
        return payload.decode()
    except UnicodeDecodeError:
        return None


class Writer(abc.ABC):
    """Writes records to standard output and flushes, so that what is acknowledged has been written."""

    @abc.abstractmethod
    def write(self, records: Sequence[Seen]) -> None:
        """Write ``records``."""


def writer(output: str, *, delimiter: str = "\n", form: str | None = None) -> Writer:
    """What prints records as ``output`` (``table``, ``json``, ``raw``) or as the template ``form`` says.

    Raises:
        InvalidInput: the template is wrong.
    """
    if form is not None:
        return _Form(Template(_unescaped(form), _WORDS, "--format"), _unescaped(delimiter))
    if output == "raw":
        return _Raw(_unescaped(delimiter).encode())
    return _Json() if output == "json" else _Rows()


def _unescaped(text: str) -> str:
    return text.replace("\\0", "\0").replace("\\n", "\n").replace("\\t", "\t")


class _OneByOne(Writer):
    def write(self, records: Sequence[Seen]) -> None:
        data = b"".join(self._encode(record) for record in records)
        sys.stdout.flush()
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()

    @abc.abstractmethod
    def _encode(self, record: Seen) -> bytes:
        """One record, with what ends it."""


class _Raw(_OneByOne):
    def __init__(self, delimiter: bytes) -> None:
        self._delimiter = delimiter

    def _encode(self, record: Seen) -> bytes:
        return record.payload + self._delimiter


class _Json(_OneByOne):
    def _encode(self, record: Seen) -> bytes:
        return json_text(record.document(), indent=0).encode() + b"\n"


class _Form(_OneByOne):
    def __init__(self, template: Template[Seen], delimiter: str) -> None:
        self._template, self._delimiter = template, delimiter

    def _encode(self, record: Seen) -> bytes:
        return (self._template.fill(record) + self._delimiter).encode("utf-8", "surrogateescape")


class _Rows(Writer):
    def __init__(self) -> None:
        self._table = Table(("SEQUENCE", "SUBJECT", "TIME", "SIZE", "MSG-ID", "PAYLOAD"))
        self._begun = False

    def write(self, records: Sequence[Seen]) -> None:
        rows = [self._row(record) for record in records]
        self._table.fit(rows)
        lines = [self._table.line(row) for row in rows]
        if not self._begun:
            lines.insert(0, self._table.header())
            self._begun = True
        sys.stdout.write("\n".join(lines) + "\n")
        sys.stdout.flush()

    @staticmethod
    def _row(record: Seen) -> list[str]:
        text = text_of(record.payload)
        return [
            str(record.sequence),
            safe(record.subject),
            record.time[:23] + "Z" if record.time else NONE,
            format_bytes(len(record.payload)),
            safe(record.msg_id) or NONE,
            "<binary>" if text is None else safe(text[:PREVIEW] + ("…" if len(text) > PREVIEW else "")),
        ]


def _header(record: Seen, arguments: Sequence[str]) -> str:
    if len(arguments) != 1:
        raise InvalidInput("{{header}} has one name", subject="--format", hint="write {{header NAME}}")
    return record.headers.get(arguments[0], "")


_WORDS: Final[dict[str, Word[Seen]]] = {
    "stream": lambda record, _: record.stream,
    "sequence": lambda record, _: str(record.sequence),
    "subject": lambda record, _: record.subject,
    "time": lambda record, _: record.time or "",
    "append_time": lambda record, _: record.append_time or "",
    "size": lambda record, _: str(len(record.payload)),
    "msg_id": lambda record, _: record.msg_id,
    "deliveries": lambda record, _: str(record.deliveries),
    "header": _header,
    "headers": lambda record, _: as_json(record.headers, indent=0),
    "text": lambda record, _: record.payload.decode("utf-8", "surrogateescape"),
    "payload": lambda record, _: base64.b64encode(record.payload).decode(),
    "json": lambda record, _: as_json(record.document(), indent=0),
}
