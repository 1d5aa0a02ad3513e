"""Actions: what resources can be told to do beyond being changed and deleted.

A kind declares them (``platformd.model.kind.Action``); its room says here which function does each.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from platformd.conductor.validation import validate
from platformd.core.errors import NotFound, Unprocessable, Unsupported, nearest
from platformd.model.kind import Action, Kind, subject_of
from platformd.model.resource import AnyResource, Struct

Perform = Callable[[AnyResource, Any], Awaitable[Struct | None]]
"""Does an action: takes the resource and the parameters, in the type that the action declares; returns the declared
result, or ``None`` when it has none."""

Find = Callable[[Kind, str, str], Awaitable[AnyResource]]


class Actions:
    """The actions of all kinds.

    Args:
        find: gets a resource by kind, name and tenant.
    """

    def __init__(self, find: Find) -> None:
        self._find = find
        self._performers: dict[tuple[str, str], Perform] = {}

    def register(self, kind: Kind, name: str, perform: Perform) -> None:
        """From now on ``perform`` does the action ``name`` of ``kind``.

        Raises:
            NotFound: the kind declares no such action.
        """
        self.declared(kind, name)
        self._performers[kind.name, name] = perform

    def declared(self, kind: Kind, name: str) -> Action:
        """The declaration of an action.

        Raises:
            NotFound: there is none; the hint names those that there are.
        """
        known = {action.name: action for action in kind.actions}
        if name not in known:
            near = nearest(name, list(known))
            there = f"there are: {', '.join(known)}" if known else f"{kind.plural} have none"
            hint = f"did you mean {near}?" if near else there
            raise NotFound("there is no such action", subject=f"{kind.singular} action {name!r}", hint=hint)
        return known[name]

    async def perform(self, kind: Kind, name: str, tenant: str, action: str, parameters: Any) -> Struct | AnyResource:
        """Do it.

        Args:
            kind: the resource's kind.
            name: the resource's name.
            tenant: whose it is.
            action: the action's name.
            parameters: builtin types.

        Returns:
            What the action answers, or the resource as it is afterwards.

        Raises:
            NotFound: the resource or the action is not there.
            Unprocessable: ``errors`` has everything that is wrong with the parameters.
            Unsupported: nothing in this daemon does it.
        """
        declared = self.declared(kind, action)
        resource = await self._find(kind, name, tenant)
        given, errors = validate({} if parameters is None else parameters, declared.parameters, "")
        if errors:
            raise Unprocessable(f"cannot {action} like that", subject=subject_of(resource), errors=tuple(errors))
        performer = self._performers.get((kind.name, action))
        if performer is None:
            raise Unsupported(f"nothing in this daemon can {action} it", subject=subject_of(resource))
        result = await performer(resource, given)
        return result if result is not None else await self._find(kind, name, tenant)
