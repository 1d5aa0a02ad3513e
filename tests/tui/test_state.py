"""The reducer: what each event changes."""

from __future__ import annotations

from typing import Any

from tests.tui.site import NODE, STAGES
from tui.events import Bookmark, Changed, Connected, Connecting, Disconnected, Event, Listing, StatusRead, Tick
from tui.facts import Key
from tui.state import LOG_LIMIT, Link, State, reduce

STATUS: dict[str, Any] = {
    "name": "platformd", "version": "0.1.0", "state": "running", "started_at": "2026-01-31T12:00:00Z",
    "uptime_seconds": 60.0, "pid": 1, "state_dir": "/var/lib/platformd", "node": "alpha",
}  # fmt: skip
ALERTS = Key("Stream", "default", "alerts")
ZTF = Key("Pipeline", "default", "ztf")


def play(*events: Event, state: State | None = None) -> State:
    """The state after ``events``."""
    state = state or State(link=Link(target="/run/p.sock"))
    for event in events:
        state = reduce(state, event)
    return state


def document(key: Key, revision: int = 1, **extra: Any) -> dict[str, Any]:
    """A resource document with a status of ``extra``."""
    envelope = {name: extra.pop(name) for name in ("uid", "generation", "deleting_at") if name in extra}
    spec: dict[str, Any] = {"subjects": ["alerts.>"]}
    if key.kind == "Pipeline":
        stages = [{"name": "out", "type": "route", "routes": [{"subject": "x"}]}]
        spec = {"source": "alerts.>", "dead_letter": "dead", "stages": stages}
    elif key.kind == "Node":
        spec = {}
    return {"kind": key.kind, "tenant": key.tenant, "name": key.name, "uid": "u", "generation": 1,
            "revision": revision, "spec": spec, "status": extra} | envelope  # fmt: skip


def listed(*documents: dict[str, Any], now: float = 10.0, revision: int = 5) -> list[Event]:
    """A full listing of ``documents``."""
    return [Listing(now), *(Changed(now, "added", d, 0) for d in documents), Bookmark(now, revision)]


def live(*documents: dict[str, Any]) -> State:
    """A connected state with ``documents`` listed."""
    return play(Connecting(1.0), Connected(2.0, STATUS), *listed(*documents))


def texts(state: State) -> list[str]:
    """The log, short."""
    return [f"{e.subject}: {e.text}" + (f" {e.amount}" if e.amount else "") for e in state.log]


def test_the_first_listing_is_quiet() -> None:
    """What is there at the start is known and is no news."""
    state = live(document(ALERTS, state="active", messages=7), document(ZTF, state="running"))
    assert set(state.items) == {ALERTS, ZTF}
    assert state.items[ALERTS].status.messages == 7  # type: ignore[attr-defined]
    assert (state.revision, state.listed, state.stale) == (5, None, False)
    assert state.log == ()


def test_changes_are_told_with_their_reason() -> None:
    """Creation, a change of state with its reason, a change of spec and deletion are in the log."""
    failed = {"state": "degraded", "reason": "WorkerFailed", "generation": 2}
    state = play(
        Changed(11.0, "added", document(ZTF, 6, state="pending"), 6),
        Changed(12.0, "modified", document(ZTF, 7, state="running"), 7),
        Changed(13.0, "modified", document(ZTF, 8, state="running", generation=2), 8),
        Changed(14.0, "modified", document(ZTF, 9, message="filter\nis\x1b[31m gone", **failed), 9),
        Changed(15.0, "modified", document(ZTF, 10, message="a new word", deleting_at="2026", **failed), 10),
        Changed(16.0, "deleted", document(ZTF, 11, state="degraded"), 11),
        state=live(),
    )
    assert texts(state) == [
        "pipeline/ztf: created, pending",
        "pipeline/ztf: pending → running",
        "pipeline/ztf: spec changed (generation 2)",
        "pipeline/ztf: running → degraded WorkerFailed: filter is [31m gone",
        "pipeline/ztf: deletion requested",
        "pipeline/ztf: deleted",
    ]
    assert [e.tone for e in state.log[-3:]] == ["warn", "warn", "warn"]
    assert ZTF not in state.items
    assert state.revision == 11


def test_counters_of_trouble_are_summed_up() -> None:
    """Dead letters and restarts of a stage make one entry each, however often they come."""
    first, second = dict(STAGES[0]), dict(STAGES[1])
    state = live(document(ZTF, state="running", stages=[first, second]))
    for i in range(1, 4):
        first = first | {"dead_lettered": 12 + 2 * i}
        second = second | {"restarts": 3 + i}
        state = play(
            Changed(10.0 + i, "modified", document(ZTF, 5 + i, state="running", stages=[first, second])), state=state
        )
    assert texts(state) == [
        "pipeline/ztf/filter: packets dead-lettered 6",
        "pipeline/ztf/annotate: worker restarts 3",
    ]
    later = play(Changed(500.0, "modified", document(ZTF, 9, stages=[first | {"dead_lettered": 99}])), state=state)
    assert "pipeline/ztf/filter: packets dead-lettered 81" in texts(later)
    assert "pipeline/ztf/filter: packets dead-lettered 6" in texts(later)


