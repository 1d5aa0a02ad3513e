"""``platformd store``: the coordination store itself."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from platformd.cli.options import Session, change_options, connection_options, examples, output_option

if TYPE_CHECKING:
    from platformd.coordination.migrate import Migration, Source


@click.group(
    epilog=examples(
        "platformd store status",
        "platformd store compact",
        "platformd store migrate --to etcd --endpoints http://10.0.0.1:2379,http://10.0.0.2:2379 --dry-run",
    )
)
def command() -> None:
    """See how the coordination store is, cut its history, copy it into an etcd."""


@command.command("status", epilog=examples("platformd store status", "platformd store status -o json"))
@connection_options
@output_option("table", "json")
@click.pass_obj
def status(session: Session, output: str) -> None:
    """Show how the store of the running daemon is."""
    _show(session.client.request("GET", "/v1/store").json(), output)


@command.command("compact", epilog=examples("platformd store compact", "platformd store compact --revision 1200"))
@click.option("--revision", type=click.IntRange(min=1), help="The oldest revision to keep (default: the newest).")
@change_options
@connection_options
@output_option("table", "json")
@click.pass_obj
def compact(session: Session, output: str, revision: int | None, dry_run: bool) -> None:
    """Cut history off before a revision. What is so now stays; the past can no longer be read or watched from.

    The daemon does so by itself as history grows old: this is for those who want the room at once.
    """
    if dry_run:
        now = session.client.request("GET", "/v1/store").json()
        _show({"dry_run": True, "compact_before": revision or now.get("revision"), "now": now}, output)
        return
    query = {} if revision is None else {"revision": str(revision)}
    _show(session.client.request("POST", "/v1/store/compact", query=query).json(), output)


def _show(document: dict[str, Any], output: str) -> None:
    from platformd.cli.output import echo, print_json
    from platformd.core.quantities import format_bytes

    if output == "json":
        print_json(document)
        return
    for name, value in document.items():
        shown = format_bytes(value) if name.endswith("_bytes") else value
        echo(f"{name.removesuffix('_bytes').replace('_', ' ')}: {shown}")


@command.command(
    "migrate",
    epilog=examples(
        "platformd store migrate --to etcd --endpoints http://127.0.0.1:2379 --dry-run",
        "platformd store migrate --to etcd --endpoints http://127.0.0.1:2379 --prefix platformd/",
        "platformd store migrate --to etcd --endpoints http://127.0.0.1:2379 --state-dir ./state",
    ),
)
@click.option("--to", type=click.Choice(("etcd",)), required=True, help="The other store's engine.")
@click.option("--endpoints", required=True, metavar="URL,…", help="Client URLs of the etcd's members.")
@click.option("--prefix", default="", help="Put in front of every key there.")
@click.option("--user", default="", help="User at the etcd.")
@click.option("--password-file", default="", metavar="FILE", help="File with the user's password.")
@click.option("--ca-file", default="", metavar="FILE", help="PEM file of the members' authority.")
@click.option("--cert-file", default="", metavar="FILE", help="PEM file of our certificate.")
@click.option("--key-file", default="", metavar="FILE", help="PEM file of its key.")
@click.option("--state-dir", metavar="DIR", type=click.Path(path_type=Path), help="Copy a stopped daemon's state.")
@click.option("--dry-run", is_flag=True, help="Read everything and ask the etcd, but write nothing.")
@connection_options
@output_option("table", "json")
@click.pass_obj
def migrate(session: Session, /, output: str, to: str, state_dir: Path | None, dry_run: bool, **options: str) -> None:
    """Copy all keys and leases into an etcd that has none under the prefix: users' keys and the daemon's own.

    From the running daemon, through an online backup (kept in TMPDIR meanwhile): exact as of one revision, which is
    told; what the daemon is told after it is not in the copy. So that is for a look and for a second site. To move,
    stop the daemon and copy with --state-dir, then start it with engine = "etcd". Revisions are new there and
    history stays behind: clients list anew.
    """
    import trio

    from platformd.cli.output import echo, print_json
    from platformd.cli.progress import bar
    from platformd.coordination import migrate as migration

    del to  # there is one
    settings = {**options, "endpoints": [url.strip() for url in options["endpoints"].split(",") if url.strip()]}
    online = state_dir is None

    async def copy(source: Source) -> Migration:
        async with source as here, migration.open_target(settings) as there:
            with bar("reading" if dry_run else "copying") as progress:
                return await migration.migrate(here, there, dry_run=dry_run, online=online, progress=progress)

    with _source(session, state_dir) as source:
        done = trio.run(copy, source)
    if output == "json":
        print_json(done)
        return
    for line in _changes(done):
        echo(line)


@contextlib.contextmanager
def _source(session: Session, state_dir: Path | None) -> Iterator[Source]:
    """The store to be copied: a state directory's, or a backup of the running daemon's, which is gone afterwards.

    Raises:
        Unsupported: the daemon's store is an etcd already.
    """
    from platformd.cli.progress import bar
    from platformd.client.backup import fetch_backup
    from platformd.coordination.migrate import open_backup, open_offline
    from platformd.core.errors import Unsupported

    if state_dir is not None:
        yield open_offline(state_dir)
        return
    engine = session.client.request("GET", "/v1/store").json()["engine"]
    if engine != "sqlite":
        raise Unsupported(
            f"the daemon's store is in an {engine} already",
            subject="store migrate",
            hint="copy it with that one's tools: etcdctl make-mirror, or etcdctl snapshot save",
        )
    with tempfile.TemporaryDirectory(prefix="platformd-migrate-") as directory:  # which only we can read
        path = Path(directory) / "store.db"
        with bar("backing up") as progress:
            fetch_backup(session.target(), path, progress)
        yield open_backup(path)


def _changes(done: Migration) -> list[str]:
    """What was copied, and what is different now."""
    from platformd.core.quantities import format_bytes

    verb = "would be copied" if done.dry_run else "copied and compared"
    lines = [
        f"{done.keys} keys ({format_bytes(done.bytes)}) and {done.leases} leases of revision "
        f"{done.source_revision}: {verb}",
        *_behind(done),
        f"revisions: new for every key; the other store is at {done.target_revision}, and watches begin there",
        f"history: {done.history} revisions of the past stay behind",
    ]
    kept = done.leases - len(done.renamed_leases)
    if not done.dry_run:
        lines.append(f"leases: {kept} kept their id; all begin their time to live again")
        lines += [f"  lease {old} is now {new}" for old, new in sorted(done.renamed_leases.items())]
    return lines


def _behind(done: Migration) -> list[str]:
    """What to do about what a daemon that goes on is told meanwhile."""
    if not done.online:
        return []
    return [
        f"the daemon goes on: what it is told after revision {done.source_revision} is not in the copy; to move, stop "
        "it and copy with --state-dir into an empty prefix"
    ]
