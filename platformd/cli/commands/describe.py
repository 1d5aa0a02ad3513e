"""``platformd describe``: everything about a resource, for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from platformd.cli.options import (
    Session,
    complete_target,
    connection_options,
    examples,
    output_option,
    tenant_option,
)


@click.command(
    epilog=examples(
        "platformd describe pipeline alerts",
        "platformd describe stream/alerts pipeline/alerts",
        "platformd describe stream/alerts -o jsonpath=.why",
    )
)
@click.argument("what", nargs=-1, metavar="KIND NAME… | KIND/NAME…", shell_complete=complete_target)
@tenant_option
@connection_options
@output_option("table", "json", "yaml")
@click.pass_obj
def command(session: Session, what: Sequence[str], tenant: str, output: str) -> int:
    """Say what resources are, why they are not ready, what belongs to them, and what happened to them last."""
    from platformd.cli.describing import consumers_of, facts_of, lines_of
    from platformd.cli.main import report
    from platformd.cli.output import as_yaml, echo, print_json
    from platformd.cli.targets import parse_targets
    from platformd.core.errors import NotFound

    codes: list[int] = []
    found: list[dict[str, Any]] = []
    wanted = [(target.kind, name) for target in parse_targets(what, need_names=True) for name in target.names]
    for kind, name in wanted:
        try:
            facts = facts_of(session, kind, name, tenant)
        except NotFound as error:
            codes.append(report(error, as_json=output == "json"))
            continue
        if output == "table":
            if found:
                echo("")
            for line in lines_of(facts, consumers_of(session, kind, name, tenant)):
                echo(line)
        found.append(facts)
    if output == "json" and found:
        print_json(found[0] if len(wanted) == 1 else {"items": found})
    elif output == "yaml" and found:
        echo(as_yaml(found))
    return codes[0] if codes else 0
