"""The control client without its sockets: what to send, and what the bytes that come back mean.

The blocking and the asyncio client are thin shells around this file. A shell opens a socket to a
``Target``, sends what ``HttpConnection.send`` returns, gives what it reads to ``HttpConnection.receive``
and acts on the parts. Nothing here does I/O, waits or looks at a clock, so every rule of the protocol
(keep-alive, what may be repeated, what a lost connection means) is written and tested once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final
from urllib.parse import quote, urlencode

import h11
import msgspec

from platformd import __version__
from platformd.client.problems import problem_of
from platformd.client.target import Target as Target  # noqa: PLC0414 (both are imported from here)
from platformd.client.target import default_target as default_target  # noqa: PLC0414
from platformd.core.errors import InvalidInput, OutcomeUnknown, PlatformError, TooLarge, Unavailable
from platformd.model.resource import DEFAULT_TENANT

MAX_BODY_BYTES: Final = 64 << 20
"""The largest response body that is collected. Over it: ``TooLarge``. Watches are not collected."""

MAX_HEAD_BYTES: Final = 64 << 10
"""The largest response head. Over it the peer is not speaking our HTTP."""

HINT_NOT_RUNNING: Final = (
    "is the daemon running? start it with `platformd run`; or point --socket (PLATFORMD_SOCKET) at it"
)


def path_of(*parts: str, tenant: str = DEFAULT_TENANT) -> str:
    """The API path of ``parts`` (a plural, a name, …) in ``tenant``; each part is quoted."""
    prefix = "/v1" if tenant == DEFAULT_TENANT else f"/v1/tenants/{quote(tenant, safe='')}"
    return "/".join([prefix, *(quote(part, safe="") for part in parts)])


@dataclass(frozen=True, kw_only=True)
class Request:
    """One request, complete with its body."""

    method: str
    path: str
    """With the query string."""
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""

    @property
    def safe(self) -> bool:
        """Whether it changes nothing, so that losing its answer loses nothing."""
        return self.method in ("GET", "HEAD")

    def because(self, reason: str) -> Request:
        """The request with the reason for it, if it changes something; it stands in the history of what it changes."""
        if not reason or self.safe:
            return self
        text = " ".join(reason.split()).encode().decode("latin-1")  # as HTTP takes UTF-8 in a header
        return replace(self, headers=(*self.headers, ("platformd-reason", text)))

    @property
    def repeatable(self) -> bool:
        """Whether sending it twice gives the answer that sending it once would have given.

        DELETE and conditional writes are idempotent but not repeatable: when the first one was done, the
        second is answered 404 or 412, which would be a false report.
        """
        conditional = any(name in ("if-match", "if-none-match") for name, _ in self.headers)
        keyed = self.method == "POST" and any(name == "idempotency-key" for name, _ in self.headers)
        return self.safe or keyed or (self.method == "PUT" and not conditional)


def make_request(
    method: str,
    path: str,
    *,
    query: Mapping[str, str] | None = None,
    json: Any = None,
    body: bytes | None = None,
    content_type: str = "application/json",
    headers: Mapping[str, str] | None = None,
) -> Request:
    """A request to the control API.

    Args:
        method: as in HTTP, upper case.
        path: the quoted path, without a query.
        query: parameters; one whose value is ``""`` is sent as a bare flag (``?watch``).
        json: what to encode as the body; not together with ``body``.
        body: the raw body.
        content_type: of the body; not sent without a body.
        headers: further headers.
    """
    if json is not None:
        body = msgspec.json.encode(json)
    flags = [quote(name) for name, value in (query or {}).items() if value == ""]
    values = {name: value for name, value in (query or {}).items() if value != ""}
    parameters = "&".join(flags + ([urlencode(values, safe=",", quote_via=quote)] if values else []))
    sent = {name.lower(): value for name, value in (headers or {}).items()}
    if body is not None:
        sent.setdefault("content-type", content_type)
    if body or method in ("POST", "PUT", "PATCH"):
        sent["content-length"] = str(len(body or b""))
    sent.setdefault("accept", "application/json, application/problem+json")
    target = f"{path}?{parameters}" if parameters else path
    return Request(method=method, path=target, headers=tuple(sent.items()), body=body or b"")


@dataclass(frozen=True)
class Head:
    """The start of a response: its body follows in parts."""

    status: int
    headers: Mapping[str, str]
    """By lower-case name."""

    @property
    def media_type(self) -> str:
        """The body's media type without parameters, lower case; ``""`` when none is named."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()


class End:
    """The end of a response."""


Part = Head | bytes | End
"""What a response comes in: one head, any number of pieces of body, one end."""


