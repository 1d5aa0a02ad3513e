"""``platformd context``: names for daemons, each with how one gets there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from platformd.cli.options import Session, dry_run_option, examples, output_option

if TYPE_CHECKING:
    from platformd.client.contexts import Context, Contexts


def complete_context(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The contexts that there are."""
    from platformd.client.contexts import contexts_path, read_contexts
    from platformd.core.errors import PlatformError

    try:
        known = read_contexts(contexts_path(Session().environ)).known
    except PlatformError:
        return []
    return [CompletionItem(name, help=_place(one)) for name, one in known.items() if name.startswith(incomplete)]


@click.group(
    epilog=examples(
        "platformd context set site --url https://site.example:7070 --ca-file ~/site-ca.pem --token-file ~/.site-token",
        "platformd context set lab --socket /run/lab/platformd.sock --tenant optics --use",
        "platformd context use site",
        "platformd context ls",
        "platformd --context lab get streams   # once; or PLATFORMD_CONTEXT=lab",
    )
)
def command() -> None:
    """Give daemons names, and say which one is meant when nobody says.

    They are kept in ~/.config/platformd/contexts.toml (XDG_CONFIG_HOME), which only you may read. Tokens stay in files
    of their own. The order is: --url and --socket, --context, the environment, the current context.
    """


@command.command(epilog=examples("platformd context ls", "platformd context ls -o name"))
@output_option("table", "json", "yaml", "name")
@click.pass_obj
def ls(session: Session, output: str) -> None:
    """List the contexts; the current one has a star."""
    from platformd.cli.output import NONE, as_yaml, echo, note, print_json, safe, table_of

    contexts = _read(session)
    if output == "json":
        print_json({"items": [_document(contexts, name) for name in contexts.known]})
    elif output == "yaml":
        for text in [as_yaml([_document(contexts, name) for name in contexts.known])] if contexts.known else []:
            echo(text)
    elif output == "name":
        for name in contexts.known:
            echo(name)
    elif contexts.known:
        rows = [
            [f"{'*' if name == contexts.current else ' '} {name}", safe(_place(one)), one.tenant or NONE, _with(one)]
            for name, one in contexts.known.items()
        ]
        for line in table_of(("  NAME", "WHERE", "TENANT", "WITH")).lines(rows):
            echo(line)
    else:
        note("there are no contexts")


@command.command(epilog=examples("platformd context show", "platformd context show site -o json"))
@click.argument("name", required=False, shell_complete=complete_context)
@output_option("yaml", "json")
@click.pass_obj
def show(session: Session, name: str | None, output: str) -> None:
    """Show a context, or the one that counts now. No secret is in it."""
    from platformd.cli.output import print_document
    from platformd.core.errors import NotFound

    contexts = _read(session)
    wanted = name or session.environ.get("PLATFORMD_CONTEXT") or session.context or contexts.current
    if not wanted:
        raise NotFound("there is no current context", subject="context", hint="platformd context use NAME")
    contexts.named(wanted)
    print_document(_document(contexts, wanted), output)


@command.command(epilog=examples("platformd context use site", "platformd context use --none"))
@click.argument("name", required=False, shell_complete=complete_context)
@click.option("--none", is_flag=True, help="None: the default daemon of this machine is meant.")
@dry_run_option
@click.pass_obj
def use(session: Session, name: str | None, none: bool, dry_run: bool) -> None:
    """Make NAME the current context."""
    from platformd.cli.output import echo
    from platformd.core.errors import InvalidInput

    if bool(name) == none:
        raise InvalidInput("which one?", subject="context use", hint="name one, or give --none")
    contexts = _read(session)
    if name:
        contexts.named(name)
    _write(session, replace(contexts, current=name or ""), dry_run=dry_run)
    echo(f"context {name} is current{_dry(dry_run)}" if name else f"no context is current{_dry(dry_run)}")


@command.command(
    "set",
    epilog=examples(
        "platformd context set site --url https://site.example:7070 --ca-file ~/site-ca.pem --token-file ~/.site-token",
        "platformd context set site --tenant optics   # the rest stays",
        "platformd context set site --tenant ''       # no tenant of its own any more",
    ),
)
@click.argument("name", shell_complete=complete_context)
@click.option("--url", metavar="URL", help="https://HOST:PORT, http://HOST:PORT or unix:///PATH.")
@click.option("--socket", metavar="PATH", help="Its Unix socket.")
@click.option("--token-file", metavar="FILE", help="File with a token; it stays where it is.")
@click.option("--ca-file", metavar="FILE", help="PEM file of the authority of its certificate.")
@click.option("--cert-file", metavar="FILE", help="PEM file of our certificate, where it asks for one.")
@click.option("--key-file", metavar="FILE", help="PEM file of its key.")
@click.option("--tenant", metavar="NAME", help="Whose resources are meant when nobody says.")
@click.option("--use", "use_it", is_flag=True, help="Make it the current one.")
@dry_run_option
@click.pass_obj
def set_(session: Session, /, name: str, use_it: bool, dry_run: bool, **members: str | None) -> None:
    """Make a context, or change one. An empty value takes a member away."""
    from platformd.cli.output import echo
    from platformd.client.contexts import Context

    contexts = _read(session)
    given = {key: _absolute(key, value) for key, value in members.items() if value is not None}
    if given.get("url"):
        given.setdefault("socket", "")
    elif given.get("socket"):
        given.setdefault("url", "")
    context = replace(contexts.known.get(name, Context()), **given)
    context.target()  # refuses what is no place
    verb = "changed" if name in contexts.known else "created"
    known = {**contexts.known, name: context}
    made = replace(contexts, known=known, current=name if use_it else contexts.current)
    _write(session, made, dry_run=dry_run)
    echo(f"context {name} {verb}{' and current' if use_it else ''}{_dry(dry_run)}")


@command.command(epilog=examples("platformd context rm site"))
@click.argument("names", metavar="NAME…", nargs=-1, required=True, shell_complete=complete_context)
@dry_run_option
@click.pass_obj
def rm(session: Session, names: tuple[str, ...], dry_run: bool) -> None:
    """Forget contexts. The files that they name stay."""
    from platformd.cli.output import echo

    contexts = _read(session)
    for name in names:
        contexts.named(name)
    known = {name: one for name, one in contexts.known.items() if name not in names}
    current = "" if contexts.current in names else contexts.current
    _write(session, replace(contexts, known=known, current=current), dry_run=dry_run)
    for name in names:
        echo(f"context {name} removed{_dry(dry_run)}")


def _read(session: Session) -> Contexts:
    from platformd.client.contexts import contexts_path, read_contexts

    return read_contexts(contexts_path(session.environ))


def _write(session: Session, contexts: Contexts, *, dry_run: bool) -> None:
    from platformd.client.contexts import contexts_path, write_contexts

    if not dry_run:
        write_contexts(contexts_path(session.environ), contexts)


def _dry(dry_run: bool) -> str:
    return " (dry run)" if dry_run else ""


def _absolute(key: str, value: str) -> str:
    """Files are named from anywhere."""
    from pathlib import Path

    if not value or key in ("url", "tenant"):
        return value
    return str(Path(value).expanduser().absolute())


def _place(context: Context) -> str:
    return context.url or context.socket


def _with(context: Context) -> str:
    named = {"token": context.token_file, "ca": context.ca_file, "certificate": context.cert_file}
    return ",".join(word for word, file in named.items() if file) or "<none>"


def _document(contexts: Contexts, name: str) -> Mapping[str, Any]:
    members = {key: value for key, value in asdict(contexts.named(name)).items() if value}
    return {"name": name, "current": name == contexts.current} | members
