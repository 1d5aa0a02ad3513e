"""The one object that every door asks: who is there, and may it do this."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager

import trio

from platformd.access.audit import Audit
from platformd.access.failures import Failures
from platformd.access.peers import Peers
from platformd.access.secrets import matches, token_id
from platformd.access.tokens import Tokens
from platformd.coordination.contract import Store
from platformd.core.clock import Clock
from platformd.core.errors import LimitReached, PlatformError, Unauthorized
from platformd.core.peers import PeerCredentials
from platformd.core.settings import AccessSettings
from platformd.model.access import NOBODY, Principal, as_role

AUTHENTICATE = "authenticate"
"""What stands as the operation of whoever showed a wrong token."""


class Gate:
    """Who asks, and what they are refused; an ``Authenticator``.

    Args:
        settings: the section ``access``.
        store: where tokens are.
        clock: tells when.
        now: seconds that only grow, for the limit on failures.

    Raises:
        InvalidInput: the settings grant something to whom there is not.
    """

    def __init__(
        self, settings: AccessSettings, store: Store, clock: Clock, now: Callable[[], float] | None = None
    ) -> None:
        self.peers = Peers(settings)
        self.tokens = Tokens(store, clock, settings.max_tokens)
        self.audit = Audit(clock)
        self._failures = Failures(settings.max_failures, now or clock.monotonic)
        self._clock = clock
        loopback = as_role(settings.loopback)
        self._loopback = Principal(name="anonymous", role=loopback, how="anonymous") if loopback else NOBODY

    def peer(self, peer: PeerCredentials) -> Principal:
        """Who is at the other end of a Unix socket."""
        return self.peers.principal(peer)

    def certificate(self, names: Iterable[tuple[str, str]]) -> Principal:
        """Who shows a certificate of these names, ``(kind, name)``; its chain has been checked."""
        return self.peers.certificate(names)

    def anonymous(self, *, loopback: bool) -> Principal:
        """Whoever shows nothing over TCP, on a loopback address or on another."""
        return self._loopback if loopback else NOBODY

    def token(self, secret: str, address: str) -> Principal:
        """See ``Authenticator.token``."""
        now = self._clock.time_ns()
        known = token_id(secret)
        token = self.tokens.get(known) if known is not None else None
        if known is None:
            refusal = Unauthorized("what was shown is not a token, or not all of one", subject="token")
        elif token is None or not matches(secret, token.hash):
            refusal = Unauthorized(f"token {known} is not known here", subject="token")
        elif (ended := token.ended(now)) is not None:
            refusal = Unauthorized(f"token {token.name} {ended}", subject="token")
        else:
            self.tokens.note_use(token)
            return token.principal
        refusal.hint = "an admin makes another: platformd token create"
        shown = token.principal if token is not None and matches(secret, token.hash) else NOBODY
        try:
            self._failures.count(address)
        except LimitReached as error:
            self.refused(shown, AUTHENTICATE, address, error)
            raise error from None
        self.refused(shown, AUTHENTICATE, address, refusal)
        raise refusal

    async def wait_ended(self, secret: str) -> None:
        """Wait until a token that was taken does not count any more."""
        known = token_id(secret)
        if known is not None:
            await self.tokens.wait_ended(known)

    def refused(self, principal: Principal, operation: str, address: str, error: PlatformError) -> None:
        """See ``Authenticator.refused``."""
        self.audit.refused(principal, operation, address, error)


@asynccontextmanager
async def open_gate(settings: AccessSettings, store: Store, clock: Clock) -> AsyncIterator[Gate]:
    """A gate that knows the tokens of ``store``, and goes on following them while the block runs."""
    gate = Gate(settings, store, clock)
    async with trio.open_nursery() as nursery:
        await nursery.start(gate.tokens.run)
        yield gate
        nursery.cancel_scope.cancel()
