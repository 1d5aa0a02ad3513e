"""Who asks over HTTP, and whether the route may be asked by them.

Whoever shows a token is who the token says, on the Unix socket too. Else the kernel says who is on the Unix socket, and
over TLS the client's certificate; over TCP without either, whoever asks is what ``access.loopback`` says. What a route
does stands beside it (``needs``), and is looked up in the one table of ``platformd.model.access`` before the route is
entered. Routes of keys, leases and locks get a store that refuses by key: ``platformd.access.guarded``.

On TCP everybody on this machine is equal before a token is shown, so other machines' web pages are kept out all the
same: a page whose name was pointed at 127.0.0.1 (DNS rebinding) is known by its Host, a page that sends forms, fetches
across origins or opens a WebSocket by its Origin. An Origin must be this very server: another page of this machine,
such as a notebook, is not the one that was asked to control it.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Final, Literal, TypeVar

import trio
from quart import g
from quart_trio import QuartTrio

from platformd.access import Gate, guarded
from platformd.access.guarded import Family
from platformd.api.asked import asked
from platformd.conductor.actor import set_acting
from platformd.conductor.streams import engine_name
from platformd.conductor.writing import Step
from platformd.coordination.contract import Compare, Store
from platformd.core.errors import FieldError, Forbidden, PlatformError, Unauthorized, Unprocessable
from platformd.core.peers import PeerCredentials
from platformd.model.access import NOBODY, Principal, allowed, check, may_name, refusal, stream_tenant
from platformd.model.kind import Kind, subject_of
from platformd.model.kinds import BY_PLURAL
from platformd.model.resource import DEFAULT_TENANT, AnyResource

Of = Literal["tenant", "keys", "facility"]
"""Whose what a route is about is: the tenant's in its path, whoever's the keys are, nobody's."""

_OF: Final[dict[str, Of]] = {
    "resources": "tenant",
    "streams": "tenant",
    "kv": "keys",
    "leases": "keys",
    "locks": "keys",
}
"""By the first word of the operation; everything else is the facility's."""

REASON: Final = "Platformd-Reason"
"""The request's header that says why; it stands in the history."""

UNDECLARED: Final = "access.manage"
"""What a route without a declaration asks for: it stays shut to all but admins. A test refuses such routes."""

View = TypeVar("View", bound=Callable[..., Any])


def needs(operation: str, of: Of | None = None) -> Callable[[View], View]:
    """Declare what a route does, beside it.

    Args:
        operation: its name in ``platformd.model.access.TABLE``.
        of: whose the thing is, where the operation's first word does not say it.
    """

    def declare(view: View) -> View:
        view.platformd_access = (operation, of or _OF.get(operation.partition(".")[0], "facility"))  # type: ignore[attr-defined]
        return view

    return declare


def declared(view: Callable[..., Any] | None) -> tuple[str, Of] | None:
    """What ``needs`` said of a route; ``None`` if it has not been said."""
    found: tuple[str, Of] | None = getattr(view, "platformd_access", None)
    return found


def peer() -> PeerCredentials | None:
    """Who is at the other end of the Unix socket; ``None`` over TCP."""
    found: PeerCredentials | None = asked.scope.get("state", {}).get("peercred")
    return found


def principal() -> Principal:
    """Who asks."""
    found: Principal = g.get("principal", NOBODY)
    return found


def ended() -> Callable[[], Awaitable[None]]:
    """What waits until whoever asks is not let in any more: their token was revoked, or has expired."""
    found: Callable[[], Awaitable[None]] = g.get("ended", trio.sleep_forever)
    return found


def allowed_store(store: Store, family: Family = "kv") -> Store:
    """``store`` as far as whoever asks may touch it."""
    return guarded(store, principal(), family)


def address() -> str:
    """Where the request comes from, for the audit."""
    credentials = peer()
    return f"unix:{credentials.pid}" if credentials is not None else str(asked.remote_addr)


