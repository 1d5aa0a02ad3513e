"""Everything the screen knows, and how each event changes it.

``reduce`` is the only way that anything changes: a pure function from a state and an event to the next
state. Nothing here reads a clock, a socket or a widget.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from platformd.model.pipeline import PipelineStatus
from platformd.model.resource import Status

from .events import (
    Bookmark,
    Changed,
    Connected,
    Connecting,
    Disconnected,
    Document,
    Event,
    Listing,
    StatusRead,
    Tick,
)
from .facts import TONES, Daemon, Key, dig, key_of, number, read_daemon, read_status, samples
from .format import plain, span
from .history import Ring

LOG_LIMIT = 200
"""Entries of the log; older ones go."""
SUM_ENTRIES, SUM_SECONDS = 20, 60.0
"""How far back an entry is looked for that a new one counts up, so that a trickle of bad packets does not
push everything else out of the log."""
NODE_INTERVAL = 5.0
"""Seconds between samples of a node's history, as often as it is measured by default."""

Phase = Literal["connecting", "live", "lost"]


@dataclass(frozen=True, slots=True)
class Link:
    """The connection to the daemon."""

    target: str
    phase: Phase = "connecting"
    since: float = 0.0
    """When the connection was made or lost."""
    reason: str = ""
    """Why it was lost or could not be made."""
    retry_at: float = 0.0
    ever: bool = False
    """Whether it was ever there."""


@dataclass(frozen=True, slots=True)
class Item:
    """One object, as it was told last."""

    key: Key
    document: Document
    status: Status
    rings: Mapping[str, Ring]
    """The history of ``facts.samples``, by name."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the log."""

    time: float
    tone: str
    """``good``, ``warn``, ``bad`` or ``dim``."""
    subject: str
    text: str
    topic: str = ""
    """Entries of the same subject and topic are summed up while they are recent."""
    amount: int = 0
    """What such entries sum up."""


@dataclass(frozen=True, slots=True)
class State:
    """The whole."""

    link: Link
    now: float = 0.0
    daemon: Daemon | None = None
    items: Mapping[Key, Item] = field(default_factory=dict)
    revision: int | None = None
    """Up to where everything is known; ``None`` before the first listing is complete."""
    listed: frozenset[Key] | None = None
    """What the listing that is going on has named; ``None`` when none is."""
    log: tuple[Entry, ...] = ()

    def of_kind(self, kind: str) -> list[Item]:
        """The objects of a kind, by tenant and name."""
        return [self.items[k] for k in sorted(k for k in self.items if k.kind == kind)]

    @property
    def stale(self) -> bool:
        """Whether what is shown may no longer be so."""
        return self.link.phase != "live"


def reduce(state: State, event: Event) -> State:
    """The state after ``event``."""
    state = replace(state, now=event.now)
    match event:
        case Connecting():
            return state if state.link.phase == "lost" else replace(state, link=replace(state.link, since=event.now))
        case Connected(status=status):
            return _connected(_with_daemon(state, status))
        case StatusRead(status=status):
            return _advance(_with_daemon(state, status))
        case Disconnected():
            return _disconnected(state, event)
        case Listing():
            return replace(state, listed=frozenset())
        case Changed():
            return _changed(state, event)
        case Bookmark(revision=revision):
            return replace(_prune(state), revision=revision)
        case Tick():
            return state


def _logged(state: State, *entries: Entry) -> State:
    """The state with ``entries`` in its log; those that count up a recent one take its place."""
    log = state.log
    for entry in entries:
        sums = [e for e in log[-SUM_ENTRIES:] if _sums(e, entry)]
        log = (*(e for e in log if e not in sums), replace(entry, amount=entry.amount + sum(e.amount for e in sums)))
    return replace(state, log=log[-LOG_LIMIT:])


def _sums(entry: Entry, into: Entry) -> bool:
    same = bool(entry.topic) and (entry.subject, entry.topic) == (into.subject, into.topic)
    return same and into.time - entry.time < SUM_SECONDS


def _with_daemon(state: State, status: Document) -> State:
    daemon, before = read_daemon(status, state.now), state.daemon
    state = replace(state, daemon=daemon)
    if before is None:
        return state
    entries = []
    if not daemon.same_run(before):
        text = "restarted" if daemon.version == before.version else f"restarted as version {daemon.version}"
        if daemon.state_dir != before.state_dir:
            text += f", with another state directory: {daemon.state_dir}"
        entries.append(Entry(state.now, "warn", "daemon", text))
    elif daemon.state != before.state:
        entries.append(Entry(state.now, TONES.get(daemon.state, "dim"), "daemon", f"{before.state} → {daemon.state}"))
    return _logged(state, *entries)


