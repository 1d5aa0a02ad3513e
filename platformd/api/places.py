"""What of the conductor a path names: kinds, tenants."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from platformd.core.errors import NotFound, nearest
from platformd.model.kind import Kind

EVERYBODY: Final = "-"
"""In the place of a tenant's name, in paths that read: all tenants. No tenant can be called so."""


def tenant_or_all(tenant: str) -> str | None:
    """The tenant that a path names; ``None`` for all."""
    return None if tenant == EVERYBODY else tenant


def find_plural(kinds: Iterable[Kind], plural: str) -> Kind:
    """The kind of that plural.

    Raises:
        NotFound: there is none; the hint has the nearest.
    """
    known = {kind.plural: kind for kind in kinds}
    if plural not in known:
        near = nearest(plural, list(known))
        hint = f"did you mean {near}?" if near else f"known: {', '.join(known)}"
        raise NotFound("there is no such kind", subject=plural, hint=hint)
    return known[plural]
