"""Quota: how much a tenant may have, in numbers of resources and in sums over their fields."""

from __future__ import annotations

from typing import Annotated

import msgspec

from platformd.core.errors import FieldError
from platformd.core.quantities import Size
from platformd.model.kind import Column, Kind
from platformd.model.resource import Status, Struct


class Limit(Struct, frozen=True, kw_only=True):
    """What the resources of one kind may come to, all of the tenant's together."""

    kind: str
    """The kind: ``Stream``."""
    count: Annotated[int, msgspec.Meta(ge=0)] | None = None
    """How many there may be; left out for any number."""
    sums: dict[str, Annotated[int, msgspec.Meta(ge=0)] | Size] = {}
    """What a field may come to, by its path: ``{"spec.max_bytes": "10GiB"}``. A field that is 0 has no limit of its
    own, and a resource is not written with one."""


class QuotaSpec(Struct, frozen=True, kw_only=True):
    """What a tenant may have. All quotas of a tenant hold together; what is there already stays."""

    limits: Annotated[tuple[Limit, ...], msgspec.Meta(min_length=1, max_length=64)]
    """One for each kind that is limited."""


class Usage(Struct, frozen=True, kw_only=True):
    """What the resources of one kind come to."""

    kind: str
    """The kind."""
    count: int = 0
    """How many there are."""
    sums: dict[str, int] = {}
    """What each limited field comes to; sizes in bytes."""


class QuotaStatus(Status, frozen=True, kw_only=True):
    """``within``, or ``exceeded`` when there was more before the quota came."""

    used: tuple[Usage, ...] = ()
    """What is used, in the order of the limits."""


def _check_limits(spec: QuotaSpec) -> list[FieldError]:
    """Each kind is limited once, and each limit limits something."""
    errors = []
    first: dict[str, int] = {}
    for i, limit in enumerate(spec.limits):
        if first.setdefault(limit.kind, i) != i:
            message = f"{limit.kind} is limits[{first[limit.kind]}] too"
            errors.append(FieldError(path=f"spec.limits[{i}].kind", message=message, hint="say it in one"))
        if limit.count is None and not limit.sums:
            errors.append(FieldError(path=f"spec.limits[{i}]", message="limits nothing", hint="give count or sums"))
    return errors


QUOTA = Kind(
    name="Quota",
    plural="quotas",
    summary="How much a tenant may have.",
    spec=QuotaSpec,
    status=QuotaStatus,
    aliases=("qt",),
    granted=True,
    checks=(_check_limits,),
    example={"limits": [{"kind": "Stream", "count": 20, "sums": {"spec.max_bytes": "100GiB"}}]},
    columns=(
        Column(title="STATE", path="status.state"),
        Column(title="MESSAGE", path="status.message"),
    ),
)
