"""``platformd component``: ask any component what it is, give it jobs, control it, and try what it promises."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from platformd.cli.options import dry_run_option, examples, output_option

if TYPE_CHECKING:
    from platformd.client.component_check import Verdict
    from platformd.client.components import ComponentClient

Command = TypeVar("Command", bound=Callable[..., Any])

MARKS: Final = {"passed": ("ok", "green"), "failed": ("FAILED", "red"), "skipped": ("skipped", "yellow")}
"""How each outcome is shown."""

TOKEN_VARIABLE: Final = "PLATFORMD_COMPONENT_TOKEN"


def reach(command: Command) -> Command:
    """Add the component's URL and its token."""
    command = click.option(
        "--token-file", type=click.File(), metavar="FILE", help=f"Has the component's token (or {TOKEN_VARIABLE})."
    )(command)
    return click.argument("url")(command)


@click.group(
    "component",
    epilog=examples(
        "platformd component check http://127.0.0.1:7100",
        "platformd component check unix:///run/photometry.sock --service measure",
        'platformd component submit unix:///run/photometry.sock measure \'{"ra": 10, "dec": 41}\' --wait',
        "platformd component control unix:///run/photometry.sock drain",
    ),
)
def command() -> None:
    """Ask, use and check components: anything that answers the component control API, platformd itself included.

    A component's URL is http://HOST:PORT or unix:///PATH.
    """


@command.command(epilog=examples("platformd component status unix:///run/platformd/platformd.sock"))
@reach
@output_option("table", "json", "yaml")
def status(url: str, token_file: Any, output: str) -> None:
    """Show who a component is, its state, and how many jobs are where."""
    import msgspec

    from platformd.cli.commands.status import status_lines
    from platformd.cli.output import echo, print_document

    with _client(url, token_file) as client:
        found: Mapping[str, Any] = msgspec.to_builtins(client.status())
    if output != "table":
        print_document(found, output)
        return
    for line in status_lines(found):
        echo(line)


@command.command(epilog=examples("platformd component services http://127.0.0.1:7100 -o json"))
@reach
@output_option("table", "json", "yaml")
def services(url: str, token_file: Any, output: str) -> None:
    """List what a component offers, and what each service takes."""
    import msgspec

    from platformd.cli.output import print_document, table_of

    with _client(url, token_file) as client:
        found = client.services()
    if output != "table":
        print_document({"items": msgspec.to_builtins(found)}, output)
        return
    table = table_of(["NAME", "RUNS-UNTIL", "PARAMETERS", "DESCRIPTION"])
    rows = [[s.name, s.runs_until, ", ".join(_parameters(s.parameters)) or "none", s.description] for s in found]
    _print_table(table, rows)


@command.command(epilog=examples("platformd component jobs http://127.0.0.1:7100 --state running"))
@reach
@click.option("--state", help="Only jobs in this state.")
@click.option("--service", default="", help="Only jobs of this service.")
@click.option("--limit", type=click.IntRange(1), default=100, show_default=True, help="At most so many, newest first.")
@output_option("table", "json", "yaml")
def jobs(url: str, token_file: Any, state: Any, service: str, limit: int, output: str) -> None:
    """List a component's jobs, newest first."""
    import itertools

    import msgspec

    from platformd.cli.output import NONE, print_document, table_of

    with _client(url, token_file) as client:
        found = list(itertools.islice(client.jobs(state=state, service=service), limit))
    if output != "table":
        print_document({"items": msgspec.to_builtins(found)}, output)
        return
    table = table_of(["ID", "SERVICE", "STATE", "PROGRESS", "CREATED", "MESSAGE"])
    rows = [
        [
            *(job.id, job.service, job.state),
            NONE if job.progress is None else f"{job.progress:.0%}",
            *(job.created_at, job.message or NONE),
        ]
        for job in found
    ]
    _print_table(table, rows)


