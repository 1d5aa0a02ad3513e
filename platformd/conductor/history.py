"""What happened to resources: who changed what, when and why; kept after they are gone, and bounded.

A record is written in the transaction of its change, so there is none without the other. Its key is
``/history/KIND/TENANT/NAME/BASE``, where BASE is the revision that the change was made on top of: the object's last
one, or for a new object the store's when it was seen not to be there. An object's changes follow each other by their
compares, so its keys grow with them, over deletion and creation too; when the change took place says the record's own
``mod_revision``.

What controllers measure (numbers in a status that stays in its state) is no change: it would be a record a second.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from typing import Any, Final, Literal

import msgspec

from platformd.conductor.actor import acting
from platformd.conductor.differences import FieldChange, differences
from platformd.conductor.retention import Bounds
from platformd.coordination.contract import Get, GetResult, KeyValue, Put, Store, prefix_end
from platformd.core.errors import Corrupted, InvalidInput
from platformd.core.quantities import seconds
from platformd.core.settings import HistorySettings
from platformd.model.resource import DEFAULT_TENANT, AnyResource

HISTORY: Final = b"/history/"
"""Where records are in the Store."""
BATCH: Final = 100
"""Records that are read at a time."""

What = Literal["created", "configured", "status", "deleting", "finalized", "deleted"]
"""What was done: its spec, labels, annotations or owner changed (``configured``); it entered another state or said
another thing of itself (``status``); it was marked to go (``deleting``); a controller was done with it
(``finalized``)."""

TOLD: Final = ("state", "reason", "message", "observed_generation")
"""What of a status is recorded; the rest is measured."""


def history_bounds(settings: HistorySettings) -> Bounds:
    """What ``retention`` keeps of history."""
    return Bounds(
        prefix=HISTORY,
        object_of=lambda key: key.rpartition(b"/")[0],
        per_object=settings.records_per_object,
        overall=settings.records,
        max_age=seconds(settings.max_age),
    )


class Record(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One change of one resource."""

    revision: int = 0
    """The Store's revision of the change."""
    at: str
    """When, RFC 3339 UTC."""
    actor: str
    """Who: ``user:alice``, ``token:nightly``, ``controller:streams``, ``daemon``."""
    reason: str = ""
    """Why, as the actor said it."""
    what: What
    """What was done."""
    kind: str
    """The resource's kind."""
    name: str
    """The resource's name."""
    tenant: str = DEFAULT_TENANT
    """Whose it was."""
    uid: str = ""
    """The resource's uid: an object that was created anew has another."""
    generation: int = 0
    """The generation of its spec then."""
    changes: tuple[FieldChange, ...] = ()
    """The fields that changed."""
    more: int = 0
    """How many more changed that are not listed."""


class Records(msgspec.Struct, frozen=True, kw_only=True):
    """A page of history, newest first."""

    items: tuple[Record, ...]
    cursor: str | None = None
    """Ask with this for older ones; ``None`` when there are none."""


def told(resource: AnyResource | None) -> Any:
    """The part of a resource of which changes are recorded, as builtin types."""
    if resource is None:
        return msgspec.UNSET
    members = ("labels", "annotations", "owner", "finalizers", "deleting_at", "spec")
    document = {member: msgspec.to_builtins(getattr(resource, member)) for member in members}
    document["status"] = {word: said for word in TOLD if (said := getattr(resource.status, word))}
    return {member: value for member, value in document.items() if value not in (None, {}, (), [])}


def is_told(before: AnyResource | None, after: AnyResource | None, *, status_only: bool) -> bool:
    """Whether there is anything to record."""
    if before is None or after is None or not status_only:
        return True
    return any(getattr(before.status, word) != getattr(after.status, word) for word in TOLD)


