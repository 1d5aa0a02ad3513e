"""``platformd lock``: run a command while holding a lock."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from platformd.cli.options import Session, connection_options, examples, live

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from platformd.client.blocking import Client


def _complete(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The locks that somebody has."""
    from platformd.client.http import make_request
    from platformd.client.kv import read_document

    def ask(client: Client, _tenant: str) -> list[str]:
        return [str(item["name"]) for item in read_document(client.send(make_request("GET", "/v1/locks")))["items"]]

    return live(context, ask, incomplete)


@click.command(
    epilog=examples(
        "platformd lock nightly -- ./backup.sh",
        "platformd lock nightly --wait 0s --ttl 5s -- ./backup.sh --full",
        "platformd lock deploy -- sh -c 'deploy --fence $PLATFORMD_LOCK_REVISION'",
        "platformd lock --show nightly",
    ),
)
@click.argument("name", shell_complete=_complete)
@click.argument("words", metavar="-- CMD…", nargs=-1, type=click.UNPROCESSED)
@click.option("--ttl", default="15s", show_default=True, metavar="DURATION", help="How long it outlives us if we die.")
@click.option("--wait", metavar="DURATION", help="How long to wait for it; 0s only tries (default: for ever).")
@click.option("--grace", default="10s", show_default=True, metavar="DURATION", help="From SIGTERM to SIGKILL.")
@click.option("--owner", metavar="TEXT", help="What others read of who holds it (default: user, host and command).")
@click.option("--show", "--dry-run", "show", is_flag=True, help="Only say who has it and who waits.")
@connection_options
@click.pass_obj
def command(
    session: Session,
    name: str,
    words: Sequence[str],
    ttl: str,
    wait: str | None,
    grace: str,
    owner: str | None,
    show: bool,
) -> int:
    """Run CMD while holding the lock NAME, and exit with its code.

    Signals go to CMD. If the lock is lost, CMD is stopped and the exit code is 123. CMD finds the fencing revision in
    PLATFORMD_LOCK_REVISION: whatever it writes to should refuse a lower one than it has seen.
    """
    from platformd.cli.kv_keeping import run_locked
    from platformd.core.errors import InvalidInput
    from platformd.core.quantities import seconds

    if show:
        _show(session, name)
        return 0
    if not words:
        raise InvalidInput("what shall run?", subject="platformd lock", hint="platformd lock NAME -- CMD…")
    patience = math.inf if wait is None else seconds(wait)
    return run_locked(
        session,
        name,
        words,
        ttl=ttl,
        wait=patience,
        grace=seconds(grace),
        owner=owner if owner is not None else _owner(words),
    )


def _owner(words: Sequence[str]) -> str:
    import getpass
    import os
    import shlex
    import socket

    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()} pid {os.getpid()}: {shlex.join(words)}"[:1000]


def _show(session: Session, name: str) -> None:
    from platformd.cli.output import NONE, Table, echo, safe
    from platformd.client import kv

    document = kv.read_document(session.client.send(kv.lock_state(name)))
    holder = [document["holder"]] if document.get("holder") else []
    rows = [
        [what, str(one["revision"]), str(one["lease"]), safe(str(one["owner"])) or NONE]
        for what, one in (*(("holder", one) for one in holder), *(("waiter", one) for one in document["waiters"]))
    ]
    for line in Table(("ROLE", "REVISION", "LEASE", "OWNER")).lines(rows):
        echo(line)
