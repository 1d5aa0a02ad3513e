"""``platformd stream``: streams and what is in them."""

from __future__ import annotations

from typing import Any, Final

import click

from platformd.cli.options import (
    Session,
    change_options,
    connection_options,
    examples,
    output_option,
    tenant_option,
)
from platformd.cli.stream_output import complete_stream

MAX_PEEK: Final = 100
"""Records of one look at the API; more are looked at page by page."""


@click.group(
    epilog=examples(
        "platformd stream create alerts --subject 'alerts.>' --max-age 7d --max-bytes 10GiB",
        "platformd stream ls",
        "platformd stream info alerts",
        "platformd stream peek alerts --last 3",
        "platformd stream purge alerts --subject 'alerts.test.>'",
        "platformd stream delete alerts",
    )
)
def command() -> None:
    """Make, look at, empty and delete streams.

    A stream is a resource like others: `platformd apply`, `get` and `delete` know it too.
    """


@command.command(epilog=examples("platformd stream ls", "platformd stream ls -o wide", "platformd stream ls -o name"))
@tenant_option
@connection_options
@output_option("table", "wide", "json", "yaml", "name")
@click.pass_context
def ls(context: click.Context, tenant: str, output: str) -> int:
    """List streams: what they capture, how much they have, how fast it comes."""
    from platformd.cli.commands import get

    return int(context.invoke(get.command, what=("streams",), tenant=tenant, output=output) or 0)


@command.command(epilog=examples("platformd stream info alerts", "platformd stream info alerts -o json"))
@click.argument("name", shell_complete=complete_stream)
@tenant_option
@connection_options
@output_option("table", "json", "yaml")
@click.pass_obj
def info(session: Session, name: str, tenant: str, output: str) -> None:
    """Show what a stream is, what it has now, and its consumers.

    -o json is what the engine says, with the consumers.
    """
    from platformd.cli.output import Table, echo
    from platformd.cli.stream_output import CONSUMER_TITLES, consumer_row, print_documents, print_facts
    from platformd.client import control
    from platformd.client.tailing import stream_info

    found: dict[str, Any] = session.client.send(stream_info(name, tenant=tenant)).check().json()
    consumers = control.read_page(session.client.send(control.list_consumers(name, tenant=tenant))).items
    if print_documents([found | {"consumers": consumers}], output, single=True):
        return
    print_facts(_facts(name, found))
    if consumers:
        echo("")
        for line in Table(CONSUMER_TITLES).lines([consumer_row(consumer, name) for consumer in consumers]):
            echo(line)


def _facts(name: str, found: dict[str, Any]) -> dict[str, Any]:
    from platformd.cli.output import cell
    from platformd.core.clock import rfc3339
    from platformd.core.quantities import format_bytes, format_seconds

    config: dict[str, Any] = found["config"]
    limits = {
        "max_age": format_seconds,
        "duplicate_window": format_seconds,
        "max_bytes": format_bytes,
        "max_record_bytes": format_bytes,
    }
    rate, bytes_rate = found.get("publish_rate", 0), found.get("publish_bytes_rate", 0)
    times = {
        title: rfc3339(found[member])[:19] + "Z" if found.get(member) else ""
        for title, member in (("oldest", "first_time_ns"), ("newest", "last_time_ns"))
    }
    return {
        "name": name,
        "subjects": config["subjects"],
        "records": found["messages"],
        "bytes": bytes_on_disk(found),
        "sequences": f"{found['first_sequence']} to {found['last_sequence']}" if found["messages"] else "",
        "last sequence": "" if found["messages"] else found["last_sequence"],
        **times,
        "rate": f"{cell(rate, 'rate', 0)}, {format_bytes(bytes_rate)}/s",
        **{
            member.replace("_", " "): limits.get(member, str)(value)
            for member, value in config.items()
            if member != "subjects" and value not in (0, 0.0, "", None)
        },
    }


def bytes_on_disk(found: dict[str, Any]) -> str:
    """What a stream's records take, and what compression saves of it."""
    from platformd.core.quantities import format_bytes

    stored, plain = found["bytes"], found.get("uncompressed_bytes", 0)
    if plain <= stored or not stored:
        return format_bytes(stored)
    return f"{format_bytes(stored)} on the disk, {format_bytes(plain)} uncompressed (ratio {plain / stored:.2f})"


