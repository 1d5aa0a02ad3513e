"""``platformd access``: who may do what."""

from __future__ import annotations

import click

from platformd.cli.options import examples, output_option


@click.group(epilog=examples("platformd access matrix", "platformd access matrix -o json"))
def command() -> None:
    """Show who may do what."""


@command.command(epilog=examples("platformd access matrix", "platformd access matrix -o json"))
@output_option("table", "json", "yaml")
def matrix(output: str) -> None:
    """Print which role may do what, and to whose things.

    own: of the tenant that the token is for. other: of other tenants. global: of no tenant.
    A token that is bound to a tenant may do what both its role and the role tenant may do.
    """
    from platformd.cli.output import Table, as_json, as_yaml, echo
    from platformd.model.access import ROLES, RULES, SCOPES
    from platformd.model.access import matrix as documents

    if output != "table":
        found = documents()
        echo(as_json({"items": found}) if output == "json" else as_yaml(found))
        return
    rows = []
    for rule in RULES:
        words = [",".join(scope for scope in SCOPES if scope in rule.allowed[role]) or "-" for role in ROLES]
        rows.append((rule.operation, *("all" if word == ",".join(SCOPES) else word for word in words), rule.summary))
    for line in Table(("OPERATION", *(role.upper() for role in ROLES), "WHAT")).lines(rows):
        echo(line)
