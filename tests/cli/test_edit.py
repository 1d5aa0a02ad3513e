"""``edit``: nothing is lost, neither what was written nor what others did meanwhile."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from platformd.cli import editing
from platformd.cli.merging import Conflict, merge
from platformd.core.errors import FieldError, PreconditionFailed, Unprocessable

from ..client.fake_api import FakeApi, Seen
from .conftest import Cli, Ran

Change = Callable[[str], str]


class Editor:
    """Stands for the user: each time the editor opens, the next change is made."""

    def __init__(self, *changes: Change) -> None:
        self._changes = list(changes)
        self.opened: list[str] = []
        self.path = Path()

    def __call__(self, _session: object, path: Path) -> None:
        self.path = path
        self.opened.append(path.read_text())
        path.write_text(self._changes.pop(0)(self.opened[-1]))


@pytest.fixture
def edit(cli: Cli, api: FakeApi, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Ran, Editor]]:
    """Edits ``stream/a``."""
    spec = {"subjects": ["a"], "max_age": "1d", "description": "old"}
    api.put("streams", "a", spec=spec, labels={"team": "x"}, status={"state": "active"})

    def run(*changes: Change, words: tuple[str, ...] = ()) -> tuple[Ran, Editor]:
        editor = Editor(*changes)
        monkeypatch.setattr(editing, "run_editor", editor)
        return cli("edit", "stream", "a", *words), editor

    return run


def replace(old: str, new: str) -> Change:
    """One change of the text."""
    return lambda text: text.replace(old, new)


def written(api: FakeApi) -> list[Seen]:
    """What was sent to be written."""
    return [seen for seen in api.seen if seen.method == "PUT"]


def racing(api: FakeApi, **spec: object) -> None:
    """At the first attempt to write, somebody else has been quicker."""
    done: list[bool] = []

    def quicker(seen: Seen) -> tuple[int, dict[str, str], bytes] | None:
        if seen.method != "PUT" or done:
            return None
        done.append(True)
        old = api.objects["default", "streams", "a"]
        api.put("streams", "a", spec=old["spec"] | spec, labels=old["labels"], uid=old["uid"])
        problem = PreconditionFailed("it changed").to_problem()
        return 412, {"content-type": "application/problem+json"}, json.dumps(problem).encode()

    api.answers.append(quicker)


def test_a_change_is_written_if_nobody_else_changed_it(edit, api: FakeApi) -> None:
    """What a user decides is in the file, the status only as a comment; what changed is said; the file is gone."""
    ran, editor = edit(replace("1d", "7d"))
    assert ran.code == 0
    assert ran.out.splitlines() == ["stream/a configured", '    spec.max_age: "1d" → "7d"']
    [seen] = written(api)
    assert seen.headers["if-match"] == '"1"'
    assert json.loads(seen.body)["spec"]["max_age"] == "7d"
    assert "uid" not in editor.opened[0]
    assert re.search(r"^#.*active", editor.opened[0], re.MULTILINE)
    assert not editor.path.exists()


@pytest.mark.parametrize("change", [str, lambda _: "", lambda _: "# nothing\n", replace("1d", "'1d'")])
def test_nothing_is_done_when_nothing_is_changed(edit, api: FakeApi, change: Change) -> None:
    """Left as it is, emptied, or only written otherwise."""
    ran, editor = edit(change)
    assert (ran.code, ran.out) == (0, "")
    assert "as it was" in ran.err
    assert not written(api)
    assert not editor.path.exists()


def test_what_is_refused_comes_back_with_the_reasons(edit, api: FakeApi) -> None:
    """The daemon's errors stand on top with their paths, what was written is still there, and can be mended."""

    def judge(seen: Seen) -> tuple[int, dict[str, str], bytes] | None:
        if seen.method != "PUT" or b"bad" not in seen.body:
            return None
        error = Unprocessable("not valid", errors=(FieldError(path="spec.max_age", message="is no duration"),))
        return 422, {"content-type": "application/problem+json"}, json.dumps(error.to_problem()).encode()

    api.answers.append(judge)
    ran, editor = edit(replace("1d", "bad"), replace("bad", "2d"))
    assert ran.code == 0
    assert "#     spec.max_age: is no duration" in editor.opened[1]
    assert "max_age: bad" in editor.opened[1]
    assert json.loads(written(api)[-1].body)["spec"]["max_age"] == "2d"


def test_giving_up_keeps_what_was_written(edit, api: FakeApi) -> None:
    """Saving what was refused as it is ends with its error and the name of the file."""
    ran, editor = edit(replace("1d", "1d: x: y"), str)
    assert ran.code == 2
    assert str(editor.path) in ran.err
    assert ">   max_age: 1d: x: y" in editor.opened[1]
    assert "1d: x: y" in editor.path.read_text()
    editor.path.unlink()
    assert not written(api)


