"""What requests and responses have in common: JSON both ways, entity tags, request ids, query parameters."""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec
from quart import Response, g, request

from platformd.api.asked import asked
from platformd.core.errors import FieldError, InvalidInput, UnsupportedMediaType, nearest

JSON: Final = "application/json"
MERGE_PATCH: Final = "application/merge-patch+json"
PROBLEM: Final = "application/problem+json"

_ETAG = re.compile(r'^"(\d{1,18})"$')
REQUEST_ID = re.compile(r"^[A-Za-z0-9._:-]{1,64}$")
_TRUE, _FALSE = ("", "true", "1", "yes"), ("false", "0", "no")

encode = msgspec.json.Encoder().encode
"""JSON bytes of anything the platform answers with."""


def reply(value: Any, status: int = 200, **headers: str) -> Response:
    """``value`` as a JSON response; headers by keyword, ``_`` for ``-``."""
    named = {name.replace("_", "-"): text for name, text in headers.items()}
    return Response(encode(value), status, named, content_type=JSON)


def etag(revision: int) -> str:
    """The entity tag of a resource: its revision in quotes."""
    return f'"{revision}"'


def request_id() -> str:
    """The id of the request that is being served: the client's, or one that was made for it."""
    number: str = g.request_id
    return number


def accepted_request_id() -> str | None:
    """The id that the client gave its request; ``None`` if it gave none that is fit for logs."""
    given = asked.headers.get("X-Request-Id", "")
    return given if REQUEST_ID.match(given) else None


def expected_revision() -> tuple[int | None, bool]:
    """If-Match, as (the revision that must be current, whether the resource must exist at all).

    Raises:
        InvalidInput: it is neither one strong entity tag of ours nor ``*``.
    """
    given = request.headers.get("If-Match")
    if given is None:
        return None, False
    if given.strip() == "*":
        return None, True
    return _revision(given, "If-Match"), True


def must_be_absent() -> bool:
    """If-None-Match on a write, which can only be ``*``.

    Raises:
        InvalidInput: it is something else.
    """
    given = request.headers.get("If-None-Match")
    if given is not None and given.strip() != "*":
        raise InvalidInput(
            f"{given!r} means nothing on a write", subject="If-None-Match", hint="write * to create only what is new"
        )
    return given is not None


def known_revision() -> int | None:
    """If-None-Match on a read: the revision that the client has; ``None`` when it says nothing of use."""
    match = _ETAG.match(request.headers.get("If-None-Match", "").strip())
    return int(match[1]) if match else None


def _revision(text: str, header: str) -> int:
    match = _ETAG.match(text.strip())
    if match is None:
        raise InvalidInput(
            f"{text!r} is not an entity tag of this server", subject=header, hint='write the ETag as it was sent: "42"'
        )
    return int(match[1])


class Query:
    """The query parameters of the request, each of them known.

    Args:
        known: the names that this route has.

    Raises:
        InvalidInput: there is a name that it does not have, or one is there twice.
    """

    def __init__(self, *known: str) -> None:
        self._values: dict[str, str] = {}
        errors = []
        for name, values in asked.args.lists():
            if name not in known:
                near = nearest(name, list(known))
                hint = f"did you mean {near}?" if near else f"known: {', '.join(known) or 'none'}"
                errors.append(FieldError(path=name, message="is not a parameter of this path", hint=hint))
            elif len(values) > 1:
                errors.append(FieldError(path=name, message="is given more than once"))
            else:
                self._values[name] = values[0]
        if errors:
            raise InvalidInput("the query is not valid", subject=asked.path, errors=tuple(errors))

    def text(self, name: str, default: str = "") -> str:
        """The value of ``name``."""
        return self._values.get(name, default)

    def flag(self, name: str) -> bool:
        """Whether ``name`` is set: ``?name`` and ``?name=true`` do, ``?name=false`` does not."""
        value = self._values.get(name)
        if value is None or value.lower() in _FALSE:
            return False
        if value.lower() not in _TRUE:
            raise _bad(name, f"{value!r} is neither true nor false")
        return True

    def number(self, name: str, default: int, minimum: int, maximum: int) -> int:
        """The whole number ``name``, within its bounds."""
        value = self._values.get(name)
        if value is None:
            return default
        if not re.fullmatch(r"\d{1,18}", value) or not minimum <= int(value) <= maximum:
            raise _bad(name, f"{value[:40]!r} is not a whole number from {minimum} to {maximum}")
        return int(value)


def _bad(name: str, message: str) -> InvalidInput:
    return InvalidInput("the query is not valid", subject=asked.path, errors=(FieldError(path=name, message=message),))


async def json_body(*media_types: str) -> Any:
    """The request's body, decoded.

    Args:
        media_types: the content types that are taken.

    Raises:
        UnsupportedMediaType: it has another content type, or none.
        InvalidInput: it is not JSON; the message says at which line and column.
    """
    if request.mimetype not in media_types:
        raise UnsupportedMediaType(
            f"{request.mimetype or 'no content type'} is not taken here",
            subject=request.path,
            hint=f"send Content-Type: {media_types[0]}",
        )
    body: bytes = await request.get_data(cache=False, as_text=False, parse_form_data=False)
    return decode_json(body, request.path)


def decode_json(body: bytes, subject: str) -> Any:
    """``body`` as builtin types.

    Raises:
        InvalidInput: it is not JSON.
    """
    try:
        return msgspec.json.decode(body)
    except RecursionError:
        reason, position = "it is nested too deeply", None
    except UnicodeDecodeError:
        reason, position = "a string in it is not UTF-8", _not_utf8(body)
    except msgspec.DecodeError as error:
        reason, position = _reason(str(error), body)
    except ValueError as error:
        reason, position = str(error), None
    details: dict[str, Any] = {}
    if position is not None:
        before = body[:position].decode("utf-8", "replace")
        line, column = before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1
        reason, details = f"line {line}, column {column}: {reason}", {"line": line, "column": column}
    raise InvalidInput(f"the body is not JSON: {reason}", subject=subject, details=details)


def _reason(text: str, body: bytes) -> tuple[str, int | None]:
    if not body.strip():
        return "it is empty", None
    match = re.fullmatch(r"JSON is malformed: (.*) \(byte (\d+)\)", text)
    if match:
        return match[1], int(match[2])
    if "truncated" in text:
        return "it ends too early", len(body)
    return text, None


def _not_utf8(body: bytes) -> int | None:
    try:
        body.decode("utf-8")
    except UnicodeDecodeError as error:
        return error.start
    return None
