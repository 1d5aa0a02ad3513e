"""Keys, transactions, leases and locks as requests, and what their answers mean; no I/O.

Each function makes the ``Request`` of one operation; a shell sends it and ``check``s the ``Response``. Keys and values
are bytes: in JSON each is text where it is text, else base64 under a name that ends in ``_base64``.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote

from platformd.client.http import Request, Response, make_request
from platformd.core.errors import PlatformError

PAGE_LIMIT: Final = 500
"""How many keys one page of a listing has at most."""
TXN_OPERATIONS: Final = 100
"""How many operations these helpers put into one transaction; the store's own limit is 128 unless it is set."""
LOCKS: Final = "locks"
"""Where the places of locks are among the keys."""

_RAW = "application/octet-stream"
_CONTROLS = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


def get(key: bytes, *, revision: int = 0, raw: bool = False) -> Request:
    """Read a key: all that is known of it, or with ``raw`` only its value as it is."""
    path, query = _of_key(key)
    accept = {"accept": f"{_RAW}, application/problem+json"} if raw else {}
    return make_request("GET", path, query=query | _revision(revision), headers=accept)


def put(
    key: bytes,
    value: bytes,
    *,
    ttl: str = "",
    lease: str = "",
    expect_revision: int | None = None,
    create: bool = False,
) -> Request:
    """Set a key.

    Args:
        key: the key.
        value: its value.
        ttl: after how long it goes by itself (``30s``).
        lease: the lease that it goes with.
        expect_revision: only if this is its ``mod_revision``.
        create: only if it is not there.
    """
    path, query = _of_key(key)
    query |= ({"ttl": ttl} if ttl else {}) | ({"lease": lease} if lease else {})
    headers = {"if-none-match": "*"} if create else _if_match(expect_revision)
    return make_request("PUT", path, query=query, body=value, content_type=_RAW, headers=headers)


def delete(key: bytes, *, expect_revision: int | None = None) -> Request:
    """Remove a key; refused when it is not there, or has another revision than expected."""
    path, query = _of_key(key)
    return make_request("DELETE", path, query=query, headers=_if_match(expect_revision))


def delete_prefix(prefix: bytes) -> Request:
    """Remove all keys with a prefix, in one revision."""
    return make_request("DELETE", "/v1/kv", query=_of_prefix(prefix))


def list_page(
    prefix: bytes,
    *,
    limit: int = PAGE_LIMIT,
    cursor: str | None = None,
    keys_only: bool = False,
    delimiter: str = "",
    revision: int = 0,
) -> Request:
    """Read one page of the keys with a prefix, in the order of keys, all pages as they were at the first one's moment.

    Args:
        prefix: what they begin with.
        limit: how many at most.
        cursor: where the page before ended.
        keys_only: leave the values out.
        delimiter: fold keys that go on beyond it into ``prefixes``.
        revision: as they were then; 0 for now.
    """
    query = _of_prefix(prefix) | {"limit": str(limit)} | _revision(revision)
    query |= ({"cursor": cursor} if cursor else {}) | ({"keys_only": ""} if keys_only else {})
    return make_request("GET", "/v1/kv", query=query | ({"delimiter": delimiter} if delimiter else {}))


def count(prefix: bytes) -> Request:
    """How many keys have a prefix: ``{"count", "revision"}``."""
    return make_request("GET", "/v1/kv", query=_of_prefix(prefix) | {"count": ""})


def txn(document: Mapping[str, Any], *, previous: bool = False) -> Request:
    """Do all or nothing of ``{"compares": […], "then": […], "else": […]}``."""
    return make_request("POST", "/v1/txn", query={"previous": ""} if previous else {}, json=dict(document))


def grant(ttl: str, *, lease: str = "") -> Request:
    """Grant a lease, with an id of one's own if ``lease`` is given."""
    return make_request("POST", "/v1/leases", json={"ttl": ttl} | ({"id": lease} if lease else {}))


def keep_alive(lease: str) -> Request:
    """Begin a lease's time again."""
    return make_request("POST", f"/v1/leases/{quote(lease, safe='')}/keepalive")


def revoke(lease: str) -> Request:
    """End a lease, with everything that is bound to it."""
    return make_request("DELETE", f"/v1/leases/{quote(lease, safe='')}")


def show_lease(lease: str) -> Request:
    """Read a lease, with its keys."""
    return make_request("GET", f"/v1/leases/{quote(lease, safe='')}")


def leases_page(*, limit: int = PAGE_LIMIT, cursor: str | None = None) -> Request:
    """Read one page of all leases, without their keys."""
    return make_request("GET", "/v1/leases", query={"limit": str(limit)} | ({"cursor": cursor} if cursor else {}))


def acquire(name: str, lease: str, *, wait: float, owner: str = "") -> Request:
    """Have a lock by a lease of one's own: the same request again goes on waiting at the same place."""
    body = {"lease": lease, "wait": wait, "owner": owner}
    return make_request("POST", f"/v1/locks/{quote(name)}", json=body)


def release(name: str, lease: str) -> Request:
    """Give up a lock, or the place in its queue."""
    return make_request("DELETE", f"/v1/locks/{quote(name)}", query={"lease": lease})


def lock_state(name: str) -> Request:
    """Who has a lock, and who waits for it."""
    return make_request("GET", f"/v1/locks/{quote(name)}")


def read_document(response: Response) -> dict[str, Any]:
    """The object in an answer.

    Raises:
        PlatformError: the answer is a failure, or holds no object.
    """
    document = response.check().json()
    if not isinstance(document, dict):
        raise PlatformError("the server's answer is not an object", hint="is this platformd's address?")
    return document


def bytes_of(document: Mapping[str, Any], name: str) -> bytes | None:
    """The member ``name`` in either form; ``None`` when it is not there.

    Raises:
        PlatformError: it is not of its form.
    """
    plain, encoded = document.get(name), document.get(f"{name}_base64")
    try:
        if encoded is not None:
            return base64.b64decode(encoded, validate=True)
        return None if plain is None else plain.encode()
    except (AttributeError, TypeError, ValueError, binascii.Error) as error:
        raise PlatformError(f"{name}_base64 is not base64" if encoded is not None else f"{name} is no text") from error


def members_of(name: str, data: bytes) -> dict[str, Any]:
    """``data`` as a member ``name`` if it is text, else as ``name_base64``.

    Control characters are not text here: in JSON each of them takes six bytes.
    """
    if _is_text(data) and not _CONTROLS.search(data):
        return {name: data.decode()}
    return {f"{name}_base64": base64.b64encode(data).decode("ascii")}


def _of_key(key: bytes) -> tuple[str, dict[str, str]]:
    if _is_text(key):
        return f"/v1/kv/{quote(key)}", {}
    return f"/v1/kv/{base64.urlsafe_b64encode(key).decode('ascii')}", {"encoding": "base64"}


def _of_prefix(prefix: bytes) -> dict[str, str]:
    if _is_text(prefix):
        return {"prefix": prefix.decode()}
    return {"prefix": base64.urlsafe_b64encode(prefix).decode("ascii"), "encoding": "base64"}


def watch_target(key: bytes, *, exact: bool) -> tuple[str, dict[str, str]]:
    """Path and query of a watch of one key, or of all with a prefix."""
    return _of_key(key) if exact else ("/v1/kv", _of_prefix(key))


def _is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _revision(revision: int) -> dict[str, str]:
    return {"revision": str(revision)} if revision else {}


def _if_match(expect_revision: int | None) -> dict[str, str]:
    return {} if expect_revision is None else {"if-match": f'"{expect_revision}"'}
