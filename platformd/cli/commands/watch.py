"""``platformd watch``: what changes, field by field."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import click

from platformd.cli.options import (
    Session,
    complete_target,
    connection_options,
    examples,
    output_option,
    tenant_option,
)

if TYPE_CHECKING:
    from platformd.client.watching import Change
    from platformd.core.errors import PlatformError

MAX_REMEMBERED: Final = 20_000
"""Resources whose last state is kept, so that a change can be compared with it; of more, only the event is told."""


@click.command(
    epilog=examples(
        "platformd watch pipelines",
        "platformd watch stream/alerts pipeline/alerts",
        "platformd watch all -o json | jq -c '{at: .revision, name: .resource.name, changed: [.diff[].path]}'",
        "platformd watch streams --after 42   # also what happened since then",
        "platformd watch streams --count 1 --timeout 30s",
    )
)
@click.argument("what", nargs=-1, metavar="KIND[,KIND…] [NAME…] | KIND/NAME… | all", shell_complete=complete_target)
@click.option("-l", "--selector", default="", metavar="TERMS", help="Only what has these labels: a=b,c!=d,e,!f.")
@click.option("--after", type=click.IntRange(min=1), metavar="REVISION", help="Also what changed after this revision.")
@click.option("--initial", is_flag=True, help="Begin with what is there, as `platformd get --watch` does.")
@click.option("--count", type=click.IntRange(min=1), metavar="N", help="End after so many changes.")
@click.option("--timeout", metavar="DURATION", help="End after so long.")
@tenant_option
@connection_options
@output_option("table", "json", "yaml", "name")
@click.pass_obj
def command(
    session: Session,
    what: Sequence[str],
    selector: str,
    after: int | None,
    initial: bool,
    count: int | None,
    timeout: str | None,
    tenant: str,
    output: str,
) -> int:
    """Show what changes from now on, with the fields that changed.

    A lost connection is taken up again without a gap. With -o json each change is one line: type, revision, diff and
    the whole resource.
    """
    from platformd.cli.output import note
    from platformd.cli.targets import parse_targets
    from platformd.client.blocking import FIRST_DELAY
    from platformd.core.errors import DeadlineExceeded, Gone
    from platformd.core.quantities import seconds

    wanted = parse_targets(what)
    kinds = list({target.kind.name: target.kind for target in wanted}.values())
    names = {(target.kind.name, name) for target in wanted for name in target.names}
    whole = {target.kind.name for target in wanted if not target.names}
    show = Follower(output, initial=initial or after is not None)
    left = count

    def lost(error: PlatformError, delay: float) -> None:
        if delay == FIRST_DELAY:  # once for each loss, however long it lasts
            note(f"the watch was lost ({error.message}); trying until it is back")

    within = None if timeout is None else seconds(timeout)
    while True:
        try:
            for change in session.client.watch(
                kinds, tenant=tenant, after=after, selector=selector, within=within, on_lost=lost
            ):
                document = change.document
                if document is None or document["kind"] in whole or (document["kind"], document["name"]) in names:
                    shown = show(change)
                    left = left if left is None or not shown else left - 1
                    if left == 0:
                        return 0
        except Gone:
            note("history between was compacted away: what is there now follows")
            after, show = None, Follower(output, initial=True)
        except DeadlineExceeded:
            if within is None:
                raise
            return 0


class Follower:
    """Prints changes beside what was there before."""

    def __init__(self, output: str, *, initial: bool) -> None:
        self._output = output
        self._initial = initial
        self._listed = False
        self._last: dict[tuple[str, str], Any] = {}

    def __call__(self, change: Change) -> bool:
        """Print ``change``; whether it was one to be printed."""
        document = change.document
        if document is None:
            self._listed = True
            return False
        key = (str(document.get("kind")), str(document.get("name")))
        before = self._last.pop(key, None)
        if change.type != "deleted" and len(self._last) < MAX_REMEMBERED:
            self._last[key] = document
        if not self._initial and not self._listed:
            return False
        self._print(change, before)
        return True

    def _print(self, change: Change, before: Any) -> None:
        from platformd.cli.differences import differences
        from platformd.cli.output import as_yaml, echo, print_json, safe, subject

        document = change.document
        found = differences(before, document) if before is not None and change.type == "modified" else []
        if self._output == "name":
            echo(subject(document))
        elif self._output == "table":
            status = document.get("status") or {}
            said = " ".join(str(word) for word in (status.get("state"), status.get("message")) if word)
            when = str(document.get("updated_at") or "")[:19].replace("T", " ")
            echo(safe(f"{when} {subject(document)} {change.type}" + (f" ({said})" if said and not found else "")))
            for one in found:
                echo("    " + safe(one.line()))
        else:
            diff = [one.document() for one in found]
            event = {"type": change.type, "revision": change.revision, "diff": diff, "resource": document}
            if self._output == "json":
                print_json(event, indent=0)
            else:
                echo("---\n" + as_yaml([event]))
