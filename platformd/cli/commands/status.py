"""``platformd status``: what the daemon is and does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from platformd.cli.options import Session, connection_options, examples, output_option


@click.command(epilog=examples("platformd status", "platformd status -o json", "platformd status --socket ./p.sock"))
@connection_options
@output_option("table", "json", "yaml")
@click.pass_obj
def command(session: Session, output: str) -> None:
    """Show what the daemon is and does. Fails (6) when it does not answer."""
    from platformd.cli.output import as_yaml, echo, print_json

    document = session.client.status()
    if output == "json":
        print_json(document)
    elif output == "yaml":
        echo(as_yaml([document]))
    else:
        for line in status_lines(document):
            echo(line)


def status_lines(document: Mapping[str, Any]) -> list[str]:
    """The answer to ``GET /status`` for a person: one line about it, then a line for each thing it has."""
    from platformd.cli.output import safe
    from platformd.core.quantities import format_seconds

    known = {"name", "version", "state", "uptime_seconds", "started_at"}
    uptime = document.get("uptime_seconds")
    since = f" for {format_seconds(float(uptime))}" if isinstance(uptime, int | float) else ""
    head = f"{document.get('name', '?')} {document.get('version', '?')} is {document.get('state', '?')}{since}"
    rows = [(key, _plain(value)) for key, value in document.items() if key not in known]
    width = max((len(key) for key, _ in rows), default=0)
    return [safe(head), *(safe(f"  {key:<{width}}  {value}") for key, value in rows)]


def _plain(value: Any) -> str:
    from platformd.core.quantities import format_bytes

    if not isinstance(value, Mapping):
        return str(value)
    shown = []
    for key, member in value.items():
        if isinstance(member, Mapping):
            shown += [f"{key} {name} {_plain(inner)}" for name, inner in member.items()]
        elif key.endswith("_bytes") and isinstance(member, int):
            shown.append(f"{key.removesuffix('_bytes')} {format_bytes(member)}")
        else:
            shown.append(f"{key} {member}")
    return ", ".join(shown)
