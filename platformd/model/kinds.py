"""All kinds. A new noun of the platform is added here and in one service room."""

from __future__ import annotations

from platformd.core.errors import NotFound, nearest
from platformd.model.bridge import BRIDGE
from platformd.model.event import EVENT
from platformd.model.kind import Kind
from platformd.model.node import NODE
from platformd.model.pipeline import PIPELINE
from platformd.model.quota import QUOTA
from platformd.model.schema import SCHEMA
from platformd.model.service import ENDPOINT, SERVICE
from platformd.model.stream import STREAM

KINDS: tuple[Kind, ...] = (NODE, SERVICE, ENDPOINT, SCHEMA, STREAM, PIPELINE, BRIDGE, QUOTA, EVENT)
"""Every kind, in the order that listings of kinds have."""

BY_NAME: dict[str, Kind] = {k.name: k for k in KINDS}
BY_PLURAL: dict[str, Kind] = {k.plural: k for k in KINDS}
_BY_WORD: dict[str, Kind] = {w: k for k in KINDS for w in (k.singular, k.plural, *k.aliases)}


def find_kind(word: str) -> Kind:
    """The kind that ``word`` names: singular, plural or alias, in any case.

    Raises:
        NotFound: no kind is called that.
    """
    kind = _BY_WORD.get(word.lower())
    if kind is None:
        near = nearest(word.lower(), list(_BY_WORD))
        hint = f"did you mean {near}?" if near else f"known: {', '.join(k.plural for k in KINDS)}"
        raise NotFound("there is no such kind", subject=word, hint=hint)
    return kind
