"""What subcommands share: where the daemon is, how to print, how examples are written."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click
from click.shell_completion import CompletionItem

if TYPE_CHECKING:
    from platformd.client.blocking import Client
    from platformd.client.target import Target
    from platformd.model.kind import Kind

FORMATS: Final = ("table", "wide", "json", "yaml", "name", "raw")
"""Every output format that some command has; whoever prints JSON also takes ``jsonpath=QUERY``."""

QUERY: Final = "jsonpath="
"""What begins a format that prints a part of the JSON."""

COMPLETION_TIMEOUT: Final = 1.0
"""Seconds that the shell waits for names to offer."""

Command = TypeVar("Command", bound=Callable[..., Any])


@dataclass
class Session:
    """What the options of one invocation say, before and after the subcommand's name."""

    socket: str | None = None
    url: str | None = None
    context: str | None = None
    token_file: str | None = None
    ca: str | None = None
    reason: str | None = None
    output: str | None = None
    query: Callable[[Any], str] | None = None
    """What prints a document with ``-o jsonpath=…``; otherwise ``None``."""
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)
    _client: Client | None = None

    def target(self) -> Target:
        """Where the daemon is, and with what one comes there: flags, then the environment, then the current context.

        Raises:
            PlatformError: what says so is not right.
        """
        from dataclasses import replace

        from platformd.client.contexts import chosen_context
        from platformd.client.target import Target, credentials_of, default_target

        given = {"token_file": self.token_file, "ca_file": self.ca}
        flags = {name: value for name, value in given.items() if value is not None}
        if self.url is not None or self.socket is not None:
            own = replace(credentials_of(self.environ), **({"token": ""} if self.token_file else {}), **flags)
            if self.url is not None:
                return Target.parse(self.url, own)
            return Target(unix=self.socket, credentials=own)
        chosen = chosen_context(self.environ, self.context)
        if chosen is not None:
            return replace(chosen[1], **flags).target()
        own = replace(credentials_of(self.environ), **({"token": ""} if self.token_file else {}), **flags)
        return default_target(self.environ, own)

    def tenant(self) -> str:
        """Whose resources are meant when no option says: the environment's, the context's, or the default one's."""
        from platformd.model.resource import DEFAULT_TENANT

        if self.environ.get("PLATFORMD_TENANT"):
            return self.environ["PLATFORMD_TENANT"]
        if self.url is not None or self.socket is not None:
            return DEFAULT_TENANT
        from platformd.client.contexts import chosen_context

        chosen = chosen_context(self.environ, self.context)
        return chosen[1].tenant or DEFAULT_TENANT if chosen is not None else DEFAULT_TENANT

    @property
    def client(self) -> Client:
        """The control client, made when it is first wanted."""
        if self._client is None:
            from platformd.client.blocking import Client

            self._client = Client(self.target(), reason=self.reason or "")
        return self._client

    def close(self) -> None:
        """Close the client, if there is one."""
        if self._client is not None:
            self._client.close()


def connection_options(command: Command) -> Command:
    """Add what says which daemon is meant; it is remembered in the session."""
    for name, metavar, text in CONNECTION:
        command = click.option(
            f"--{name}",
            metavar=metavar,
            expose_value=False,
            is_eager=True,
            callback=_remember,
            shell_complete=_complete_connection,
            help=text,
        )(command)
    return command


CONNECTION: Final = (
    ("ca", "FILE", "With https: PEM file of the authority of the daemon's certificate."),
    ("token-file", "FILE", "File with a token, which only you may read."),
    ("context", "NAME", "A daemon's name; see `platformd context`."),
    ("url", "URL", "Where the daemon answers: https://HOST:PORT, http://HOST:PORT or unix:///PATH."),
    ("socket", "PATH", "The daemon's Unix socket."),
)
"""The options that say which daemon is meant, the last one first in ``--help``."""


