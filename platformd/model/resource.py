"""A resource: the envelope that every noun of the platform has.

What a user wants is in ``spec``; what is so is in ``status``; controllers close the difference.
"""

from __future__ import annotations

from typing import Annotated, Any, Generic, TypeVar

import msgspec

from platformd.core.ids import NAME_PATTERN

DEFAULT_TENANT = "default"
"""The tenant of resources that name none."""

SERVER_OWNED = frozenset(
    {"status", "uid", "generation", "revision", "created_at", "updated_at", "deleting_at", "finalizers"}
)
"""Members of a resource that clients read and only the server writes."""

Name = Annotated[
    str,
    msgspec.Meta(
        pattern=NAME_PATTERN,
        max_length=63,
        description="1 to 63 lower-case letters, digits, '.', '_' or '-', not starting or ending with a sign.",
    ),
]
"""The name of a resource or a tenant."""


class Struct(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The base of all facts: frozen, by keyword, strict about unknown fields."""


class Owner(Struct, frozen=True, kw_only=True):
    """The resource that this one belongs to and is deleted with."""

    kind: str
    """The owner's kind: ``Pipeline``."""
    name: Name
    """The owner's name; it is in the same tenant."""
    uid: str = ""
    """The owner's uid; filled in when it is left out, so that a later owner of that name is another."""


class Status(Struct, frozen=True, kw_only=True):
    """What every status has; kinds add their own fields."""

    state: str = "pending"
    """One word of the kind's state table."""
    reason: str = ""
    """Why it is in this state, one CamelCase word for programs: ``WorkerFailed``."""
    message: str = ""
    """The same for a person, one sentence."""
    observed_generation: int = 0
    """The ``generation`` of the spec that this status speaks of."""
    since: str | None = None
    """When ``state`` was entered, RFC 3339 UTC."""


SpecT = TypeVar("SpecT")
StatusT = TypeVar("StatusT")


class Resource(msgspec.Struct, Generic[SpecT, StatusT], frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One object of a kind. Stored, sent and shown in this form (JSON)."""

    kind: str
    """What it is: ``Stream``."""
    name: Name
    """What it is called; unique in its kind and tenant."""
    tenant: Name = DEFAULT_TENANT
    """Whose it is; names of two tenants never meet."""
    labels: dict[str, str] = {}
    """For selecting: short, indexed by nobody, yours to choose."""
    annotations: dict[str, str] = {}
    """For keeping: notes of people and programs that nothing selects by."""
    uid: str = ""
    """Unique over time: a new object of the same name has a new one."""
    generation: int = 0
    """Counts changes of ``spec``."""
    revision: int = 0
    """The Store's revision of the last change of anything here; the ETag."""
    created_at: str | None = None
    """When it was created, RFC 3339 UTC."""
    updated_at: str | None = None
    """When anything but its status changed last, RFC 3339 UTC."""
    deleting_at: str | None = None
    """When deletion was asked for; the object goes when its controller has cleaned up."""
    finalizers: tuple[str, ...] = ()
    """Who must clean up before the object goes."""
    owner: Owner | None = None
    """The resource that it belongs to and is deleted with."""
    spec: SpecT
    """What is wanted; users write it."""
    status: StatusT
    """What is so; controllers write it."""


AnyResource = Resource[Any, Any]
"""A resource whose kind is not known statically; ``spec`` and ``status`` still have their kind's types."""
