"""``apply`` and ``delete``: what documents say becomes so, and what was refused is told with its place."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from platformd.cli.commands import delete
from tests.client.fake_api import FakeApi, Seen

from .conftest import Cli

TWO = """\
kind: Stream
name: alerts
spec: {subjects: ["alerts.>"]}
---
kind: stream   # any name of the kind will do
name: logs
spec:
  subjects: [logs.>]
"""


def test_documents_are_created_changed_and_left_alone(cli: Cli, api: FakeApi, tmp_path: Path) -> None:
    """Each resource is a line that says what was done to it."""
    file = tmp_path / "f.yaml"
    file.write_text(TWO)
    assert cli("apply", "-f", str(file)).out == "stream/alerts created\nstream/logs created\n"
    file.write_text(TWO.replace("logs.>", "log.>"))
    assert cli("apply", "-f", str(file)).out == "stream/alerts unchanged\nstream/logs configured\n"
    assert [s.query for s in api.seen] == [{"apply": "true", "report": "true"}] * 4
    assert json.loads(api.seen[-1].body)["spec"] == {"subjects": ["log.>"]}


def test_a_dry_run_changes_nothing(cli: Cli, api: FakeApi) -> None:
    """--dry-run asks the server and says so on each line, for apply and delete."""
    ran = cli("apply", "-f", "-", "--dry-run", stdin=TWO.encode())
    assert ran.out == "stream/alerts created (dry run)\nstream/logs created (dry run)\n"
    assert api.objects == {}
    api.put("streams", "alerts")
    assert cli("delete", "stream", "alerts", "--dry-run").out == "stream/alerts deleted (dry run)\n"
    assert len(api.objects) == 1


def test_the_output_of_get_can_be_applied(cli: Cli, api: FakeApi) -> None:
    """Whatever form ``get`` prints resources in, ``apply`` takes."""
    for name in ("a", "b"):
        api.put("streams", name, spec={"subjects": [name]}, annotations={"since": "2026-01-31", "on": "on"})
    for form in ("json", "yaml"):
        printed = cli("get", "streams", "-o", form).out
        ran = cli("apply", "-f", "-", stdin=printed.encode())
        assert (ran.code, ran.out) == (0, "stream/a unchanged\nstream/b unchanged\n")
        assert json.loads(api.seen[-1].body) == api.objects["default", "streams", "b"]


def test_results_as_documents(cli: Cli, api: FakeApi) -> None:
    """-o json and -o yaml tell the outcome with the resource, -o name its name."""
    items = cli("apply", "-f", "-", "-o", "json", stdin=TWO.encode()).json()["items"]
    assert [(i["outcome"], i["resource"]["name"]) for i in items] == [("created", "alerts"), ("created", "logs")]
    documents = list(yaml.safe_load_all(cli("apply", "-f", "-", "-o", "yaml", stdin=TWO.encode()).out))
    assert [d["outcome"] for d in documents] == ["unchanged", "unchanged"]
    assert cli("apply", "-f", "-", "-o", "name", stdin=TWO.encode()).out == "stream/alerts\nstream/logs\n"
    assert cli("delete", "st", "logs", "-o", "json").json()["items"][0]["outcome"] == "deleted"


def test_a_refusal_shows_where_it_stands_and_spares_the_others(cli: Cli, api: FakeApi, tmp_path: Path) -> None:
    """Each field that the server refuses is told with its line; the rest is applied."""
    file = tmp_path / "f.yaml"
    file.write_text("kind: Stream\nname: bad\nspec:\n  subjects: [a]\n  bad: 1\n---\n" + TWO)
    ran = cli("apply", "-f", str(file))
    assert (ran.code, ran.out) == (2, "stream/alerts created\nstream/logs created\n")
    assert ran.err == (f"error: stream/bad: the document is not valid\n  spec.bad ({file}:5): is not a known field\n")
    problem = json.loads(cli("apply", "-f", str(file), "-o", "json").err)
    assert problem["errors"] == [{"path": "spec.bad", "message": "is not a known field"}]


def test_a_daemon_that_goes_away_ends_it(cli: Cli, api: FakeApi) -> None:
    """When the daemon becomes unavailable the rest is not tried, and what was done has been printed."""

    def stopping(_seen: Seen) -> tuple[int, dict[str, str], bytes] | None:
        body = b'{"code":"unavailable","detail":"stopping"}'
        return (503, {"content-type": "application/problem+json"}, body) if len(api.seen) > 1 else None

    api.answers.append(stopping)
    ran = cli("apply", "-f", "-", "-o", "json", stdin=(TWO + "---\n" + TWO).encode())
    assert (ran.code, len(ran.json()["items"]), len(api.seen)) == (6, 1, 2)


def test_nothing_is_sent_when_something_cannot_be_read(cli: Cli, api: FakeApi, tmp_path: Path) -> None:
    """All files are read first; everything that is wrong is told at once, each with its place."""
    (tmp_path / "a.yaml").write_text("kind: Stream\n---\n- 1\n")
    (tmp_path / "b.yml").write_text("kind: Stream\nname: x\nspec: {a: [}\n")
    (tmp_path / "c.json").write_text('{"kind": "Straem", "name": "x"}')
    (tmp_path / "d.txt").write_text("not looked at")
    ran = cli("apply", "-f", str(tmp_path), "-f", str(tmp_path / "missing.yaml"))
    assert (ran.code, api.seen) == (2, [])
    assert ran.err.splitlines()[0] == "error: -f: not everything can be read; nothing was done"
    assert f"  {tmp_path}/a.yaml:1: has no name" in ran.err
    assert f"  {tmp_path}/a.yaml:3: is not a resource" in ran.err
    assert f"  {tmp_path}/b.yml:3:12: is not YAML: " in ran.err
    assert f"  {tmp_path}/c.json: there is no kind 'Straem' (did you mean stream?)" in ran.err
    assert f"  {tmp_path}/missing.yaml: cannot be read: No such file or directory" in ran.err


def test_an_empty_file_is_refused(cli: Cli) -> None:
    """Applying nothing is a mistake and not a success."""
    ran = cli("apply", "-f", "-", stdin=b"# nothing\n---\n---\n")
    assert (ran.code, ran.err) == (2, "error: -: there is no document\n")


def test_resources_are_deleted(cli: Cli, api: FakeApi) -> None:
    """By name, by kind and name, and by the documents, the last one first."""
    for name in ("a", "b", "alerts", "logs"):
        api.put("streams", name)
    assert cli("delete", "stream", "a").out == "stream/a deleted\n"
    assert cli("delete", "st/b").out == "stream/b deleted\n"
    assert cli("delete", "-f", "-", stdin=TWO.encode()).out == "stream/logs deleted\nstream/alerts deleted\n"
    assert api.objects == {}


def test_what_is_not_there_is_an_error_unless_that_is_welcome(cli: Cli, api: FakeApi) -> None:
    """A missing resource is 3, does not keep the others, and may be declared no error."""
    api.put("streams", "b")
    ran = cli("delete", "st", "a", "b")
    assert (ran.code, ran.out, ran.err) == (3, "stream/b deleted\n", "error: stream/a: there is no such thing\n")
    assert cli("delete", "st", "a", "--ignore-not-found") == type(ran)(0, "", "", b"")


@pytest.fixture
def quick_polls(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The waits between looks, which take no time."""
    waits: list[float] = []
    now = [0.0]

    class Time:
        @staticmethod
        def monotonic() -> float:
            return now[0]

        @staticmethod
        def sleep(seconds: float) -> None:
            waits.append(seconds)
            now[0] += seconds

    monkeypatch.setattr(delete, "time", Time)
    return waits