@command.command(
    epilog=examples(
        "platformd stream create alerts --subject 'alerts.>'",
        "platformd stream create logs --subject 'logs.*' --max-age 2d --max-bytes 1GiB",
        "platformd stream create work --subject work --retention work_queue --max-records 10000 --discard new",
        "platformd stream create state --subject 'state.*' --max-records-per-subject 1",
        "platformd stream create history --subject 'history.>' --compression zstd",
        "platformd stream create audit --subject 'audit.>' --set description='who did what'",
    )
)
@click.argument("name")
@click.option(
    "--subject", "subjects", multiple=True, metavar="PATTERN", required=True, help="What it captures; may be repeated."
)
@click.option("--max-age", metavar="DURATION", help="Records older than this go.")
@click.option("--max-bytes", metavar="SIZE", help="The oldest records go when there are more bytes.")
@click.option("--max-records", type=click.IntRange(min=0), metavar="N", help="The same for records.")
@click.option("--max-records-per-subject", type=click.IntRange(min=0), metavar="N", help="The same for each subject.")
@click.option("--max-record-bytes", metavar="SIZE", help="A larger record is refused.")
@click.option(
    "--discard", type=click.Choice(("old", "new")), help="At a limit: the oldest go, or publishing is refused."
)
@click.option(
    "--retention",
    type=click.Choice(("limits", "interest", "work_queue")),
    help="When records go: at the limits, or also when all consumers, or the one, are done with them.",
)
@click.option("--compression", type=click.Choice(("none", "zstd")), help="Of full log files.")
@click.option("--duplicate-window", metavar="DURATION", help="How long a record's id is remembered (0: never).")
@click.option("--description", metavar="TEXT", help="What it is for.")
@click.option("--set", "more", multiple=True, metavar="FIELD=VALUE", help="Any other field of a stream's spec.")
@click.option("--wait/--no-wait", default=True, show_default=True, help="Wait until the engine has it.")
@change_options
@tenant_option
@connection_options
@output_option("table", "json", "yaml", "name")
@click.pass_obj
def create(
    session: Session,
    /,
    name: str,
    subjects: tuple[str, ...],
    more: tuple[str, ...],
    wait: bool,
    dry_run: bool,
    tenant: str,
    output: str,
    **fields: Any,
) -> None:
    """Make the stream NAME. What is left out has the default; `platformd apply` changes it later."""
    from platformd.cli.output import as_yaml, echo, print_json
    from platformd.cli.stream_output import wait_active
    from platformd.client import control
    from platformd.client.reading import as_kind

    spec = {"subjects": list(subjects)} | {field: value for field, value in fields.items() if value is not None}
    spec |= dict(_assigned(pair) for pair in more)
    wanted = {"name": name, "spec": spec}
    made = session.client.send(control.create(as_kind("streams"), wanted, tenant=tenant, dry_run=dry_run))
    document = made.check().json()
    if wait and not dry_run:
        document = wait_active(session, name, tenant, CREATE_PATIENCE)
    if output == "json":
        print_json(document)
    elif output == "yaml":
        echo(as_yaml([document]))
    else:
        echo(f"stream/{name}" if output == "name" else f"stream/{name} created{' (dry run)' if dry_run else ''}")


CREATE_PATIENCE: Final = 10.0
"""Seconds for the engine to have a new stream."""


def _assigned(pair: str) -> tuple[str, Any]:
    """A field and its value: JSON where it is JSON, else text."""
    import msgspec

    from platformd.core.errors import InvalidInput

    field, equals, text = pair.partition("=")
    if not (field and equals):
        raise InvalidInput("is not FIELD=VALUE", subject=f"--set {pair}")
    try:
        return field, msgspec.json.decode(text)
    except msgspec.DecodeError:
        return field, text


@command.command(epilog=examples("platformd stream delete alerts", "platformd stream delete a b --ignore-not-found"))
@click.argument("names", metavar="NAME…", nargs=-1, required=True, shell_complete=complete_stream)
@click.option("--ignore-not-found", is_flag=True, help="What is not there is not an error.")
@change_options
@tenant_option
@connection_options
@output_option("table", "json", "yaml", "name")
@click.pass_context
def delete(
    context: click.Context, names: tuple[str, ...], ignore_not_found: bool, dry_run: bool, tenant: str, output: str
) -> int:
    """Delete streams with their records and consumers, and see them go."""
    from platformd.cli.commands import delete as deleting

    what = tuple(f"stream/{name}" for name in names)
    done = context.invoke(
        deleting.command, what=what, ignore_not_found=ignore_not_found, dry_run=dry_run, tenant=tenant, output=output
    )
    return int(done or 0)


