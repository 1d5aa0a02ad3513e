"""What ``platformd stream`` and ``platformd consumer`` share: completion, and how the engine's facts are printed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from platformd.cli.options import Session, complete_name, live

if TYPE_CHECKING:
    import click
    from click.shell_completion import CompletionItem

    from platformd.client.blocking import Client

CONSUMER_TITLES: Final = (
    "NAME", "STREAM", "SUBJECT", "PENDING", "UNACKED", "FLOOR", "REDELIVERED", "GIVEN-UP", "WAITING",
)  # fmt: skip
"""The columns of a table of consumers."""


def complete_stream(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The names of the streams that there are."""
    return complete_name(context, "streams", incomplete)


def complete_consumer(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The names of the consumers of the stream that is already there."""
    from platformd.client import control

    def ask(client: Client, tenant: str) -> list[str]:
        request = control.list_consumers(str(context.params["stream"]), tenant=tenant)
        return [str(item.get("name", "")) for item in control.read_page(client.send(request)).items]

    return live(context, ask, incomplete) if context.params.get("stream") else []


def consumer_row(info: Mapping[str, Any], stream: str) -> list[str]:
    """A ``ConsumerInfo`` as a row of ``CONSUMER_TITLES``."""
    from platformd.cli.output import safe

    counts = ("pending", "ack_pending", "ack_floor", "redelivered", "exhausted", "waiting")
    config = info.get("config") or {}
    return [
        safe(str(info.get("name"))),
        safe(stream),
        safe(str(config.get("filter_subject", ">"))),
        *(str(info.get(count, 0)) for count in counts),
    ]


def print_documents(documents: Sequence[Mapping[str, Any]], output: str, *, single: bool = False) -> bool:
    """Print what JSON and YAML print; whether that was asked for."""
    from platformd.cli.output import as_yaml, echo, print_json

    if output == "json":
        print_json(documents[0] if single else {"items": list(documents)})
    elif output == "yaml" and documents:
        echo(as_yaml([dict(document) for document in documents]))
    return output in ("json", "yaml")


def print_facts(facts: Mapping[str, Any]) -> None:
    """Names and values in two columns; what is nothing is left out."""
    from platformd.cli.output import echo, safe

    shown = {name: value for name, value in facts.items() if value not in (None, "", (), [], {})}
    width = max((len(name) for name in shown), default=0)
    for name, value in shown.items():
        text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
        echo(f"{name:<{width}}   {safe(text)}")


def wait_active(session: Session, name: str, tenant: str, patience: float) -> dict[str, Any]:
    """The stream, once the engine has it as its resource says.

    Raises:
        PlatformError: the engine refuses it; in its words.
        DeadlineExceeded: that took longer than ``patience`` seconds.
    """
    import time

    from platformd.client import control
    from platformd.client.reading import as_kind
    from platformd.core.errors import DeadlineExceeded, PlatformError

    deadline, delay = time.monotonic() + patience, 0.01
    while True:
        document: dict[str, Any] = (
            session.client.send(control.get(as_kind("streams"), name, tenant=tenant)).check().json()
        )
        status = document.get("status") or {}
        settled = status.get("observed_generation") == document.get("generation")
        if settled and status.get("state") == "active":
            return document
        if settled and status.get("state") == "error":
            hint = f"it stays, and is tried again: change it, or `platformd stream delete {name}`"
            said = str(status.get("message") or status.get("reason"))
            raise PlatformError(said.removeprefix(f"stream/{name}: "), subject=f"stream/{name}", hint=hint)
        if time.monotonic() >= deadline:
            raise DeadlineExceeded(f"it is not active after {patience:g}s", subject=f"stream/{name}")
        time.sleep(delay)
        delay = min(delay * 2, 0.2)
