"""Records of streams over HTTP: publishing one or many, looking, following, and removing.

Programs that move many records use the queue sockets (``platformd.client.queues``); these routes are for people,
scripts, browsers and whoever has no nng.

``message_forms``  records as JSON and MessagePack
``message_tail``   following
``consumers``      fetching and acknowledging
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final, cast, get_args

import msgspec
import trio
from quart import Response, request
from quart_trio import QuartTrio

from platformd.api.access import needs
from platformd.api.context import ApiContext
from platformd.api.message_forms import JSON_LINES, MSGPACK, RecordForm, read_batch, record_headers, records_reply
from platformd.api.message_tail import MAX_WAITING, PARAMETERS, SlowPolicy, followed_records
from platformd.api.metrics import HttpMetrics
from platformd.api.openapi import Answer, Body, Parameter, operation
from platformd.api.openapi.parameters import (
    ANYTHING,
    BODY_PROBLEMS,
    DURABILITY,
    EVENTS,
    EXPECT_LAST,
    EXPECT_LAST_SUBJECT,
    LAST_EVENT_ID,
    PATTERN,
    PUBLISH_PROBLEMS,
    STREAM_NAME,
    SUBJECT,
    WATCH,
    WRITE_PROBLEMS,
    Revision,
    limit,
)
from platformd.api.openapi.shapes import BatchPublished, RecordPublished, Records, RecordsPurged
from platformd.api.replies import JSON, Query, encode, json_body, reply
from platformd.api.watch import Followed, Watches, check_watch
from platformd.api.watch_events import events_response
from platformd.api.watch_socket import serve_socket
from platformd.conductor.streams import engine_name
from platformd.conductor.validation import validate
from platformd.core.errors import (
    FieldError,
    Gone,
    InvalidInput,
    NotFound,
    Unprocessable,
    Unsupported,
    UnsupportedMediaType,
)
from platformd.model.resource import DEFAULT_TENANT
from platformd.model.subjects import subject_error
from platformd.queues.contract import Durability, Published, Record, StreamInfo

TAG: Final = "Records"

MAX_PEEK: Final = 100
"""How many messages one look shows at most."""
MAX_SEQUENCE: Final = 2**63 - 1
PUBLISHING: Final = ("subject", "durability", "expect_last_sequence", "expect_last_subject_sequence")
"""What publishing one record and a batch may both be told."""


class PurgeForm(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which records to remove; ``{}`` for all."""

    subject: str = ">"
    """Only those whose subject matches."""
    before: int = 0
    """Only those before this sequence; 0 for all."""
    keep: int = 0
    """Leave so many of the newest that match."""


