"""``run``, ``demo`` and ``tui``: what they hand over to those who do the work."""

from __future__ import annotations

import os
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from platformd.cli.demo_options import DemoOptions
from platformd.core.settings import Settings

from .conftest import Cli


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the daemon, the demonstration and the terminal were started with."""
    calls: list[Any] = []

    def taking(code: int) -> Any:
        def start(*arguments: Any) -> int:
            calls.append(arguments if len(arguments) > 1 else arguments[0])
            return code

        return start

    for module, function, code in (("platformd.daemon", "main", 4), ("platformd.cli.demo", "run_demo", 5)):
        fake = types.ModuleType(module)
        setattr(fake, function, taking(code))
        monkeypatch.setitem(sys.modules, module, fake)
    monkeypatch.setattr(os, "execve", taking(0))
    return calls


def test_run_merges_file_environment_and_flags(cli: Cli, started: list[Any], tmp_path: Path) -> None:
    """Flags win over the environment and the environment over the file; the daemon's code is ours."""
    file = tmp_path / "c.toml"
    file.write_text(
        "[daemon]\nlog_level = 'debug'\nnode_name = 'n'\nstate_dir = '/file'\n[http]\nmax_connections = 7\n"
    )
    cli.env(PLATFORMD_STATE_DIR="/env", PLATFORMD_HTTP_MAX_CONNECTIONS="8")
    words = ("run", "-c", str(file), "--http", "127.0.0.1:80", "--log-level", "error", "--socket", "/s")
    assert cli(*words).code == 4
    [settings] = started
    assert isinstance(settings, Settings)
    daemon, http = settings.daemon, settings.http
    assert (daemon.log_level, daemon.node_name, daemon.state_dir, daemon.socket) == ("error", "n", "/env", "/s")
    assert (http.listen, http.max_connections) == ("127.0.0.1:80", 8)


def test_run_takes_the_socket_from_either_side(cli: Cli, started: list[Any], tmp_path: Path) -> None:
    """--socket before the subcommand means the daemon's socket too."""
    cli("--socket", "/s", "run", "--state-dir", str(tmp_path))
    assert (started[0].daemon.socket, started[0].daemon.state_dir) == ("/s", str(tmp_path))


def test_wrong_settings_are_told_all_at_once(cli: Cli, started: list[Any], tmp_path: Path) -> None:
    """Every wrong key with the nearest known one, and the daemon is not started."""
    file = tmp_path / "c.toml"
    file.write_text("[daemon]\nlog_levle = 'debug'\n[strore]\nengine = 'sqlite'\n")
    ran = cli("run", "-c", str(file))
    assert (ran.code, started) == (2, [])
    assert "daemon.log_levle: is not a known key (did you mean daemon.log_level?)" in ran.err
    assert "strore: is not a known section (did you mean store?)" in ran.err
    assert cli("run", "-c", str(tmp_path / "missing.toml")).code == 2


def test_demo_hands_its_options_over(cli: Cli, started: list[Any], tmp_path: Path) -> None:
    """Every option arrives, and without any the defaults do."""
    words = ["--alerts", str(tmp_path), "--filter", "a > 1", "--rate", "2.5", "--count", "7", "--keep", "--seed", "3"]
    assert cli("demo", *words, "--json", "--state-dir", str(tmp_path)).code == 5
    assert cli("demo").code == 5
    cli("demo", "-o", "json")
    full = DemoOptions(
        alerts=tmp_path, filter="a > 1", rate=2.5, count=7, json=True, keep=True, state_dir=tmp_path, seed=3
    )
    assert started == [full, DemoOptions(), DemoOptions(json=True)]


@pytest.mark.parametrize("words", [("--rate", "0"), ("--count", "0"), ("--alerts", "/nonexistent")])
def test_demo_refuses_what_cannot_be_replayed(cli: Cli, started: list[Any], words: tuple[str, str]) -> None:
    """A rate or count of nothing and a directory that is not there are usage errors."""
    assert (cli("demo", *words).code, started) == (2, [])


@pytest.mark.parametrize(
    ("words", "handed"),
    [
        (("tui",), []),
        (("tui", "--socket", "/s"), ["--socket", "/s"]),
        (("--url", "http://127.0.0.1:80", "tui"), ["http://127.0.0.1:80"]),
    ],
)
def test_the_terminal_takes_this_process_over(
    cli: Cli, started: list[Any], words: tuple[str, ...], handed: list[str]
) -> None:
    """The terminal's program replaces this one, and attaches where it was told to."""
    cli(*words)
    ((path, command, environ),) = started
    assert (path, command) == (sys.executable, [sys.executable, "-P", "-m", "platformd_tui", *handed])
    assert environ["PYTHONPATH"]


def test_a_wrong_url_is_refused_before_the_screen_is_taken(cli: Cli, started: list[Any]) -> None:
    """The error is a line, not a flash of a screen."""
    assert (cli("tui", "--url", "ftp://x").code, started) == (2, [])