def test_a_deletion_is_waited_for(cli: Cli, api: FakeApi, quick_polls: list[float]) -> None:
    """A resource that its controller cleans up first is "deleted" only when it is gone."""
    api.slow_to_delete = 3
    api.put("streams", "a")
    assert cli("delete", "st", "a").out == "stream/a deleted\n"
    assert len(quick_polls) == 3
    assert api.objects == {}


def test_a_deletion_need_not_be_waited_for(cli: Cli, api: FakeApi, quick_polls: list[float]) -> None:
    """--no-wait returns when deletion was accepted."""
    api.slow_to_delete = 3
    api.put("streams", "a")
    assert cli("delete", "st", "a", "--no-wait").out == "stream/a deletion requested\n"
    assert quick_polls == []


def test_a_deletion_that_takes_too_long_is_told(cli: Cli, api: FakeApi, quick_polls: list[float]) -> None:
    """After the timeout it is an error that says that the deletion goes on."""
    api.slow_to_delete = 10**6
    api.put("streams", "a", status={"state": "active", "message": "2 consumers hold it"})
    ran = cli("delete", "st", "a", "--timeout", "1s")
    assert (ran.code, ran.out) == (6, "")
    assert ran.err.startswith("error: stream/a: it is still being cleaned up after 1s: 2 consumers hold it\nhint: ")
    assert 9 <= len(quick_polls) <= 11


def test_a_new_object_of_the_same_name_is_not_waited_for(cli: Cli, api: FakeApi, quick_polls: list[float]) -> None:
    """The one that was deleted is gone when the name has another uid."""
    api.slow_to_delete = 5
    api.put("streams", "a")

    def replaced(seen: Seen) -> None:
        if seen.method == "GET":
            api.deleting.clear()
            api.put("streams", "a")

    api.answers.append(replaced)
    assert cli("delete", "st", "a").out == "stream/a deleted\n"
    assert quick_polls == []


@pytest.mark.parametrize(
    "words", ["delete", "delete streams", "delete all", "delete st a -f x.yaml", "delete st a --timeout 5"]
)
def test_a_deletion_that_is_not_clear_is_refused(cli: Cli, api: FakeApi, words: str) -> None:
    """Nothing is deleted by kind alone, and contradictions are refused before anything is sent."""
    assert cli(*words.split()).code == 2
    assert api.seen == []


def test_what_a_write_changes_is_told(cli: Cli, api: FakeApi, tmp_path: Path) -> None:
    """The fields that an apply changes, and what goes with what is deleted: as the daemon reports them."""
    resource = api.put("streams", "alerts")
    changes = [{"path": "spec.max_age", "before": "1d", "after": "7d"}, {"path": "labels.x", "after": "y"}]
    dependents = [{"kind": "Pipeline", "name": "p", "depth": 1}]

    def report(seen: Seen) -> tuple[int, dict[str, str], bytes] | None:
        if seen.query.get("report") != "true":
            return None
        outcome = "configured" if seen.method == "PUT" else "deleted"
        done = {"outcome": outcome, "resource": resource, "changes": changes, "more": 0, "dependents": dependents}
        return 200, {"content-type": "application/json"}, json.dumps(done).encode()

    api.answers.append(report)
    file = tmp_path / "f.yaml"
    file.write_text("kind: Stream\nname: alerts\nspec: {subjects: [a]}\n")
    assert cli("apply", "-f", str(file), "--dry-run").out.splitlines() == [
        "stream/alerts configured (dry run)",
        '    spec.max_age: "1d" → "7d"',
        '    +labels.x: "y"',
    ]
    assert cli("apply", "-f", str(file), "-o", "json").json()["items"][0]["changes"] == changes
    assert cli("delete", "stream/alerts", "--dry-run").out.splitlines() == [
        "stream/alerts deleted (dry run)",
        "    pipeline/p goes with it",
    ]