@command.command(
    epilog=examples(
        "platformd stream purge alerts --subject 'alerts.test.>'",
        "platformd stream purge alerts --before 1000",
        "platformd stream purge alerts --keep 100",
        "platformd stream purge alerts --all",
    )
)
@click.argument("name", shell_complete=complete_stream)
@click.option("--subject", metavar="PATTERN", help="Only records whose subject matches.")
@click.option("--before", type=click.IntRange(min=1), metavar="SEQ", help="Only records before this sequence.")
@click.option("--keep", type=click.IntRange(min=1), metavar="N", help="Leave so many of the newest that match.")
@click.option("--all", "everything", is_flag=True, help="All records.")
@change_options
@tenant_option
@connection_options
@output_option("table", "json", "yaml")
@click.pass_obj
def purge(
    session: Session,
    name: str,
    subject: str | None,
    before: int | None,
    keep: int | None,
    everything: bool,
    dry_run: bool,
    tenant: str,
    output: str,
) -> None:
    """Remove records for good. Sequences go on where they were."""
    from platformd.cli.output import echo
    from platformd.cli.stream_output import print_documents
    from platformd.client import tailing
    from platformd.core.errors import InvalidInput

    chosen = any(option is not None for option in (subject, before, keep))
    if chosen == everything:
        hint = "give --subject, --before or --keep; or --all alone"
        raise InvalidInput("which records?", subject=f"stream/{name}", hint=hint)
    if dry_run:
        from platformd.cli import rehearsing

        would = rehearsing.purge(session, name, tenant, subject=subject, before=before, keep=keep)
        if not print_documents([would], output, single=True):
            echo(f"stream/{name} at most {would['at_most']} records removed (dry run)")
        return
    request = tailing.purge(name, subject=subject or ">", before=before or 0, keep=keep or 0, tenant=tenant)
    done = session.client.send(request).check().json()
    if not print_documents([done], output, single=True):
        echo(f"stream/{name} {done['removed']} records removed")


@command.command(
    epilog=examples(
        "platformd stream peek alerts",
        "platformd stream peek alerts --last 3 -o json",
        "platformd stream peek alerts --from 1000 --count 1 -o raw > record",
        "platformd stream peek alerts --subject 'alerts.ztf.*' --format '{{sequence}} {{subject}}'",
    )
)
@click.argument("name", shell_complete=complete_stream)
@click.option("--from", "start", type=click.IntRange(min=1), metavar="SEQ", help="Begin with this sequence.")
@click.option("--last", type=click.IntRange(min=1), metavar="N", help="Begin so many sequences before the end.")
@click.option(
    "--count", type=click.IntRange(min=1), default=10, show_default=True, metavar="N", help="At most so many."
)
@click.option("--subject", default=">", metavar="PATTERN", help="Only records whose subject matches.")
@click.option("--format", "form", metavar="TEMPLATE", help="As for `platformd consume`.")
@click.option("--delimiter", default="\n", metavar="TEXT", help=r"After each record with -o raw and --format.")
@tenant_option
@connection_options
@output_option("table", "json", "raw")
@click.pass_obj
def peek(
    session: Session,
    name: str,
    start: int | None,
    last: int | None,
    count: int,
    subject: str,
    form: str | None,
    delimiter: str,
    tenant: str,
    output: str,
) -> None:
    """Look at records as they are stored. No cursor moves; nothing is acknowledged."""
    from platformd.cli.records import Seen, writer
    from platformd.client.tailing import records_page, stream_info
    from platformd.core.errors import InvalidInput

    if start is not None and last is not None:
        raise InvalidInput("exclude each other", subject="--from and --last")
    printed = writer(output, delimiter=delimiter, form=form)
    after = (start or 1) - 1
    if last is not None:
        newest = session.client.send(stream_info(name, tenant=tenant)).check().json()["last_sequence"]
        after = max(0, int(newest) - last)
    while count > 0:
        wanted = min(count, MAX_PEEK)
        request = records_page(name, after=after, limit=wanted, subject=subject, tenant=tenant)
        found = [Seen.of_document(item, name) for item in session.client.send(request).check().json()["items"]]
        if not found:
            return
        printed.write(found)
        after, count = found[-1].sequence, count - len(found)
