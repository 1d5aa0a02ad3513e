"""The entry point: help, exit codes, and one form of error for people and programs."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import click
import pytest

from platformd import __version__
from platformd.cli import main as entry
from platformd.cli.main import EXIT_CODES, SECTIONS, main, root, wants_json
from platformd.core.errors import BY_CODE
from platformd.core.processes import own_environment, own_module
from tests.client.fake_api import FakeApi

from .conftest import Cli

COMMANDS = [name for names in SECTIONS.values() for name in names]


def test_no_words_print_the_help(cli: Cli) -> None:
    """``platformd`` alone is the help, with every command and every exit code."""
    ran = cli()
    assert ran == cli("--help")
    assert ran.code == 0
    assert all(f"  {name} " in ran.out for name in COMMANDS)
    assert all(f"\n  {code} " in ran.out for code in EXIT_CODES)


def test_every_exit_code_of_an_error_is_explained() -> None:
    """No error of the vocabulary has an exit code that the help does not explain."""
    assert {error.exit_code for error in BY_CODE.values()} <= set(EXIT_CODES)


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_help_with_examples(cli: Cli, name: str) -> None:
    """Every subcommand explains itself and shows how it is meant."""
    ran = cli(name, "--help")
    assert (ran.code, ran.err) == (0, "")
    assert "Examples:\n    " in ran.out
    assert "platformd" in ran.out.partition("Examples:")[2]


@pytest.mark.parametrize("name", COMMANDS)
def test_each_example_is_a_command_line_that_parses(name: str) -> None:
    """The options in the examples exist."""
    command = root.get_command(click.Context(root), name)
    assert command is not None
    commands = [command, *(command.commands.values() if isinstance(command, click.Group) else ())]
    options = {o for c in commands for parameter in c.params for o in (*parameter.opts, *parameter.secondary_opts)}
    text = (command.epilog or "").replace("$(", " ").replace(")", " ")
    own = [line.partition(f"platformd {name}")[2].partition(" -- ")[0] for line in text.splitlines()]
    lines = [line.split("|")[0].split(" # ")[0] for line in own]
    used = {word for line in lines for word in line.split() if word.startswith("-") and len(word) > 1}
    assert used <= options, used - options


def test_version_in_each_form(cli: Cli) -> None:
    """The version is there as an option, as a line and as a document."""
    assert cli("--version").out == f"platformd {__version__}\n"
    assert cli("version").out == f"platformd {__version__}\n"
    assert cli("version", "-o", "json").json()["version"] == __version__
    assert cli("version", "-o", "yaml").out.startswith("name: platformd\nversion: ")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("gett",), "error: gett: there is no such command\nhint: did you mean get?\n"),
        (("xyzzy",), "error: xyzzy: there is no such command\nhint: see `platformd --help`\n"),
        (("status", "--socke=x"), "error: platformd status: No such option"),
        (("status", "-o", "raw"), "error: platformd status: Invalid value for '-o'"),
        (("get",), "error: what? no kind was given"),
        (("get", "strems"), "error: strems: there is no such kind\nhint: did you mean streams?\n"),
        (("completion", "tcsh"), "error: platformd completion: Invalid value"),
        (("status", "--url", "ftp://x"), "error: ftp://x: is not a URL of the control API\nhint: write http"),
    ],
)
def test_wrong_usage_says_so_on_standard_error(cli: Cli, words: tuple[str, ...], message: str) -> None:
    """Usage errors have the form of all errors, leave standard output alone and exit with 2 (or 3 for a kind)."""
    ran = cli(*words)
    assert ran.err.startswith(message)
    assert (ran.code, ran.out) == (3 if "strems" in words else 2, "")


def test_wrong_usage_is_a_document_for_programs(cli: Cli) -> None:
    """With -o json even a usage error is a problem document."""
    import msgspec

    ran = cli("get", "streams", "--nonsense", "-o", "json")
    problem = msgspec.json.decode(ran.err)
    assert (problem["code"], problem["status"], problem["subject"]) == ("invalid_input", 400, "platformd get")
    assert (ran.code, ran.out) == (2, "")


def test_nobody_there_says_what_to_do(cli: Cli) -> None:
    """Without a daemon every client command exits with 6 and a hint."""
    for words in (("status",), ("get", "streams"), ("publish", "a", "b"), ("consume", "a"), ("delete", "stream", "a")):
        ran = cli(*words, "--socket", "/nonexistent/s")
        assert ran.err.startswith("error: /nonexistent/s: there is no such socket\nhint: is the daemon running?")
        assert ran.code == 6


@pytest.mark.parametrize("error_class", sorted(BY_CODE.values(), key=lambda c: c.code))
def test_each_refusal_of_the_daemon_has_its_exit_code(cli: Cli, api: FakeApi, error_class: type) -> None:
    """What the daemon refuses with becomes the exit code of its class and a line with subject and hint."""
    import msgspec

    error = error_class("it is so", subject="stream/a", hint="do this")
    body = msgspec.json.encode(error.to_problem())
    api.answers.append(lambda _: (error.status, {"content-type": "application/problem+json"}, body))
    ran = cli("get", "streams")
    assert (ran.code, ran.out, ran.err) == (error_class.exit_code, "", "error: stream/a: it is so\nhint: do this\n")
    assert msgspec.json.decode(cli("get", "streams", "-o", "json").err)["code"] == error_class.code


def test_a_crashed_daemon_is_an_error_with_its_words(cli: Cli, api: FakeApi) -> None:
    """A 500 that is not JSON is quoted, on one line and without control characters."""
    api.answers.append(lambda _: (500, {"content-type": "text/plain"}, b"Traceback\x1b[31m"))
    ran = cli("status")
    assert ran.code == 1
    assert "500 Internal Server Error: Traceback\ufffd[31m" in ran.err


def test_options_stand_before_or_after_the_command(cli: Cli, api: FakeApi, tmp_path: Path) -> None:
    """--socket, --url and -o hold on either side of the subcommand, and flags win over the environment."""
    api.status = {"name": "platformd", "state": "running"}
    cli.env(PLATFORMD_SOCKET="/nonexistent", PLATFORMD_OUTPUT="yaml")
    here = str(tmp_path / "s")
    assert cli("--socket", here, "-o", "json", "status").json() == api.status
    assert cli("status", "--url", f"unix://{here}", "-o", "json").json() == api.status
    assert cli("status", "--socket", here).out == "name: platformd\nstate: running\n"


def test_an_unknown_format_in_the_environment_is_refused(cli: Cli) -> None:
    """A misspelt PLATFORMD_OUTPUT is an error; one that another command has is passed over."""
    cli.env(PLATFORMD_OUTPUT="jsn")
    ran = cli("version")
    assert ran.code == 2
    assert "PLATFORMD_OUTPUT is 'jsn'" in ran.err
    cli.env(PLATFORMD_OUTPUT="wide")
    assert cli("version").code == 0


@pytest.mark.parametrize(
    ("words", "environ", "expected"),
    [
        ("get a -o json", {}, True),
        ("get a -ojson", {}, True),
        ("get a --output=json", {}, True),
        ("get a --output json", {}, True),
        ("demo --json", {}, True),
        ("get a", {"PLATFORMD_OUTPUT": "json"}, True),
        ("get a -o yaml", {"PLATFORMD_OUTPUT": "json"}, False),
        ("get a -o", {}, False),
        ("publish a -- -o json", {}, False),
        ("-o json get a -o table", {}, False),
    ],
)
def test_the_words_say_whether_errors_are_documents(words: str, environ: dict[str, str], expected: bool) -> None:
    """The last -o counts, then the environment; what follows ``--`` does not."""
    assert wants_json(words.split(), environ) is expected


def test_control_c_exits_with_130(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """An interrupt ends a command quietly."""

    def pages(*_args: object, **_options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("platformd.client.blocking.Client.pages", pages)
    ran = cli("get", "streams")
    assert (ran.code, ran.out, ran.err) == (130, "", "")


@pytest.mark.parametrize("words", ["get streams", "get streams -o json", "--help", "version"])
def test_a_closed_pipe_is_no_trouble(api: FakeApi, words: str) -> None:
    """When the reader of our output has gone (``| head -1``), we end without a word."""
    api.put("streams", "a")
    reading, writing = os.pipe()
    os.close(reading)
    try:
        command = own_module("platformd.cli.main", *words.split())
        done = subprocess.run(
            command, stdout=writing, stderr=subprocess.PIPE, text=True, check=False, env=own_environment()
        )
    finally:
        os.close(writing)
    assert (done.stderr, done.returncode) == ("", entry.PIPE_CLOSED)


@pytest.mark.parametrize(
    ("shell", "word"), [("bash", "complete -o"), ("zsh", "compdef"), ("fish", "complete --no-files")]
)
def test_completion_scripts(cli: Cli, shell: str, word: str) -> None:
    """Each shell gets a script that asks this program."""
    ran = cli("completion", shell)
    assert ran.code == 0
    assert word in ran.out
    assert "_PLATFORMD_COMPLETE" in ran.out


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("platformd st", {"status", "store", "stream"}),
        ("platformd get st", {"streams"}),
        ("platformd get streams a", {"alerts", "archive"}),
        ("platformd delete st alerts ar", {"archive"}),
        ("platformd consume al", {"alerts"}),
        ("platformd get streams --out", {"--output"}),
    ],
)
def test_completion_offers_words(cli: Cli, api: FakeApi, line: str, offered: set[str]) -> None:
    """Commands, kinds, options and the names that the daemon has."""
    for name in ("alerts", "archive", "logs"):
        api.put("streams", name)
    words = line.split()
    cli.env(_PLATFORMD_COMPLETE="bash_complete", COMP_WORDS=line, COMP_CWORD=str(len(words) - 1))
    ran = cli()
    assert {row.partition(",")[2] for row in ran.out.splitlines()} == offered


def test_completion_is_silent_without_a_daemon(cli: Cli) -> None:
    """No names are offered, and nothing is said, when nobody answers."""
    cli.env(_PLATFORMD_COMPLETE="bash_complete", COMP_WORDS="platformd get streams a", COMP_CWORD="3")
    ran = cli()
    assert (ran.out.strip(), ran.err) == ("", "")


def test_main_can_be_called_with_words() -> None:
    """The entry point returns its code and does not exit by itself."""
    assert main(["version"]) == 0


@pytest.mark.parametrize("name", COMMANDS)
def test_help_says_what_each_command_says_of_itself(name: str) -> None:
    """The words are repeated where they load quickly, and must be the same."""
    command = root.get_command(click.Context(root), name)
    assert command is not None
    assert next(names[name] for names in SECTIONS.values() if name in names) == command.get_short_help_str(92)