@dataclass(frozen=True)
class Response:
    """A whole response."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    """By lower-case name."""
    body: bytes = b""

    def check(self) -> Response:
        """Itself, when it reports success.

        Raises:
            PlatformError: it reports a failure; the class is that of its problem document.
        """
        if self.status >= 300:
            raise problem_of(self.status, self.headers, self.body)
        return self

    def json(self) -> Any:
        """The decoded JSON body, ``None`` when there is none.

        Raises:
            PlatformError: the body is not JSON.
        """
        if not self.body:
            return None
        try:
            return msgspec.json.decode(self.body)
        except msgspec.DecodeError as error:
            raise PlatformError(f"the server's answer is not JSON: {error}") from error


class HttpConnection:
    """One HTTP/1.1 connection to ``target``, without its socket. Requests follow each other on it."""

    def __init__(self, target: Target) -> None:
        self.target = target
        token = target.credentials.read_token()
        self._own = (("authorization", f"Bearer {token}"),) if token else ()
        self._h11 = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD_BYTES)
        self._request: Request | None = None
        self.answered = False
        """Whether any byte of the current request's answer has come."""

    def send(self, request: Request) -> bytes:
        """The bytes of ``request``. The answer to the one before must have been read to its end."""
        if self._h11.our_state is h11.DONE:
            self._h11.start_next_cycle()
        self._request, self.answered = request, False
        headers = [("host", self.target.authority), ("user-agent", f"platformd/{__version__}"), *request.headers]
        if not any(name == "authorization" for name, _ in request.headers):
            headers += self._own
        try:
            encoded = [(name.encode("ascii"), value.encode("latin-1")) for name, value in headers]
            sent = self._h11.send(h11.Request(method=request.method, target=request.path, headers=encoded)) or b""
        except (h11.LocalProtocolError, UnicodeEncodeError) as error:
            raise InvalidInput(f"cannot be sent as HTTP: {error}", subject=request.path) from error
        if request.body:
            sent += self._h11.send(h11.Data(data=request.body)) or b""
        return sent + (self._h11.send(h11.EndOfMessage()) or b"")

    def receive(self, data: bytes) -> list[Part]:
        """The parts of the answer that ``data`` completes. ``b""`` says that the peer has closed.

        Raises:
            Unavailable: the peer closed before the end of the answer, or does not speak HTTP, and the
                request changes nothing.
            OutcomeUnknown: the same, and the request may have changed something.
        """
        self.answered = self.answered or bool(data)
        parts: list[Part] = []
        try:
            self._h11.receive_data(data)
            while True:
                event = self._h11.next_event()
                if isinstance(event, h11.Response):
                    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in event.headers}
                    parts.append(Head(event.status_code, headers))
                elif isinstance(event, h11.Data):
                    parts.append(bytes(event.data))
                elif isinstance(event, h11.EndOfMessage):
                    parts.append(End())
                elif not isinstance(event, h11.InformationalResponse):
                    break  # NEED_DATA, PAUSED or ConnectionClosed
        except h11.RemoteProtocolError as error:
            raise self.lost("it closed the connection" if not data else f"its answer is not HTTP: {error}") from error
        if not data and not any(isinstance(part, End) for part in parts):
            raise self.lost("it closed the connection")
        return parts

    @property
    def reusable(self) -> bool:
        """Whether another request may be sent once the current answer was read to its end."""
        return self._h11.our_state is h11.DONE and self._h11.their_state is h11.DONE

    def lost(self, reason: str) -> PlatformError:
        """The error for a connection that ends, for ``reason``, while an answer is awaited."""
        if self._request is None or self._request.safe:
            return Unavailable(f"the daemon did not answer: {reason}", subject=str(self.target), hint=HINT_NOT_RUNNING)
        return OutcomeUnknown(
            f"the answer was lost: {reason}",
            subject=f"{self._request.method} {self._request.path}",
            hint="it may or may not have been done: look (`platformd get`) before trying again",
        )


class Collector:
    """Gathers the parts of one response into a ``Response``."""

    def __init__(self, max_bytes: int = MAX_BODY_BYTES) -> None:
        self._max_bytes = max_bytes
        self._head: Head | None = None
        self._pieces: list[bytes] = []
        self._size = 0

    def add(self, part: Part) -> Response | None:
        """The response, when ``part`` was its end.

        Raises:
            TooLarge: the body is larger than ``max_bytes``.
        """
        if isinstance(part, Head):
            self._head = part
        elif isinstance(part, bytes):
            self._size += len(part)
            if self._size > self._max_bytes:
                raise TooLarge(f"the answer is larger than {self._max_bytes} bytes", hint="ask for less with a limit")
            self._pieces.append(part)
        elif self._head is not None:
            return Response(self._head.status, self._head.headers, b"".join(self._pieces))
        return None
