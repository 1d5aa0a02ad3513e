"""What a response that reports a failure means, as an exception."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus

import msgspec

from platformd.core.errors import BY_CODE, PlatformError, from_problem

MAX_QUOTED = 200
"""Characters of a foreign error body that are quoted in the message."""

_BY_STATUS: dict[int, type[PlatformError]] = {}
for _error_class in BY_CODE.values():
    _BY_STATUS.setdefault(_error_class.status, _error_class)


def problem_of(status: int, headers: Mapping[str, str], body: bytes) -> PlatformError:
    """The exception for a response of ``status``.

    A problem document becomes the class that its ``code`` names, or, when this version does not know the
    code, the class of its status. Anything else (a proxy's HTML page, a crash's traceback) becomes the
    class of the status, with the start of the text quoted.
    """
    media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type in ("application/problem+json", "application/json"):
        try:
            problem = msgspec.json.decode(body, type=dict)
        except (msgspec.DecodeError, msgspec.ValidationError):
            problem = {}
        if problem:
            return _known(status, problem)
    text = body.decode("utf-8", "replace").strip()
    quoted = text[:MAX_QUOTED] + ("…" if len(text) > MAX_QUOTED else "")
    reason = HTTPStatus(status).phrase if status in {s.value for s in HTTPStatus} else "unknown status"
    return _BY_STATUS.get(status, PlatformError)(
        f"the server answered {status} {reason}" + (f": {quoted}" if quoted else ""),
        hint="the answer is not platformd's: is this the right address?",
    )


def _known(status: int, problem: dict[str, object]) -> PlatformError:
    if problem.get("code") not in BY_CODE and status in _BY_STATUS:
        problem = problem | {"code": _BY_STATUS[status].code}
    return from_problem(problem)