class Access:
    """The check before each request.

    Args:
        app: whose routes they are.
        gate: who is who.
        origins: whose pages may ask.
    """

    def __init__(self, app: QuartTrio, gate: Gate, origins: frozenset[str] = frozenset()) -> None:
        self._app, self._gate, self._origins = app, gate, origins

    def check(self) -> None:
        """Find out who asks, and refuse the request if they may not make it.

        Raises:
            Unauthorized: nobody known asks, or a token is wrong.
            Forbidden: they may not, or a foreign page asks.
            LimitReached: too many wrong tokens came from there.
        """
        credentials = peer()
        if credentials is None:
            _check_names(self._origins, loopback=_over_loopback())
        g.principal = NOBODY
        g.principal = self._who(credentials)
        reason = asked.headers.get(REASON, "")  # HTTP's headers are bytes; ours are UTF-8
        set_acting(g.principal.name, reason.encode("latin-1", "replace").decode("utf-8", "replace"))
        rule = asked.url_rule
        if rule is None or asked.method == "OPTIONS":
            # What there is not, and what a path can be asked, is for all to know who may know anything.
            check(g.principal, "status.read", None, asked.path)
            return
        operation, of = declared(self._app.view_functions.get(rule.endpoint)) or (UNDECLARED, "facility")
        if of == "keys":
            self._check_any(operation)
        else:
            whose = _tenant(operation) if of == "tenant" else None
            check(g.principal, operation, whose, f"{asked.method} {asked.path}")

    def _who(self, credentials: PeerCredentials | None) -> Principal:
        shown = asked.headers.get("Authorization")
        if shown is not None:
            scheme, _, secret = shown.strip().partition(" ")
            if scheme.lower() != "bearer":
                raise Unauthorized("only bearer tokens are taken", subject=asked.path, hint="Authorization: Bearer …")
            who = self._gate.token(secret.strip(), address())
            g.ended = partial(self._gate.wait_ended, secret.strip())
            return who
        if credentials is not None:
            return self._gate.peer(credentials)
        names = asked.scope.get("state", {}).get("certificate") or ()
        if names:
            return self._gate.certificate(names)
        return self._gate.anonymous(loopback=_over_loopback())

    @staticmethod
    def _check_any(operation: str) -> None:
        """Some keys must be open to whoever asks; which, the store says that the route is given."""
        who = principal()
        if not any(allowed(who, operation, scope) for scope in ("own", "other", "global")):
            raise refusal(who, operation, "global" if who.tenant is None else "own", f"{asked.method} {asked.path}")

    def refused(self, error: PlatformError) -> None:
        """Put a refusal down. A wrong token has been already."""
        if isinstance(error, Forbidden | Unauthorized) and error.subject != "token":
            operation = str(error.details.get("operation", asked.method))
            self._gate.refused(principal(), operation, address(), error)


def _tenant(operation: str) -> str | None:
    """Whose what is asked for is: the tenant's in the path, unless its kind says otherwise."""
    arguments = asked.view_args or {}
    tenant: str = arguments.get("tenant", DEFAULT_TENANT)
    kind = BY_PLURAL.get(arguments.get("plural", ""))
    if kind is not None:
        return kind.whose(tenant, operation)
    # The engine takes ``T..N`` for stream N of tenant T, wherever it stands in the path.
    return stream_tenant(engine_name(arguments["name"], tenant)) if ".." in arguments.get("name", "") else tenant


def check_subjects(kind: Kind, wanted: AnyResource) -> None:
    """See that whoever asks may have the subjects that a resource names.

    Raises:
        Unprocessable: some do not begin with the tenant's name; ``errors`` has every path.
    """
    who = principal()
    if who.tenant is None:
        return
    hint = f"subjects of tenant {who.tenant} begin with {who.tenant}."
    errors = [
        FieldError(path=path, message=f"{subject!r} is not this tenant's", hint=hint)
        for path, subject in kind.subjects(wanted.spec)
        if not may_name(who, subject)
    ]
    if errors:
        raise Unprocessable("it names subjects of others", subject=subject_of(wanted), errors=tuple(errors))


async def check_steps(steps: Sequence[Step]) -> Sequence[Compare]:
    """``check_subjects`` as a rule of the conductor: over what is written, whatever it was made from."""
    for step in steps:
        if step.wanted is not None and step.what in ("created", "configured"):
            check_subjects(step.kind, step.wanted)
    return ()


def _over_loopback() -> bool:
    """Whether this came over a loopback address, which nobody beyond this machine can."""
    server = asked.scope.get("server") or ("",)
    return is_loopback_name(server[0] if ":" not in server[0] else f"[{server[0]}]")


def _check_names(origins: frozenset[str], *, loopback: bool) -> None:
    """Keep foreign pages out. With TLS a rebound name has no certificate, and beyond loopback nobody is anything
    without a token, which no page has."""
    host = asked.headers.get("Host", "")
    scheme = "https" if asked.scheme in ("https", "wss") else "http"
    if loopback and scheme == "http" and not is_loopback_name(host):
        raise Forbidden(
            f"Host {host!r} is not a name of this machine's loopback",
            subject=asked.path,
            hint="use http://localhost:PORT or http://127.0.0.1:PORT",
        )
    origin = asked.headers.get("Origin")
    if origin is not None and origin.lower() not in {f"{scheme}://{host.lower()}", *origins}:
        raise Forbidden(f"a page of {origin!r} may not ask this server", subject=asked.path)


def is_loopback_name(host: str) -> bool:
    """Whether a ``Host`` header (with or without a port) names the loopback interface."""
    name = host.lower()
    if name.startswith("["):
        name = name[1:].partition("]")[0]
    elif name.count(":") == 1:
        name = name.partition(":")[0]
    if name in ("localhost", "localhost."):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
