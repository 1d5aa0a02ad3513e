"""What ``platformd describe`` prints of one resource: what it is, why it is not ready, and what happened to it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from platformd.cli.commands.events import TITLES as EVENT_TITLES
from platformd.cli.commands.events import event_row, events_of
from platformd.cli.commands.history import record_lines, records
from platformd.cli.output import NONE, TONES, as_yaml, cell, lookup, safe, table_of
from platformd.client import control
from platformd.client.http import make_request, path_of
from platformd.core.errors import InvalidInput, NotFound, PlatformError
from platformd.core.quantities import format_seconds
from platformd.model.kind import Kind
from platformd.model.kinds import KINDS

if TYPE_CHECKING:
    from platformd.cli.options import Session

LAST: Final = 8
"""How many of the last changes are shown."""
FIELDS: Final = 6
"""How many changed fields of each are shown."""
OWNED: Final = 50
"""How many of the resources that belong to it are shown of each kind."""
SHOWN: Final = frozenset({"state", "reason", "message", "since", "observed_generation"})
"""What of a status stands at the top already."""


def facts_of(session: Session, kind: Kind, name: str, tenant: str) -> dict[str, Any]:
    """Everything that is known of a resource: itself, ``why``, ``owned``, ``controllers``, ``events``, ``history``.

    Raises:
        NotFound: it is not there.
    """
    resource: dict[str, Any] = session.client.send(control.get(kind, name, tenant=tenant)).check().json()
    return {
        "resource": resource,
        "why": why_not_ready(resource),
        "owned": list(_owned(session, resource, tenant)),
        "controllers": _controllers(session, kind, name, tenant),
        "events": _events(session, kind, name, tenant),
        "history": _history(session, kind, name, tenant),
    }


def why_not_ready(resource: Mapping[str, Any]) -> list[str]:
    """What keeps a resource from being as its spec says; nothing when it is."""
    status = resource.get("status") or {}
    state, generation, seen = status.get("state"), resource.get("generation"), status.get("observed_generation")
    reasons = []
    if resource.get("deleting_at"):
        waiting = ", ".join(resource.get("finalizers") or ()) or "nobody"
        reasons.append(f"it was deleted at {resource['deleting_at']}, and waits for {waiting} to clean up")
    if isinstance(generation, int) and isinstance(seen, int) and seen < generation:
        reasons.append(f"its controller has not acted on the newest spec yet (generation {seen} of {generation})")
    if TONES.get(str(state)) != "green":
        said = ": ".join(str(word) for word in (status.get("reason"), status.get("message")) if word)
        reasons.append(f"it is {state}" + (f": {said}" if said else ""))
    return reasons


def _owned(session: Session, resource: Mapping[str, Any], tenant: str) -> Iterator[dict[str, Any]]:
    """What belongs to it: kind, name and state of each."""
    uid = resource.get("uid")
    for kind in KINDS:
        query = {"field": f"owner.uid={uid}", "limit": str(OWNED)}
        try:
            page = control.read_page(
                session.client.send(make_request("GET", path_of(kind.plural, tenant=tenant), query=query))
            )
        except InvalidInput:
            return  # a daemon that cannot choose by fields
        for one in page.items:
            if lookup(one, "owner.uid") == uid:
                yield {"kind": kind.name, "name": one.get("name"), "state": lookup(one, "status.state")}


def _controllers(session: Session, kind: Kind, name: str, tenant: str) -> list[dict[str, Any]]:
    """How the controllers stand to it; empty on a daemon that does not lead, or does not say."""
    try:
        path = path_of(kind.plural, name, "reconcile", tenant=tenant)
        found: list[dict[str, Any]] = session.client.send(make_request("GET", path)).check().json()["items"]
    except (NotFound, InvalidInput):
        return []
    return found


def _events(session: Session, kind: Kind, name: str, tenant: str) -> list[Mapping[str, Any]]:
    """The last events about it."""
    try:
        return events_of(session, {"spec.about.kind": kind.name, "spec.about.name": name}, tenant)[-LAST:]
    except (NotFound, InvalidInput):
        return []


def _history(session: Session, kind: Kind, name: str, tenant: str) -> list[Mapping[str, Any]] | None:
    """Its last changes; ``None`` when the daemon keeps none."""
    try:
        return list(islice(records(session, [f"{kind.singular}/{name}"], "", LAST, tenant), LAST))
    except (NotFound, InvalidInput):
        return None


def lines_of(facts: Mapping[str, Any], consumers: Sequence[Mapping[str, Any]] = ()) -> Iterator[str]:
    """It for people."""
    resource: Mapping[str, Any] = facts["resource"]
    status = resource.get("status") or {}
    now = time.time_ns()
    owner = resource.get("owner")
    head = {
        "Name": f"{str(resource.get('kind')).lower()}/{resource.get('name')}",
        "Tenant": resource.get("tenant"),
        "State": status.get("state"),
        "Since": _when(status.get("since"), now),
        "Message": status.get("message"),
        "Ready": "yes" if not facts["why"] else "no: " + facts["why"][0],
        "Labels": cell(resource.get("labels"), "text", now),
        "Owner": f"{str(owner.get('kind')).lower()}/{owner.get('name')}" if owner else NONE,
        "Created": _when(resource.get("created_at"), now),
        "Changed": _when(resource.get("updated_at"), now),
        "Revision": f"{resource.get('revision')} (generation {resource.get('generation')})",
        "UID": resource.get("uid"),
    }
    for title, value in head.items():
        if value not in (None, "", NONE):
            yield safe(f"{title + ':':<10} {value}")
    yield from (safe(f"{'':<10} and {reason}") for reason in facts["why"][1:])
    yield from _section("Spec", resource.get("spec"))
    yield from _section("Status", {key: value for key, value in status.items() if key not in SHOWN})
    if facts["owned"]:
        yield from ("", "Belongs to it:")
        yield from (safe(f"  {one['kind'].lower()}/{one['name']} {one['state']}") for one in facts["owned"])
    if consumers:
        yield from ("", "Consumers:")
        yield from (
            safe(f"  {one.get('name')}: {one.get('pending', 0)} pending, {one.get('ack_pending', 0)} unacknowledged")
            for one in consumers
        )
    if facts["controllers"]:
        yield from ("", "Controllers:")
        yield from (safe(f"  {_controller_line(one)}") for one in facts["controllers"])
    if facts["events"]:
        yield from ("", "Last events:")
        table = table_of(EVENT_TITLES)
        yield from (f"  {line}" for line in table.lines([event_row(event) for event in facts["events"]]))
    if facts["history"]:
        yield from ("", "Last changes:")
        for record in facts["history"]:
            lines = list(record_lines(record, named=False, diff=record.get("what") != "created"))
            yield from (safe(f"  {line}") for line in lines[: FIELDS + 1])
            if len(lines) > FIELDS + 1:
                yield f"      and more: platformd history {head['Name']}"


def _controller_line(one: Mapping[str, Any]) -> str:
    """How a controller stands to it, for people."""
    since = one.get("seconds_since_success")
    parts = [f"{one.get('controller')} is {one.get('state')}"]
    if since is not None:
        parts.append(f"looked at it with success {format_seconds(float(since))} ago")
    if one.get("failures"):
        parts.append(f"failed {one['failures']} times since: {one.get('last_error')}")
    if one.get("next_try_seconds") is not None and one.get("failures"):
        parts.append(f"tries again in {format_seconds(float(one['next_try_seconds']))}")
    return ", ".join(parts)


def _when(value: Any, now: int) -> str:
    return f"{str(value)[:19].replace('T', ' ')} ({cell(value, 'age', now)} ago)" if value else NONE


def _section(title: str, document: Any) -> Iterator[str]:
    if document:
        yield from ("", f"{title}:")
        yield from (safe(f"  {line}") for line in as_yaml([document]).splitlines())


def consumers_of(session: Session, kind: Kind, name: str, tenant: str) -> list[dict[str, Any]]:
    """The consumers of a stream; of another kind, none."""
    if kind.plural != "streams":
        return []
    try:
        return control.read_page(session.client.send(control.list_consumers(name, tenant=tenant))).items
    except PlatformError:  # the engine has not got it yet
        return []
