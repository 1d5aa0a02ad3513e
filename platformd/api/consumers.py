"""Consumers of streams over HTTP: what there is, and fetching and acknowledging for those without nng.

A fetch waits for records for as long as it is told (a long poll). What it takes is given out again when it is not
acknowledged within the consumer's ``ack_wait``: there is no connection whose end would say so earlier.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
import trio
from quart import Response, request
from quart_trio import QuartTrio

from platformd.api.access import needs, principal
from platformd.api.context import ApiContext
from platformd.api.message_forms import MSGPACK, records_reply
from platformd.api.openapi import Answer, Body, operation
from platformd.api.openapi.parameters import BODY_PROBLEMS, STREAM_NAME, WRITE_PROBLEMS, bounded, wait
from platformd.api.openapi.shapes import AcksKnown, ConsumerListing, Records
from platformd.api.replies import JSON, Query, json_body, reply
from platformd.conductor.streams import engine_name
from platformd.conductor.validation import validate
from platformd.core.clock import parse_rfc3339
from platformd.core.errors import Conflict, FieldError, InvalidInput, NotFound, Unprocessable, Unsupported
from platformd.core.quantities import Duration, seconds
from platformd.model.access import may_name, subject_refusal
from platformd.model.resource import DEFAULT_TENANT
from platformd.queues.contract import Ack, AckKind, ConsumerConfig, ConsumerInfo, DeliverPolicy, Delivery

TAG: Final = "Consumers"

MAX_WAIT: Final = 300.0
"""The longest that one fetch waits, seconds."""
MAX_FETCH: Final = 4096
"""Records of one fetch."""
MAX_FETCH_BYTES: Final = 16 << 20
"""Bytes of one fetch; a record always fits."""
DEFAULT_FETCH: Final = 256
DEFAULT_FETCH_BYTES: Final = 1 << 20
MAX_ACKS: Final = 16_384
"""Acknowledgements of one request."""


class AckForm(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What became of one delivery."""

    sequence: int
    kind: AckKind = "ack"
    delay: Duration = "0"
    """For ``nak``: until it is delivered again."""
    reason: str = ""
    """For ``term``."""


