"""What an operation says of itself. It stands on the handler, so that nobody can add a route and forget it.

For example::

    @operation("getLease", "Leases", answers={200: Answer("The lease.", LeaseDocument)}, problems=(NotFound,))
    async def get(self, lease_id: str) -> Response:
        \"\"\"GET /v1/leases/ID: how long it has left, and what is bound to it.\"\"\"

The summary is the handler's docstring. What every operation may answer (``COMMON`` problems, the request's id) is added
by the document. A route under ``/v1/<kind:plural>`` is one operation of every kind: ``{Kind}`` and ``{Kinds}`` in its
id are the kind's name in both numbers, and ``Of`` says what of the kind goes over the wire.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any, Final, Literal, TypeVar

from platformd.core.errors import (
    Corrupted,
    Forbidden,
    InvalidInput,
    LimitReached,
    OutcomeUnknown,
    PlatformError,
    Unauthorized,
    Unavailable,
)

JSON: Final = "application/json"
COMMON: Final = (
    InvalidInput,
    Unauthorized,
    Forbidden,
    LimitReached,
    PlatformError,
    Corrupted,
    Unavailable,
    OutcomeUnknown,
)
"""What any operation may be answered with."""


class Of(Enum):
    """A part of the kind that a route is about; for each kind another schema."""

    RESOURCE = auto()
    """A resource as it is."""
    WRITTEN = auto()
    """A resource as a write left it, or with ``report`` the report of the write."""
    PAGE = auto()
    """A page of a listing."""
    NEW = auto()
    """What a client sends to make one: it says its name."""
    WANTED = auto()
    """What a client sends of one whose name is in the path."""
    PATCH = auto()
    """A merge patch."""


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """A parameter of the query or a header."""

    name: str
    description: str
    schema: Any = str
    """A type, or a JSON Schema."""
    where: Literal["query", "header"] = "query"
    flag: bool = False
    """Whether it may stand without a value."""
    required: bool = False


@dataclass(frozen=True)
class Answer:
    """A response that is no problem."""

    description: str
    schema: Any = None
    """A type, a JSON Schema or an ``Of``; ``None`` when there is no body."""
    media_types: tuple[str, ...] = (JSON,)
    also: Mapping[str, Any] = field(default_factory=dict)
    """Further forms, by media type."""
    headers: tuple[str, ...] = ()
    """Of ``parameters.HEADERS``."""
    example: Any = None


@dataclass(frozen=True)
class Body:
    """What a request carries."""

    schema: Any
    media_types: tuple[str, ...] = (JSON,)
    also: Mapping[str, Any] = field(default_factory=dict)
    example: Any = None
    required: bool = True


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One declared operation."""

    id: str
    tag: str
    summary: str
    description: str
    answers: Mapping[int, Answer]
    parameters: tuple[Parameter, ...]
    path: Mapping[str, Any]
    """Types of the variables in the path that are not the usual ones of their name."""
    body: Body | None
    problems: tuple[type[PlatformError], ...]
    repeatable: bool
    """Whether a POST takes an Idempotency-Key: not if its answer is too much to be kept, or is taken away by it."""


H = TypeVar("H", bound=Callable[..., Any])

_DOCSTRING = re.compile(
    r"^[A-Z]+ \S+(?: ``.*?``(?: or ``.*?``)*)?: (?P<summary>.*?[.](?=\s|$))\s*(?P<rest>.*)$", re.DOTALL
)


def operation(
    operation_id: str,
    tag: str,
    *,
    answers: Mapping[int, Answer],
    parameters: tuple[Parameter, ...] = (),
    path: Mapping[str, Any] | None = None,
    body: Body | None = None,
    problems: tuple[type[PlatformError], ...] = (),
    repeatable: bool = True,
) -> Callable[[H], H]:
    """Declare what a handler does; its docstring begins with the method and the path, then a colon.

    Args:
        operation_id: a verb and a noun, camelCase.
        tag: the group in which it is shown.
        answers: the responses that are no problem, by status.
        parameters: of the query and the header.
        path: types of variables in the path.
        body: what the request carries.
        problems: what it may be refused with, beside ``COMMON``.
        repeatable: whether it takes an Idempotency-Key when it is a POST.
    """

    def declare(handler: H) -> H:
        match = _DOCSTRING.match(inspect.cleandoc(handler.__doc__ or ""))
        if match is None:
            raise ValueError(f"the docstring of {handler.__qualname__} does not begin with METHOD PATH: SUMMARY.")
        summary = " ".join(match["summary"].replace("``", "`").split())
        declared = Operation(
            id=operation_id,
            tag=tag,
            summary=summary[0].upper() + summary[1:],
            description=match["rest"].replace("``", "`").strip(),
            answers=answers,
            parameters=parameters,
            path=path or {},
            body=body,
            problems=problems,
            repeatable=repeatable,
        )
        handler.operation = declared  # type: ignore[attr-defined]
        return handler

    return declare


def declaration(handler: Callable[..., Any]) -> Operation | None:
    """What ``handler`` declares; ``None`` if it does not."""
    found: Operation | None = getattr(inspect.unwrap(handler), "operation", None)
    return found
