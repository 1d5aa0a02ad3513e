"""The declaration of a kind: the one place that all faces read.

``KINDS`` is filled by the modules of this package; see ``platformd.model.kinds``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import msgspec

from platformd.core.errors import FieldError
from platformd.model.resource import AnyResource, Resource, Status, Struct

Check = Callable[[Any], list[FieldError]]
"""A rule that a spec must satisfy beyond its types: takes the spec, returns what is wrong with it, each
path starting with ``spec``."""

Subjects = Callable[[Any], Iterable[tuple[str, str]]]
"""The subjects and patterns that a spec captures, reads or publishes to, each after its path: what a tenant's
principals may only name below their tenant."""


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column of a kind's table."""

    title: str
    """Upper case, no spaces, as it is printed."""
    path: str
    """Dotted path into the resource: ``status.messages``."""
    format: str = "text"
    """How the value is shown: text, bytes, count, rate, percent, seconds, age."""
    wide: bool = False
    """Only shown with ``-o wide``."""


class NoParameters(Struct, frozen=True, kw_only=True):
    """Nothing to say: ``{}``."""


@dataclass(frozen=True, kw_only=True)
class Action:
    """Something that a kind's resources can be told to do, beyond being changed and deleted.

    It is one function in the kind's room, which ``Conductor.actions`` is given; the faces make their routes and
    commands from this declaration.
    """

    name: str
    """A verb, as in URLs: ``purge``."""
    summary: str
    """One sentence: what it does."""
    parameters: type[Struct] = NoParameters
    """What it takes; each field with a docstring."""
    result: type[Struct] | None = None
    """What it answers; ``None``: the resource as it is then."""
    destructive: bool = False
    """Whether it takes away what cannot be had back, so that a face asks first."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """Everything the faces need to know of a kind."""

    name: str
    """Singular, CamelCase: ``Stream``."""
    plural: str
    """As in URLs: ``streams``."""
    summary: str
    """One sentence: what it is for."""
    spec: type[Struct]
    """What users write."""
    status: type[Status]
    """What controllers write."""
    columns: tuple[Column, ...] = ()
    """Between NAME and AGE, which every kind has."""
    transitions: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """state → the states that may follow. A kind without a table has free states."""
    checks: tuple[Check, ...] = ()
    """Rules over the whole spec; all of them run, so that all errors are said at once. Each one's docstring says the
    rule to users."""
    actions: tuple[Action, ...] = ()
    """Verbs beyond create, change and delete."""
    example: Mapping[str, Any] = field(default_factory=dict)
    """A spec as a user would write it, valid."""
    finalizer: str | None = None
    """The controller that must clean up before a deleted object goes; set on creation."""
    aliases: tuple[str, ...] = ()
    """Short names for the command line."""
    filters: Mapping[str, str] = field(default_factory=dict)
    """Parameters of its listings and watches that select by a field: the name, and the field's path."""
    recorded: bool = True
    """Whether its changes are kept in history and its resources count against quotas; not those that the platform makes
    by itself, in numbers."""
    facility: bool = False
    """Whether its resources are the whole facility's, whatever tenant they name: see ``platformd.model.access``."""
    granted: bool = False
    """Whether its resources are what a tenant is given or told: its principals read them, and do not write them."""
    subjects: Subjects = lambda _: ()
    """What a spec says of subjects."""

    @cached_property
    def resource_type(self) -> Any:
        """The typed envelope, for decoding."""
        return Resource[self.spec, self.status]  # type: ignore[name-defined]

    def whose(self, tenant: str, operation: str) -> str | None:
        """Whose its resources in ``tenant`` are to ``operation``: the tenant's, or ``None``, the facility's."""
        return None if self.facility or (self.granted and operation != "resources.read") else tenant

    @cached_property
    def from_json(self) -> Callable[[bytes], AnyResource]:
        """Decodes a resource; made once, for making it costs more than decoding one."""
        decode: Callable[[bytes], AnyResource] = msgspec.json.Decoder(self.resource_type).decode
        return decode

    @property
    def singular(self) -> str:
        """Lower case, as in ``stream/alerts``."""
        return self.name.lower()


def subject_of(resource: AnyResource) -> str:
    """How a resource is named in errors and by the command line: ``stream/alerts``."""
    return f"{resource.kind.lower()}/{resource.name}"
