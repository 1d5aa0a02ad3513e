"""Streams over the control API: their actions as requests, and following records without a consumer; no I/O.

A tail tells in each event the sequence to go on after. When its connection is lost, it goes on there: nothing comes
twice, and what was removed meanwhile is counted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from platformd.client.events import ServerEvent
from platformd.client.following import ACCEPT, Following
from platformd.client.http import Request, make_request, path_of
from platformd.core.errors import PlatformError, from_problem
from platformd.model.resource import DEFAULT_TENANT

SlowPolicy = Literal["block", "drop_oldest", "disconnect"]
"""What becomes of a reader that does not keep up."""


def stream_info(stream: str, *, tenant: str = DEFAULT_TENANT) -> Request:
    """What the engine has of a stream: a ``StreamInfo``."""
    return make_request("GET", path_of("streams", stream, "info", tenant=tenant))


def records_page(
    stream: str, *, after: int = 0, limit: int = 100, subject: str = ">", tenant: str = DEFAULT_TENANT
) -> Request:
    """Look at records as they are stored; ``{"items": […]}``."""
    query = {"after": str(after), "limit": str(limit), "subject": subject}
    return make_request("GET", path_of("streams", stream, "messages", tenant=tenant), query=query)


def purge(stream: str, *, subject: str = ">", before: int = 0, keep: int = 0, tenant: str = DEFAULT_TENANT) -> Request:
    """Remove records for good; answers ``{"removed": N}``."""
    wanted = {"subject": subject, "before": before, "keep": keep}
    return make_request("POST", path_of("streams", stream, "purge", tenant=tenant), json=wanted)


def consumer_info(stream: str, consumer: str, *, tenant: str = DEFAULT_TENANT) -> Request:
    """Where a consumer is: a ``ConsumerInfo``."""
    return make_request("GET", path_of("streams", stream, "consumers", consumer, tenant=tenant))


def seek(stream: str, consumer: str, to: Mapping[str, Any], *, tenant: str = DEFAULT_TENANT) -> Request:
    """Move a consumer's cursor; ``to`` has ``policy`` and, for some, ``sequence`` or ``time`` (RFC 3339)."""
    return make_request("POST", path_of("streams", stream, "consumers", consumer, "seek", tenant=tenant), json=dict(to))


@dataclass(frozen=True, kw_only=True)
class Tailed:
    """What a tail delivers."""

    type: Literal["record", "bookmark", "dropped"]
    """``dropped``: ``document["records"]`` do not come, for ``document["reason"]``."""
    sequence: int
    """Everything up to here has been delivered, or is not for this tail."""
    document: dict[str, Any] = field(default_factory=dict)
    """As it was sent (JSON types)."""


class TailState(Following[Tailed]):
    """Where a tail stands: makes each request, takes each answer's bytes, gives events.

    Args:
        stream: which stream.
        tenant: whose.
        subject: only records whose subject matches.
        after: begin after this sequence; ``None`` begins with what comes.
        on_slow: what happens when records come faster than they are taken.
    """

    WHAT = "a tail"

    def __init__(
        self,
        stream: str,
        *,
        tenant: str = DEFAULT_TENANT,
        subject: str = ">",
        after: int | None = None,
        on_slow: SlowPolicy = "block",
    ) -> None:
        super().__init__()
        self._path = path_of("streams", stream, "messages", tenant=tenant)
        self._query = {"watch": "", "subject": subject, "on_slow": on_slow}
        self._after = after

    @property
    def after(self) -> int | None:
        """The sequence to go on after; ``None`` before the first event."""
        return self._after

    def request(self) -> Request:
        """The request that goes on from here; for the first connection and for each after a lost one."""
        self._connect()
        query = self._query if self._after is None else self._query | {"after": str(self._after)}
        return make_request("GET", self._path, query=query, headers=ACCEPT)

    def _read(self, event: ServerEvent) -> Tailed | None:
        try:
            document = msgspec.json.decode(event.data, type=dict)
            if event.event == "error":
                raise from_problem(document)
            if event.event not in ("record", "bookmark", "dropped"):
                return None  # a type of event that a newer server has
            self._after = int(event.id)
        except (msgspec.DecodeError, ValueError) as error:
            raise PlatformError(f"an event of the tail cannot be read: {event.data[:80]!r}") from error
        return Tailed(type=event.event, sequence=self._after, document=document)  # type: ignore[arg-type]