def _connected(state: State) -> State:
    link = state.link
    if link.phase == "lost":
        text = f"back after {span(state.now - link.since)}" if link.ever else "connected"
        state = _logged(state, Entry(state.now, "good", "connection", text))
    return replace(state, link=replace(link, phase="live", since=state.now, reason="", ever=True))


def _disconnected(state: State, event: Disconnected) -> State:
    link, reason = state.link, plain(event.reason)
    since = link.since if link.phase == "lost" else event.now
    lost = replace(link, phase="lost", since=since, reason=reason, retry_at=event.retry_at)
    if link.phase == "live":
        state = _logged(state, Entry(event.now, "bad", "connection", f"lost: {reason}"))
    items = {k: replace(i, rings={n: r.cut() for n, r in i.rings.items()}) for k, i in state.items.items()}
    return replace(state, link=lost, items=items, listed=None)


def _advance(state: State) -> State:
    """Histories up to now: a value that nobody changed goes on."""
    if state.stale:
        return state
    items = {k: replace(i, rings={n: r.advance(state.now) for n, r in i.rings.items()}) for k, i in state.items.items()}
    return replace(state, items=items)


def _changed(state: State, event: Changed) -> State:
    key = key_of(event.resource)
    before = state.items.get(key)
    items = dict(state.items)
    entries: list[Entry] = []
    if event.type == "deleted":
        if items.pop(key, None) is not None:
            entries.append(Entry(event.now, "warn", str(key), "deleted"))
    else:
        item = _item(key, event, before)
        items[key] = item
        first_listing = state.listed is not None and state.revision is None
        if before is not None:
            entries = _differences(before, item, event.now)
        elif not first_listing:
            entries.append(Entry(event.now, "good", str(key), f"created, {item.status.state}"))
    listed = state.listed
    if listed is not None:
        listed = listed - {key} if event.type == "deleted" else listed | {key}
    # Within a listing only its bookmark says how far all is known.
    revision = event.revision if listed is None and event.revision is not None else state.revision
    return _logged(replace(state, items=items, listed=listed, revision=revision), *entries)


def _item(key: Key, event: Changed, before: Item | None) -> Item:
    status = read_status(event.resource)
    same = before is not None and dig(before.document, "uid") == dig(event.resource, "uid")
    known = before.rings if before is not None and same else {}
    fresh = Ring(interval=NODE_INTERVAL) if key.kind == "Node" else Ring()
    rings = {name: known.get(name, fresh).push(event.now, value) for name, value in samples(status).items()}
    return Item(key, event.resource, status, rings)


def _prune(state: State) -> State:
    """The state after a complete listing: what it did not name is gone."""
    if state.listed is None:
        return state
    gone = sorted(set(state.items) - state.listed)
    items = {k: i for k, i in state.items.items() if k in state.listed}
    entries = [Entry(state.now, "warn", str(key), "deleted") for key in gone]
    return _logged(replace(state, items=items, listed=None), *entries)


def _differences(before: Item, after: Item, now: float) -> list[Entry]:
    """What changed between two sights of an object, as far as a person wants to be told."""
    subject, old, new = str(after.key), before.status, after.status
    if dig(before.document, "uid") != dig(after.document, "uid"):
        return [Entry(now, "warn", subject, f"replaced by a new one of that name, {new.state}")]
    entries = []
    if not dig(before.document, "deleting_at") and dig(after.document, "deleting_at"):
        entries.append(Entry(now, "warn", subject, "deletion requested"))
    generation = number(dig(after.document, "generation"))
    if generation > number(dig(before.document, "generation")):
        entries.append(Entry(now, "dim", subject, f"spec changed (generation {generation:.0f})"))
    if (old.state, old.reason) != (new.state, new.reason):
        change = f"{old.state} → {new.state}" if old.state != new.state else f"still {new.state}"
        why = ": ".join(filter(None, (new.reason, new.message)))
        tone = TONES.get(new.state, "dim")
        entries.append(Entry(now, tone, subject, plain(f"{change}  {why}" if why else change)))
    if isinstance(old, PipelineStatus) and isinstance(new, PipelineStatus):
        entries += _stage_differences(subject, old, new, now)
    return entries


def _stage_differences(subject: str, old: PipelineStatus, new: PipelineStatus, now: float) -> list[Entry]:
    entries = []
    known = {s.name: s for s in old.stages}
    for stage in new.stages:
        was = known.get(stage.name)
        if was is None:
            continue
        place = f"{subject}/{stage.name}"
        if stage.restarts > was.restarts:
            entries.append(Entry(now, "warn", place, "worker restarts", "restarts", stage.restarts - was.restarts))
        if stage.dead_lettered > was.dead_lettered:
            amount = stage.dead_lettered - was.dead_lettered
            entries.append(Entry(now, "bad", place, "packets dead-lettered", "dead", amount))
    return entries