def _complete_connection(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    if parameter.name == "context":
        from platformd.cli.commands.context import complete_context

        return complete_context(context, parameter, incomplete)
    return [] if parameter.name == "url" else [CompletionItem(incomplete, type="file")]


def tenant_option(command: Command) -> Command:
    """Add ``--tenant``."""

    def callback(context: click.Context, _parameter: click.Parameter, value: str | None) -> str:
        return value or context.ensure_object(Session).tenant()

    return click.option(
        "--tenant",
        metavar="NAME",
        callback=callback,
        help="Whose resources (default: PLATFORMD_TENANT, the context's, or default).",
    )(command)


class OutputFormat(click.ParamType):  # type: ignore[type-arg]  # generic for type checkers alone
    """One of some formats, or where JSON is one of them, ``jsonpath=QUERY``."""

    name = "format"

    def __init__(self, formats: tuple[str, ...]) -> None:
        self.formats = formats

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """``value``, if it is a format.

        Raises:
            click.BadParameter: it is none.
        """
        if value in self.formats or (value.startswith(QUERY) and "json" in self.formats):
            return value
        known = ", ".join(self.formats) + (f", {QUERY}QUERY" if "json" in self.formats else "")
        return self.fail(f"{value!r} is not a format here; known: {known}", param, ctx)

    def shell_complete(self, _ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """The formats."""
        known = (*self.formats, QUERY) if "json" in self.formats else self.formats
        return [CompletionItem(one) for one in known if one.startswith(incomplete)]


def output_option(*formats: str) -> Callable[[Command], Command]:
    """Add ``-o`` with ``formats``, the first being the default.

    A format in ``PLATFORMD_OUTPUT`` that other commands have and this one has not is passed over. A command that is
    asked for ``jsonpath=…`` is told ``json``, and prints with ``platformd.cli.output.print_json``.
    """
    kind = OutputFormat(formats)

    def callback(context: click.Context, _parameter: click.Parameter, value: str | None) -> str:
        session = context.ensure_object(Session)
        inherited = session.output
        if value is None and inherited is not None and (inherited in formats or inherited.startswith(QUERY)):
            value = kind.convert(inherited, None, context)
        value = value if value is not None else environment_output(session.environ, formats)
        if not value.startswith(QUERY):
            return value
        from platformd.cli.queries import compile_output

        session.query = compile_output(value.removeprefix(QUERY))
        return "json"

    shown = (*formats, f"{QUERY}…") if "json" in formats else formats
    return click.option(
        "-o",
        "--output",
        type=kind,
        callback=callback,
        metavar="|".join(shown),
        help=f"How to print (default: {formats[0]}, or PLATFORMD_OUTPUT).",
    )


def environment_output(environ: Mapping[str, str], formats: tuple[str, ...]) -> str:
    """What ``PLATFORMD_OUTPUT`` says for a command that has ``formats``.

    Raises:
        click.BadParameter: no command has such a format.
    """
    wanted = environ.get("PLATFORMD_OUTPUT") or formats[0]
    if wanted not in FORMATS:
        raise click.BadParameter(f"PLATFORMD_OUTPUT is {wanted!r}; known: {', '.join(FORMATS)}")
    return wanted if wanted in formats else formats[0]


def dry_run_option(command: Command) -> Command:
    """Add ``--dry-run``."""
    return click.option("--dry-run", is_flag=True, help="Say what would be done; do nothing.")(command)


def reason_option(command: Command) -> Command:
    """Add ``--reason``, which goes along with what changes something."""
    return click.option(
        "--reason",
        metavar="TEXT",
        expose_value=False,
        callback=_remember,
        help="Why; it stands in the history of what is changed.",
    )(command)


def change_options(command: Command) -> Command:
    """Add what every change has: ``--dry-run`` and ``--reason``."""
    return dry_run_option(reason_option(command))


def examples(*lines: str) -> str:
    """An epilog of examples that click does not re-wrap."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


def complete_kind(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The kinds, for the shell's completion."""
    from platformd.model.kinds import KINDS

    return [CompletionItem(kind.plural, help=kind.summary) for kind in KINDS if kind.plural.startswith(incomplete)]


def complete_target(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """A kind, or the names of the kind that is already there."""
    words = context.params.get(parameter.name or "") or ()
    return complete_name(context, str(words[0]), incomplete) if words else complete_kind(context, parameter, incomplete)


def complete_name(context: click.Context, kind: str, incomplete: str) -> list[CompletionItem]:
    """The names of ``kind`` that the daemon has."""
    from platformd.client.reading import as_kind

    def ask(client: Client, tenant: str) -> list[str]:
        page = next(client.pages(as_kind(kind), tenant=tenant))
        return [str(document.get("name", "")) for document in page.items]

    return live(context, ask, incomplete)


def kinds_on_line(environ: Mapping[str, str]) -> list[Kind]:
    """The kinds that the line names so far; click has not parsed them when an option's value is being written."""
    from platformd.core.errors import NotFound
    from platformd.model.kinds import find_kind

    kinds = []
    for word in environ.get("COMP_WORDS", "").split()[2:]:
        for name in word.partition("/")[0].split(","):
            try:
                kinds.append(find_kind(name))
            except NotFound:
                continue
    return kinds


def live(context: click.Context, ask: Callable[[Client, str], Iterable[str]], incomplete: str) -> list[CompletionItem]:
    """What ``ask`` finds at the daemon, of what begins so; nothing when the daemon does not answer at once.

    Args:
        context: of the command line as far as it is written.
        ask: gets a client and the tenant.
        incomplete: what is written of the word.
    """
    from platformd.client.blocking import Client
    from platformd.core.errors import PlatformError

    session = context.ensure_object(Session)
    try:
        tenant = context.params.get("tenant") or session.tenant()
        with Client(session.target(), timeout=COMPLETION_TIMEOUT) as client:
            return [CompletionItem(word) for word in ask(client, tenant) if word.startswith(incomplete)]
    except PlatformError:
        return []


def _remember(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    if value is not None:
        setattr(context.ensure_object(Session), parameter.name or "", value)
    return value
