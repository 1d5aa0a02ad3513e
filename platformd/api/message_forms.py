"""Records as they go over HTTP: JSON for people and scripts, MessagePack where payloads are large or binary.

A record that is read looks the same everywhere (a look, a fetch, a tail), and what was read can be published as it is:
what only the daemon knows of it (``sequence``, ``append_time``, ``deliveries``…) is passed over.
"""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Sequence
from typing import Any, Final

import msgspec
from quart import Response, request

from platformd.api.replies import JSON, decode_json, encode
from platformd.conductor.validation import validate
from platformd.core.clock import parse_rfc3339, rfc3339
from platformd.core.errors import FieldError, InvalidInput, LimitReached, PlatformError, UnsupportedMediaType
from platformd.model.subjects import subject_error
from platformd.queues.contract import Delivery, Record

JSON_LINES: Final = ("application/x-ndjson", "application/jsonl", "application/json-lines")
MSGPACK: Final = ("application/msgpack", "application/vnd.msgpack", "application/x-msgpack")
MAX_BATCH_RECORDS: Final = 16_384
"""Records of one batch over HTTP; what they weigh is bounded by ``http.max_body``."""
MAX_ERRORS: Final = 20
"""How many wrong records an answer names."""
HEADER_PREFIX: Final = "Platformd-Header-"
"""A request's header of this name is a header of the record, in lower case."""


