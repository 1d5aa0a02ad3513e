"""A client subcommand does not pay for what it does not use."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.client.fake_api import FakeApi

HEAVY = {
    "asyncio", "cel", "fastavro", "h11", "hypercorn", "jsonpath", "multiprocessing", "platformd.conductor",
    "platformd.daemon", "platformd.queues", "platformd_tui", "psutil", "pydantic", "pynng", "quart", "quart_trio",
    "rich", "sqlite3", "textual", "trio", "yaml",
}  # fmt: skip
"""What is slow to load, or the daemon's own."""

QUEUES = {"asyncio", "h11", "platformd.queues", "pynng"}
"""What publishing and consuming need: pynng pulls asyncio."""


@pytest.mark.parametrize(
    ("line", "used"),
    [
        ("--help", set()),
        ("get --help", set()),
        ("explain stream.spec.subjects", set()),
        ("history", {"h11"}),
        ("events", {"h11"}),
        ("describe stream/a", {"h11", "yaml"}),
        ("get streams --sort-by name -o jsonpath=items[*].name", {"h11", "jsonpath"}),
        ("version", set()),
        ("completion zsh", set()),
        ("nonsense", set()),
        ("status", {"h11"}),
        ("status -o json", {"h11"}),
        ("get streams", {"h11"}),
        ("get all -o json", {"h11"}),
        ("get stream a -o yaml", {"h11", "yaml"}),
        ("apply -f -", {"h11", "yaml"}),
        ("delete stream a", {"h11"}),
        ("tui", set()),
        ("context ls", set()),
        ("context set x --socket /s --dry-run", set()),
        ("wait stream/a --for created --timeout 1ms", {"h11"}),
        ("watch streams --count 1 --timeout 1ms", {"h11"}),
        ("edit stream/a", {"h11", "yaml"}),
        ("api /status", {"h11"}),
        ("kv get a", {"h11"}),
        ("kv put a b", {"h11"}),
        ("lease ls", {"h11"}),
        ("lock a -- true", {"h11"}),
        ("publish a.b payload", QUEUES),
        ("consume a", QUEUES),
        ("subscribe a --count 1", {"h11"}),
        ("stream ls", {"h11"}),
        ("stream create b --subject b --no-wait", {"h11"}),
        ("consumer ls a", {"h11"}),
        ("bench --help", set()),
    ],
)
def test_only_what_is_used_is_imported(api: FakeApi, line: str, used: set[str]) -> None:
    """Each subcommand, run to its end in a process of its own, has loaded nothing heavy that it does not use."""
    api.put("streams", "a", spec={"subjects": ["a"]})
    api.watches.append(b'id: 1\nevent: record\ndata: {"sequence": 1, "subject": "a", "payload": ""}\n\n')
    program = (
        "import os, sys; from platformd.cli.main import main; os.execve = lambda *_: None\n"
        f"main({line.split()!r})\n"
        f"print(*(m for m in {sorted(HEAVY)!r} if m in sys.modules), file=sys.stderr)"
    )
    document = '{"kind": "Stream", "name": "b", "spec": {}}' if "yaml" not in used else "kind: Stream\nname: b\n"
    done = subprocess.run(
        [sys.executable, "-c", program], input=document, capture_output=True, text=True, check=True, timeout=60
    )
    assert set(done.stderr.splitlines()[-1].split()) == used


def test_help_loads_no_command() -> None:
    """What is said of each command stands in one place that loads quickly; a command loads itself alone."""
    program = (
        "import sys; from platformd.cli.main import main\n"
        "main(sys.argv[1:])\n"
        "print(*(m for m in sys.modules if m.startswith('platformd.cli.commands.')), file=sys.stderr)"
    )
    loaded = [
        subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, check=True, timeout=60)
        for words in (["--help"], ["get", "--help"])
    ]
    assert [done.stderr.split() for done in loaded] == [[], ["platformd.cli.commands.get"]]
