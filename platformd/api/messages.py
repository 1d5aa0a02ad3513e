"""Live data of streams: what the engine has, its consumers, and single messages for people with curl.

Programs that move records use the queue sockets (``platformd.client``); these routes are for looking and
trying.
"""

from __future__ import annotations

import base64
import contextlib
from typing import Any, get_args

from quart import Response, request
from quart_trio import QuartTrio

from platformd.api.context import ApiContext
from platformd.api.replies import JSON, Query, encode, json_body, reply
from platformd.conductor.streams import engine_name
from platformd.conductor.validation import validate
from platformd.core.clock import rfc3339
from platformd.core.errors import FieldError, InvalidInput, NotFound, Unprocessable
from platformd.model.resource import DEFAULT_TENANT
from platformd.model.subjects import subject_error
from platformd.queues.contract import ConsumerConfig, Delivery, Durability, Record

MAX_PEEK = 100
"""How many messages one look shows at most."""
MAX_SEQUENCE = 2**63 - 1


class Messages:
    """The routes under ``/v1/streams/NAME``."""

    def __init__(self, context: ApiContext) -> None:
        self._streams = context.streams

    def add_to(self, app: QuartTrio) -> None:
        """Route requests here."""
        for prefix, whose in (("/v1/streams", ""), ("/v1/tenants/<tenant>/streams", "tenant_")):
            stream = f"{prefix}/<name>"
            app.add_url_rule(f"{stream}/info", f"{whose}stream_info", self.info, methods=["GET"])
            app.add_url_rule(f"{stream}/messages", f"{whose}messages", self.peek, methods=["GET"])
            app.add_url_rule(f"{stream}/messages", f"{whose}publish", self.publish, methods=["POST"])
            many, one = f"{stream}/consumers", f"{stream}/consumers/<consumer>"
            app.add_url_rule(many, f"{whose}consumers", self.consumers, methods=["GET"])
            app.add_url_rule(one, f"{whose}consumer", self.consumer, methods=["GET"])
            app.add_url_rule(one, f"{whose}put_consumer", self.put_consumer, methods=["PUT"])
            app.add_url_rule(one, f"{whose}delete_consumer", self.delete_consumer, methods=["DELETE"])

    async def info(self, name: str, tenant: str = DEFAULT_TENANT) -> Response:
        """GET …/info: what the stream has now, from the engine."""
        Query()
        return reply(self._streams.stream(engine_name(name, tenant)))

    async def consumers(self, name: str, tenant: str = DEFAULT_TENANT) -> Response:
        """GET …/consumers: where each consumer is."""
        Query()
        return reply({"items": self._streams.consumers(engine_name(name, tenant))})

    async def consumer(self, name: str, consumer: str, tenant: str = DEFAULT_TENANT) -> Response:
        """GET …/consumers/NAME: where one consumer is."""
        Query()
        for info in self._streams.consumers(engine_name(name, tenant)):
            if info.name == consumer:
                return reply(info)
        raise NotFound("is not there", subject=f"consumer/{consumer}", hint=f"{name}/consumers lists all of a stream")

    async def put_consumer(self, name: str, consumer: str, tenant: str = DEFAULT_TENANT) -> Response:
        """PUT …/consumers/NAME: create a consumer, or change its limits; the body is a ``ConsumerConfig``."""
        Query()
        document = await json_body(JSON)
        config, errors = validate(document, ConsumerConfig, "")
        if errors:
            raise Unprocessable("is not a valid consumer", subject=f"consumer/{consumer}", errors=tuple(errors))
        return reply(await self._streams.put_consumer(engine_name(name, tenant), consumer, config))

    async def delete_consumer(self, name: str, consumer: str, tenant: str = DEFAULT_TENANT) -> Response:
        """DELETE …/consumers/NAME: forget where the consumer was; no record is touched."""
        Query()
        await self._streams.delete_consumer(engine_name(name, tenant), consumer)
        return Response(b"", 204)

    async def publish(self, name: str, tenant: str = DEFAULT_TENANT) -> Response:
        """POST …/messages?subject=S: append the body as one message; durable when it returns."""
        query = Query("subject", "msg_id", "durability")
        subject, durability = query.text("subject"), query.text("durability", "fsync")
        errors = []
        wrong = subject_error(subject, pattern=False)
        if wrong:
            errors.append(FieldError(path="subject", message=f"{subject!r} {wrong}"))
        if durability not in get_args(Durability):
            known = ", ".join(get_args(Durability))
            errors.append(FieldError(path="durability", message=f"{durability!r} is none", hint=f"one of {known}"))
        if errors:
            raise InvalidInput("the query is not valid", subject=request.path, errors=tuple(errors))
        payload: bytes = await request.get_data(cache=False, as_text=False, parse_form_data=False)
        published = await self._streams.publish(
            [Record(subject=subject, payload=payload, msg_id=query.text("msg_id"))],
            stream=engine_name(name, tenant),
            durability=durability,  # type: ignore[arg-type]
        )
        duplicate = bool(published.duplicates)
        # Of a record that was there already the engine does not say where.
        answer = {"stream": name, "sequence": None if duplicate else published.first_sequence, "duplicate": duplicate}
        return Response(encode(answer), 200 if duplicate else 201, content_type=JSON)

    async def peek(self, name: str, tenant: str = DEFAULT_TENANT) -> Response:
        """GET …/messages: messages as they are stored; no cursor moves."""
        query = Query("after", "limit", "subject")
        pattern = query.text("subject", ">")
        wrong = subject_error(pattern, pattern=True)
        if wrong:
            raise InvalidInput(f"the pattern {pattern!r} {wrong}", subject="subject")
        found = await self._streams.read(
            engine_name(name, tenant),
            after=query.number("after", 0, 0, MAX_SEQUENCE),
            limit=query.number("limit", MAX_PEEK, 1, MAX_PEEK),
            subject=pattern,
        )
        return reply({"items": [_shown(delivery) for delivery in found]})



def _shown(delivery: Delivery) -> dict[str, Any]:
    item: dict[str, Any] = {
        "sequence": delivery.sequence,
        "subject": delivery.subject,
        "time": _time(delivery.time_ns),
        "msg_id": delivery.msg_id,
        "headers": delivery.headers,
        "payload": base64.b64encode(delivery.payload).decode("ascii"),
    }
    with contextlib.suppress(UnicodeDecodeError):
        item["text"] = delivery.payload.decode("utf-8")
    return item


def _time(time_ns: int) -> str | None:
    """The producer's time stamp; ``None`` if it is none: producers may write what they want."""
    try:
        return rfc3339(time_ns)
    except (ValueError, OverflowError, OSError):
        return None
