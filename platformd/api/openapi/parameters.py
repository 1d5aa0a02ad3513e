"""What several routes have in common: parameters of the query, headers both ways, variables of paths."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

import msgspec

from platformd.api.openapi.declared import Answer, Parameter
from platformd.core.errors import (
    Conflict,
    DeadlineExceeded,
    NotFound,
    PreconditionFailed,
    StorageFull,
    TooLarge,
    Unprocessable,
    UnsupportedMediaType,
)
from platformd.core.quantities import Duration
from platformd.model.resource import Name
from platformd.queues.contract import Durability

BYTES: Final = "application/octet-stream"
ANYTHING: Final = "*/*"
"""The body is taken as it is, whatever it says it is."""
BODY_PROBLEMS: Final = (TooLarge, DeadlineExceeded, UnsupportedMediaType, Unprocessable)
"""What a request with a document may be refused with."""
WRITE_PROBLEMS: Final = (StorageFull, TooLarge)
"""What a write may be refused with."""
PUBLISH_PROBLEMS: Final = (NotFound, Conflict, PreconditionFailed, Unprocessable, DeadlineExceeded, *WRITE_PROBLEMS)
"""What publishing may be refused with."""
STREAM_NAME: Final = {"name": Annotated[str, msgspec.Meta(min_length=1, description="The name of the stream.")]}

MAX_REVISION: Final = 10**18 - 1
"""What a parameter can say; a store never comes so far."""
Revision = Annotated[int, msgspec.Meta(ge=0, le=MAX_REVISION)]
ETag: Final = {"type": "string", "pattern": r'^"[0-9]{1,18}"$', "examples": ['"42"']}
"""Of what has a revision."""

CURSOR: Final = Parameter(name="cursor", description="Go on where the page ended that had this cursor.")
LABEL: Final = Parameter(
    name="label",
    description="Only resources whose labels match: `a=b`, `a!=b`, `a`, `!a`, with commas between.",
)
FIELD: Final = Parameter(
    name="field",
    description="Only resources whose fields match: `status.state=failed,spec.zone!=north`, with commas between.",
)
SORT: Final = Parameter(
    name="sort", description="The path of a field to sort by, `status.bytes`; `-status.bytes` for the other way round."
)
REPORT: Final = Parameter(
    name="report",
    description="Answer with what was done: the outcome, the fields that changed, and what goes with it.",
    schema=bool,
    flag=True,
)
CASCADE: Final = Parameter(
    name="cascade",
    description="What becomes of what belongs to it: `background` deletes it too, soon after; `orphan` leaves it.",
    schema=Literal["background", "orphan"],
)
DRY_RUN: Final = Parameter(
    name="dry_run", description="Validate and answer as usual, but write nothing.", schema=bool, flag=True
)
WATCH: Final = Parameter(
    name="watch",
    description="Answer with a stream of server-sent events that does not end; over a WebSocket the same as messages.",
    schema=bool,
    flag=True,
)
AFTER: Final = Parameter(
    name="after",
    description="With `watch` or `wait`: only what happened after this revision.",
    schema=Revision,
)
REVISION: Final = Parameter(
    name="revision", description="As it was at this revision; 0 for as it is now.", schema=Revision
)
ENCODING: Final = Parameter(
    name="encoding",
    description="How the key is written in the path or in `prefix`.",
    schema=Literal["utf-8", "base64"],
)
SUBJECT: Final = Parameter(name="subject", description="The subject of records that do not say their own.")
PATTERN: Final = Parameter(name="subject", description="Only records whose subject matches.")
DURABILITY: Final = Parameter(
    name="durability", description="What the answer waits for; `fsync` when it does not say.", schema=Durability
)
EXPECT_LAST: Final = Parameter(
    name="expect_last_sequence", description="Only if this is the last sequence of the stream.", schema=Revision
)
EXPECT_LAST_SUBJECT: Final = Parameter(
    name="expect_last_subject_sequence",
    description="Only if this is the last sequence of the record's subject.",
    schema=Revision,
)

WAIT: Final = Parameter(
    name="wait",
    description="With `after`: a long poll, answered when there is something newer, or after this, at most `600s`.",
    schema=Duration,
)
IF_MATCH: Final = Parameter(
    name="If-Match",
    where="header",
    description='Only if this is its ETag (`"42"`), or `*`: only if it is there. Else 412.',
    schema={"type": "string", "pattern": r'^(\*|"[0-9]{1,18}")$', "examples": ["*", '"42"']},
)
IF_NONE_MATCH_ANY: Final = Parameter(
    name="If-None-Match",
    where="header",
    description="`*`: only if it is not there yet. Else 412.",
    schema={"type": "string", "const": "*"},
)
IF_NONE_MATCH: Final = Parameter(
    name="If-None-Match",
    where="header",
    description="The ETag of what the client has: answered with 304 and nothing else when that is still so.",
    schema={"type": "string", "examples": ['"42"']},
)
IF_NONE_MATCH_TEXT: Final = Parameter(
    name="If-None-Match", where="header", description="The ETag of what the client has, as it was sent.", schema=str
)
IDEMPOTENCY_KEY: Final = Parameter(
    name="Idempotency-Key",
    where="header",
    description="A key of this request: sent again with it, it is answered again and not done again.",
    schema={"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[ -~]+$"},
)
LAST_EVENT_ID: Final = Parameter(
    name="Last-Event-ID",
    where="header",
    description="With `watch`: the id of the last event that the client has, to go on after it.",
    schema={"type": "string", "examples": ["42"]},
)
WATCHING: Final = (WATCH, AFTER, LAST_EVENT_ID)
"""What a watch of anything with revisions may be told."""

EVENT: Final = {
    "type": "object",
    "properties": {
        "event": {"type": "string", "description": "What happened, or `bookmark`, or `error`, which is the last."},
        "id": {"type": "string", "description": "To go on after: `after` or Last-Event-ID."},
        "data": {"type": "string", "contentMediaType": "application/json"},
    },
}
"""One of the server-sent events of a watch."""
EVENTS: Final = {"text/event-stream": EVENT}
"""The further form of an answer that can be watched."""
NOT_MODIFIED: Final = Answer("The client has it already.", headers=("ETag",))

HEADERS: Final[dict[str, dict[str, Any]]] = {
    "ETag": {
        "description": "The revision, in quotes; for If-Match and If-None-Match.",
        "schema": {"type": "string", "pattern": '^"[0-9a-f]+"$'},
    },
    "Location": {"description": "Where it is.", "schema": {"type": "string"}},
    "Platformd-Outcome": {
        "description": "What was done.",
        "schema": {"type": "string", "enum": ["created", "configured", "unchanged"]},
    },
    "Platformd-Create-Revision": {"description": "When the key was made.", "schema": {"type": "string"}},
    "Platformd-Version": {"description": "Which change of the key this is.", "schema": {"type": "string"}},
    "Platformd-Lease": {"description": "The lease that it goes with.", "schema": {"type": "string"}},
    "Platformd-Revision": {"description": "Which revision the copy is of.", "schema": {"type": "string"}},
    "Repr-Digest": {"description": "The SHA-256 of the copy (RFC 9530).", "schema": {"type": "string"}},
    "X-Request-Id": {
        "description": "The id of the request: the client's own, or one that was made for it.",
        "schema": {"type": "string"},
    },
    "Retry-After": {"description": "Seconds after which to ask again.", "schema": {"type": "string"}},
    "Allow": {"description": "What the path can be asked to.", "schema": {"type": "string"}},
}
"""Headers of responses."""

PATH: Final[dict[str, tuple[Any, str]]] = {
    "tenant": (Name, "Whose: the name of a tenant."),
    "name": (Name, "The name of the resource."),
    "word": (str, "The name of a kind, its plural or an alias, in any case."),
    "action": (str, "The name of the action."),
    "consumer": (Annotated[str, msgspec.Meta(min_length=1)], "The name of the consumer."),
    "key": (Annotated[str, msgspec.Meta(min_length=1)], "The key; slashes may stand as they are."),
    "lease_id": (Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{1,16}$")], "The id of the lease, hexadecimal."),
}
"""The types of variables in paths, and what they are."""


def limit(default: int, maximum: int) -> Parameter:
    """``limit`` of a route with these bounds."""
    return bounded("limit", "How many at most.", default, maximum)


def bounded(name: str, description: str, default: int, maximum: int) -> Parameter:
    """A number from 1 to ``maximum``."""
    schema = {"type": "integer", "minimum": 1, "maximum": maximum, "default": default}
    return Parameter(name=name, description=description, schema=schema)


def wait(maximum: float, description: str) -> Parameter:
    """``wait`` of a route with this bound, seconds."""
    return Parameter(name="wait", description=f"{description} At most `{maximum:g}s`.", schema=Duration)