class RecordForm(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A record to publish. It has ``payload`` or ``json`` or ``text``; with none of them it is empty."""

    subject: str = ""
    """Empty: the request's ``?subject``."""
    payload: bytes = b""
    """Base64 in JSON, bytes in MessagePack."""
    text: str | None = None
    """The payload as text; passed over beside ``payload``, which says the same in what was read."""
    json: Any = msgspec.UNSET
    """Anything; the payload is its JSON."""
    msg_id: str = ""
    headers: dict[str, str] = {}
    time: str | None = None
    """RFC 3339; without it, now."""

    # What a record that was read has as well.
    stream: Any = None
    sequence: Any = None
    append_time: Any = None
    deliveries: Any = None
    content: Any = None


_LINES = msgspec.json.Decoder(RecordForm)
_ARRAY = msgspec.json.Decoder(list[RecordForm])
_PACKED = msgspec.msgpack.Decoder(list[RecordForm])


def shown(delivery: Delivery) -> dict[str, Any]:
    """A record as JSON types: its payload in base64, and as ``text`` where it is UTF-8."""
    item = _facts(delivery) | {"payload": base64.b64encode(delivery.payload).decode("ascii")}
    with contextlib.suppress(UnicodeDecodeError):
        item["text"] = delivery.payload.decode("utf-8")
    return item


def records_reply(deliveries: Sequence[Delivery]) -> Response:
    """``{"items": […]}`` in the form that the client asks for."""
    best = request.accept_mimetypes.best_match([JSON, *MSGPACK], JSON)
    if best == JSON:
        body = encode({"items": [shown(delivery) for delivery in deliveries]})
    else:
        items = [_facts(delivery) | {"payload": delivery.payload} for delivery in deliveries]
        body = msgspec.msgpack.encode({"items": items})
    return Response(body, 200, {"Vary": "Accept"}, content_type=best)


def _facts(delivery: Delivery) -> dict[str, Any]:
    return {
        "sequence": delivery.sequence,
        "subject": delivery.subject,
        "time": _time(delivery.time_ns),
        "append_time": _time(delivery.append_time_ns),
        "deliveries": delivery.deliveries,
        "msg_id": delivery.msg_id,
        "headers": delivery.headers,
    }


def _time(time_ns: int) -> str | None:
    """The time stamp; ``None`` if it is none: producers may write what they want."""
    try:
        return rfc3339(time_ns)
    except (ValueError, OverflowError, OSError):
        return None


def record_headers() -> dict[str, str]:
    """The headers of the record that the request's headers name."""
    start = HEADER_PREFIX.lower()
    named = ((name.lower(), value) for name, value in request.headers.items())
    return {name.removeprefix(start): value for name, value in named if name.startswith(start) and name != start}


def read_batch(body: bytes, media_type: str, subject: str) -> list[Record]:
    """The records of a batch.

    Args:
        body: JSON lines, a JSON array or a MessagePack array, of ``RecordForm``.
        media_type: which of them.
        subject: for records that have none.

    Raises:
        UnsupportedMediaType: it is in another form.
        InvalidInput: it cannot be read, or records are wrong; each of the first ``MAX_ERRORS`` with its position.
        LimitReached: there are more than ``MAX_BATCH_RECORDS``.
    """
    forms = _forms(body, media_type)
    if len(forms) > MAX_BATCH_RECORDS:
        raise LimitReached(f"a batch has at most {MAX_BATCH_RECORDS} records, this one {len(forms)}", subject="batch")
    if not forms:
        raise InvalidInput("the batch is empty", subject="batch", hint="send at least one record")
    records, errors, checked = [], list[FieldError](), dict[str, str | None]()
    for i, form in enumerate(forms):
        wanted = form.subject or subject
        if wanted not in checked:
            checked[wanted] = subject_error(wanted, pattern=False)
        if checked[wanted] is not None:
            errors.append(FieldError(path=f"[{i}].subject", message=f"{wanted!r} {checked[wanted]}"))
            continue
        try:
            records.append(_record(form, wanted))
        except PlatformError as error:
            errors.append(FieldError(path=f"[{i}].{error.subject}", message=error.message))
    _refuse(errors)
    return records


def _forms(body: bytes, media_type: str) -> list[RecordForm]:
    try:
        if media_type in JSON_LINES:
            return _LINES.decode_lines(body)
        if media_type == JSON:
            return _ARRAY.decode(body)
        if media_type in MSGPACK:
            return _PACKED.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        _explain(body, media_type)
        raise InvalidInput("the batch cannot be read", subject="batch") from None
    raise UnsupportedMediaType(
        f"{media_type or 'no content type'} is not taken here",
        subject="batch",
        hint=f"send Content-Type: {JSON_LINES[0]}, {JSON} or {MSGPACK[0]}",
    )


def _explain(body: bytes, media_type: str) -> None:
    """Raise what is wrong with a batch that could not be decoded.

    Raises:
        InvalidInput: always, as far as it can be told.
    """
    errors: list[FieldError] = []
    if media_type in MSGPACK:
        try:
            values = msgspec.msgpack.decode(body)
        except (msgspec.DecodeError, RecursionError, ValueError) as error:
            raise InvalidInput(f"the body is not MessagePack: {error}", subject="batch") from error
    elif media_type == JSON:
        values = decode_json(body, "batch")
    else:
        values = []
        for i, line in enumerate(line for line in body.split(b"\n") if line.strip()):
            try:
                values.append(decode_json(line, f"[{i}]"))
            except InvalidInput as error:
                errors.append(FieldError(path=f"[{i}]", message=error.message))
                values.append({})
    if not isinstance(values, list):
        raise InvalidInput("a batch is an array of records", subject="batch")
    for i, value in enumerate(values):
        if len(errors) < MAX_ERRORS:
            errors += validate(value, RecordForm, f"[{i}]")[1]
    _refuse(errors)


def _refuse(errors: list[FieldError]) -> None:
    if errors:
        raise InvalidInput(
            "the batch is not valid; nothing was stored", subject="batch", errors=tuple(errors[:MAX_ERRORS])
        )


def _record(form: RecordForm, subject: str) -> Record:
    payload = form.payload or (form.text or "").encode()
    if form.json is not msgspec.UNSET:
        if payload:
            raise InvalidInput("stands beside another payload", subject="json")
        payload = msgspec.json.encode(form.json)
    time_ns = 0
    if form.time is not None:
        try:
            time_ns = parse_rfc3339(form.time)
        except (PlatformError, ValueError) as error:
            raise InvalidInput(f"{form.time[:40]!r} is not a time (RFC 3339)", subject="time") from error
    return Record(subject=subject, payload=payload, msg_id=form.msg_id, headers=form.headers, time_ns=time_ns)
