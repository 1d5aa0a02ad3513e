"""State to text: the header, the tables of streams and pipelines, and the log."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from datetime import datetime

from platformd.model.pipeline import PipelineStatus, StageStatus
from platformd.model.resource import DEFAULT_TENANT
from platformd.model.stream import StreamStatus

from .facts import TONES, Key, dig, mean_seconds
from .format import bytes_, count, mean_time, plain, rate, span, sparkline
from .history import Ring, growing
from .state import Entry, Item, State
from .table import Cell, Column, Line, Row, Run, fixed

HISTORY_CELLS = 60
"""The widest sparkline in a table."""

STREAM_COLUMNS = (
    Column("NAME", 12, grow=2, most=32),
    Column("STATE", 7),
    Column("SUBJECTS", 12, grow=3, most=56),
    Column("MESSAGES", 8, right=True, grow=1, most=13),
    Column("BYTES", 7, right=True),
    Column("MSG/S", 6, right=True),
    Column("TREND", 8, rank=2, grow=3, most=HISTORY_CELLS, right=True),
    Column("BYTES/S", 7, rank=5, right=True),
    Column("LAST SEQ", 10, rank=6, right=True, grow=1, most=13),
    Column("CONS", 4, rank=1, right=True),
)

PIPELINE_COLUMNS = (
    Column("STAGE", 12, grow=2, most=32),
    Column("TYPE", 8, rank=5),
    Column("WORK", 4, right=True),
    Column("LAG", 7, right=True),
    Column("TREND", 8, rank=6, grow=2, most=HISTORY_CELLS, right=True),
    Column("FLIGHT", 6, rank=3, right=True),
    Column("RECEIVED", 8, right=True, grow=1, most=13),
    Column("ACCEPT", 7, right=True, grow=1, most=13),
    Column("REJECT", 7, right=True, grow=1, most=13),
    Column("DEAD", 5, right=True, grow=1, most=9),
    Column("PKT/S", 6, right=True),
    Column("TREND", 8, rank=7, grow=2, most=HISTORY_CELLS, right=True),
    Column("MEAN", 6, right=True),
    Column("RST", 3, rank=4, right=True),
)


def header_line(state: State, *, paused: bool) -> tuple[Line, Line]:
    """The left and the right part of the screen's first line."""
    return _daemon_part(state), _link_part(state, paused=paused)


def _daemon_part(state: State) -> Line:
    daemon = state.daemon
    if daemon is None:
        return (Run("platformd", "strong"),)
    runs = [
        Run(daemon.name, "strong"),
        Run(f" {daemon.version}  ", "dim"),
        Run(f"● {daemon.state}", TONES.get(daemon.state, "") if not state.stale else "dim"),
        Run("  up ", "dim"),
        Run(span(daemon.uptime), "dim" if state.stale else ""),
    ]
    if daemon.node:
        runs += [Run("  on ", "dim"), Run(daemon.node)]
    if daemon.jobs_running or daemon.jobs_queued:
        runs += [Run("  jobs ", "dim"), Run(f"{daemon.jobs_running}+{daemon.jobs_queued}")]
    return tuple(runs)


def _link_part(state: State, *, paused: bool) -> Line:
    link = state.link
    runs: list[Run] = []
    if paused:
        runs.append(Run(" PAUSED ", "alert"))
        runs.append(Run(" "))
    match link.phase:
        case "live":
            runs.append(Run("● connected", "good"))
        case "connecting":
            runs.append(Run("○ connecting", "warn"))
        case "lost":
            word = "disconnected" if link.ever else "waiting"
            wait = max(0, round(link.retry_at - state.now))
            next_try = f"retrying in {wait}s" if wait else "retrying"
            runs.append(Run(f"○ {word} {span(state.now - link.since)}, {next_try}", "bad"))
    return tuple(runs)


def banner_line(state: State) -> Line:
    """Why there is no connection; empty while there is one."""
    link = state.link
    if link.phase != "lost":
        return ()
    head = "showing the last known state" if link.ever else f"waiting for a daemon at {plain(link.target)}"
    return (Run(head, "alert"), Run("  "), Run(link.reason, "warn"))


def matches(item: Item, wanted: str) -> bool:
    """Whether a filter lets an object through: part of its name, or of a stage's, in any case."""
    names = [item.key.name]
    if isinstance(item.status, PipelineStatus):
        names += [stage.name for stage in item.status.stages]
    return any(wanted.lower() in name.lower() for name in names)


def filtered(state: State, kind: str, wanted: str) -> list[Item]:
    """The objects of a kind that the filter lets through."""
    return [item for item in state.of_kind(kind) if not wanted or matches(item, wanted)]


def table_title(state: State, kind: str, plural: str, wanted: str) -> str:
    """The heading of a table: how many there are, and how many the filter shows."""
    total = len(state.of_kind(kind))
    if not wanted:
        return f"{plural} {total}"
    return f"{plural} {len(filtered(state, kind, wanted))} of {total} with “{plain(wanted, 30)}”"


def empty_text(state: State, what: str, wanted: str) -> str:
    """What stands in a table without rows."""
    if wanted:
        return f"no {what} match the filter (esc clears it)"
    if not state.link.ever:
        return "start a daemon with `platformd run`, or `platformd demo --keep`"
    if state.revision is None:
        return ""
    return f"no {what} yet: platformd apply FILE, or see platformd demo --keep"


def stream_rows(state: State, wanted: str = "") -> list[Row]:
    """The streams, a row each."""
    return [_stream_row(item) for item in filtered(state, "Stream", wanted)]