class Messages:
    """The routes under ``/v1/streams/NAME`` that are about records."""

    def __init__(self, context: ApiContext, watches: Watches, http: HttpMetrics) -> None:
        self._streams = context.streams
        self._watches = watches
        self._http = http

    def add_to(self, app: QuartTrio) -> None:
        """Route requests here."""
        for prefix, whose in (("/v1/streams", ""), ("/v1/tenants/<tenant>/streams", "tenant_")):
            stream = f"{prefix}/<name>"
            app.add_url_rule(f"{stream}/info", f"{whose}stream_info", self.info, methods=["GET"])
            app.add_url_rule(f"{stream}/messages", f"{whose}messages", self.peek, methods=["GET"])
            app.add_websocket(f"{stream}/messages", f"{whose}messages_socket", self.follow)
            app.add_url_rule(f"{stream}/messages", f"{whose}publish", self.publish, methods=["POST"])
            app.add_url_rule(f"{stream}/messages/batch", f"{whose}publish_batch", self.batch, methods=["POST"])
            app.add_url_rule(f"{stream}/purge", f"{whose}purge", self.purge, methods=["POST"])

    @needs("streams.read")
    @operation(
        "getStreamInfo", TAG, path=STREAM_NAME, answers={200: Answer("The stream.", StreamInfo)}, problems=(NotFound,)
    )
    async def info(self, name: str, tenant: str = DEFAULT_TENANT) -> Response:
        """GET …/info: what the stream has now, from the engine."""
        Query()
        return reply(self._streams.stream(engine_name(name, tenant)))

    @needs("streams.publish")
    @operation(
        "publishRecord",
        TAG,
        path=STREAM_NAME,
        parameters=(
            replace(SUBJECT, required=True, description="The subject of the record."),
            Parameter(name="msg_id", description="An id of the producer's: the same one again is not stored again."),
            DURABILITY,
            EXPECT_LAST,
            EXPECT_LAST_SUBJECT,
        ),
        body=Body(bytes, (ANYTHING,), required=False),
        answers={
            200: Answer("It was there already.", RecordPublished),
            201: Answer("It is there now.", RecordPublished),
        },
        problems=PUBLISH_PROBLEMS,
    )
    async def publish(self, name: str, tenant: str = DEFAULT_TENANT) -> Response:
        """POST …/messages?subject=S: append the body as one message; durable when it returns.

        Headers ``Platformd-Header-NAME`` of the request become headers of the record.
        """
        query = Query("msg_id", *PUBLISHING)
        options = _Options(query, one=True)
        payload: bytes = await request.get_data(cache=False, as_text=False, parse_form_data=False)
        record = Record(subject=options.subject, payload=payload, msg_id=query.text("msg_id"), headers=record_headers())
        published = await self._publish([record], engine_name(name, tenant), options)
        duplicate = bool(published.duplicates)
        # Of a record that was there already the engine does not say where.
        answer = {"stream": name, "sequence": None if duplicate else published.first_sequence, "duplicate": duplicate}
        return Response(encode(answer), 200 if duplicate else 201, content_type=JSON)

    @needs("streams.publish")
    @operation(
        "publishBatch",
        TAG,
        path=STREAM_NAME,
        parameters=(SUBJECT, DURABILITY, EXPECT_LAST, EXPECT_LAST_SUBJECT),
        body=Body(
            list[RecordForm],
            also={JSON_LINES[0]: {"type": "string"}, MSGPACK[0]: bytes},
            example=[{"subject": "alerts.ztf", "json": {"magnitude": 17.2}}],
        ),
        answers={
            200: Answer("All of them were there already.", BatchPublished),
            201: Answer("They are there now.", BatchPublished),
        },
        problems=(*PUBLISH_PROBLEMS, UnsupportedMediaType),
    )
    async def batch(self, name: str, tenant: str = DEFAULT_TENANT) -> Response:
        """POST …/messages/batch: append records in order, all of them or none; the body is ``RecordForm``s.

        JSON lines, a JSON array or a MessagePack array; ``?subject`` is for records that have none.
        """
        options = _Options(Query(*PUBLISHING), one=False)
        body: bytes = await request.get_data(cache=False, as_text=False, parse_form_data=False)
        # Thousands of records take tens of milliseconds: not on the loop.
        records = await trio.to_thread.run_sync(read_batch, body, request.mimetype, options.subject)
        published = await self._publish(records, engine_name(name, tenant), options)
        first = published.first_sequence if published.appended else None
        answer = {
            "stream": name,
            "appended": published.appended,
            "first_sequence": first,
            "last_sequence": None if first is None else first + published.appended - 1,
            "duplicates": published.duplicates,
        }
        return Response(encode(answer), 201 if published.appended else 200, content_type=JSON)

    async def _publish(self, records: list[Record], stream: str, options: _Options) -> Published:
        return await self._streams.publish(
            records,
            stream=stream,
            durability=options.durability,
            expect_last_sequence=options.last,
            expect_last_subject_sequence=options.last_on_subject,
        )

    @needs("streams.read")
    @operation(
        "peekRecords",
        TAG,
        path=STREAM_NAME,
        parameters=(
            Parameter(name="after", description="Only records after this sequence.", schema=Revision),
            limit(MAX_PEEK, MAX_PEEK),
            PATTERN,
            WATCH,
            Parameter(
                name="on_slow",
                description="With `watch`: what becomes of a reader that does not keep up.",
                schema=SlowPolicy,
            ),
            Parameter(
                name="max_waiting",
                description="With `watch`: how many records may wait for the reader.",
                schema={"type": "integer", "minimum": 1, "maximum": MAX_WAITING},
            ),
            LAST_EVENT_ID,
        ),
        answers={200: Answer("The records.", Records, also={MSGPACK[0]: bytes, **EVENTS})},
        problems=(NotFound, Gone),
    )
    async def peek(self, name: str, tenant: str = DEFAULT_TENANT) -> Response:
        """GET …/messages: messages as they are stored; no cursor moves. With ``?watch``: those that come."""
        if "watch" in request.args and Query("limit", *PARAMETERS).flag("watch"):
            return events_response(self._watches, self._followed(name, tenant, Query(*PARAMETERS)))
        query = Query("after", "limit", "subject", "watch")
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
        return records_reply(found)

    @needs("streams.read")
    async def follow(self, name: str, tenant: str = DEFAULT_TENANT) -> None:
        """WebSocket …/messages?watch: messages as they come."""
        await serve_socket(self._watches, self._followed(name, tenant, check_watch(Query(*PARAMETERS))))

    def _followed(self, name: str, tenant: str, query: Query) -> Followed:
        return followed_records(self._streams, engine_name(name, tenant), query, self._http.count_dropped)

    @needs("streams.manage")
    @operation(
        "purgeStream",
        TAG,
        path=STREAM_NAME,
        body=Body(PurgeForm, example={"before": 1000}),
        answers={200: Answer("How many.", RecordsPurged)},
        problems=(NotFound, Unsupported, *BODY_PROBLEMS, *WRITE_PROBLEMS),
    )
    async def purge(self, name: str, tenant: str = DEFAULT_TENANT) -> Response:
        """POST …/purge ``{"subject"?, "before"?, "keep"?}``: remove records for good; how many."""
        Query()
        form, errors = validate(await json_body(JSON), PurgeForm, "")
        if not errors:
            wrong = subject_error(form.subject, pattern=True)
            errors += [FieldError(path="subject", message=f"{form.subject!r} {wrong}")] if wrong else []
            for member in ("before", "keep"):
                if not 0 <= getattr(form, member) <= MAX_SEQUENCE:
                    errors.append(FieldError(path=member, message=f"is not between 0 and {MAX_SEQUENCE}"))
        if errors:
            raise Unprocessable("the body is not valid", subject=f"stream/{name}", errors=tuple(errors))
        removed = await self._streams.purge(
            engine_name(name, tenant), subject=form.subject, before=form.before, keep=form.keep
        )
        return reply({"stream": name, "removed": removed})


class _Options:
    """What a query says of publishing.

    Args:
        query: with ``PUBLISHING``.
        one: whether it is about one record, which needs a subject; a batch's records may have their own.

    Raises:
        InvalidInput: the subject, the durability or a sequence is none.
    """

    def __init__(self, query: Query, *, one: bool) -> None:
        self.subject = query.text("subject")
        self.last = _sequence(query, "expect_last_sequence")
        self.last_on_subject = _sequence(query, "expect_last_subject_sequence")
        durability = query.text("durability", "fsync")
        errors = []
        wrong = subject_error(self.subject, pattern=False) if one or self.subject else None
        if wrong:
            errors.append(FieldError(path="subject", message=f"{self.subject!r} {wrong}"))
        if durability not in get_args(Durability):
            known = ", ".join(get_args(Durability))
            errors.append(FieldError(path="durability", message=f"{durability!r} is none", hint=f"one of {known}"))
        if errors:
            raise InvalidInput("the query is not valid", subject=request.path, errors=tuple(errors))
        self.durability = cast("Durability", durability)


def _sequence(query: Query, name: str) -> int | None:
    return query.number(name, 0, 0, MAX_SEQUENCE) if query.text(name) else None