class AcksForm(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What became of deliveries: sequences that are done, or anything of each."""

    sequences: tuple[int, ...] = ()
    acks: tuple[AckForm, ...] = ()


class SeekForm(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where a consumer goes."""

    policy: DeliverPolicy
    sequence: int = 1
    """For ``by_sequence``."""
    time: str = ""
    """RFC 3339, for ``by_time``."""


class Consumers:
    """The routes under ``/v1/streams/NAME/consumers``."""

    def __init__(self, context: ApiContext) -> None:
        self._streams = context.streams
        self._stopping = context.stopping

    def add_to(self, app: QuartTrio) -> None:
        """Route requests here."""
        for prefix, whose in (("/v1/streams", ""), ("/v1/tenants/<tenant>/streams", "tenant_")):
            many = f"{prefix}/<name>/consumers"
            one = f"{many}/<consumer>"
            app.add_url_rule(many, f"{whose}consumers", self.consumers, methods=["GET"])
            app.add_url_rule(one, f"{whose}consumer", self.consumer, methods=["GET"])
            app.add_url_rule(one, f"{whose}put_consumer", self.put_consumer, methods=["PUT"])
            app.add_url_rule(one, f"{whose}delete_consumer", self.delete_consumer, methods=["DELETE"])
            app.add_url_rule(f"{one}/fetch", f"{whose}fetch", self.fetch, methods=["POST"])
            app.add_url_rule(f"{one}/ack", f"{whose}ack", self.ack, methods=["POST"])
            app.add_url_rule(f"{one}/seek", f"{whose}seek", self.seek, methods=["POST"])

    @needs("streams.read")
    @operation(
        "listConsumers",
        TAG,
        path=STREAM_NAME,
        answers={200: Answer("The consumers.", ConsumerListing)},
        problems=(NotFound,),
    )
    async def consumers(self, name: str, tenant: str = DEFAULT_TENANT) -> Response:
        """GET …/consumers: where each consumer is."""
        Query()
        return reply({"items": self._streams.consumers(engine_name(name, tenant))})

    @needs("streams.read")
    @operation(
        "getConsumer", TAG, path=STREAM_NAME, answers={200: Answer("The consumer.", ConsumerInfo)}, problems=(NotFound,)
    )
    async def consumer(self, name: str, consumer: str, tenant: str = DEFAULT_TENANT) -> Response:
        """GET …/consumers/NAME: where one consumer is."""
        Query()
        return reply(self._info(name, consumer, tenant))

    @needs("streams.consume")
    @operation(
        "putConsumer",
        TAG,
        path=STREAM_NAME,
        body=Body(ConsumerConfig, example={"filter_subject": "alerts.>", "ack_wait": 30.0}),
        answers={200: Answer("The consumer.", ConsumerInfo)},
        problems=(NotFound, Conflict, Unsupported, *BODY_PROBLEMS, *WRITE_PROBLEMS),
    )
    async def put_consumer(self, name: str, consumer: str, tenant: str = DEFAULT_TENANT) -> Response:
        """PUT …/consumers/NAME: create a consumer, or change its limits; the body is a ``ConsumerConfig``."""
        Query()
        config = await _body(ConsumerConfig, consumer)
        if config.dead_letter_subject and not may_name(principal(), config.dead_letter_subject):
            raise subject_refusal(principal(), config.dead_letter_subject)
        return reply(await self._streams.put_consumer(engine_name(name, tenant), consumer, config))

    @needs("streams.consume")
    @operation(
        "deleteConsumer",
        TAG,
        path=STREAM_NAME,
        answers={204: Answer("It is forgotten.")},
        problems=(NotFound, *WRITE_PROBLEMS),
    )
    async def delete_consumer(self, name: str, consumer: str, tenant: str = DEFAULT_TENANT) -> Response:
        """DELETE …/consumers/NAME: forget where the consumer was; no record is touched."""
        Query()
        await self._streams.delete_consumer(engine_name(name, tenant), consumer)
        return Response(b"", 204)

    @needs("streams.consume")
    @operation(
        "fetchRecords",
        TAG,
        repeatable=False,
        path=STREAM_NAME,
        parameters=(
            wait(MAX_WAIT, "How long to wait for the first record."),
            bounded("max_records", "How many records at most.", DEFAULT_FETCH, MAX_FETCH),
            bounded("max_bytes", "How many bytes at most; a record always fits.", DEFAULT_FETCH_BYTES, MAX_FETCH_BYTES),
        ),
        answers={200: Answer("The records.", Records, also={MSGPACK[0]: bytes})},
        problems=(NotFound, Conflict, *WRITE_PROBLEMS),
    )
    async def fetch(self, name: str, consumer: str, tenant: str = DEFAULT_TENANT) -> Response:
        """POST …/fetch?wait=30s&max_records=&max_bytes=: the next records, as soon as there are any; maybe none."""
        query = Query("wait", "max_records", "max_bytes")
        patience = seconds(query.text("wait", "0"))
        if patience > MAX_WAIT:
            raise InvalidInput(f"one fetch waits for at most {MAX_WAIT:g}s", subject="wait", hint="fetch again")
        max_records = query.number("max_records", DEFAULT_FETCH, 1, MAX_FETCH)
        max_bytes = query.number("max_bytes", DEFAULT_FETCH_BYTES, 1, MAX_FETCH_BYTES)
        await request.get_data(cache=False, as_text=False, parse_form_data=False)  # nothing is taken from it
        taken: tuple[Delivery, ...] = ()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._end_waiting, nursery.cancel_scope)
            taken = await self._streams.fetch(
                engine_name(name, tenant), consumer, max_records=max_records, max_bytes=max_bytes, wait=patience
            )
            nursery.cancel_scope.cancel()
        return records_reply(taken)

    async def _end_waiting(self, scope: trio.CancelScope) -> None:
        await self._stopping.wait()
        scope.cancel()

    @needs("streams.consume")
    @operation(
        "acknowledgeRecords",
        TAG,
        path=STREAM_NAME,
        body=Body(AcksForm, example={"sequences": [1, 2, 3]}),
        answers={200: Answer("How many were known.", AcksKnown)},
        problems=(NotFound, Conflict, *BODY_PROBLEMS, *WRITE_PROBLEMS),
    )
    async def ack(self, name: str, consumer: str, tenant: str = DEFAULT_TENANT) -> Response:
        """POST …/ack: say what became of deliveries; how many of them were known, others were stale.

        ``{"sequences": […]}`` or ``{"acks": [{"sequence", "kind"?, "delay"?, "reason"?}]}``.
        """
        Query()
        form = await _body(AcksForm, consumer)
        acks = [Ack(sequence=sequence) for sequence in form.sequences]
        acks += [Ack(sequence=a.sequence, kind=a.kind, delay=seconds(a.delay), reason=a.reason) for a in form.acks]
        if len(acks) > MAX_ACKS:
            raise InvalidInput(f"one request has at most {MAX_ACKS} acknowledgements", subject=f"consumer/{consumer}")
        return reply({"known": await self._streams.ack(engine_name(name, tenant), consumer, acks)})

    @needs("streams.consume")
    @operation(
        "seekConsumer",
        TAG,
        path=STREAM_NAME,
        body=Body(SeekForm, example={"policy": "by_sequence", "sequence": 1}),
        answers={200: Answer("Where it is now.", ConsumerInfo)},
        problems=(NotFound, Conflict, Unsupported, *BODY_PROBLEMS, *WRITE_PROBLEMS),
    )
    async def seek(self, name: str, consumer: str, tenant: str = DEFAULT_TENANT) -> Response:
        """POST …/seek ``{"policy", "sequence"?, "time"?}``: move the consumer's cursor."""
        Query()
        form = await _body(SeekForm, consumer)
        time_ns = 0
        if form.policy == "by_time":
            try:
                time_ns = parse_rfc3339(form.time)
            except ValueError as error:
                wrong = FieldError(path="time", message=f"{form.time[:40]!r} is not a time (RFC 3339)")
                raise _invalid(consumer, [wrong]) from error
        found = self._info(name, consumer, tenant)
        moved = await self._streams.seek(found.stream, consumer, form.policy, sequence=form.sequence, time_ns=time_ns)
        return reply(moved)

    def _info(self, name: str, consumer: str, tenant: str) -> ConsumerInfo:
        for info in self._streams.consumers(engine_name(name, tenant)):
            if info.name == consumer:
                return info
        raise NotFound("is not there", subject=f"consumer/{consumer}", hint=f"{name}/consumers lists all of a stream")


async def _body(wanted: Any, consumer: str) -> Any:
    found, errors = validate(await json_body(JSON), wanted, "")
    if errors:
        raise _invalid(consumer, errors)
    return found


def _invalid(consumer: str, errors: list[FieldError]) -> Unprocessable:
    return Unprocessable("the body is not valid", subject=f"consumer/{consumer}", errors=tuple(errors))
