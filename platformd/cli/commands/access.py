"""``platformd access``: who may do what."""

from __future__ import annotations

from typing import Any

import click

from platformd.cli.options import Session, connection_options, examples, output_option


@click.group(epilog=examples("platformd access matrix", "platformd access whoami", "platformd access audit"))
def command() -> None:
    """Show who may do what."""


@command.command(epilog=examples("platformd access matrix", "platformd access matrix -o json"))
@output_option("table", "json", "yaml")
def matrix(output: str) -> None:
    """Print which role may do what, and to whose things.

    own: of the tenant that the token is for. other: of other tenants. global: of no tenant.
    A token that is bound to a tenant may do what both its role and the role tenant may do.
    """
    from platformd.cli.output import Table, echo, print_items
    from platformd.model.access import ROLES, RULES, SCOPES
    from platformd.model.access import matrix as documents

    if output != "table":
        found = documents()
        print_items(found, output)
        return
    rows = []
    for rule in RULES:
        words = [",".join(scope for scope in SCOPES if scope in rule.allowed[role]) or "-" for role in ROLES]
        rows.append((rule.operation, *("all" if word == ",".join(SCOPES) else word for word in words), rule.summary))
    for line in Table(("OPERATION", *(role.upper() for role in ROLES), "WHAT")).lines(rows):
        echo(line)


@command.command(epilog=examples("platformd access whoami", "platformd --token-file nightly.token access whoami"))
@connection_options
@output_option("table", "json", "yaml")
@click.pass_obj
def whoami(session: Session, output: str) -> None:
    """Print as whom the daemon sees you."""
    from platformd.cli.output import echo, print_document

    who: dict[str, Any] = session.client.request("GET", "/v1/access/whoami").json()
    if output != "table":
        print_document(who, output)
        return
    bound = f" of tenant {who['tenant']}" if who["tenant"] else ""
    echo(f"{who['name']}: {who['role'] or 'without a role'}{bound}, known by {who['how']}")


@command.command(epilog=examples("platformd access audit", "platformd access audit -o json"))
@connection_options
@output_option("table", "json", "yaml")
@click.pass_obj
def audit(session: Session, output: str) -> None:
    """List what was refused lately, the newest first."""
    from platformd.cli.output import Table, echo, print_items

    found: list[dict[str, Any]] = session.client.request("GET", "/v1/access/audit").json()["items"]
    if output != "table":
        print_items(found, output)
    elif found:
        shown = ("last_at", "who", "address", "operation", "count", "why")
        for line in Table(("LAST", "WHO", "FROM", "OPERATION", "COUNT", "WHY")).lines(
            [tuple(str(entry[key]) for key in shown) for entry in found]
        ):
            echo(line)
