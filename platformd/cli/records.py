"""What ``publish`` and ``consume`` share: where the queues' sockets are, and records as documents."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from platformd.core.clock import rfc3339
from platformd.core.errors import Unavailable

if TYPE_CHECKING:
    from platformd.cli.options import Session
    from platformd.client.queues import Delivery


def queue_address(session: Session, socket: Literal["ingest", "fetch"]) -> str:
    """The nng address of a queue socket, as the daemon names it.

    Raises:
        Unavailable: the daemon has none (yet).
    """
    queues = session.client.status().get("queues")
    sockets = queues.get("sockets") if isinstance(queues, dict) else None
    address = sockets.get(socket) if isinstance(sockets, dict) else None
    if not isinstance(address, str) or not address:
        raise Unavailable(
            f"the daemon names no {socket} socket", subject=str(session.target()), hint="see `platformd status`"
        )
    return address


def delivery_document(delivery: Delivery, stream: str) -> dict[str, Any]:
    """A record as JSON types: as the API shows it, with ``text`` where the payload is UTF-8 and ``content``
    where it is MessagePack and says so.
    """
    document: dict[str, Any] = {
        "stream": stream,
        "sequence": delivery.sequence,
        "subject": delivery.subject,
        "time": rfc3339(delivery.time_ns),
        "append_time": rfc3339(delivery.append_time_ns),
        "deliveries": delivery.deliveries,
        "msg_id": delivery.msg_id,
        "headers": delivery.headers,
        "payload": base64.b64encode(delivery.payload).decode(),
    }
    text = text_of(delivery.payload)
    if text is not None:
        return document | {"text": text}
    return document | content_of(delivery)


def content_of(delivery: Delivery) -> dict[str, Any]:
    """``{"content": …}`` when the record says that it is MessagePack and is; else nothing.

    What a pipeline makes of a packet is MessagePack, and a person wants to see the annotations.
    """
    if not delivery.headers.get("content-type", "").endswith("msgpack"):
        return {}
    try:
        return {"content": msgspec.to_builtins(msgspec.msgpack.decode(delivery.payload))}
    except (msgspec.DecodeError, TypeError, ValueError):
        return {}


def text_of(payload: bytes) -> str | None:
    """``payload`` as text, when it is UTF-8."""
    try:
        return payload.decode()
    except UnicodeDecodeError:
        return None
