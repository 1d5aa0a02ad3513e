"""``platformd tui``: the full-screen client, in this process's place.

It is a program of its own (``platformd_tui``), since it runs on asyncio and pulls in a toolkit that no
other subcommand should pay for.
"""

from __future__ import annotations

import os
import sys

import click

from platformd.cli.options import Session, connection_options, examples
from platformd.core.processes import own_environment, own_module


@click.command(
    epilog=examples("platformd tui", "platformd tui --socket ./state/platformd.sock"),
)
@connection_options
@click.pass_obj
def command(session: Session) -> None:
    """Show the platform live, full screen."""
    session.target()  # a wrong --url is refused before the screen is taken over
    where = ["--socket", session.socket] if session.socket is not None else []
    if session.url is not None:
        where = [session.url]
    sys.stdout.flush()
    os.execve(sys.executable, own_module("platformd_tui", *where), own_environment())  # noqa: S606 - no shell is meant