@command.command(epilog=examples("platformd component submit http://127.0.0.1:7100 measure '{\"ra\": 10}' --wait"))
@reach
@click.argument("service")
@click.argument("parameters", default="{}")
@click.option("--wait", is_flag=True, help="Show how far it is, until it has ended; fails (1) when it fails.")
@click.option("--key", default="", help="The idempotency key; a new one if not given.")
@output_option("json", "yaml")
def submit(url: str, token_file: Any, service: str, parameters: str, wait: bool, key: str, output: str) -> None:
    """Give a component a job: SERVICE with PARAMETERS, a JSON object."""
    with _client(url, token_file) as client:
        job = client.submit(service, _object(parameters), key=key)
        if wait:
            job = _follow(client, job.id)
    _print_job(job, output)


@command.command(epilog=examples("platformd component job http://127.0.0.1:7100 01a2… --wait"))
@reach
@click.argument("number", metavar="JOB")
@click.option("--wait", is_flag=True, help="Until it has ended; fails (1) when it fails.")
@output_option("json", "yaml")
def job(url: str, token_file: Any, number: str, wait: bool, output: str) -> None:
    """Show one job of a component."""
    with _client(url, token_file) as client:
        found = _follow(client, number) if wait else client.job(number)
    _print_job(found, output)


@command.command(epilog=examples("platformd component dismiss http://127.0.0.1:7100 01a2…"))
@reach
@click.argument("number", metavar="JOB")
@dry_run_option
@output_option("json", "yaml")
def dismiss(url: str, token_file: Any, number: str, dry_run: bool, output: str) -> None:
    """Stop a job of a component."""
    with _client(url, token_file) as client:
        _print_job(client.job(number) if dry_run else client.dismiss(number), output)


@command.command(
    epilog=examples(
        "platformd component config http://127.0.0.1:7100",
        "platformd component config http://127.0.0.1:7100 --set '{\"threshold\": 5}'",
    )
)
@reach
@click.option("--set", "wanted", metavar="JSON", help="Give it this configuration, whole.")
@click.option("--if-revision", type=int, help="Only if this is the revision of the one that it has.")
@output_option("json", "yaml")
def config(url: str, token_file: Any, wanted: str | None, if_revision: int | None, output: str) -> None:
    """Show a component's configuration, or give it another."""
    import msgspec

    from platformd.cli.output import print_document

    with _client(url, token_file) as client:
        found = client.config() if wanted is None else client.configure(_object(wanted), expected=if_revision)
    print_document(msgspec.to_builtins(found), output)


@command.command(epilog=examples("platformd component control http://127.0.0.1:7100 pause"))
@reach
@click.argument("action", type=click.Choice(("pause", "resume", "drain", "stop")), required=False)
@output_option("json", "yaml")
def control(url: str, token_file: Any, action: Any, output: str) -> None:
    """Tell a component to pause, resume, drain or stop; without ACTION, show what it can be told now."""
    import msgspec

    from platformd.cli.output import print_document

    with _client(url, token_file) as client:
        found = client.control() if action is None else client.tell(action)
    print_document(msgspec.to_builtins(found), output)


