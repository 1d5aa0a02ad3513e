"""Quotas: what a tenant's resources may come to, held when they are written.

The rule sums over the tenant's resources of the kind and lets the write through only if nothing came to them and no
quota changed until it is done (``Writer.marks``): two writes at once cannot both take the last place.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Never

import trio

from platformd.conductor.conductor import Conductor
from platformd.conductor.facts import Change
from platformd.conductor.reconcile import Key, run_controller
from platformd.conductor.selector import check_path, value_at
from platformd.conductor.writing import Step
from platformd.coordination.contract import Compare
from platformd.core.errors import FieldError, InvalidInput, LimitReached, NotFound
from platformd.core.quantities import size_bytes
from platformd.model.kind import Check, Kind, subject_of
from platformd.model.quota import QUOTA, Limit, QuotaSpec, QuotaStatus, Usage
from platformd.model.resource import AnyResource


def check_kinds(kinds: Sequence[Kind]) -> Check:
    """The rule that quotas name kinds and fields that there are."""
    known = {kind.name: kind for kind in kinds if kind.recorded and kind is not QUOTA}

    def check(spec: QuotaSpec) -> list[FieldError]:
        """The kinds and the fields of the limits exist."""
        errors = []
        for i, limit in enumerate(spec.limits):
            kind = known.get(limit.kind)
            if kind is None:
                hint = f"one of: {', '.join(known)}"
                errors.append(FieldError(path=f"spec.limits[{i}].kind", message="is no kind", hint=hint))
                continue
            for path in limit.sums:
                try:
                    check_path(kind, path, "sums")
                except InvalidInput as error:
                    errors.append(FieldError(path=f"spec.limits[{i}].sums", message=error.message, hint=error.hint))
        return errors

    return check


class Quotas:
    """The rule, for ``Conductor.rule``."""

    def __init__(self, conductor: Conductor) -> None:
        self._conductor = conductor

    def stand_guard(self) -> None:
        """From now on, hold the conductor's writes to the quotas."""
        self._conductor.rule(self.check)

    async def check(self, steps: Sequence[Step]) -> Sequence[Compare]:
        """See that what is written is within the quotas of its tenant.

        Raises:
            LimitReached: it is not; the message quotes the limit, and what is used and asked.
        """
        grown = {(step.kind.name, step.wanted.tenant): step.kind for step in steps if _may_grow(step) and step.wanted}
        compares: list[Compare] = []
        for tenant in dict.fromkeys(tenant for _, tenant in grown):
            compares += await self._conductor.writer.marks([(QUOTA.name, tenant)])
            quotas = (await self._conductor.list(QUOTA, tenant)).items
            for kind in [kind for (_, whose), kind in grown.items() if whose == tenant]:
                limits = [(quota, limit) for quota in quotas for limit in quota.spec.limits if limit.kind == kind.name]
                if not limits:
                    continue
                compares += await self._conductor.writer.marks([(kind.name, tenant)])
                there = (await self._conductor.list(kind, tenant)).items
                _hold_all(limits, there, [step for step in steps if step.kind is kind], tenant)
        return compares


def _may_grow(step: Step) -> bool:
    """Whether a step can use more: a new resource, or another spec."""
    before, wanted = step.seen.resource, step.wanted
    if not step.kind.recorded or step.kind is QUOTA or wanted is None:
        return False
    return before is None or before.spec != wanted.spec


def _hold_all(
    limits: Sequence[tuple[AnyResource, Limit]], there: Sequence[AnyResource], steps: Sequence[Step], tenant: str
) -> None:
    written = {s.wanted.name: s.wanted for s in steps if s.wanted is not None and s.wanted.tenant == tenant}
    gone = {s.seen.resource.name for s in steps if s.wanted is None and s.seen.resource is not None}
    after = {r.name: r for r in there if r.name not in gone} | written
    for quota, limit in limits:
        for path in limit.sums:
            _check_bounded(quota, path, written.values())
        was, becomes = usage(limit, there), usage(limit, after.values())
        if limit.count is not None and becomes.count > max(limit.count, was.count):
            raise _exceeded(quota, limit, "count", limit.count, was.count, becomes.count)
        for path, most in limit.sums.items():
            if becomes.sums[path] > max(_number(most), was.sums[path]):
                raise _exceeded(quota, limit, path, _number(most), was.sums[path], becomes.sums[path])


def _check_bounded(quota: AnyResource, path: str, written: Iterable[AnyResource]) -> None:
    for resource in written:
        if _number(value_at(resource, path)) == 0:
            message = f"{path} must have a limit of its own under a quota, and 0 is none"
            raise LimitReached(message, subject=subject_of(resource), hint=f"{subject_of(quota)} limits its sum")


def _exceeded(quota: AnyResource, limit: Limit, what: str, most: int, used: int, asked: int) -> LimitReached:
    details = {"quota": quota.name, "kind": limit.kind, "field": what, "limit": most, "used": used, "asked": asked}
    message = f"the tenant's {limit.kind} resources would come to {what} {asked}; the limit is {most}, {used} are used"
    hint = "delete some, ask for less, or raise the quota"
    return LimitReached(message, subject=subject_of(quota), hint=hint, details=details)


def usage(limit: Limit, resources: Iterable[AnyResource]) -> Usage:
    """What ``resources`` come to."""
    items = list(resources)
    sums = {path: sum(_number(value_at(r, path)) for r in items) for path in limit.sums}
    return Usage(kind=limit.kind, count=len(items), sums=sums)


def _number(value: object) -> int:
    """A field's value as a number: sizes in bytes; a list's together; what is no number is 0."""
    if isinstance(value, tuple | list):
        return sum(_number(item) for item in value)
    if isinstance(value, bool | int | float):
        return int(value)
    try:
        return size_bytes(value) if isinstance(value, str) else 0
    except InvalidInput:
        return 0


async def run(conductor: Conductor, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> Never:
    """Keep the statuses of quotas. Started when all are known."""

    async def reconcile(quota: AnyResource) -> float | None:
        used = []
        over = []
        for limit in quota.spec.limits:
            kind = conductor.kind_named(limit.kind)
            if kind is None:
                raise NotFound("there is no such kind", subject=limit.kind)
            found = usage(limit, (await conductor.list(kind, quota.tenant)).items)
            used.append(found)
            over += [f"{limit.kind} count"] if limit.count is not None and found.count > limit.count else []
            over += [f"{limit.kind} {path}" for path, most in limit.sums.items() if found.sums[path] > _number(most)]
        status = QuotaStatus(
            state="exceeded" if over else "within",
            reason="OverLimit" if over else "",
            message=f"over the limit: {', '.join(over)}" if over else "",
            observed_generation=quota.generation,
            used=tuple(used),
        )
        await conductor.set_status(quota, status)
        return None

    of_tenant: dict[str, set[str]] = {}

    def quotas_of(change: Change) -> Sequence[Key]:
        tenant = change.resource.tenant
        return [Key(QUOTA.name, tenant, name) for name in of_tenant.get(tenant, ())]

    async def noting(quota: AnyResource) -> float | None:
        of_tenant.setdefault(quota.tenant, set()).add(quota.name)
        return await reconcile(quota)

    related = {kind.name: quotas_of for kind in conductor.kinds if kind.recorded and kind is not QUOTA}
    await run_controller(conductor, QUOTA, noting, related=related, task_status=task_status)
