"""``platformd consumer``: the durable cursors of streams."""

from __future__ import annotations

from typing import Any

import click

from platformd.cli.options import (
    Session,
    change_options,
    connection_options,
    examples,
    output_option,
    tenant_option,
)
from platformd.cli.stream_output import complete_consumer, complete_stream

START = "all, new, last, last-per-subject, a sequence, a time (RFC 3339) or how long ago (10m)"


@click.group(
    epilog=examples(
        "platformd consumer create alerts archive --from all --ack-wait 1m --max-deliver 5",
        "platformd consumer ls alerts",
        "platformd consumer info alerts archive",
        "platformd consumer seek alerts archive --to 2h",
        "platformd consumer delete alerts archive",
    )
)
def command() -> None:
    """Make, look at, move and delete consumers of streams."""


@command.command(
    epilog=examples("platformd consumer ls", "platformd consumer ls alerts", "platformd consumer ls -o json")
)
@click.argument("stream", required=False, shell_complete=complete_stream)
@tenant_option
@connection_options
@output_option("table", "json", "yaml", "name")
@click.pass_obj
def ls(session: Session, stream: str | None, tenant: str, output: str) -> None:
    """List the consumers of STREAM, or of all streams: where they are, and how far behind."""
    from platformd.cli.output import Table, echo
    from platformd.cli.stream_output import CONSUMER_TITLES, consumer_row, print_documents
    from platformd.client import control
    from platformd.client.reading import as_kind

    names = [stream] if stream else []
    if not names:
        for page in session.client.pages(as_kind("streams"), tenant=tenant):
            names += [str(document["name"]) for document in page.items]
    found = [
        (name, info)
        for name in names
        for info in control.read_page(session.client.send(control.list_consumers(name, tenant=tenant))).items
    ]
    if print_documents([info | {"stream": name} for name, info in found], output):
        return
    if output == "name":
        for _, info in found:
            echo(str(info["name"]))
    elif found:
        for line in Table(CONSUMER_TITLES).lines([consumer_row(info, name) for name, info in found]):
            echo(line)


@command.command(epilog=examples("platformd consumer info alerts archive", "platformd consumer info a b -o json"))
@click.argument("stream", shell_complete=complete_stream)
@click.argument("name", shell_complete=complete_consumer)
@tenant_option
@connection_options
@output_option("table", "json", "yaml")
@click.pass_obj
def info(session: Session, stream: str, name: str, tenant: str, output: str) -> None:
    """Show what a consumer wants and where it is."""
    from platformd.client.tailing import consumer_info

    _print(session.client.send(consumer_info(stream, name, tenant=tenant)).check().json(), stream, output)


def _print(found: dict[str, Any], stream: str, output: str) -> None:
    from platformd.cli.stream_output import print_documents, print_facts
    from platformd.core.clock import rfc3339
    from platformd.core.quantities import format_seconds

    if print_documents([found], output, single=True):
        return
    config: dict[str, Any] = found["config"]
    starts = {
        "by_sequence": f"sequence {config.get('start_sequence')}",
        "by_time": rfc3339(int(config.get("start_time_ns") or 0)),
    }
    print_facts(
        {
            "name": found["name"],
            "stream": stream,
            "subject": config.get("filter_subject"),
            "starts at": starts.get(config["deliver_policy"], config["deliver_policy"]),
            "acknowledged": config.get("ack_policy"),
            "ack wait": format_seconds(float(config.get("ack_wait") or 0)),
            "back-off": [format_seconds(float(step)) for step in config.get("backoff") or ()],
            "max deliver": config.get("max_deliver") or "no limit",
            "dead letters": config.get("dead_letter_subject"),
            "max unacked": config.get("max_ack_pending"),
            "inactive after": format_seconds(float(config["inactive_after"])) if config.get("inactive_after") else "",
            "pending": found["pending"],
            "unacked": found["ack_pending"],
            "ack floor": found["ack_floor"],
            "delivered up to": found["delivered_sequence"],
            "redelivered": found["redelivered"],
            "given up": found["exhausted"],
            "stalled": f"{found['stalled']} times",
            "waiting fetches": found["waiting"],
        }
    )


