"""``platformd``: the entry point. Finds the subcommand, and turns what it raises into lines and exit codes."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final

import click

from platformd import __version__
from platformd.cli.options import FORMATS, OutputFormat, Session, connection_options
from platformd.core.errors import InvalidInput, PlatformError, nearest

COMPLETE_VARIABLE: Final = "_PLATFORMD_COMPLETE"
"""Set by the shell's completion script; see click.shell_completion."""

SECTIONS: Final[dict[str, dict[str, str]]] = {
    "The daemon": {
        "run": "Run the daemon until SIGTERM or Ctrl-C.",
        "demo": "Run the main job once, on a private daemon.",
        "status": "Show what the daemon is and does.",
        "tui": "Show the platform live, full screen.",
    },
    "Resources": {
        "get": "Show resources.",
        "describe": "Say what resources are, why they are not ready, what belongs to them, and what happened...",
        "explain": "Say what a kind is for, what its fields mean, which states it has and what it can be told...",
        "apply": "Make resources what documents say: create what is missing, change what differs.",
        "edit": "Change resources in $VISUAL or $EDITOR.",
        "delete": "Delete resources.",
        "wait": "Wait until resources are as they should be.",
        "watch": "Show what changes from now on, with the fields that changed.",
        "history": "Show what happened to resources, the newest first; also to those that are gone.",
        "events": "Show events, the newest last; of all resources, of a kind, or of one.",
    },
    "Records": {
        "publish": "Publish records to SUBJECT: PAYLOAD, the content of files, or standard input.",
        "subscribe": "Print the records of SUBJECT (a pattern: * one token, > the rest) as they come, until...",
        "consume": "Read the records of STREAM.",
        "stream": "Make, look at, empty and delete streams.",
        "consumer": "Make, look at, move and delete consumers of streams.",
        "bench": "Measure the daemon, with programs like yours.",
    },
    "Components": {
        "component": "Ask, use and check components: anything that answers the component control API, platformd...",
    },
    "Coordination": {
        "kv": "Read, write and follow keys of the coordination store.",
        "lease": "Grant, keep alive, look at and end leases of the coordination store.",
        "lock": "Run CMD while holding the lock NAME, and exit with its code.",
    },
    "The store": {
        "store": "See how the coordination store is, cut its history, copy it into an etcd.",
        "backup": "Copy the store of the running daemon into FILE, exact as of one revision, while it goes...",
        "restore": "Make the store of a state directory what the backup FILE has.",
    },
    "Access": {
        "access": "Show who may do what.",
        "token": "Create, list and revoke tokens.",
    },
    "This program": {
        "context": "Give daemons names, and say which one is meant when nobody says.",
        "api": "Send any request and print the answer.",
        "completion": "Print the completion script of a shell: commands, options, kinds and the names that the...",
        "version": "Print the version of this program.",
    },
}
"""The subcommands as ``--help`` groups them, with what it says of each; each is the module of its name in
``platformd.cli.commands``. The words are repeated here so that ``--help`` need not load forty modules; a test holds
them to the commands' own."""

INTERRUPTED: Final = 130
"""Exit code after Ctrl-C: 128 + SIGINT."""
PIPE_CLOSED: Final = 141
"""Exit code when the reader of our output has gone: 128 + SIGPIPE, as for programs that the signal ends."""

EXIT_CODES: Final = {
    0: "done",
    1: "an error that has no code of its own",
    2: "what was asked is wrong: usage, an invalid document, over a limit",
    3: "not found",
    4: "not allowed",
    5: "conflict: it exists, it changed, or history is gone",
    6: "unavailable now, or the outcome is unknown; trying again may help",
    7: "stored data is damaged",
    123: "platformd lock: the lock was lost and the command was stopped",
    INTERRUPTED: "interrupted (Ctrl-C)",
}


