"""``platformd token``: what programs show to be let in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from platformd.cli.options import Session, change_options, connection_options, examples, output_option

OUTPUTS = ("table", "json", "yaml")


@click.group(
    epilog=examples(
        "platformd token create nightly --role tenant --tenant survey --expires 90d --to nightly.token",
        "platformd token ls",
        "platformd token revoke nightly",
    )
)
def command() -> None:
    """Create, list and revoke tokens."""


@command.command(
    epilog=examples(
        "platformd token create ops --role operator",
        "platformd token create nightly --role tenant --tenant survey --expires 90d --to nightly.token",
        "platformd --token-file nightly.token --url https://HOST:7070 get streams",
    )
)
@click.argument("name")
@click.option("--role", required=True, metavar="ROLE", help="admin, operator, tenant or reader; see `access matrix`.")
@click.option("--tenant", default=None, metavar="NAME", help="The only tenant that it may touch.")
@click.option("--expires", default=None, metavar="AGE", help="When it ends by itself: 12h, 90d (default: never).")
@click.option(
    "--to", default=None, metavar="FILE", help="Write the secret there, for you alone, instead of printing it."
)
@change_options
@connection_options
@output_option(*OUTPUTS)
@click.pass_obj
def create(
    session: Session,
    name: str,
    role: str,
    tenant: str | None,
    expires: str | None,
    to: str | None,
    dry_run: bool,
    output: str,
) -> None:
    """Create a token and print its secret, once: nobody can be told it again."""
    from platformd.cli.output import echo, print_document

    if dry_run:
        _rehearse(session, name, role, output)
        return
    # Before anything is asked for: a token whose secret cannot be written is of no use to anybody.
    file = _new_file(to) if to is not None else None
    try:
        wanted = {"name": name, "role": role, "tenant": tenant, "expires_in": expires}
        made: dict[str, Any] = session.client.request("POST", "/v1/tokens", json=_given(wanted)).json()
        if file is not None:
            file.write_text(made.pop("token") + "\n", encoding="ascii")
    except BaseException:
        if file is not None:
            file.unlink()
        raise
    if output != "table":
        print_document(made, output)
    elif file is not None:
        echo(f"token {made['name']} ({made['id']}) created, its secret is in {file}")
    else:
        click.echo(f"token {made['name']} ({made['id']}) created; its secret is printed only now:", err=True)
        echo(made["token"])


@command.command(epilog=examples("platformd token ls", "platformd token ls -o json"))
@connection_options
@output_option(*OUTPUTS)
@click.pass_obj
def ls(session: Session, output: str) -> None:
    """List tokens, without their secrets; those that ended lately too."""
    from platformd.cli.output import Table, echo, print_items

    found: list[dict[str, Any]] = session.client.request("GET", "/v1/tokens").json()["items"]
    if output != "table":
        print_items(found, output)
    elif found:
        for line in Table(("NAME", "ID", "ROLE", "TENANT", "STATE", "EXPIRES", "LAST-USED")).lines(
            [_row(t) for t in found]
        ):
            echo(line)


@command.command(epilog=examples("platformd token revoke nightly", "platformd token revoke 0Wq3xYb7Kc"))
@click.argument("tokens", metavar="NAME", nargs=-1, required=True)
@change_options
@connection_options
@output_option(*OUTPUTS)
@click.pass_obj
def revoke(session: Session, tokens: tuple[str, ...], dry_run: bool, output: str) -> int:
    """End tokens now, by name or id. Whoever still shows one is told that it was revoked."""
    from urllib.parse import quote

    from platformd.cli.main import report
    from platformd.cli.output import echo, print_document
    from platformd.core.errors import NotFound

    codes = []
    for token in tokens:
        try:
            ended: dict[str, Any] = (
                _known(session, token)
                if dry_run
                else session.client.request("DELETE", f"/v1/tokens/{quote(token, safe='')}").json()
            )
        except NotFound as error:
            codes.append(report(error, as_json=output == "json"))
            continue
        if output == "table":
            echo(f"token {ended['name']} ({ended['id']}) revoked{' (dry run)' if dry_run else ''}")
        else:
            print_document(ended, output)
    return codes[0] if codes else 0


def _known(session: Session, token: str) -> dict[str, Any]:
    """The token of that name or id.

    Raises:
        NotFound: there is none.
    """
    from platformd.core.errors import NotFound

    found: list[dict[str, Any]] = session.client.request("GET", "/v1/tokens").json()["items"]
    for one in found:
        if token in (one["name"], one["id"]):
            return one
    raise NotFound("there is no such token", subject=token)


def _rehearse(session: Session, name: str, role: str, output: str) -> None:
    """Say what creating a token would do.

    Raises:
        Conflict: there is one of that name.
        InvalidInput: there is no such role.
    """
    from platformd.cli.output import echo, print_document
    from platformd.core.errors import Conflict, InvalidInput, NotFound
    from platformd.model.access import ROLES

    if role not in ROLES:
        raise InvalidInput("is not a role", subject=role, hint=f"there are: {', '.join(ROLES)}")
    try:
        there = _known(session, name)
    except NotFound:
        there = {}
    if there.get("state") == "active":
        raise Conflict("there is a token of that name", subject=name)
    if output != "table":
        print_document({"name": name, "role": role, "dry_run": True}, output)
    else:
        echo(f"token {name} created (dry run)")


def _given(wanted: dict[str, str | None]) -> dict[str, str]:
    return {key: value for key, value in wanted.items() if value is not None}


def _row(token: dict[str, Any]) -> tuple[str, ...]:
    shown = ("name", "id", "role", "tenant", "state", "expires_at", "last_used_at")
    return tuple(str(token[key] or "-") for key in shown)


def _new_file(name: str) -> Path:
    """An empty file that nobody else may read.

    Raises:
        Conflict: there is something of that name.
        InvalidInput: it cannot be made.
    """
    from platformd.core.errors import Conflict, InvalidInput

    path = Path(name)
    try:
        path.touch(mode=0o600, exist_ok=False)
    except FileExistsError:
        raise Conflict("is there already", subject=name, hint="name a new file") from None
    except OSError as error:
        raise InvalidInput(f"cannot be written: {error.strerror}", subject=name) from error
    return path
