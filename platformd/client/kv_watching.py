"""Following keys without gaps and without repetition, whatever happens to the connection; no I/O.

A watch begins with a ``bookmark`` of the revision that it starts from. The id of each event is the revision that it is
safe to go on after: all but the last event of one revision carry the revision before, come again after a lost
connection, and are dropped then.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from platformd.client.events import ServerEvent
from platformd.client.following import ACCEPT, Following
from platformd.client.http import Request, make_request
from platformd.client.kv import bytes_of, watch_target
from platformd.client.problems import problem_of
from platformd.core.errors import PlatformError

_PROBLEM = {"content-type": "application/problem+json"}


@dataclass(frozen=True, kw_only=True)
class KeyChange:
    """What a watch of keys delivers."""

    type: Literal["put", "delete", "bookmark"]
    """``bookmark``: everything up to ``revision`` has been delivered."""
    revision: int
    """Of the change; of a bookmark: what it is of."""
    document: dict[str, Any] = field(default_factory=dict)
    """The key as it was sent (JSON types); empty for a bookmark."""

    @property
    def key(self) -> bytes:
        """The key; empty for a bookmark."""
        return bytes_of(self.document, "key") or b""

    @property
    def value(self) -> bytes:
        """Its value; empty for a delete and for a bookmark."""
        return bytes_of(self.document, "value") or b""


class KeyWatchState(Following[KeyChange]):
    """Where a watch of keys stands: makes each request, takes each answer's bytes, gives changes.

    Args:
        key: the key, or what keys begin with.
        exact: only that key.
        after: go on after this revision; ``None`` begins with what changes from now on.
        previous: have what was there before each change.
    """

    WHAT = "a watch"

    def __init__(self, key: bytes, *, exact: bool = False, after: int | None = None, previous: bool = False) -> None:
        super().__init__()
        self._target = watch_target(key, exact=exact)
        self._previous = previous
        self._after = after
        self._delivered: set[tuple[int, bytes]] = set()
        """What has been delivered of the revisions beyond ``_after``."""
        self._skip: set[tuple[int, bytes]] = set()
        """Of that, what will come again on this connection."""

    @property
    def after(self) -> int | None:
        """Everything up to this revision has been delivered; ``None`` before the first bookmark."""
        return self._after

    def request(self) -> Request:
        """The request that goes on from here; for the first connection and for each after a lost one."""
        self._connect()
        self._skip = set(self._delivered)
        path, query = self._target
        query = query | {"watch": ""} | ({"previous": ""} if self._previous else {})
        if self._after is not None:
            query["after"] = str(self._after)
        return make_request("GET", path, query=query, headers=ACCEPT)

    def _read(self, event: ServerEvent) -> KeyChange | None:
        try:
            document = msgspec.json.decode(event.data, type=dict)
            if event.event == "error":
                status = document.get("status")
                raise problem_of(status if isinstance(status, int) else 500, _PROBLEM, event.data.encode())
            if event.event not in ("put", "delete", "bookmark"):
                return None  # a type of event that a newer server has
            safe = int(event.id)
            revision = int(document["revision" if event.event == "bookmark" else "mod_revision"])
        except (msgspec.DecodeError, ValueError, KeyError, TypeError) as error:
            raise PlatformError(f"an event of the watch cannot be read: {event.data[:80]!r}") from error
        if event.event == "bookmark":
            self._up_to(max(revision, self._after or 0))
            return KeyChange(type="bookmark", revision=revision)
        change = KeyChange(type=event.event, revision=revision, document=document)  # type: ignore[arg-type]
        place = (revision, change.key)
        seen = place in self._skip
        if self._after is None or safe > self._after:
            self._up_to(safe)
        if revision > safe:
            self._delivered.add(place)
        return None if seen else change

    def _up_to(self, revision: int) -> None:
        self._after = revision
        self._delivered = {place for place in self._delivered if place[0] > revision}
        self._skip = {place for place in self._skip if place[0] > revision}
