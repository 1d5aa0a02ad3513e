"""What ``platformd wait --for`` waits for, and whether it can still come."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from platformd.cli.output import lookup
from platformd.core.errors import Conflict, InvalidInput, nearest
from platformd.model.kind import Kind

FORMS = "state=STATE, created, deleted, observed, jsonpath=QUERY or jsonpath=QUERY=VALUE"


@dataclass(frozen=True)
class Condition:
    """One ``--for``."""

    text: str
    """As it was given."""
    kind: str
    """``state``, ``created``, ``deleted``, ``observed`` or ``jsonpath``."""
    states: tuple[str, ...] = ()
    """The states of which one must come."""
    query: Any = None
    """The query of ``jsonpath``."""
    value: str | None = None
    """What it must find; ``None`` for anything."""

    @classmethod
    def parse(cls, text: str) -> Condition:
        """The condition that ``text`` says.

        Raises:
            InvalidInput: it says none.
        """
        form, equals, rest = text.partition("=")
        if form in ("created", "deleted", "observed") and not equals:
            return cls(text, form)
        if form == "state" and rest:
            return cls(text, form, states=tuple(word for word in rest.split(",") if word))
        if form == "jsonpath" and rest:
            from platformd.cli.queries import Query

            query, value = _split(rest)
            return cls(text, form, query=Query(query), value=value)
        near = nearest(form, ["state", "created", "deleted", "observed", "jsonpath"])
        hint = f"did you mean {near}?" if near and near != form else f"write {FORMS}"
        raise InvalidInput("is nothing that can be waited for", subject=f"--for {text}", hint=hint)

    def check(self, kind: Kind) -> None:
        """Whether it makes sense for ``kind``.

        Raises:
            InvalidInput: the kind has no such state.
        """
        known = states_of(kind)
        for state in self.states:
            if known and state not in known:
                near = nearest(state, sorted(known))
                hint = f"did you mean {near}?" if near else f"its states are {', '.join(sorted(known))}"
                raise InvalidInput(f"a {kind.singular} is never {state}", subject=f"--for {self.text}", hint=hint)

    def holds(self, document: Mapping[str, Any] | None) -> bool:
        """Whether it is so; ``None`` for a resource that is not there."""
        if self.kind == "deleted" or document is None:
            return self.kind == "deleted" and document is None
        if self.kind == "state":
            return lookup(document, "status.state") in self.states
        if self.kind == "observed":
            return _observed(document)
        if self.kind == "jsonpath":
            from platformd.cli.queries import as_text

            found = [as_text(value) for value in self.query.found(document)]
            return bool(found) if self.value is None else self.value in found
        return True

    def check_reachable(self, kind: Kind, document: Mapping[str, Any], subject: str) -> None:
        """Whether it can still come.

        Raises:
            Conflict: no state of those that are waited for follows the one that ``document`` is in.
        """
        now = lookup(document, "status.state")
        if self.kind != "state" or not kind.transitions or now not in states_of(kind):
            return
        reachable, new = {now}, [now]
        while new:
            following = kind.transitions.get(new.pop(), frozenset()) - reachable
            reachable |= following
            new += following
        if not reachable & set(self.states):
            message = lookup(document, "status.message")
            said = f": {message}" if message else ""
            raise Conflict(f"it is {now}, after which it is never {' or '.join(self.states)}{said}", subject=subject)


def states_of(kind: Kind) -> set[str]:
    """Every state of a kind's table; empty when it has none."""
    return set(kind.transitions) | {state for following in kind.transitions.values() for state in following}


def _observed(document: Mapping[str, Any]) -> bool:
    """Whether the controller has seen the spec as it is now."""
    return bool(lookup(document, "status.observed_generation") == document.get("generation"))


def _split(text: str) -> tuple[str, str | None]:
    """A query and the value behind its last ``=`` that stands outside of brackets, braces and quotes."""
    inner = text.removeprefix("{")
    depth, quote, at = 0, "", -1
    for i, character in enumerate(inner):
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        elif character in "[(":
            depth += 1
        elif character in "])":
            depth -= 1
        elif character == "=" and depth == 0:
            at = i
            break
    query, value = (inner, None) if at < 0 else (inner[:at], inner[at + 1 :])
    return query.removesuffix("}"), value
