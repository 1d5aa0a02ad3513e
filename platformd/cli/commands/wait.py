"""``platformd wait``: go on when resources are as they should be."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import click
from click.shell_completion import CompletionItem

from platformd.cli.options import (
    Session,
    complete_target,
    connection_options,
    examples,
    kinds_on_line,
    output_option,
    tenant_option,
)
from platformd.core.errors import NotFound

if TYPE_CHECKING:
    from platformd.cli.conditions import Condition
    from platformd.cli.targets import Wanted
    from platformd.core.errors import PlatformError
    from platformd.model.kind import Kind


LOOK: Final = 30.0
"""Seconds that one look may take."""


def complete_condition(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The forms of a condition, and the states of the kinds that are named already."""
    from platformd.cli.conditions import states_of

    kinds = kinds_on_line(context.ensure_object(Session).environ)
    states = sorted({f"state={state}" for kind in kinds for state in states_of(kind)}) or ["state="]
    forms = [*states, "created", "deleted", "observed", "jsonpath="]
    return [CompletionItem(form) for form in forms if form.startswith(incomplete)]


@click.command(
    epilog=examples(
        "platformd wait pipeline/alerts --for state=running --timeout 1m",
        "platformd wait stream alerts --for created && platformd publish alerts.a hello",
        "platformd wait stream/old --for deleted",
        "platformd wait pipelines --for observed   # every pipeline that there is",
        "platformd wait stream/alerts --for jsonpath=.status.messages=1000",
        "platformd wait pipeline/alerts --for jsonpath='$.status.stages[?@.workers_ready > 0]'",
    )
)
@click.argument("what", nargs=-1, metavar="KIND[,KIND…] [NAME…] | KIND/NAME…", shell_complete=complete_target)
@click.option(
    "--for",
    "conditions",
    multiple=True,
    required=True,
    metavar="CONDITION",
    shell_complete=complete_condition,
    help="state=STATE[,STATE…], created, deleted, observed (its controller has seen the spec as it is), jsonpath=QUERY "
    "(it finds something) or jsonpath=QUERY=VALUE. Given several times, all must hold at once.",
)
@click.option("--timeout", default="1m", show_default=True, metavar="DURATION", help="How long to wait; 0s only looks.")
@tenant_option
@connection_options
@output_option("table", "json", "yaml", "name")
@click.pass_obj
def command(
    session: Session, what: Sequence[str], conditions: Sequence[str], timeout: str, tenant: str, output: str
) -> int:
    """Wait until resources are as they should be.

    What is not there yet is waited for too. Exits with 6 when it takes longer than --timeout, and at once with 5 when a
    resource is in a state after which the one that is waited for never comes. A restart of the daemon is sat out.
    """
    from platformd.cli.conditions import Condition
    from platformd.cli.targets import parse_targets
    from platformd.core.quantities import seconds

    wanted = parse_targets(what)
    parsed = [Condition.parse(text) for text in conditions]
    for target in wanted:
        for condition in parsed:
            condition.check(target.kind)
    waiting = Waiting(wanted, parsed)
    documents = _follow(session, waiting, tenant, seconds(timeout))
    _print(documents, parsed, output)
    return 0