def test_a_lost_connection_keeps_everything() -> None:
    """On loss the data stays and is stale; further failures change the reason but not since when."""
    state = live(document(ALERTS, state="active"))
    state = play(
        Disconnected(20.0, "it closed the connection", 20.3),
        Connecting(20.3),
        Disconnected(20.4, "there is no such socket", 21.0),
        Tick(20.9),
        state=state,
    )
    assert ALERTS in state.items
    assert state.stale
    assert (state.link.phase, state.link.since, state.link.reason, state.link.retry_at, state.now) == (
        "lost", 20.0, "there is no such socket", 21.0, 20.9,
    )  # fmt: skip
    assert texts(state) == ["connection: lost: it closed the connection"]


def test_coming_back_to_the_same_daemon() -> None:
    """A connection that comes back says for how long it was gone, and nothing restarted."""
    state = play(
        Disconnected(20.0, "lost", 21.0), Connecting(21.0), Connected(32.0, STATUS | {"uptime_seconds": 90.0}),
        state=live(document(ALERTS)),
    )  # fmt: skip
    assert texts(state)[1:] == ["connection: back after 12s"]
    assert not state.stale


def test_a_restarted_daemon_is_listed_anew() -> None:
    """A restart is told; what the new listing does not name is deleted, what it names keeps its history."""
    other = Key("Stream", "default", "other")
    new = Key("Stream", "default", "new")
    state = play(
        Disconnected(20.0, "lost", 21.0),
        Connected(30.0, STATUS | {"started_at": "2026-02-01T00:00:00Z", "pid": 2, "version": "0.2.0"}),
        Listing(30.0),
        state=live(document(ALERTS, state="active", messages_per_second=4.0), document(other)),
    )
    assert set(state.items) == {ALERTS, other}
    state = play(
        Changed(30.0, "added", document(ALERTS, state="error", reason="DiskFull"), 0),
        Changed(30.0, "added", document(new, state="active"), 0),
        Bookmark(30.0, 99),
        state=state,
    )
    assert set(state.items) == {ALERTS, new}
    assert state.revision == 99
    assert state.items[ALERTS].rings["rate"].values[0] == 4.0
    assert texts(state)[1:] == [
        "daemon: restarted as version 0.2.0",
        "connection: back after 10s",
        "stream/alerts: active → error DiskFull",
        "stream/new: created, active",
        "stream/other: deleted",
    ]


def test_another_state_directory_is_named() -> None:
    """A daemon on another state directory is another world, and is said to be."""
    state = play(StatusRead(20.0, STATUS | {"state_dir": "/tmp/other", "pid": 9}), state=live())
    assert texts(state) == ["daemon: restarted, with another state directory: /tmp/other"]


def test_a_listing_that_breaks_off_removes_nothing() -> None:
    """Only a complete listing says what is gone."""
    state = play(Listing(20.0), Disconnected(21.0, "lost", 22.0), Connected(22.0, STATUS), Bookmark(22.0, 6),
                 state=live(document(ALERTS)))  # fmt: skip
    assert set(state.items) == {ALERTS}


def test_histories_hold_and_break() -> None:
    """A value holds while nobody changes it, and is unknown for the time without a connection."""
    state = live(document(ALERTS, messages_per_second=3.0))
    state = play(StatusRead(13.0, STATUS), Disconnected(14.0, "lost", 15.0), Connected(16.0, STATUS), state=state)
    state = play(Changed(17.0, "modified", document(ALERTS, messages_per_second=5.0)), state=state)
    assert state.items[ALERTS].rings["rate"].values == (3.0, 3.0, 3.0, 3.0, None, None, None, 5.0)


def test_a_new_object_of_the_same_name_starts_over() -> None:
    """Another uid is another object: its history begins, and it is told."""
    state = live(document(ALERTS, messages_per_second=3.0))
    state = play(Changed(12.0, "modified", document(ALERTS, uid="v", messages_per_second=1.0)), state=state)
    assert state.items[ALERTS].rings["rate"].values == (1.0,)
    assert texts(state) == ["stream/alerts: replaced by a new one of that name, pending"]


def test_what_a_newer_daemon_sends_is_read() -> None:
    """Unknown fields and kinds are passed over; a status that cannot be read says so and keeps its state."""
    odd = Key("Widget", "default", "w")
    node = document(Key("Node", "default", "alpha"), **NODE, gpu_percent=3.0)
    state = live(
        node,
        {**document(ALERTS, state="active", messages="many"), "colour": "red"},
        document(odd, state="running"),
        {"kind": None, "status": [1, 2]},
    )
    status = state.items[Key("Node", "default", "alpha")].status
    assert status.cpu_percent == 23.4  # type: ignore[attr-defined]
    assert (state.items[ALERTS].status.state, state.items[ALERTS].status.reason) == ("active", "Unreadable")
    assert state.items[odd].status.state == "running"


def test_the_log_is_bounded() -> None:
    """The log keeps its newest entries."""
    state = live()
    for i in range(LOG_LIMIT + 50):
        state = play(Changed(20.0 + i, "added", document(Key("Stream", "default", f"s{i}"))), state=state)
    assert len(state.log) == LOG_LIMIT
    assert state.log[-1].subject == f"stream/s{LOG_LIMIT + 49}"
