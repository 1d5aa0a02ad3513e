"""``--dry-run`` where the daemon has none: what would be done, found out by reading. Nothing is changed.

What holds when it is looked at may not hold later; for keys, ``--if-revision`` and transactions make sure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from platformd.cli.kv_output import shown
from platformd.cli.options import Session
from platformd.client import control, kv, tailing
from platformd.client.http import Request
from platformd.core.errors import NotFound, PreconditionFailed


def read(session: Session, request: Request) -> dict[str, Any]:
    """The object that ``request`` reads.

    Raises:
        PlatformError: the daemon refuses.
    """
    return kv.read_document(session.client.send(request))


def put_key(session: Session, key: bytes, value: bytes, *, if_revision: int | None, create: bool) -> dict[str, Any]:
    """What setting a key would do.

    Raises:
        PreconditionFailed: what is asked of it does not hold.
    """
    try:
        now: dict[str, Any] | None = read(session, kv.get(key))
    except NotFound:
        now = None
    if create and now is not None:
        raise PreconditionFailed("it is there already", subject=shown(key))
    _expect(key, now, if_revision)
    outcome = "created" if now is None else "unchanged" if kv.bytes_of(now, "value") == value else "changed"
    return {"outcome": outcome, "dry_run": True, "mod_revision": None if now is None else now["mod_revision"]} | (
        kv.members_of("key", key)
    )


def delete_key(session: Session, key: bytes, *, if_revision: int | None) -> dict[str, Any]:
    """What removing a key would do.

    Raises:
        NotFound: it is not there.
        PreconditionFailed: it is not at the revision.
    """
    now = read(session, kv.get(key))
    _expect(key, now, if_revision)
    return {"deleted": 1, "revision": now["mod_revision"], "dry_run": True}


def delete_prefix(session: Session, prefix: bytes) -> dict[str, Any]:
    """What removing all keys with a prefix would do."""
    found = read(session, kv.count(prefix))
    return {"deleted": found["count"], "revision": found["revision"], "dry_run": True}


def transaction(session: Session, document: Mapping[str, Any]) -> dict[str, Any]:
    """Which side of a transaction would be done: its compares are asked, by a transaction that does nothing."""
    asked = read(session, kv.txn({"compares": document.get("compares", [])}))
    held = bool(asked.get("succeeded"))
    return {
        "succeeded": held,
        "revision": asked.get("revision"),
        "dry_run": True,
        "would_do": list(document.get("then" if held else "else") or []),
    }


def purge(
    session: Session, stream: str, tenant: str, *, subject: str | None, before: int | None, keep: int | None
) -> dict[str, Any]:
    """How many records a purge would remove at most."""
    found = read(session, tailing.stream_info(stream, tenant=tenant))
    most = int(found["messages"])
    if before is not None:
        most = min(most, max(0, before - int(found["first_sequence"])))
    if keep is not None and subject is None:
        most = min(most, max(0, int(found["messages"]) - keep))
    return {"at_most": most, "dry_run": True}


def consumer(session: Session, stream: str, name: str, tenant: str) -> dict[str, Any] | None:
    """A consumer as it is; ``None`` when it is not there.

    Raises:
        NotFound: the stream is not there.
    """
    for one in control.read_page(session.client.send(control.list_consumers(stream, tenant=tenant))).items:
        if one.get("name") == name:
            return one
    return None


MAX_SUBJECTS: Final = 1000
"""Subjects that are looked up; what comes after them is counted only."""


def records(session: Session, batches: Iterable[Sequence[Any]], stream: str, tenant: str) -> dict[str, Any]:
    """Where records would go, and how much they are; all of them are read.

    Raises:
        NotFound: no stream captures a subject, or there is no such stream.
    """
    from platformd.cli.records import stream_of

    streams: dict[str, str] = {}
    counted = size = 0
    if stream:
        read(session, tailing.stream_info(stream, tenant=tenant))
    for batch in batches:
        counted += len(batch)
        for record in batch:
            size += len(record.payload)
            if not stream and record.subject not in streams and len(streams) < MAX_SUBJECTS:
                streams[record.subject] = stream_of(session, record.subject, tenant)
    names = [stream] if stream else list(dict.fromkeys(streams.values()))
    return {"records": counted, "bytes": size, "streams": names, "dry_run": True}


def _expect(key: bytes, now: Mapping[str, Any] | None, revision: int | None) -> None:
    if revision is not None and (now is None or now["mod_revision"] != revision):
        how = "it is not there" if now is None else f"it is at revision {now['mod_revision']}"
        raise PreconditionFailed(how, subject=shown(key), hint=f"{revision} was expected")