class Waiting:
    """Takes what a watch tells, and knows who is still waited for.

    Args:
        wanted: the resources; those of a whole kind are the ones that are there at the first look.
        conditions: what must hold for each of them, all at once.
    """

    def __init__(self, wanted: Sequence[Wanted], conditions: Sequence[Condition]) -> None:
        self._conditions = conditions
        self._kinds = {target.kind.name: target.kind for target in wanted}
        self._whole = {target.kind.name for target in wanted if not target.names}
        self._named = [(target.kind.name, name) for target in wanted for name in target.names]
        self._seen: dict[tuple[str, str], Mapping[str, Any] | None] = dict.fromkeys(self._named)
        self._met: dict[tuple[str, str], Mapping[str, Any] | None] = {}
        self._listed = False

    @property
    def kinds(self) -> list[Kind]:
        """What is to be watched."""
        return list(self._kinds.values())

    def again(self) -> None:
        """A new listing begins: what it does not have is not there."""
        self._listed = False
        self._seen = dict.fromkeys(self._named)

    def take(self, event: str, document: Mapping[str, Any] | None) -> bool:
        """Whether everything is as it should be, after an event of the watch.

        Raises:
            Conflict: it never will be.
            NotFound: a whole kind is waited for, and there is none.
        """
        if document is None:
            self._listed = True
        else:
            self._note(event, document)
        if not self._listed:
            return False
        if not self._seen and not any(condition.kind == "deleted" for condition in self._conditions):
            raise NotFound("there is none", subject=", ".join(kind.plural for kind in self._kinds.values()))
        for key in self._seen:
            self._judge(key)
        return all(key in self._met for key in self._seen)

    def _note(self, event: str, document: Mapping[str, Any]) -> None:
        key = (str(document.get("kind")), str(document.get("name")))
        if key in self._seen or (key[0] in self._whole and not self._listed):
            self._seen[key] = None if event == "deleted" else document

    def _judge(self, key: tuple[str, str]) -> None:
        document = self._seen[key]
        if all(condition.holds(document) for condition in self._conditions):
            self._met.setdefault(key, document)
        elif key in self._met:
            del self._met[key]
        elif document is not None:
            for condition in self._conditions:
                condition.check_reachable(self._kinds[key[0]], document, f"{key[0].lower()}/{key[1]}")

    def met(self) -> list[tuple[str, str, Mapping[str, Any] | None]]:
        """What is as it should be: kind, name and the resource, if it is there."""
        return [(kind, name, document) for (kind, name), document in self._met.items()]

    def missing(self) -> list[str]:
        """What is still waited for, and how it is."""
        lines = []
        for (kind, name), document in self._seen.items():
            if (kind, name) not in self._met:
                status = (document or {}).get("status") or {}
                how = "is not there" if document is None else f"is {status.get('state')}"
                said = f" ({status['message']})" if status.get("message") else ""
                lines.append(f"{kind.lower()}/{name} {how}{said}")
        return lines


def _follow(
    session: Session, waiting: Waiting, tenant: str, patience: float
) -> list[tuple[str, str, Mapping[str, Any] | None]]:
    from platformd.cli.output import note
    from platformd.client.blocking import FIRST_DELAY
    from platformd.core.errors import DeadlineExceeded, Gone

    def lost(error: PlatformError, delay: float) -> None:
        if delay == FIRST_DELAY:
            note(f"the watch was lost ({error.message}); trying until it is back")

    looked = patience <= 0  # one look is always had
    until = time.monotonic() + (LOOK if looked else patience)
    while True:
        waiting.again()
        within = max(0.001, until - time.monotonic())
        try:
            for change in session.client.watch(waiting.kinds, tenant=tenant, within=within, on_lost=lost):
                if waiting.take(change.type, change.document):
                    return waiting.met()
                if looked and change.document is None:
                    raise DeadlineExceeded("that is not so now")
        except Gone:
            continue
        except DeadlineExceeded as error:
            missing = waiting.missing()
            if not missing:
                raise
            more = f", and {len(missing) - 5} more" if len(missing) > 5 else ""
            when = "now" if looked else f"after {patience:g}s"
            raise DeadlineExceeded(
                f"not as it should be {when}: {', '.join(missing[:5])}{more}",
                subject="wait",
                hint=None if looked else "--timeout says how long to wait; `platformd describe` says more",
            ) from error


def _print(
    documents: Sequence[tuple[str, str, Mapping[str, Any] | None]], conditions: Sequence[Condition], output: str
) -> None:
    from platformd.cli.output import as_yaml, echo, print_json, safe

    there = [dict(document) for _, _, document in documents if document is not None]
    if output == "json":
        print_json(there[0] if len(there) == len(documents) == 1 else {"items": there})
    elif output == "yaml":
        if there:
            echo(as_yaml(there))
    else:
        held = " and ".join(condition.text for condition in conditions)
        for kind, name, _ in documents:
            subject = safe(f"{kind.lower()}/{name}")
            echo(subject if output == "name" else f"{subject} {held}")
