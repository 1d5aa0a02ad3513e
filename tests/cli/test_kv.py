"""``platformd kv`` and ``platformd lease`` against a daemon."""

from __future__ import annotations

import itertools
import json
import sys
import threading
from pathlib import Path

import pytest

from platformd.cli import kv_transfer
from platformd.client import kv
from platformd.client.blocking import Client
from platformd.client.kv_watching import KeyChange, KeyWatchState
from platformd.core.errors import PlatformError, Unavailable
from tests.support.daemon import DaemonProcess

from .conftest import Cli
from .kv_daemon import daemon, running

__all__ = ["daemon", "running"]

BINARY = bytes(range(256))


def test_put_get_and_what_is_known(cli: Cli, daemon: DaemonProcess) -> None:
    """A value is printed byte for byte; with -o all that is known of the key."""
    ran = cli("kv", "put", "a/b", "hello")
    assert ran.code == 0
    assert ran.out.startswith("a/b created (revision ")
    assert cli("kv", "get", "a/b").raw == b"hello"
    shown = cli("kv", "get", "a/b", "-o", "json").json()
    assert (shown["key"], shown["value"], shown["version"], shown["lease"]) == ("a/b", "hello", 1, None)
    assert cli("kv", "put", "a/b", "again").out.startswith("a/b changed (revision ")
    assert cli("kv", "get", "a/b", "--revision", str(shown["mod_revision"])).raw == b"hello"
    assert "value: again\n" in cli("kv", "get", "a/b", "-o", "yaml").out
    header, line = cli("kv", "get", "a/b", "-o", "table").out.splitlines()
    assert (header.split(), line.split()[0], line.split()[-1]) == (
        ["KEY", "REVISION", "VERSION", "LEASE", "VALUE"], "a/b", "again",
    )  # fmt: skip


def test_values_come_from_anywhere(cli: Cli, daemon: DaemonProcess, tmp_path: Path) -> None:
    """From standard input and from a file, binary ones too; one source at a time."""
    assert cli("kv", "put", "a", "-", stdin=BINARY).code == 0
    assert cli("kv", "get", "a").raw == BINARY
    (tmp_path / "v").write_bytes(b"from a file")
    assert cli("kv", "put", "a", "--file", str(tmp_path / "v")).code == 0
    assert cli("kv", "get", "a").raw == b"from a file"
    assert "<binary, 256B>" in cli("kv", "put", "b", "-", stdin=BINARY).out or cli("kv", "get", "b").raw == BINARY
    assert cli("kv", "put", "a").code == cli("kv", "put", "a", "x", "--file", "y").code == 2
    assert cli("kv", "put", "a", "--file", str(tmp_path / "missing")).code == 2


def test_conditions_lose_with_5(cli: Cli, daemon: DaemonProcess) -> None:
    """--create and --if-revision are compare-and-swap; who is late exits with 5 and is told the revision."""
    made = cli("kv", "put", "a", "1", "--create", "-o", "json").json()
    assert cli("kv", "put", "a", "2", "--create").code == 5
    late = cli("kv", "put", "a", "2", "--if-revision", "1")
    assert (late.code, f"its revision is {made['mod_revision']}" in late.err) == (5, True)
    assert cli("kv", "put", "a", "2", "--if-revision", str(made["mod_revision"])).code == 0
    assert cli("kv", "del", "a", "--if-revision", str(made["mod_revision"])).code == 5
    assert cli("kv", "get", "a").raw == b"2"
    assert cli("kv", "put", "a", "2", "--create", "--if-revision", "3").code == 2


def test_deleting(cli: Cli, daemon: DaemonProcess) -> None:
    """Keys by name, each said; those that are not there are an error, and do not keep the others."""
    for key in ("a", "b", "c/1", "c/2"):
        cli("kv", "put", key, "x")
    ran = cli("kv", "del", "a", "missing", "b")
    assert (ran.code, ran.out.count(" deleted "), "missing: there is no such key" in ran.err) == (3, 2, True)
    assert cli("kv", "del", "--prefix", "c/").out.startswith("c/*: 2 keys deleted")
    assert cli("kv", "del", "--prefix", "").code == 2
    assert cli("kv", "del", "--prefix", "x", "--if-revision", "3").code == 2
    assert cli("kv", "ls", "-r").out == ""


