"""``platformd delete``: delete resources, and see them go."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import click

from platformd.cli.options import (
    Session,
    complete_target,
    connection_options,
    examples,
    output_option,
    reason_option,
    tenant_option,
)

if TYPE_CHECKING:
    from platformd.model.kind import Kind

POLL_SECONDS: Final = 0.1
"""How often a resource that is being cleaned up is looked at."""


@click.command(
    epilog=examples(
        "platformd delete schema site.note   # refused while a stream refers to it",
        "platformd delete stream alerts",
        "platformd delete pipeline/alerts stream/alerts --ignore-not-found",
        "platformd delete -f alerts.yaml --no-wait",
    )
)
@click.argument("what", nargs=-1, metavar="KIND NAME… | KIND/NAME…", shell_complete=complete_target)
@click.option(
    "-f",
    "--file",
    "files",
    multiple=True,
    metavar="FILE|DIR|-",
    type=click.Path(allow_dash=True),
    help="Delete what these documents name, the last one first.",
)
@click.option("--dry-run", is_flag=True, help="Say what would be deleted; delete nothing.")
@click.option("--ignore-not-found", is_flag=True, help="What is not there is not an error.")
@click.option("--wait/--no-wait", default=True, show_default=True, help="Wait until it is gone.")
@click.option("--timeout", default="1m", show_default=True, metavar="DURATION", help="How long to wait for each.")
@reason_option
@tenant_option
@connection_options
@output_option("table", "json", "yaml", "name")
@click.pass_obj
def command(
    session: Session,
    what: Sequence[str],
    files: Sequence[str],
    dry_run: bool,
    ignore_not_found: bool,
    wait: bool,
    timeout: str,
    tenant: str,
    output: str,
) -> int:
    """Delete resources.

    A resource whose controller has to clean up first (a stream's log, a pipeline's workers) is gone when
    that is done; --no-wait returns before.
    """
    from platformd.cli.commands.apply import print_results
    from platformd.cli.main import report
    from platformd.cli.output import echo, safe
    from platformd.core.errors import NotFound, PlatformError, Unavailable
    from platformd.core.quantities import seconds

    patience = seconds(timeout)
    done: list[dict[str, Any]] = []
    codes: list[int] = []
    wanted = _wanted(what, files)
    try:
        for kind, name in wanted:
            try:
                result = _delete(session, kind, name, tenant, dry_run=dry_run, patience=patience if wait else 0.0)
            except Unavailable:
                raise  # the others would fare no better
            except PlatformError as error:
                if not (ignore_not_found and isinstance(error, NotFound)):
                    codes.append(report(error, as_json=output == "json"))
                continue
            done.append(result)
            if output == "name":
                echo(f"{kind.singular}/{name}")
            elif output == "table":
                said = "deletion requested" if result["outcome"] == "deleting" else result["outcome"]
                echo(f"{kind.singular}/{name} {said}{' (dry run)' if dry_run else ''}")
                for one in result["dependents"]:
                    echo(safe(f"    {one['kind'].lower()}/{one['name']} goes with it"))
    finally:
        print_results(done, output)
    return codes[0] if codes else 0


def _wanted(what: Sequence[str], files: Sequence[str]) -> list[tuple[Kind, str]]:
    from platformd.cli.targets import parse_targets
    from platformd.core.errors import InvalidInput

    if bool(what) == bool(files):
        raise InvalidInput("name what to delete, or give -f", hint="platformd delete KIND NAME…, or -f FILE")
    if files:
        from platformd.cli.documents import read_documents

        return [(document.kind, document.name) for document in reversed(read_documents(files))]
    return [(target.kind, name) for target in parse_targets(what, need_names=True) for name in target.names]


def _delete(session: Session, kind: Kind, name: str, tenant: str, *, dry_run: bool, patience: float) -> dict[str, Any]:
    from platformd.client import control

    request = control.delete(kind, name, tenant=tenant, dry_run=dry_run, report=True)
    response = session.client.send(request)
    done = control.read_report(response)
    resource = done["resource"]
    gone = response.status != 202 or dry_run
    if not gone and patience > 0:
        uid = resource.get("uid") if isinstance(resource, dict) else None
        wait_gone(session, kind, name, tenant, uid, patience)
        gone = True
    outcome = "deleted" if gone else "deleting"
    return {"outcome": outcome, "dry_run": dry_run, "dependents": done["dependents"], "resource": resource}


def wait_gone(session: Session, kind: Kind, name: str, tenant: str, uid: Any, patience: float) -> None:
    """Return when the object is not there any more; one of the same name with another uid is a new one."""
    from platformd.client import control
    from platformd.core.errors import DeadlineExceeded, NotFound

    deadline = time.monotonic() + patience
    while True:
        try:
            document = session.client.send(control.get(kind, name, tenant=tenant)).check().json()
        except NotFound:
            return
        if uid and document.get("uid") != uid:
            return
        if time.monotonic() >= deadline:
            status = document.get("status") or {}
            raise DeadlineExceeded(
                f"it is still being cleaned up after {patience:g}s: {status.get('message') or status.get('state')}",
                subject=f"{kind.singular}/{name}",
                hint="the deletion goes on; look again with `platformd get`",
            )
        time.sleep(POLL_SECONDS)