class Root(click.Group):
    """The root command: loads a subcommand's module when it is wanted."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All subcommands, in the order of ``SECTIONS``."""
        return [name for names in SECTIONS.values() for name in names]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The subcommand ``cmd_name``, or ``None``."""
        if cmd_name not in self.list_commands(ctx):
            return None
        module = importlib.import_module(f"platformd.cli.commands.{cmd_name}")
        command: click.Command = module.command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The subcommand that ``args`` begin with.

        Raises:
            InvalidInput: there is none of that name.
        """
        known = self.list_commands(ctx)
        if args[0] not in known and not args[0].startswith("-"):
            near = nearest(args[0], known)
            hint = f"did you mean {near}?" if near else "see `platformd --help`"
            raise InvalidInput("there is no such command", subject=args[0], hint=hint)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The subcommands by section, then the exit codes."""
        for title, names in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl(list(names.items()))
        with formatter.section("Exit codes"):
            formatter.write_dl([(str(code), meaning) for code, meaning in EXIT_CODES.items()])


@click.command(
    cls=Root,
    no_args_is_help=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="The environment: PLATFORMD_URL, PLATFORMD_SOCKET, PLATFORMD_STATE_DIR or PLATFORMD_CONTEXT say where the "
    "daemon is; PLATFORMD_TOKEN_FILE, PLATFORMD_CA_FILE, PLATFORMD_CERT_FILE and PLATFORMD_KEY_FILE with what one "
    "comes there; PLATFORMD_TENANT whose resources are meant; PLATFORMD_OUTPUT how to print; NO_COLOR that nothing is "
    "to be coloured.",
)
@connection_options
@click.option("-o", "--output", type=OutputFormat(FORMATS), metavar="FORMAT", help="How to print: json, yaml, table.")
@click.version_option(__version__, prog_name="platformd", message="%(prog)s %(version)s")
@click.pass_context
def root(context: click.Context, output: str | None) -> None:
    """One daemon that gives a small facility its platform services.

    Every subcommand has --help with examples.
    """
    session = context.ensure_object(Session)
    session.output = output
    context.call_on_close(session.close)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code. Nothing that is raised on purpose leaves here."""
    words = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if COMPLETE_VARIABLE in os.environ:
        return _complete(os.environ[COMPLETE_VARIABLE])
    try:
        code = _run(words)
        sys.stdout.flush()
    except BrokenPipeError:
        # What is still buffered has nowhere to go; without this the interpreter would complain at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED
    return code


def _run(words: list[str]) -> int:
    try:
        with root.make_context("platformd", words) as context:
            result = root.invoke(context)
        return result if isinstance(result, int) else 0
    except click.exceptions.Exit as exit_:
        return exit_.exit_code
    except (KeyboardInterrupt, click.Abort):
        return INTERRUPTED
    except click.ClickException as error:
        return report(_usage_error(error), as_json=wants_json(words, os.environ))
    except PlatformError as error:
        return report(error, as_json=wants_json(words, os.environ))


def _complete(instruction: str) -> int:
    import signal

    from click.shell_completion import shell_complete

    from platformd.cli.options import COMPLETION_TIMEOUT

    # Whatever it is that takes its time, somebody waits at a prompt: then there is nothing to offer.
    before = signal.signal(signal.SIGALRM, lambda *_: os._exit(0))
    signal.setitimer(signal.ITIMER_REAL, 1.5 * COMPLETION_TIMEOUT)
    try:
        return shell_complete(root, {}, "platformd", COMPLETE_VARIABLE, instruction)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _usage_error(error: click.ClickException) -> PlatformError:
    """A refusal of click's as one of ours, so that both look alike and ``-o json`` holds for both."""
    context = error.ctx if isinstance(error, click.UsageError) else None
    path = context.command_path if context is not None else "platformd"
    return InvalidInput(error.format_message().rstrip("."), subject=path, hint=f"see `{path} --help`")


def report(error: PlatformError, *, as_json: bool = False) -> int:
    """Print ``error`` to standard error, as a line for people or as a problem document; its exit code."""
    from platformd.cli.output import chosen_query

    if as_json and chosen_query() is None:
        import msgspec

        click.echo(msgspec.json.encode(error.to_problem()).decode(), err=True)
    else:
        from platformd.cli.output import coloured, safe_lines

        click.echo(
            click.style("error: ", fg="red", bold=True) if coloured(sys.stderr) else "error: ", nl=False, err=True
        )
        click.echo(safe_lines(str(error)), err=True, color=coloured(sys.stderr))
    return error.exit_code


def wants_json(words: Sequence[str], environ: Mapping[str, Any]) -> bool:
    """Whether errors are to be documents; read from the words themselves, since they may not even parse."""
    wanted = environ.get("PLATFORMD_OUTPUT", "")
    for position, word in enumerate(words):
        if word == "--":
            break
        if word == "--json":
            wanted = "json"
        elif word in ("-o", "--output"):
            wanted = words[position + 1] if position + 1 < len(words) else ""
        elif word.startswith("--output="):
            wanted = word.removeprefix("--output=")
        elif word.startswith("-o") and not word.startswith("--"):
            wanted = word.removeprefix("-o").removeprefix("=")
    return bool(wanted == "json")


if __name__ == "__main__":
    sys.exit(main())
