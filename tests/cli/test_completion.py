"""Completion in real shells, with the names that a daemon has at that moment."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from platformd.core.processes import own_environment, own_module

from ..client.fake_api import FakeApi
from .conftest import Cli

BASH = """
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
_platformd_completion platformd "${COMP_WORDS[COMP_CWORD]}"
printf '%s\\n' "${COMPREPLY[@]}"
"""

ZSH = """
compdef() { :; }
_describe() { local -a found; found=("${(@P)3}"); print -l -- "${found[@]%%:*}"; }
compadd() { local name="${@[-1]}"; print -l -- "${(@P)name}"; }
source "$1"; shift
words=("$@"); CURRENT=$#
_platformd_completion
"""

FISH = 'source $argv[1]; complete -C (string join " " -- $argv[2..]) | string replace -r "\\t.*" ""'

SHELLS = {"bash": BASH, "zsh": ZSH, "fish": FISH}

Complete = Callable[..., list[str]]


@pytest.fixture(params=["bash", *(pytest.param(shell, marks=pytest.mark.system) for shell in ("zsh", "fish"))])
def complete(request: pytest.FixtureRequest, tmp_path: Path, cli: Cli) -> Complete:
    """Asks a shell what it would offer for the last word."""
    shell: str = request.param
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed: apt-get install {shell}")
    script = tmp_path / "completion"
    script.write_text(cli("completion", shell).out)
    program = tmp_path / "bin" / "platformd"
    program.parent.mkdir()
    command = " ".join(f"'{word}'" for word in own_module("platformd.cli.main"))
    program.write_text(f'#!/bin/sh\nexec {command.replace(repr("-P"), "-P")} "$@"\n')
    program.chmod(0o755)

    def ask(*words: str) -> list[str]:
        environ = own_environment() | {"PATH": f"{program.parent}:{os.environ['PATH']}", "HOME": str(tmp_path)}
        line = [shell, "-c", SHELLS[shell], *(["shell"] if shell != "fish" else []), str(script), "platformd", *words]
        done = subprocess.run(line, capture_output=True, text=True, env=environ, timeout=120, check=False)
        assert not done.stderr.strip(), done.stderr
        return [word for word in done.stdout.split() if word.startswith(words[-1])]

    return ask


def test_live_names_are_offered(complete: Complete, api: FakeApi) -> None:
    """Commands, kinds, and the names that there are, of the daemon that the line names."""
    api.put("streams", "alerts")
    api.put("streams", "archive")
    assert {"get", "history"} <= {*complete("get"), *complete("hist")}
    assert complete("get", "stre") == ["streams"]
    assert sorted(complete("get", "stream", "a")) == ["alerts", "archive"]
    assert api.seen[-1].path == "/v1/streams"


@pytest.fixture
def silent(tmp_path: Path, cli: Cli) -> Iterator[None]:
    """A daemon that takes connections and never says a word."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "silent"))
        listener.listen(8)
        cli.env(PLATFORMD_SOCKET=str(tmp_path / "silent"))
        yield


def test_nothing_is_offered_when_the_daemon_is_silent(complete: Complete, silent: None) -> None:
    """Nobody waits at the prompt, and nothing is printed into the line; what needs no daemon is still there."""
    assert complete("get", "stream", "a") == []
    assert complete("get", "stre") == ["streams"]


def offered(*words: str) -> list[str]:
    """What click would offer, in a process of its own."""
    environ = own_environment() | {
        "_PLATFORMD_COMPLETE": "bash_complete",
        "COMP_WORDS": "\n".join(("platformd", *words)),
        "COMP_CWORD": str(len(words)),
    }
    command = [sys.executable, "-m", "platformd.cli.main"]
    done = subprocess.run(command, capture_output=True, text=True, env=environ, timeout=60, check=True)
    assert not done.stderr
    return [line.partition(",")[2] for line in done.stdout.splitlines() if line]


def test_each_word_has_its_own_names(cli: Cli, api: FakeApi, tmp_path: Path) -> None:
    """Consumers of the stream before them, contexts, formats, states of the kind, columns, and tenants of the line."""
    api.put("streams", "a")
    api.put("streams", "other", tenant="t")
    api.consumers["a", "archive"] = {"name": "archive"}
    cli.env(XDG_CONFIG_HOME=str(tmp_path / "config"))
    cli("context", "set", "site", "--url", "https://h")
    assert offered("consumer", "info", "a", "") == ["archive"]
    assert offered("context", "use", "s") == ["site"]
    assert offered("get", "streams", "-o", "js") == ["json", "jsonpath="]
    assert offered("wait", "stream/a", "--for", "state=a") == ["state=active"]
    assert offered("get", "streams", "--sort-by", "na") == ["name"]
    assert offered("get", "--tenant", "t", "stream", "") == ["other"]
    assert offered("explain", "stream.spec.max_a") == ["stream.spec.max_age"]


def test_the_options_on_the_line_count(cli: Cli, api: FakeApi, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names come from the daemon that --socket says, before the command or after it."""
    api.put("streams", "a")
    path = os.environ["PLATFORMD_SOCKET"]
    monkeypatch.delenv("PLATFORMD_SOCKET")
    assert offered("get", "stream", "") == []
    assert offered("get", "--socket", path, "stream", "") == ["a"]
    assert offered("--socket", path, "get", "stream", "") == ["a"]
