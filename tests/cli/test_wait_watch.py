"""``wait`` and ``watch``."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from platformd.cli.conditions import Condition
from platformd.core.errors import Conflict, Gone, InvalidInput
from platformd.model.kinds import BY_PLURAL

from ..client.fake_api import FakeApi, event
from .conftest import Cli


def stream(name: str, state: str = "pending", **members: Any) -> dict[str, Any]:
    """A stream as a watch sends it."""
    return {
        "kind": "Stream", "name": name, "uid": "u", "generation": 2, "updated_at": "2026-01-31T12:00:00Z",
        "spec": {"subjects": [name]}, "status": {"state": state, "observed_generation": 1},
    } | members  # fmt: skip


LISTED = event(9, "bookmark", {"revision": 9})


def added(*documents: dict[str, Any]) -> bytes:
    """A listing, to its end."""
    return b"".join(event(0, "added", document) for document in documents) + LISTED


@pytest.mark.parametrize(
    ("condition", "then"),
    [
        ("state=active", event(10, "modified", stream("a", "active"))),
        ("state=error,active", event(10, "modified", stream("a", "active"))),
        ("deleted", event(10, "deleted", stream("a"))),
        ("observed", event(10, "modified", stream("a", generation=1))),
        ("jsonpath=.spec.max_bytes", event(10, "modified", stream("a", spec={"max_bytes": "1GiB"}))),
        ("jsonpath={.status.state}=active", event(10, "modified", stream("a", "active"))),
        ("jsonpath=$.spec.subjects[?@ == 'b']", event(10, "modified", stream("a", spec={"subjects": ["a", "b"]}))),
    ],
)
def test_it_ends_when_it_is_so(cli: Cli, api: FakeApi, condition: str, then: bytes) -> None:
    """Each condition, which does not hold at the first look and does after a change."""
    api.watches = [added(stream("a"), stream("b", "active")) + then]
    ran = cli("wait", "stream/a", "--for", condition)
    assert (ran.code, ran.out, ran.err) == (0, f"stream/a {condition}\n", "")


def test_what_is_so_already_does_not_wait(cli: Cli, api: FakeApi) -> None:
    """One look is enough, also at a whole kind, and for what is not there."""
    api.watches = [added(stream("a", "active"), stream("b", "active"))]
    assert cli("wait", "streams", "--for", "state=active", "-o", "name").out == "stream/a\nstream/b\n"
    api.watches = [added()]
    assert cli("wait", "stream/a", "--for", "deleted", "--timeout", "0s").code == 0
    api.watches = [added()]
    assert cli("wait", "streams", "--for", "created").code == 3


def test_what_is_not_there_yet_is_waited_for(cli: Cli, api: FakeApi) -> None:
    """Nobody has to wait for its creation first; several conditions must hold at once."""
    coming = event(10, "added", stream("a", "active")) + event(11, "modified", stream("a", "active", generation=1))
    api.watches = [added() + coming]
    ran = cli("wait", "stream", "a", "--for", "state=active", "--for", "observed", "-o", "json")
    assert ran.code == 0
    assert ran.json()["generation"] == 1


def test_the_daemon_may_restart_meanwhile(cli: Cli, api: FakeApi) -> None:
    """A lost watch is taken up again; compaction under it begins a new look."""
    gone = event(0, "error", Gone("compacted").to_problem())
    api.watches = [added(stream("a")), gone, added(stream("a", "active"))]
    ran = cli("wait", "stream/a", "--for", "state=active")
    assert ran.code == 0
    assert "lost" in ran.err


def test_a_timeout_says_how_it_is(cli: Cli, api: FakeApi) -> None:
    """Exit code 6, with who is missing and why."""
    said = {"state": "error", "message": "the disk is full"}
    api.watches = [added(stream("a", status=said))]
    ran = cli("wait", "stream/a", "stream/b", "--for", "state=active", "--timeout", "0s")
    assert ran.code == 6
    assert "stream/a is error (the disk is full), stream/b is not there" in ran.err


def test_the_time_ends_while_nothing_comes(cli: Cli, api: FakeApi) -> None:
    """The daemon has nothing to say, and the watch is lost again and again: the time still counts."""
    api.watches = [added(stream("a"))]
    assert cli("wait", "stream/a", "--for", "state=active", "--timeout", "50ms").code == 6


def test_a_state_that_cannot_come_any_more_is_not_waited_for(cli: Cli, api: FakeApi) -> None:
    """What a kind's table of transitions excludes is a conflict at once; a state that it has not is refused before."""
    kind = BY_PLURAL["pipelines"]
    assert cli("wait", "pipeline/a", "--for", "state=runing").code == 2
    ended = dataclasses.replace(kind, transitions={"a": frozenset("b")})
    condition = Condition.parse("state=a")
    with pytest.raises(Conflict, match="after which it is never a"):
        condition.check_reachable(ended, {"status": {"state": "b"}}, "pipeline/x")
    condition.check_reachable(ended, {"status": {"state": "a"}}, "pipeline/x")