def test_it_stays_the_same_resource(edit, api: FakeApi) -> None:
    """A changed name would be another resource: that comes back too."""
    ran, editor = edit(replace("name: a", "name: b"), replace("name: b", "name: a"))
    assert ran.code == 0
    assert "#     name: is a and stays so" in editor.opened[1]
    assert not written(api)


def test_changes_of_two_people_are_merged(edit, api: FakeApi) -> None:
    """Somebody changed another field meanwhile: both changes are there at the end, without a question."""
    racing(api, description="new")
    ran, editor = edit(replace("1d", "7d"))
    assert ran.code == 0
    assert len(editor.opened) == 1
    assert "merged" in ran.err
    assert json.loads(written(api)[-1].body)["spec"] == {"subjects": ["a"], "max_age": "7d", "description": "new"}
    assert written(api)[-1].headers["if-match"] == '"2"'


def test_the_same_field_is_asked_about(edit, api: FakeApi) -> None:
    """Both changed one field: theirs stands beside ours in the editor, and what is saved then is written."""
    racing(api, max_age="3d", description="new")
    ran, editor = edit(replace("1d", "7d"), lambda text: re.sub("(?m)^# .*\n", "", text))
    assert ran.code == 0
    assert '#   spec.max_age: they made it "3d"' in editor.opened[1]
    assert "max_age: 7d" in editor.opened[1]
    assert json.loads(written(api)[-1].body)["spec"] == {"subjects": ["a"], "max_age": "7d", "description": "new"}


def test_a_contested_change_can_be_given_up(edit, api: FakeApi) -> None:
    """Saving the question as it came writes nothing, and keeps the file."""
    racing(api, max_age="3d")
    ran, editor = edit(replace("1d", "7d"), str)
    assert ran.code == 5
    assert str(editor.path) in ran.err
    editor.path.unlink()
    assert api.objects["default", "streams", "a"]["spec"]["max_age"] == "3d"


def test_a_resource_that_was_deleted_meanwhile(edit, api: FakeApi) -> None:
    """It is not made anew; what was written is kept."""

    def gone(seen: Seen) -> tuple[int, dict[str, str], bytes] | None:
        if seen.method == "PUT":
            api.objects.clear()
            problem = PreconditionFailed("it is not there").to_problem()
            return 412, {"content-type": "application/problem+json"}, json.dumps(problem).encode()
        return None

    api.answers.append(gone)
    ran, editor = edit(replace("1d", "7d"))
    assert ran.code == 3
    assert str(editor.path) in ran.err
    editor.path.unlink()


def test_a_dry_run_says_what_would_change(edit, api: FakeApi) -> None:
    """The daemon checks it and writes nothing."""
    ran, _ = edit(replace("1d", "7d"), words=("--dry-run", "-o", "json"))
    document = ran.json()
    assert document["dry_run"] is True
    assert {"path": "spec.max_age", "from": "1d", "to": "7d"} in document["diff"]
    assert written(api)[0].query["dry_run"] == "true"
    assert api.objects["default", "streams", "a"]["spec"]["max_age"] == "1d"


def test_an_editor_that_cannot_be_started(cli: Cli, api: FakeApi) -> None:
    """The real way: no such program is an error that names EDITOR, one that fails keeps the file."""
    api.put("streams", "a")
    cli.env(EDITOR="/nonexistent/editor", VISUAL="")
    missing = cli("edit", "stream/a")
    assert (missing.code, "set EDITOR" in missing.err) == (2, True)
    cli.env(EDITOR="false")
    failed = cli("edit", "stream/a")
    assert failed.code == 2
    kept = re.search(r"see (\S+)", failed.err)
    assert kept is not None
    Path(kept[1]).unlink()
    cli.env(EDITOR="true")
    assert cli("edit", "stream/a").code == 0


def test_merging_field_by_field() -> None:
    """Additions, removals and changes of both sides; lists are one value; only true contradictions are conflicts."""
    base = {"a": 1, "b": {"c": 1, "d": 2}, "l": [1]}
    assert merge(
        base, {"a": 2, "b": {"c": 1, "d": 2}, "l": [1]}, {"a": 1, "b": {"c": 5, "d": 2}, "l": [1], "n": 1}
    ) == (
        {"a": 2, "b": {"c": 5, "d": 2}, "l": [1], "n": 1},
        [],
    )
    assert merge(base, {"a": 1, "b": {"d": 2}, "l": [1]}, {"b": {"c": 1, "d": 3}, "l": [1]}) == (
        {"b": {"d": 3}, "l": [1]},
        [],
    )
    assert merge(base, base | {"l": [1, 2]}, base | {"l": [3]})[1] == [Conflict("l", [3])]
    assert merge(base, base | {"a": 5}, {"b": base["b"], "l": [1]})[1] == [Conflict("a", None)]
