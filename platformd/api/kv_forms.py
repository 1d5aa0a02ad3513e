"""Keys, values and leases as they stand in paths, queries and JSON.

Keys and values are bytes. In JSON each is text where it is UTF-8 without control characters (``key``, ``value``), else
base64 under a name that says so (``key_base64``, ``value_base64``); both forms are understood wherever one is read. In
a path or a query a key is percent-escaped UTF-8, or base64 with ``?encoding=base64``. A lease is written as 16
hexadecimal digits: its 63 bits do not survive as a number in JavaScript.
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import Any, Final
from urllib.parse import unquote_to_bytes

from platformd.api.asked import asked
from platformd.coordination.contract import KeyValue, Lease, prefix_end
from platformd.core.errors import Forbidden, InvalidInput

RESERVED: Final = b"/resources/"
"""Where people who know the inside look for resources. A user's key of that name would only mislead: there is none."""

_CONTROLS = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_LEASE = re.compile(r"^[0-9a-fA-F]{1,16}$")
_MAX_LEASE = 2**63 - 1


def put_bytes(document: dict[str, Any], name: str, data: bytes) -> None:
    """Write ``data`` into ``document``: as text under ``name``, or in base64 under ``name_base64``.

    Control characters are not text here: in JSON each of them takes six bytes, which no page's limit foresees.
    """
    if not _CONTROLS.search(data):
        try:
            document[name] = data.decode()
        except UnicodeDecodeError:
            pass
        else:
            return
    document[f"{name}_base64"] = base64.b64encode(data).decode("ascii")


def kv_document(kv: KeyValue, *, value: bool = True) -> dict[str, Any]:
    """A key as JSON types."""
    document: dict[str, Any] = {}
    put_bytes(document, "key", kv.key)
    if value:
        put_bytes(document, "value", kv.value)
    document["create_revision"] = kv.create_revision
    document["mod_revision"] = kv.mod_revision
    document["version"] = kv.version
    document["lease"] = lease_text(kv.lease)
    return document


def lease_document(lease: Lease, *, keys: bool = False) -> dict[str, Any]:
    """A lease as JSON types."""
    document: dict[str, Any] = {"id": lease_text(lease.id), "ttl": lease.ttl, "remaining": round(lease.remaining, 3)}
    if keys:
        document["keys"] = [_named("key", key) for key in lease.keys]
    return document


def _named(name: str, data: bytes) -> dict[str, Any]:
    document: dict[str, Any] = {}
    put_bytes(document, name, data)
    return document


def lease_text(lease_id: int) -> str | None:
    """A lease's id as it is written; ``None`` for none."""
    return f"{lease_id:016x}" if lease_id else None


def lease_number(text: str, subject: str = "lease") -> int:
    """The id that ``text`` stands for.

    Raises:
        InvalidInput: it is no id of a lease.
    """
    number = int(text, 16) if _LEASE.match(text) else 0
    if not 0 < number <= _MAX_LEASE:
        raise InvalidInput(f"{text[:40]!r} is not a lease", subject=subject, hint="write its id as it was told, in hex")
    return number


def from_base64(text: str, subject: str) -> bytes:
    """The bytes of ``text``, in the usual or the URL-safe alphabet.

    Raises:
        InvalidInput: it is not base64.
    """
    try:
        return base64.b64decode(text.replace("-", "+").replace("_", "/"), validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidInput(f"{text[:40]!r} is not base64", subject=subject) from error


def checked_key(key: bytes) -> bytes:
    """``key``, if a user may have it.

    Raises:
        InvalidInput: it is empty.
        Forbidden: it looks like the daemon's own.
    """
    if not key:
        raise InvalidInput("the key is empty", subject=asked.path)
    if key.startswith(RESERVED):
        raise Forbidden(
            "resources are not reachable as keys",
            subject=key.decode(errors="replace"),
            hint="ask for /v1/KIND/NAME, or use `platformd get`",
        )
    return key


def key_in_path(prefix: str, encoding: str) -> bytes:
    """The key in the path of the request, after ``prefix``, from the bytes as they were sent.

    Raises: as ``checked_key`` and ``in_encoding``.
    """
    raw: bytes = asked.scope["raw_path"].partition(b"?")[0]
    if not raw.startswith(
        prefix.encode()
    ):  # an escape where none is needed; what would be the key is not worth a guess
        raise InvalidInput("only what follows may be escaped", subject=asked.path, hint=f"write {prefix} as it is")
    sent = raw[len(prefix) :]
    return checked_key(in_encoding(unquote_to_bytes(sent), encoding, asked.path))


def bytes_in_query(name: str, encoding: str) -> bytes:
    """The parameter ``name``, from the bytes as they were sent; empty when it is not there."""
    for pair in asked.query_string.split(b"&"):
        given, _, value = pair.partition(b"=")
        if given == name.encode():
            return in_encoding(unquote_to_bytes(value.replace(b"+", b" ")), encoding, name)
    return in_encoding(b"", encoding, name)


def in_encoding(sent: bytes, encoding: str, subject: str) -> bytes:
    """What ``sent`` stands for in the encoding that the query names.

    Raises:
        InvalidInput: it is not of that encoding, or there is no such encoding.
    """
    if encoding not in ("utf-8", "base64"):
        raise InvalidInput(f"{encoding!r} is no encoding", subject="encoding", hint="utf-8 or base64")
    try:
        text = sent.decode()
    except UnicodeDecodeError as error:
        raise InvalidInput("the key is not UTF-8", subject=subject, hint="send it with ?encoding=base64") from error
    return sent if encoding == "utf-8" else from_base64(text, subject)


def range_of(prefix: bytes, subject: str) -> tuple[bytes, bytes]:
    """The range of all keys with ``prefix``, for an operation, which needs an end.

    Raises:
        InvalidInput: the prefix is empty, which would be everything.
    """
    end = prefix_end(prefix)
    if end is None:
        raise InvalidInput("the prefix is empty", subject=subject, hint="say which keys; nothing does all at once")
    return prefix, end
