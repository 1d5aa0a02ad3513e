"""The errors of the platform: one small vocabulary, the same in Python, in HTTP and on the command line.

An error says what was asked, of what, why it was refused and what to do. Each class declares its
``code`` (a stable word for programs), the HTTP ``status`` and the ``exit_code`` of the command line
once; the problem+json body (RFC 9457) and the CLI line are made from the same object, and
``from_problem`` makes it an exception again on the client's side.
"""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec


class FieldError(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One thing that is wrong with an input, and where."""

    path: str
    """Where, as a dotted path from the document's root: ``spec.stages[1].filter``."""
    message: str
    """What is wrong there."""
    hint: str | None = None
    """What to do about it."""


class PlatformError(Exception):
    """The root of all errors that platformd raises on purpose.

    Args:
        message: why it was refused, one sentence.
        subject: what was asked for, as the user named it (``stream/alerts``, ``--rate``).
        hint: what to do, one sentence; ``None`` when the message already says it.
        errors: everything that is wrong with an input, at once, each with its path.
        details: further machine-readable members of the problem document.
    """

    code: ClassVar[str] = "internal"
    status: ClassVar[int] = 500
    exit_code: ClassVar[int] = 1
    title: ClassVar[str] = "Internal error"

    def __init__(
        self,
        message: str,
        *,
        subject: str | None = None,
        hint: str | None = None,
        errors: tuple[FieldError, ...] = (),
        details: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.subject = subject
        self.hint = hint
        self.errors = errors
        self.details = details or {}

    def __str__(self) -> str:
        """The command line's form: subject, message, field errors, hint."""
        lines = [f"{self.subject}: {self.message}" if self.subject else self.message]
        lines += [f"  {e.path}: {e.message}" + (f" ({e.hint})" if e.hint else "") for e in self.errors]
        if self.hint:
            lines.append(f"hint: {self.hint}")
        return "\n".join(lines)

    def to_problem(self) -> dict[str, Any]:
        """The error as an RFC 9457 problem document."""
        problem: dict[str, Any] = {
            "type": f"urn:platformd:error:{self.code}",
            "title": self.title,
            "status": self.status,
            "code": self.code,
            "detail": self.message,
        }
        if self.subject is not None:
            problem["subject"] = self.subject
        if self.hint is not None:
            problem["hint"] = self.hint
        if self.errors:
            problem["errors"] = [msgspec.to_builtins(e) for e in self.errors]
        return problem | self.details


class InvalidInput(PlatformError):
    """The request itself is wrong; the same request will be refused again."""

    code, status, exit_code, title = "invalid_input", 400, 2, "Invalid input"


class Unprocessable(PlatformError):
    """The document is well formed but says something that cannot be; ``errors`` has every path."""

    code, status, exit_code, title = "invalid_resource", 422, 2, "Invalid resource"


class KeyReused(Unprocessable):
    """An Idempotency-Key was used for another request."""

    code, title = "idempotency_key_reused", "Key reused"


class Unauthorized(PlatformError):
    """Nobody known is asking."""

    code, status, exit_code, title = "unauthorized", 401, 4, "Unauthorized"


class Forbidden(PlatformError):
    """Whoever asks may not do this."""

    code, status, exit_code, title = "forbidden", 403, 4, "Forbidden"


class NotFound(PlatformError):
    """There is no such thing."""

    code, status, exit_code, title = "not_found", 404, 3, "Not found"


class MethodNotAllowed(PlatformError):
    """The thing exists but cannot be asked to do this."""

    code, status, exit_code, title = "method_not_allowed", 405, 2, "Method not allowed"


class Conflict(PlatformError):
    """The thing is not in the state that the request assumes (it exists, it changed, it is busy)."""

    code, status, exit_code, title = "conflict", 409, 5, "Conflict"


class KeyInUse(Conflict):
    """A request with this Idempotency-Key is being carried out."""

    code = "idempotency_key_in_use"


class KeyOutcomeUnknown(Conflict):
    """The first request with this Idempotency-Key did not come to an end, or its answer was not kept."""

    code = "idempotency_outcome_unknown"


class Gone(PlatformError):
    """What was asked for has been compacted away; ``details`` names the oldest that is left."""

    code, status, exit_code, title = "gone", 410, 5, "Gone"


class PreconditionFailed(PlatformError):
    """If-Match (or an expected revision or sequence) does not hold."""

    code, status, exit_code, title = "precondition_failed", 412, 5, "Precondition failed"


class TooLarge(PlatformError):
    """Over a named limit; the message quotes the limit and what was sent."""

    code, status, exit_code, title = "too_large", 413, 2, "Too large"


class UnsupportedMediaType(PlatformError):
    """The body is in a form that this resource does not take."""

    code, status, exit_code, title = "unsupported_media_type", 415, 2, "Unsupported media type"


class LimitReached(PlatformError):
    """A bound of the system is reached; the same request may succeed later."""

    code, status, exit_code, title = "limit_reached", 429, 6, "Limit reached"


class Unsupported(PlatformError):
    """This engine or build cannot do it, by design; the message names what can."""

    code, status, exit_code, title = "unsupported", 501, 2, "Not supported"


class Unavailable(PlatformError):
    """Not now: starting, stopping, or a peer does not answer. Whether it was done is known: it was not."""

    code, status, exit_code, title = "unavailable", 503, 6, "Unavailable"


class OutcomeUnknown(PlatformError):
    """The connection was lost after the request was sent: it may or may not have been done."""

    code, status, exit_code, title = "outcome_unknown", 503, 6, "Outcome unknown"


class StorageFull(PlatformError):
    """The disk is full; nothing that was acknowledged is lost."""

    code, status, exit_code, title = "storage_full", 507, 6, "Storage full"


class Corrupted(PlatformError):
    """Stored data is damaged; the message names the file and the place, the hint the cure."""

    code, status, exit_code, title = "corrupted", 500, 7, "Data corrupted"


class DeadlineExceeded(PlatformError):
    """It took longer than the caller was ready to wait."""

    code, status, exit_code, title = "deadline_exceeded", 504, 6, "Deadline exceeded"


def _all_classes(root: type[PlatformError]) -> list[type[PlatformError]]:
    return [root, *(c for sub in root.__subclasses__() for c in _all_classes(sub))]


BY_CODE: dict[str, type[PlatformError]] = {c.code: c for c in _all_classes(PlatformError)}
"""Every error class by its code."""


def from_problem(problem: dict[str, Any]) -> PlatformError:
    """The exception that a problem document stands for; unknown codes become ``PlatformError``."""
    known = {"type", "title", "status", "code", "detail", "subject", "hint", "errors", "instance"}
    error_class = BY_CODE.get(str(problem.get("code")), PlatformError)
    try:
        fields = msgspec.convert(problem.get("errors") or [], list[FieldError])
    except msgspec.ValidationError:
        fields = []
    return error_class(
        str(problem.get("detail") or problem.get("title") or "the server gave no reason"),
        subject=problem.get("subject"),
        hint=problem.get("hint"),
        errors=tuple(fields),
        details={k: v for k, v in problem.items() if k not in known},
    )


def nearest(word: str, known: list[str]) -> str | None:
    """The known name most like ``word``, for "did you mean", or ``None``."""
    import difflib  # slow to import, and only wanted once something is already wrong

    found = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return found[0] if found else None