@command.command(
    epilog=examples(
        "platformd component check http://127.0.0.1:7100",
        'platformd component check http://127.0.0.1:7100 --service measure --parameters \'{"ra": 10, "dec": 41}\'',
        "platformd component check unix:///run/photometry.sock --disturb -o json",
    )
)
@reach
@click.option("--service", default="", help="Make (and stop) some jobs of this service; without it none are made.")
@click.option("--parameters", default="{}", metavar="JSON", help="With which a job of it runs.")
@click.option("--disturb", is_flag=True, help="Pause and resume it, and write its configuration as it is.")
@click.option("--only", multiple=True, metavar="CHECK", help="Only this check; may be given several times.")
@click.option("--patience", type=float, default=30.0, show_default=True, help="Seconds that a job may take to end.")
@output_option("table", "json", "yaml")
def check(
    url: str,
    token_file: Any,
    service: str,
    parameters: str,
    disturb: bool,
    only: tuple[str, ...],
    patience: float,
    output: str,
) -> int:
    """Try whether a component keeps every promise of the component control API; exit code 1 when it does not.

    It is only read, unless --service or --disturb say otherwise.
    """
    from platformd.cli.output import print_document
    from platformd.client.component_check import Wishes, check_component
    from platformd.client.http import Target

    wishes = Wishes(service=service, parameters=_object(parameters), disturb=disturb, only=only, patience=patience)
    verdicts: list[Verdict] = []
    for verdict in check_component(Target.parse(url), wishes, token=_token(token_file)):
        verdicts.append(verdict)
        if output == "table":
            _print_verdict(verdict)
    counts = {outcome: sum(v.outcome == outcome for v in verdicts) for outcome in MARKS}
    if output == "table":
        click.echo(", ".join(f"{count} {outcome}" for outcome, count in counts.items()))
    else:
        checks = [{"name": v.name, "promise": v.promise, "outcome": v.outcome, "why": v.why} for v in verdicts]
        print_document({"url": url, **counts, "checks": checks}, output)
    return 1 if counts["failed"] else 0


def _client(url: str, token_file: Any) -> ComponentClient:
    from platformd.client.components import ComponentClient

    return ComponentClient(url, token=_token(token_file))


def _token(token_file: Any) -> str:
    import os

    return token_file.read().strip() if token_file is not None else os.environ.get(TOKEN_VARIABLE, "")


def _object(text: str) -> dict[str, Any]:
    import msgspec

    from platformd.core.errors import InvalidInput

    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except (msgspec.DecodeError, ValueError) as error:
        raise InvalidInput(f"is not a JSON object: {error}", subject=text[:60]) from error


def _follow(client: ComponentClient, number: str) -> Any:
    """Wait for a job, and show on a terminal how far it is."""
    import sys

    from platformd.cli.output import safe
    from platformd.model.component import ENDED

    found = client.job(number)
    while found.state not in ENDED:
        if sys.stderr.isatty():
            share = "" if found.progress is None else f" {found.progress:.0%}"
            click.echo(f"\r\x1b[K{found.state}{share} {safe(found.message or '')}", nl=False, err=True)
        found = client.job(number, wait="500ms")
    if sys.stderr.isatty():
        click.echo("\r\x1b[K", nl=False, err=True)
    return found


def _print_job(found: Any, output: str) -> None:
    import msgspec

    from platformd.cli.output import print_document
    from platformd.core.errors import from_problem

    print_document(msgspec.to_builtins(found), output)
    if found.state == "failed":
        raise from_problem(found.error or {"detail": "the job failed"})


def _parameters(schema: Mapping[str, Any]) -> list[str]:
    """The names of parameters, those that are needed with a star."""
    reference = str(schema.get("$ref", ""))
    if reference.startswith("#/$defs/"):
        schema = schema.get("$defs", {}).get(reference.removeprefix("#/$defs/"), {})
    needed = schema.get("required") or ()
    return [f"{name}*" if name in needed else str(name) for name in schema.get("properties") or ()]


def _print_verdict(verdict: Verdict) -> None:
    import sys

    from platformd.cli.output import coloured, safe

    mark, colour = MARKS[verdict.outcome]
    shown = click.style(f"{mark:<8}", fg=colour) if coloured(sys.stdout) else f"{mark:<8}"
    click.echo(f"{shown}{verdict.name:<20} {safe(verdict.promise)}")
    if verdict.why:
        click.echo(f"{'':<29}{safe(verdict.why)}")


def _print_table(table: Any, rows: list[list[str]]) -> None:
    from platformd.cli.output import echo

    table.fit(rows)
    echo(table.header())
    for row in rows:
        echo(table.line(row))
