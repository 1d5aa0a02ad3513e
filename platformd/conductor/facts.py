"""What the conductor answers."""

from __future__ import annotations

from typing import Literal

import msgspec

from platformd.model.resource import AnyResource

Outcome = Literal["created", "configured", "unchanged"]
"""What a write did."""


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """One page of a listing; all pages of one listing are of one revision."""

    items: tuple[AnyResource, ...]
    """Ordered by tenant, then name."""
    revision: int
    """The Store's revision that the items were read at; watch from it to miss nothing."""
    cursor: str | None = None
    """Ask with this for the next page; ``None`` when there is none."""


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """One change of one resource."""

    type: Literal["added", "modified", "deleted"]
    resource: AnyResource
    """After the change; for ``deleted`` the last state."""
    revision: int


class ChangeBatch(msgspec.Struct, frozen=True, kw_only=True):
    """All changes of whole revisions, in order; with no changes it is a bookmark."""

    revision: int
    changes: tuple[Change, ...] = ()