def _stream_row(item: Item) -> Row:
    status = item.status
    name, state = _name(item), fixed(Run(plain(status.state), TONES.get(status.state, "")))
    subjects = fixed(Run(plain(" ".join(map(str, dig(item.document, "spec", "subjects") or ()))), "dim"))
    if not isinstance(status, StreamStatus) or status.reason == "Unreadable":
        return Row(item.key, (name, state), tail=(Run(plain(status.message), "warn"),))
    if status.state == "error":
        why = ": ".join(filter(None, (status.reason, status.message)))
        return Row(item.key, (name, state, subjects), tail=(Run(plain(why), "bad"),))
    busy = status.messages_per_second >= 0.05
    return Row(
        item.key,
        (
            name,
            state,
            subjects,
            _counted(status.messages),
            fixed(Run(bytes_(status.bytes))),
            fixed(Run(rate(status.messages_per_second), "strong" if busy else "dim")),
            _trend(item.rings.get("rate")),
            fixed(Run(bytes_(status.bytes_per_second), "" if busy else "dim")),
            _counted(status.last_sequence, "dim"),
            _counted(status.consumers),
        ),
    )


def _name(item: Item) -> Cell:
    tenant = "" if item.key.tenant == DEFAULT_TENANT else f"{item.key.tenant}:"
    leaving = (Run(" (deleting)", "warn"),) if dig(item.document, "deleting_at") else ()
    return fixed(Run(plain(f"{tenant}{item.key.name}"), "strong"), *leaving)


def _counted(value: int, tone: str = "") -> Cell:
    return lambda width: (Run(count(value, width), tone),)


def _trend(ring: Ring | None, tone: str = "spark") -> Cell:
    return lambda width: (Run(sparkline(ring.values if ring else (), width), tone),)


def pipeline_rows(state: State, wanted: str = "") -> list[Row]:
    """The pipelines: a heading row each, then its stages in order.

    A stage's row has the key ``(pipeline's key, stage's name)``.
    """
    rows: list[Row] = []
    for item in filtered(state, "Pipeline", wanted):
        rows.append(_pipeline_row(item))
        if isinstance(item.status, PipelineStatus):
            rows += [_stage_row(item, stage) for stage in item.status.stages]
    return rows


def object_of(row_key: Hashable) -> Key | None:
    """The object that a row of either table is about."""
    if isinstance(row_key, Key):
        return row_key
    if isinstance(row_key, tuple) and row_key and isinstance(row_key[0], Key):
        return row_key[0]
    return None


def _pipeline_row(item: Item) -> Row:
    status = item.status
    tone = TONES.get(status.state, "")
    runs = [Run(plain(status.state), tone)]
    why = ": ".join(filter(None, (status.reason, status.message)))
    if why and tone != "good":
        runs += [Run("  "), Run(plain(why), tone)]
    runs.append(Run(f"  {plain(dig(item.document, 'spec', 'source') or '')}", "dim"))
    if isinstance(status, PipelineStatus) and status.stages:
        runs += _totals(status.stages)
    return Row(item.key, (_name(item),), tail=tuple(runs))


def _totals(stages: Sequence[StageStatus]) -> list[Run]:
    """What the chain has as a whole, for screens too narrow for every column."""
    ready, desired = sum(s.workers_ready for s in stages), sum(s.workers_desired for s in stages)
    in_flight, restarts = sum(s.in_flight for s in stages), sum(s.restarts for s in stages)
    runs = [
        Run("  workers ", "dim"),
        Run(f"{ready}/{desired}", "warn" if ready < desired else ""),
        Run("  in flight ", "dim"),
        Run(count(in_flight)),
    ]
    if restarts:
        runs += [Run("  restarts ", "dim"), Run(count(restarts), "warn")]
    return runs


def _stage_row(item: Item, stage: StageStatus) -> Row:
    lag_ring, rate_ring = item.rings.get(f"lag/{stage.name}"), item.rings.get(f"rate/{stage.name}")
    rising = lag_ring is not None and growing(lag_ring)
    short = stage.workers_ready < stage.workers_desired
    busy = stage.packets_per_second >= 0.05
    return Row(
        (item.key, stage.name),
        (
            fixed(Run(f"  {plain(stage.name)}")),
            fixed(Run(plain(stage.type), "dim")),
            fixed(Run(f"{stage.workers_ready}/{stage.workers_desired}", "warn" if short else "")),
            # The arrow says it without colour too.
            (lambda width: (Run(f"▲{count(stage.lag, width - 1)}", "warn"),)) if rising else _counted(stage.lag),
            _trend(lag_ring, "warn" if rising else "spark"),
            _counted(stage.in_flight),
            _counted(stage.received),
            _counted(stage.accepted),
            _counted(stage.rejected),
            _counted(stage.dead_lettered, "bad" if stage.dead_lettered else "dim"),
            fixed(Run(rate(stage.packets_per_second), "strong" if busy else "dim")),
            _trend(rate_ring),
            fixed(Run(mean_time(mean_seconds(stage)))),
            _counted(stage.restarts, "warn" if stage.restarts else "dim"),
        ),
    )


def log_line(entry: Entry, width: int) -> Line:
    """An entry of the log, for a log of ``width`` cells."""
    stamp = f"{datetime.fromtimestamp(entry.time):%H:%M:%S}"  # the reader's own clock
    subject = plain(entry.subject, max(12, width // 3)).ljust(min(28, width // 4))
    text = f"{entry.text}: {entry.amount}" if entry.amount else entry.text
    return (Run(stamp, "dim"), Run("  "), Run(subject, "strong"), Run("  "), Run(text, entry.tone))
