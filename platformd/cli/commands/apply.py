"""``platformd apply``: make resources what documents say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from platformd.cli.options import Session, connection_options, examples, output_option, reason_option, tenant_option

if TYPE_CHECKING:
    from platformd.cli.documents import Document


@click.command(
    epilog=examples(
        "platformd apply -f alerts.yaml",
        "platformd apply -f config/examples/schemas.yaml   # schemas, and streams that refuse what does not fit",
        "platformd apply -f ./site --dry-run",
        "platformd get pipeline alerts -o yaml | sed s/0.55/0.65/ | platformd apply -f -",
    )
)
@click.option(
    "-f",
    "--file",
    "files",
    multiple=True,
    required=True,
    metavar="FILE|DIR|-",
    type=click.Path(allow_dash=True),
    help="YAML or JSON, or a directory of them; - is standard input. May be given several times.",
)
@click.option("--dry-run", is_flag=True, help="Have everything checked and say what would be done; write nothing.")
@reason_option
@tenant_option
@connection_options
@output_option("table", "json", "yaml", "name")
@click.pass_obj
def command(session: Session, files: Sequence[str], dry_run: bool, tenant: str, output: str) -> int:
    """Make resources what documents say: create what is missing, change what differs.

    All files are read before anything is sent. A resource that is refused does not keep the others from
    being applied; the exit code is that of the first refusal.
    """
    from platformd.cli.documents import read_documents
    from platformd.cli.main import report
    from platformd.cli.output import echo
    from platformd.core.errors import PlatformError, Unavailable

    done: list[dict[str, Any]] = []
    codes: list[int] = []
    documents = read_documents(files)
    try:
        for document in documents:
            try:
                result = _apply(session, document, tenant, dry_run=dry_run)
            except Unavailable:
                raise  # the others would fare no better
            except PlatformError as error:
                codes.append(report(error if output == "json" else document.explain(error), as_json=output == "json"))
                continue
            done.append(result)
            if output == "name":
                echo(document.subject)
            elif output == "table":
                echo(f"{document.subject} {result['outcome']}{' (dry run)' if dry_run else ''}")
                for line in change_lines(result) if result["outcome"] == "configured" else ():
                    echo(line)
    finally:
        print_results(done, output)
    return codes[0] if codes else 0


def _apply(session: Session, document: Document, tenant: str, *, dry_run: bool) -> dict[str, Any]:
    from platformd.client import control

    request = control.apply(document.kind, document.value, tenant=tenant, dry_run=dry_run, report=True)
    done = control.read_report(session.client.send(request))
    return {"outcome": done["outcome"], "dry_run": dry_run, "changes": done["changes"], "resource": done["resource"]}


def change_lines(result: Mapping[str, Any]) -> Iterator[str]:
    """The fields that a write changed, for people."""
    from platformd.cli.differences import MISSING, Difference
    from platformd.cli.output import safe

    for change in result["changes"]:
        one = Difference(str(change.get("path")), change.get("before", MISSING), change.get("after", MISSING))
        yield "    " + safe(one.line())


def print_results(results: list[dict[str, Any]], output: str) -> None:
    """What was done to each resource, as one document; lines are printed as things are done."""
    from platformd.cli.output import as_yaml, echo, print_json

    if output == "json":
        print_json({"items": results})
    elif output == "yaml" and results:
        echo(as_yaml(results))