def test_listing_like_directories(cli: Cli, daemon: DaemonProcess) -> None:
    """``ls`` shows one level; -r shows all; -o shows more."""
    for key in ("a", "d", "d/1", "d/2/x", "d/3", "e/f/g"):
        cli("kv", "put", key, f"<{key}>")
    assert cli("kv", "ls").out.split() == ["a", "d", "d/", "e/"]
    assert cli("kv", "ls", "d/").out.split() == ["d/1", "d/2/", "d/3"]
    assert cli("kv", "ls", "-r", "d/").out.split() == ["d/1", "d/2/x", "d/3"]
    assert [item["key"] for item in cli("kv", "ls", "d/", "-o", "json").json()["items"]] == ["d/1", "d/2/", "d/3"]
    table = cli("kv", "ls", "-r", "-o", "table").out.splitlines()
    assert (table[0].split()[-1], table[1].split()[-1], len(table)) == ("VALUE", "<a>", 7)
    assert cli("kv", "ls", "-o", "table").out.splitlines()[0].split()[-1] == "LEASE"
    assert "key: d/3\n" in cli("kv", "ls", "d/", "-o", "yaml").out


def test_transactions(cli: Cli, daemon: DaemonProcess, tmp_path: Path) -> None:
    """YAML and JSON; the exit code says whether the compares held; mistakes are said all at once."""
    (tmp_path / "t.yaml").write_text(
        "compares: [{key: a, target: version, operator: '==', operand: 0}]\n"
        "then: [{op: put, key: a, value: first}]\nelse: [{op: get, key: a}]\n"
    )
    ran = cli("kv", "txn", "-f", str(tmp_path / "t.yaml"), "-o", "json")
    assert (ran.code, ran.json()["succeeded"]) == (0, True)
    again = cli("kv", "txn", "-f", str(tmp_path / "t.yaml"))
    assert (again.code, "value: first" in again.out) == (5, True)
    document = json.dumps({"then": [{"op": "put", "key": "b", "value": "1"}]}).encode()
    assert cli("kv", "txn", "-f", "-", stdin=document).code == 0
    wrong = cli("kv", "txn", "-f", "-", stdin=b'{"then": [{"op": "put", "key": "b"}, {"op": "drop"}]}')
    assert (wrong.code, "then[0]" in wrong.err, "then[1]" in wrong.err) == (2, True, True)
    assert cli("kv", "txn", "-f", "-", stdin=b"[1, 2]").code == 2


def test_edit_is_compare_and_swap(cli: Cli, daemon: DaemonProcess, tmp_path: Path) -> None:
    """What the editor leaves is put, unless somebody else was quicker: then nothing is done and the text is kept."""
    script = tmp_path / "editor.py"
    cli.env(EDITOR=f"{sys.executable} {script}", PYTHONPATH=str(Path(__file__).parents[2]))
    write = "import pathlib, sys; pathlib.Path(sys.argv[1]).write_text('edited')\n"
    script.write_text(write)
    assert cli("kv", "edit", "a").out.startswith("a created")
    assert "as it was" in cli("kv", "edit", "a").err
    race = (
        "from platformd.client import kv; from platformd.client.blocking import Client\n"
        "Client().send(kv.put(b'a', b'theirs')).check()\n"
    )
    script.write_text(race + write.replace("edited", "mine"))
    ran = cli("kv", "edit", "a")
    assert ran.code == 5
    kept = Path(ran.err.rpartition("what you wrote is in ")[2].strip())
    assert (kept.read_text(), cli("kv", "get", "a").raw) == ("mine", b"theirs")
    kept.unlink()
    script.write_text("import sys; sys.exit(3)")
    assert cli("kv", "edit", "a").code == 2
    cli.env(EDITOR="/nonexistent/editor")
    assert cli("kv", "edit", "a").code == 2


def values(daemon: DaemonProcess, prefix: bytes = b"") -> dict[bytes, bytes]:
    with daemon.client as client:
        items = kv.read_document(client.send(kv.list_page(prefix, limit=1000)))["items"]
    return {kv.bytes_of(item, "key") or b"": kv.bytes_of(item, "value") or b"" for item in items}


@pytest.mark.parametrize("output", ["json", "yaml"])
def test_export_and_import_again(cli: Cli, daemon: DaemonProcess, output: str) -> None:
    """What was exported comes back as it was, whatever bytes it has; --sync removes what was not there."""
    with daemon.client as client:
        for key, value in {b"x/text": b"a\nb", b"x/\xff\x00": BINARY, "x/ä".encode(): b"", b"x/true": b"yes"}.items():
            client.send(kv.put(key, value)).check()
        for i in range(250):
            client.send(kv.put(b"x/n/%d" % i, b"%d" % i)).check()
        client.send(kv.put(b"other", b"stays")).check()
    before = values(daemon, b"x/")
    exported = cli("kv", "export", "x/", "-o", output)
    assert (exported.code, exported.err) == (0, "254 keys\n")
    cli("kv", "del", "--prefix", "x/n/")
    cli("kv", "put", "x/text", "changed")
    cli("kv", "put", "x/extra", "new")
    planned = cli("kv", "import", "-", "--sync", "x/", "--dry-run", stdin=exported.raw)
    assert planned.out == "254 keys put, 1 deleted (dry run)\n"
    assert values(daemon)[b"x/extra"] == b"new"
    done = cli("kv", "import", "-", "--sync", "x/", "-o", "json", stdin=exported.raw)
    assert done.json() == {"put": 254, "deleted": 1, "dry_run": False}
    assert values(daemon) == before | {b"other": b"stays"}


