"""What the conductor answers."""

from __future__ import annotations

from typing import Literal

import msgspec

from platformd.conductor.differences import FieldChange
from platformd.model.resource import AnyResource

Outcome = Literal["created", "configured", "unchanged", "deleting", "deleted"]
"""What a write did."""


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """One page of a listing; all pages of one listing are of one revision."""

    items: tuple[AnyResource, ...]
    """Ordered by tenant, then name, or as was asked for."""
    revision: int
    """The Store's revision that the items were read at; watch from it to miss nothing."""
    cursor: str | None = None
    """Ask with this for the next page; ``None`` when there is none."""


class Dependent(msgspec.Struct, frozen=True, kw_only=True):
    """Something that belongs to what is deleted."""

    kind: str
    name: str
    depth: int
    """1 for what belongs to it, 2 for what belongs to that, and so on."""


class Applied(msgspec.Struct, frozen=True, kw_only=True):
    """What a write did, or would do."""

    outcome: Outcome
    resource: AnyResource
    """As it is then; of what is gone, the last state."""
    revision: int = 0
    """The revision of the write; 0 when nothing was written."""
    changes: tuple[FieldChange, ...] = ()
    """The fields that it changed, without those that the server counts."""
    more: int = 0
    """How many more it changed."""
    dependents: tuple[Dependent, ...] = ()
    """What goes with it, because it belongs to it."""


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
