"""``platformd lease``: what keys can be bound to, so that they go when nobody cares for them any more."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import click

from platformd.cli.options import Session, change_options, connection_options, examples, output_option


@click.group(
    epilog=examples(
        "platformd lease grant 30s",
        "platformd lease keep 694d7a3f2c1b0e5f",
        "platformd lease ls",
        "platformd lease show ff",
    )
)
def command() -> None:
    """Grant, keep alive, look at and end leases of the coordination store."""


@command.command(epilog=examples("platformd lease grant 30s", "platformd lease grant 1h --id ff -o json"))
@click.argument("ttl")
@click.option("--id", "lease", default="", metavar="ID", help="Its id, in hex (default: one that the store chooses).")
@change_options
@connection_options
@output_option("name", "json", "yaml", "table")
@click.pass_obj
def grant(session: Session, ttl: str, lease: str, dry_run: bool, output: str) -> None:
    """Grant a lease that lives for TTL (30s, 5m) and print its id."""
    from platformd.client import kv
    from platformd.core.quantities import seconds

    lifetime = seconds(ttl)  # what is no duration is refused here, with what a duration is
    if dry_run:
        _print(
            {"id": lease or "<chosen by the store>", "ttl": lifetime, "remaining": lifetime, "dry_run": True}, output
        )
        return
    _print(kv.read_document(session.client.send(kv.grant(ttl, lease=lease))), output)


@command.command(epilog=examples("platformd lease keep 694d7a3f2c1b0e5f", "platformd lease keep ff --once"))
@click.argument("lease", metavar="ID")
@click.option("--once", is_flag=True, help="Only once, instead of until Ctrl-C.")
@connection_options
@output_option("name", "json", "yaml", "table")
@click.pass_obj
def keep(session: Session, lease: str, once: bool, output: str) -> None:
    """Keep a lease alive, every third of its time to live, until interrupted or until it is lost (3)."""
    from platformd.cli.kv_keeping import Keeper

    keeper = Keeper(session, lease)
    if once:
        _print(keeper.document, output)
        return
    while True:
        time.sleep(max(0.0, keeper.due - time.monotonic()))
        keeper.ask()


@command.command(epilog=examples("platformd lease revoke 694d7a3f2c1b0e5f ff"))
@click.argument("leases", metavar="ID", nargs=-1, required=True)
@change_options
@connection_options
@output_option("table", "json", "yaml")
@click.pass_obj
def revoke(session: Session, leases: tuple[str, ...], dry_run: bool, output: str) -> int:
    """End leases now, with everything that is bound to them."""
    from platformd.cli.kv_output import print_result
    from platformd.cli.main import report
    from platformd.client import kv
    from platformd.core.errors import NotFound

    codes = []
    for lease in leases:
        try:
            if dry_run:
                found = kv.read_document(session.client.send(kv.show_lease(lease)))
                document = {"deleted": len(found.get("keys", ())), "dry_run": True}
            else:
                document = kv.read_document(session.client.send(kv.revoke(lease)))
        except NotFound as error:
            codes.append(report(error, as_json=output == "json"))
            continue
        how = " (dry run)" if dry_run else ""
        line = f"lease {lease} ended, {document['deleted']} keys went with it{how}"
        print_result({"id": lease} | document, output, line)
    return codes[0] if codes else 0


@command.command(epilog=examples("platformd lease ls", "platformd lease ls -o name"))
@connection_options
@output_option("table", "json", "yaml", "name")
@click.pass_obj
def ls(session: Session, output: str) -> None:
    """List all leases."""
    from platformd.cli.output import Table, as_yaml, echo, print_json
    from platformd.client import kv

    found: list[dict[str, Any]] = []
    cursor = None
    while True:
        page = kv.read_document(session.client.send(kv.leases_page(cursor=cursor)))
        found += page["items"]
        cursor = page.get("cursor")
        if cursor is None:
            break
    if output == "json":
        print_json({"items": found})
    elif output == "yaml" and found:
        echo(as_yaml(found))
    elif output == "name":
        for lease in found:
            echo(str(lease["id"]))
    elif output == "table" and found:
        for line in Table(("ID", "TTL", "REMAINING")).lines([_row(lease) for lease in found]):
            echo(line)


@command.command(epilog=examples("platformd lease show 694d7a3f2c1b0e5f", "platformd lease show ff -o json"))
@click.argument("lease", metavar="ID")
@connection_options
@output_option("table", "json", "yaml")
@click.pass_obj
def show(session: Session, lease: str, output: str) -> None:
    """Show a lease and the keys that are bound to it."""
    from platformd.cli.kv_output import shown
    from platformd.cli.output import echo
    from platformd.client import kv

    document = kv.read_document(session.client.send(kv.show_lease(lease)))
    _print(document, output)
    if output == "table":
        for key in document.get("keys", ()):
            echo(f"  {shown(kv.bytes_of(key, 'key') or b'')}")


def _print(document: Mapping[str, Any], output: str) -> None:
    from platformd.cli.kv_output import print_result
    from platformd.cli.output import Table, echo

    if output == "table":
        for line in Table(("ID", "TTL", "REMAINING")).lines([_row(document)]):
            echo(line)
    else:
        print_result(document, output, str(document["id"]))


def _row(lease: Mapping[str, Any]) -> list[str]:
    from platformd.core.quantities import format_seconds

    return [str(lease["id"]), format_seconds(float(lease["ttl"])), format_seconds(float(lease["remaining"]))]
