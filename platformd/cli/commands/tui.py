"""``platformd tui``: the full-screen client, in this process's place.

It is a program of its own (``platformd_tui``), since it runs on asyncio and pulls in a toolkit that no
other subcommand should pay for.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import click

from platformd.cli.options import Session, connection_options, examples
from platformd.core.processes import own_environment, own_module

if TYPE_CHECKING:
    from platformd.client.target import Target


def _environment(session: Session, target: Target) -> dict[str, str]:
    """Our environment, in which a context is spelled out."""
    own = target.credentials
    said = {
        "PLATFORMD_SOCKET" if target.unix is not None else "PLATFORMD_URL": str(target),
        "PLATFORMD_TOKEN": own.token,
        "PLATFORMD_TOKEN_FILE": own.token_file,
        "PLATFORMD_CA_FILE": own.ca_file,
        "PLATFORMD_CERT_FILE": own.cert_file,
        "PLATFORMD_KEY_FILE": own.key_file,
    }
    kept = {key: value for key, value in session.environ.items() if key not in {*said, "PLATFORMD_URL"}}
    return kept | {key: value for key, value in said.items() if value}


@click.command(
    epilog=examples("platformd tui", "platformd tui --socket ./state/platformd.sock"),
)
@connection_options
@click.pass_obj
def command(session: Session) -> None:
    """Show the platform live, full screen."""
    target = session.target()  # a wrong --url is refused before the screen is taken over
    where = ["--socket", session.socket] if session.socket is not None else []
    if session.url is not None:
        where = [session.url]
    sys.stdout.flush()
    os.execve(sys.executable, own_module("platformd_tui", *where), own_environment(_environment(session, target)))  # noqa: S606 - no shell is meant