def test_an_import_that_cannot_be_does_nothing(cli: Cli, daemon: DaemonProcess) -> None:
    """Every line that is wrong is named, and a key outside of --sync stops it all."""
    lines = b'{"key": "a", "value": "1"}\n{"key": "b"}\n{"key": "a", "value": "2"}\n{"key": "c", "value_base64": "!"}\n'
    ran = cli("kv", "import", "-", stdin=lines + b'{"key": "d", "value": "1", "ttl": "3s"}\n')
    assert ran.code == 2
    assert [f"line {i}" in ran.err for i in (1, 2, 3, 4, 5)] == [False, True, True, True, True]
    assert cli("kv", "import", "-", stdin=b'{"key": "a",\n').code == 2
    outside = cli("kv", "import", "-", "--sync", "x/", stdin=b'{"key": "y", "value": "1"}\n')
    assert (outside.code, "outside of x/" in outside.err) == (2, True)
    assert values(daemon) == {}


def test_a_large_import_shows_how_far_it_is(cli: Cli, daemon: DaemonProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal a bar follows a large import; a small one says nothing."""
    lines = b"".join(b'{"key": "k%d", "value": "x"}\n' % i for i in range(30))
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setattr(kv_transfer, "PROGRESS_FROM", 20)
    assert "importing" in cli("kv", "import", "-", stdin=lines).err
    monkeypatch.setattr(kv_transfer, "PROGRESS_FROM", 1000)
    assert "importing" not in cli("kv", "import", "-", stdin=lines).err


def test_watching(cli: Cli, daemon: DaemonProcess) -> None:
    """Changes come as lines, documents or values, from a revision on."""
    first = cli("kv", "put", "w/a", "1", "-o", "json").json()["revision"]
    cli("kv", "put", "w/b", "2")
    cli("kv", "del", "w/a")
    after = ("--after", str(first - 1))
    lines = cli("kv", "watch", "w/", *after, "--count", "3").out.splitlines()
    assert [line.split()[:2] for line in lines] == [["EVENT", "KEY"], ["put", "w/a"], ["put", "w/b"], ["delete", "w/a"]]
    documents = cli("kv", "watch", "w/", *after, "--count", "3", "-o", "json", "--previous").out.splitlines()
    assert [json.loads(line)["type"] for line in documents] == ["put", "put", "delete"]
    assert json.loads(documents[2])["previous"]["value"] == "1"
    assert cli("kv", "watch", "w/b", "--exact", *after, "--count", "1", "-o", "raw").raw == b"2"
    assert cli("kv", "watch", "w/", "--after", "1", "--count", "1", "-o", "yaml").code == 0
    assert cli("kv", "watch", "w/", "--after", "999999").code == 5


def test_a_watch_goes_on_over_a_restart(running: DaemonProcess) -> None:
    """While the daemon is killed and started again a watch waits, then misses nothing and repeats nothing."""
    seen: list[bytes] = []
    begun, enough = threading.Event(), threading.Event()

    def follow() -> None:
        with Client(running.client.target, sleep=lambda _: None) as client:
            for change in client.watch_keys(b"r/"):
                begun.set()
                if change.type == "put":
                    seen.append(change.value)
                if len(seen) == 20:
                    enough.set()
                    return

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    assert begun.wait(20)
    for i in range(20):
        if i in (7, 14):
            running.kill()
            running.start()
        with running.client as client:
            client.send(kv.put(b"r/%d" % (i % 3), b"%d" % i)).check()
    assert enough.wait(20)
    thread.join(20)
    assert seen == [b"%d" % i for i in range(20)]


def test_leases(cli: Cli, daemon: DaemonProcess) -> None:
    """Granted, kept, shown with its keys, listed and ended."""
    lease = cli("lease", "grant", "30s").out.strip()
    assert len(lease) == 16
    assert cli("kv", "put", "a", "1", "--lease", lease).code == 0
    assert cli("lease", "keep", lease, "--once", "-o", "json").json()["ttl"] == 30
    shown = cli("lease", "show", lease).out.splitlines()
    assert (shown[1].split()[:2], shown[2]) == ([lease, "30s"], "  a")
    assert cli("lease", "grant", "1m", "--id", "ff").out == "00000000000000ff\n"
    assert cli("lease", "ls", "-o", "name").out.split() == sorted([lease, "00000000000000ff"])
    assert len(cli("lease", "ls").out.splitlines()) == 3
    assert len(cli("lease", "ls", "-o", "json").json()["items"]) == 2
    ran = cli("lease", "revoke", lease, "ff", "ff")
    assert (ran.code, ran.out.count("ended")) == (3, 2)
    assert cli("kv", "get", "a").code == 3
    assert cli("lease", "keep", lease).code == 3
    assert cli("lease", "grant", "soon").code == 2
    assert cli("kv", "put", "b", "1", "--ttl", "1h").code == 0
    assert cli("kv", "get", "b", "-o", "json").json()["lease"] in cli("lease", "ls", "-o", "name").out


def test_nobody_there(cli: Cli) -> None:
    """Without a daemon each of the commands exits with 6."""
    for line in ("kv get a", "kv put a b", "kv ls", "kv watch a", "lease ls", "lease grant 3s", "lock a -- true"):
        assert cli("--socket", "/nonexistent", *line.split()).code == 6


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("platformd kv g", {"get"}),
        ("platformd kv get c", {"c", "c/"}),
        ("platformd kv get c/", {"c/1", "c/2/"}),
        ("platformd lease re", {"revoke"}),
        ("platformd lock n", {"nightly"}),
    ],
)
def test_completion(cli: Cli, daemon: DaemonProcess, line: str, offered: set[str]) -> None:
    """Subcommands, keys directory by directory, and locks."""
    with daemon.client as client:
        for key in (b"c", b"c/1", b"c/2/x", b"d"):
            client.send(kv.put(key, b"")).check()
        lease = kv.read_document(client.send(kv.grant("60s")))["id"]
        client.send(kv.acquire("nightly", lease, wait=0)).check()
    cli.env(_PLATFORMD_COMPLETE="bash_complete", COMP_WORDS=line, COMP_CWORD=str(len(line.split()) - 1))
    assert {row.partition(",")[2] for row in cli().out.splitlines()} == offered


# --- the watch without its connection ---


def sent(revision: int, kind: str, key: str, modified: int) -> bytes:
    document = {"revision": modified} if kind == "bookmark" else {"key": key, "value": "", "mod_revision": modified}
    return f"id: {revision}\nevent: {kind}\ndata: {json.dumps(document)}\n\n".encode()


def test_a_cut_within_a_revision_repeats_nothing() -> None:
    """Of a revision that was cut apart, what came before the cut is dropped when it comes again."""
    state = KeyWatchState(b"k")
    stream = [sent(4, "bookmark", "", 4), sent(4, "put", "a", 5), sent(4, "put", "b", 5), sent(5, "put", "c", 5)]
    for cut in range(1, 5):
        state = KeyWatchState(b"k")
        state.request()
        first: list[KeyChange] = list(itertools.chain(*(state.feed(one) for one in stream[:cut])))
        request = state.request()
        assert f"after={state.after}" in request.path
        rest = [sent(4, "bookmark", "", 4), *stream[1:]] if state.after == 4 else []
        second = list(itertools.chain(*(state.feed(one) for one in rest)))
        keys = [change.key for change in first + second if change.type != "bookmark"]
        assert keys == [b"a", b"b", b"c"]


def test_an_event_that_cannot_be_read_ends_the_watch() -> None:
    """Nonsense and errors are raised once what came before them is delivered; new types of event are passed over."""
    for nonsense in (b"data: {\n\n", b"event: put\ndata: {}\n\n", b'id: x\nevent: put\ndata: {"mod_revision": 1}\n\n'):
        state = KeyWatchState(b"k", after=3)
        changes = state.feed(sent(4, "put", "a", 4) + b"event: put\n" * nonsense.startswith(b"data") + nonsense)
        assert [change.key for change in changes] == [b"a"]
        with pytest.raises(PlatformError):
            state.raise_if_failed()
    state = KeyWatchState(b"k")
    problem = json.dumps(Unavailable("stopping").to_problem())
    assert state.feed(f"event: error\ndata: {problem}\n\n".encode()) == []
    with pytest.raises(Unavailable):
        state.raise_if_failed()
    assert KeyWatchState(b"k").feed(b"event: moved\ndata: {}\n\n") == []


@pytest.mark.parametrize("words", [("get", ""), ("put", "", "x"), ("del", ""), ("edit", "")])
def test_a_key_is_not_empty(cli: Cli, words: tuple[str, ...]) -> None:
    """An empty word, as an unset shell variable leaves it, is refused and never taken for everything."""
    ran = cli("kv", *words)
    assert ran.code == 2
    assert "the key is empty" in ran.err