def record_of(what: What, before: AnyResource | None, after: AnyResource | None, now: str) -> Record:
    """The record of a change by whoever acts in this task."""
    changes, more = differences(told(before), told(after))
    resource = after if after is not None else before
    assert resource is not None
    by = acting()
    return Record(
        at=now,
        actor=by.actor,
        reason=by.reason,
        what=what,
        kind=resource.kind,
        name=resource.name,
        tenant=resource.tenant,
        uid=resource.uid,
        generation=resource.generation,
        changes=changes,
        more=more,
    )


def history_put(record: Record, base: int) -> Put:
    """What keeps ``record``; see the module's text for ``base``."""
    return Put(_prefix(record.kind, record.tenant, record.name) + b"%020d" % base, msgspec.json.encode(record))


def _prefix(kind: str = "", tenant: str = "", name: str = "") -> bytes:
    parts = [part for part in (kind, tenant, name) if part]
    return HISTORY + "".join(f"{part}/" for part in parts).encode()


def read_record(kv: KeyValue) -> Record:
    """The record that was stored.

    Raises:
        Corrupted: it is none.
    """
    try:
        return msgspec.structs.replace(msgspec.json.decode(kv.value, type=Record), revision=kv.mod_revision)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise Corrupted(
            f"a record of history cannot be read: {error}", subject=kv.key.decode(errors="replace")
        ) from error


async def of_one(store: Store, kind: str, tenant: str, name: str, *, limit: int, cursor: str | None) -> Records:
    """The history of one resource, and of those that had its name before it; see ``Conductor.history``."""
    prefix = _prefix(kind, tenant, name)
    end = _read_cursor(cursor, prefix) if cursor else prefix_end(prefix)
    page = await store.list(prefix, end, limit=limit, order="-key")
    last = _write_cursor(page.items[-1].key) if page.more and page.items else None
    return Records(items=tuple(read_record(kv) for kv in page.items), cursor=last)


async def of_all(
    store: Store,
    kind: str,
    tenant: str | None,
    *,
    actor: str,
    limit: int,
    cursor: str | None,
) -> Records:
    """The history of everything; see ``Conductor.recent``."""
    prefix = _prefix(kind, (tenant or "") if kind else "")
    before = _read_revision(cursor) if cursor else None
    keys = (await store.list(prefix, prefix_end(prefix), keys_only=True, order="-mod_revision")).items
    older = [kv for kv in keys if (before is None or kv.mod_revision < before) and _is_of(kv.key, tenant)]
    found: list[Record] = []
    for i in range(0, len(older), BATCH):
        for kv in await _values(store, older[i : i + BATCH]):
            record = read_record(kv)
            if actor and record.actor != actor:
                continue
            if len(found) >= limit and record.revision != found[-1].revision:
                # All changes of one revision are on one page, so that the cursor can be a revision.
                return Records(items=tuple(found), cursor=str(found[-1].revision))
            found.append(record)
    return Records(items=tuple(found))


async def _values(store: Store, keys: Sequence[KeyValue]) -> list[KeyValue]:
    results = (await store.txn([], [Get(kv.key) for kv in keys])).results
    return [kv for result in results if isinstance(result, GetResult) for kv in result.items]


def _is_of(key: bytes, tenant: str | None) -> bool:
    return tenant is None or key[len(HISTORY) :].split(b"/")[1] == tenant.encode()


def _write_cursor(key: bytes) -> str:
    return base64.urlsafe_b64encode(key).decode()


def _read_cursor(cursor: str, prefix: bytes) -> bytes:
    try:
        key = base64.urlsafe_b64decode(cursor)
    except (binascii.Error, ValueError) as error:
        raise InvalidInput("is not a cursor of this history", subject="cursor") from error
    if not key.startswith(prefix):
        raise InvalidInput("is not a cursor of this history", subject="cursor")
    return key


def _read_revision(cursor: str) -> int:
    if not (cursor.isascii() and cursor.isdigit() and len(cursor) < 19):
        raise InvalidInput("is not a cursor of this history", subject="cursor")
    return int(cursor)