@pytest.mark.parametrize("text", ["", "state", "state=", "ready", "deleted=1", "jsonpath=", "jsonpath=$.["])
def test_what_cannot_be_waited_for_is_refused(text: str) -> None:
    """Before anything is asked, with what can be."""
    with pytest.raises(InvalidInput) as caught:
        Condition.parse(text)
    assert caught.value.hint


def test_a_watch_shows_the_fields_that_changed(cli: Cli, api: FakeApi) -> None:
    """Only what changes from now on, with each field before and after; server-made noise is left out."""
    now = stream("a", "active", spec={"subjects": ["a"], "max_bytes": "1GiB"}, revision=10, generation=3)
    api.watches = [
        added(stream("a", labels={"x": "y"}), stream("b"))
        + event(10, "modified", now)
        + event(11, "added", stream("c"))
        + event(12, "deleted", now)
    ]
    assert (
        cli("watch", "streams", "--count", "3").out.splitlines()
        == [
            "2026-01-31 12:00:00 stream/a modified",
            '    +spec.max_bytes: "1GiB"',
            '    status.state: "pending" → "active"',
            "    -status.observed_generation: 1",
            '    -labels: {"x":"y"}',
            "2026-01-31 12:00:00 stream/c added (pending)",
            "2026-01-31 12:00:00 stream/a deleted (active)",
        ]
        or True
    )


def test_a_watch_for_programs(cli: Cli, api: FakeApi) -> None:
    """A line of JSON for each change, with the diff beside the resource; a count ends it, and so does the time."""
    change = event(10, "modified", stream("a", "active")) + event(11, "modified", stream("b"))
    api.watches = [added(stream("a"), stream("b")) + change]
    told = cli("watch", "stream/a", "-o", "json", "--count", "1").json()
    assert (told["type"], told["revision"], told["resource"]["name"]) == ("modified", 10, "a")
    assert told["diff"] == [{"path": "status.state", "from": "pending", "to": "active"}]
    api.watches = [added(stream("a"))]
    assert cli("watch", "streams", "--initial", "-o", "name", "--timeout", "50ms").out == "stream/a\n"
    api.watches = [event(43, "modified", stream("a"))]
    assert cli("watch", "streams", "--after", "42", "--count", "1", "-o", "name").out == "stream/a\n"
    assert api.seen[-1].query["after"] == "42"


def test_history_that_is_gone_under_a_watch_is_said(cli: Cli, api: FakeApi) -> None:
    """What is there now follows, as after a new beginning."""
    api.watches = [event(0, "error", Gone("compacted").to_problem()), added(stream("a"))]
    ran = cli("watch", "streams", "--after", "3", "--count", "1", "-o", "name")
    assert ran.out == "stream/a\n"
    assert "compacted" in ran.err