@command.command(
    epilog=examples(
        "platformd consumer create alerts archive",
        "platformd consumer create alerts fast --subject 'alerts.ztf.>' --from new --ack none",
        "platformd consumer create alerts careful --backoff 1s,10s,1m --max-deliver 5 --dead-letter dead.alerts",
    )
)
@click.argument("stream", shell_complete=complete_stream)
@click.argument("name")
@click.option("--subject", metavar="PATTERN", help="Only records whose subject matches: * one token, > the rest.")
@click.option("--from", "start", default="all", show_default=True, metavar="WHERE", help=f"Where it starts: {START}.")
@click.option("--ack", type=click.Choice(("explicit", "all", "none")), help="What is acknowledged (default: explicit).")
@click.option(
    "--ack-wait", metavar="DURATION", help="Until an unacknowledged record is delivered again (default: 30s)."
)
@click.option("--backoff", metavar="DURATION,…", help="Until the second, third, … delivery, instead of --ack-wait.")
@click.option("--max-deliver", type=click.IntRange(min=0), metavar="N", help="Deliver a record so often at most.")
@click.option("--dead-letter", metavar="SUBJECT", help="Where a record goes that was given up.")
@click.option("--max-ack-pending", type=click.IntRange(min=1), metavar="N", help="So many may be out unacknowledged.")
@click.option("--inactive-after", metavar="DURATION", help="Remove it when nobody used it for so long.")
@change_options
@tenant_option
@connection_options
@output_option("table", "json", "yaml", "name")
@click.pass_obj
def create(
    session: Session,
    stream: str,
    name: str,
    subject: str | None,
    start: str,
    ack: str | None,
    ack_wait: str | None,
    backoff: str | None,
    max_deliver: int | None,
    dead_letter: str | None,
    max_ack_pending: int | None,
    inactive_after: str | None,
    dry_run: bool,
    tenant: str,
    output: str,
) -> None:
    """Make the consumer NAME of STREAM, or set the limits of one that is there (its subject and start stay)."""
    from platformd.cli.output import echo
    from platformd.cli.records import parse_start
    from platformd.cli.stream_output import print_documents
    from platformd.client import control
    from platformd.core.quantities import seconds

    given = {
        "filter_subject": subject,
        "ack_policy": ack,
        "ack_wait": None if ack_wait is None else seconds(ack_wait),
        "backoff": None if backoff is None else [seconds(step.strip()) for step in backoff.split(",")],
        "max_deliver": max_deliver,
        "dead_letter_subject": dead_letter,
        "max_ack_pending": max_ack_pending,
        "inactive_after": None if inactive_after is None else seconds(inactive_after),
    }
    config = parse_start(start, "--from").config() | {k: v for k, v in given.items() if v is not None}
    if dry_run:
        _would(session, stream, name, tenant, output, "configured", {"config": config})
        return
    made = session.client.send(control.put_consumer(stream, name, config, tenant=tenant)).check().json()
    if output == "name":
        echo(name)
    elif not print_documents([made], output, single=True):
        echo(f"stream/{stream}/consumer/{name} configured, {made['pending']} records pending")


@command.command(epilog=examples("platformd consumer delete alerts archive", "platformd consumer delete alerts a b"))
@click.argument("stream", shell_complete=complete_stream)
@click.argument("names", metavar="NAME…", nargs=-1, required=True, shell_complete=complete_consumer)
@click.option("--ignore-not-found", is_flag=True, help="What is not there is not an error.")
@change_options
@tenant_option
@connection_options
@output_option("table", "json", "name")
@click.pass_obj
def delete(
    session: Session,
    stream: str,
    names: tuple[str, ...],
    ignore_not_found: bool,
    dry_run: bool,
    tenant: str,
    output: str,
) -> int:
    """Forget where consumers were. No record is touched."""
    from platformd.cli.main import report
    from platformd.cli.output import echo, print_json
    from platformd.client import control, tailing
    from platformd.core.errors import NotFound

    codes = []
    for name in names:
        try:
            if dry_run:
                session.client.send(tailing.consumer_info(stream, name, tenant=tenant)).check()
            else:
                session.client.send(control.delete_consumer(stream, name, tenant=tenant)).check()
        except NotFound as error:
            if not ignore_not_found:
                codes.append(report(error, as_json=output == "json"))
            continue
        if output == "json":
            print_json({"stream": stream, "name": name, "outcome": "deleted", "dry_run": dry_run}, indent=0)
        else:
            done = f"stream/{stream}/consumer/{name} deleted{' (dry run)' if dry_run else ''}"
            echo(name if output == "name" else done)
    return codes[0] if codes else 0


@command.command(
    epilog=examples(
        "platformd consumer seek alerts archive --to all",
        "platformd consumer seek alerts archive --to 1000",
        "platformd consumer seek alerts archive --to 2026-01-31T12:00:00Z",
        "platformd consumer seek alerts archive --to 2h   # everything of the last two hours again",
    )
)
@click.argument("stream", shell_complete=complete_stream)
@click.argument("name", shell_complete=complete_consumer)
@click.option("--to", required=True, metavar="WHERE", help=f"Where to: {START}.")
@change_options
@tenant_option
@connection_options
@output_option("table", "json", "yaml")
@click.pass_obj
def seek(session: Session, stream: str, name: str, to: str, dry_run: bool, tenant: str, output: str) -> None:
    """Move a consumer, forwards or back. What is out unacknowledged is forgotten."""
    from platformd.cli.output import echo
    from platformd.cli.records import parse_start
    from platformd.cli.stream_output import print_documents
    from platformd.client import tailing

    if dry_run:
        session.client.send(tailing.consumer_info(stream, name, tenant=tenant)).check()
        _would(session, stream, name, tenant, output, "moved", {"to": parse_start(to, "--to").target()})
        return
    request = tailing.seek(stream, name, parse_start(to, "--to").target(), tenant=tenant)
    moved = session.client.send(request).check().json()
    if not print_documents([moved], output, single=True):
        echo(f"stream/{stream}/consumer/{name} moved, {moved['pending']} records pending")


def _would(
    session: Session, stream: str, name: str, tenant: str, output: str, outcome: str, more: dict[str, Any]
) -> None:
    """Say what would be done to a consumer.

    Raises:
        NotFound: there is no such stream.
    """
    from platformd.cli import rehearsing
    from platformd.cli.output import echo
    from platformd.cli.stream_output import print_documents

    now = rehearsing.consumer(session, stream, name, tenant)
    said = outcome if now is not None else "created"
    if output == "name":
        echo(name)
    elif not print_documents(
        [{"stream": stream, "name": name, "outcome": said, "dry_run": True} | more], output, single=True
    ):
        echo(f"stream/{stream}/consumer/{name} {said} (dry run)")
