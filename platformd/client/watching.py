"""Following resources without gaps and without repetition, whatever happens to the connection; no I/O.

A watch without a starting revision begins with what is there (as ``added``), then a ``bookmark``. Until
that first bookmark a lost connection starts over. After it, the id of each event is the revision that it is
safe to go on after: the events of one revision belong together but may be cut apart by a lost connection, so
all but the last of them still carry the revision before. What came with such an id comes again after a lost
connection, and is dropped then.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from platformd.client.events import ServerEvent
from platformd.client.following import ACCEPT, Following
from platformd.client.http import Request, make_request, path_of
from platformd.client.reading import as_kind, read_resource
from platformd.core.errors import PlatformError, from_problem
from platformd.model.kind import Kind
from platformd.model.kinds import BY_NAME
from platformd.model.resource import DEFAULT_TENANT, AnyResource


@dataclass(frozen=True, kw_only=True)
class Change:
    """What a watch delivers."""

    type: Literal["added", "modified", "deleted", "bookmark"]
    """``bookmark``: everything up to ``revision`` has been delivered."""
    revision: int
    """Everything up to here has been delivered with this change; 0 while the listing goes on."""
    document: Any = None
    """The resource as it was sent (decoded JSON); the last state for ``deleted``; ``None`` for a bookmark."""

    @property
    def resource(self) -> AnyResource:
        """The resource, typed. Not to be asked of a bookmark.

        Raises:
            Unsupported: this version cannot read it.
            PlatformError: this is a bookmark, or a resource of a kind that this version does not know.
        """
        kind = BY_NAME.get(self.document.get("kind", "")) if isinstance(self.document, dict) else None
        if kind is None:
            raise PlatformError(f"the {self.type} event carries no resource of a known kind")
        return read_resource(kind, self.document)


class WatchState(Following[Change]):
    """Where a watch stands: makes each request, takes each answer's bytes, gives changes."""

    WHAT = "a watch"

    def __init__(
        self, kinds: Sequence[Kind | str], *, tenant: str = DEFAULT_TENANT, after: int | None = None, selector: str = ""
    ) -> None:
        super().__init__()
        self._kinds = [as_kind(kind) for kind in kinds]
        self._tenant, self._selector = tenant, selector
        self._after = after or None  # no revision is 0, so after 0 means from the beginning too
        self._delivered: set[tuple[str, str, str]] = set()
        """What has been delivered of the revisions beyond ``_after``."""
        self._skip: set[tuple[str, str, str]] = set()
        """Of that, what will come again on this connection."""

    @property
    def after(self) -> int | None:
        """Everything up to this revision has been delivered; ``None`` while the first listing goes on."""
        return self._after

    def request(self) -> Request:
        """The request that goes on from here; for the first connection and for each after a lost one."""
        self._connect()
        self._skip = set(self._delivered)
        query = {"watch": ""}
        if len(self._kinds) == 1:
            path = path_of(self._kinds[0].plural, tenant=self._tenant)
        else:
            path = path_of("watch", tenant=self._tenant)
            query = {"kinds": ",".join(kind.plural for kind in self._kinds)}
        if self._selector:
            query["label"] = self._selector
        if self._after is not None:
            query["after"] = str(self._after)
        return make_request("GET", path, query=query, headers=ACCEPT)

    def _read(self, event: ServerEvent) -> Change | None:
        try:
            document = msgspec.json.decode(event.data)
        except msgspec.DecodeError as error:
            raise PlatformError(f"an event of the watch is not JSON: {error}") from error
        if not isinstance(document, dict):
            raise PlatformError("an event of the watch is not a JSON object")
        if event.event == "error":
            raise from_problem(document)
        if event.event == "bookmark":
            revision = document.get("revision")
            revision = revision if isinstance(revision, int) else _revision(event)
            self._delivered_up_to(max(revision, self._after or 0))
            return Change(type="bookmark", revision=revision)
        if event.event in ("added", "modified", "deleted"):
            return self._deliver(event.event, _revision(event), document)  # type: ignore[arg-type]
        return None  # a type of event that a newer server has

    def _deliver(
        self, kind: Literal["added", "modified", "deleted"], safe: int, document: dict[str, Any]
    ) -> Change | None:
        change = Change(type=kind, revision=safe, document=document)
        if self._after is None:
            return change
        if safe > self._after:
            self._delivered_up_to(safe)
            return change
        key = (str(document.get("kind")), str(document.get("name")), str(document.get("revision")))
        if key in self._skip:
            self._skip.discard(key)
            return None
        self._delivered.add(key)
        return change

    def _delivered_up_to(self, revision: int) -> None:
        self._after = revision
        self._delivered, self._skip = set(), set()


def _revision(event: ServerEvent) -> int:
    try:
        return int(event.id)
    except ValueError:
        raise PlatformError(f"an event of the watch has the id {event.id!r}, which is not a revision") from None
