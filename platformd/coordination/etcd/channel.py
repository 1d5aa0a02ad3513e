"""The way to the cluster: one connection at a time, to a member that is well; another one when it fails.

Who asks gets an answer, or an error that says whether the request may have been done. What was certainly not done, and
what may be done twice, is asked again, at another member if there is one, until ``request_timeout`` is over.
A change that was sent and not answered is never sent again.
"""

from __future__ import annotations

import random
import ssl
from collections.abc import Sequence
from typing import NamedTuple, Never

import trio

from platformd.coordination.etcd import frames, messages
from platformd.coordination.etcd.connection import Bounds, Connection
from platformd.coordination.etcd.dial import Refused, dial
from platformd.coordination.etcd.errors import (
    Again,
    AnswerTooLarge,
    Refusal,
    no_answer,
    outcome_unknown,
    refusal,
    unavailable,
)
from platformd.coordination.etcd.settings import Endpoint, read_password
from platformd.coordination.etcd.stream import Lost, Oversize, Stream, TimedOut
from platformd.core.errors import PlatformError, Unauthorized, Unavailable
from platformd.core.quantities import seconds, size_bytes
from platformd.core.settings_engines import EtcdSettings

_LOGINS = 3
"""How often a request that is refused for its token is sent again."""

_NOT_ENABLED = "etcdserver: authentication is not enabled"


class Member:
    """An endpoint, and how it did lately."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.failures = 0
        """In a row."""
        self.retry_at = float("-inf")
        """When it may be tried again, on trio's clock."""
        self.reason = ""
        """Why it failed last."""


class Exchange(NamedTuple):
    """Messages both ways, until it is closed."""

    connection: Connection
    stream: Stream
    token: str
    """Who it was begun as."""

    def close(self) -> None:
        """End it."""
        self.connection.close(self.stream)


class Channel:
    """The way to the cluster. ``run`` it for as long as it is used.

    Args:
        endpoints: where its members are.
        settings: timeouts and limits; user and password file.
        tls: how members are checked; ``None`` for plain connections.
        rng: for jitter, and for the member that is tried first.
    """

    def __init__(
        self, endpoints: Sequence[Endpoint], settings: EtcdSettings, tls: ssl.SSLContext | None, rng: random.Random
    ) -> None:
        self.timeout = seconds(settings.request_timeout)
        """How long a request may take, seconds."""
        self._settings = settings
        self._tls = tls
        self._rng = rng
        self._members = [Member(endpoint) for endpoint in endpoints]
        rng.shuffle(self._members)
        self._bounds = Bounds(
            max_in_flight=settings.max_in_flight,
            max_unsent=size_bytes(settings.max_unsent),
            max_message=size_bytes(settings.max_message),
            keepalive_interval=seconds(settings.keepalive_interval),
            keepalive_timeout=seconds(settings.keepalive_timeout),
        )
        self._connect_timeout = seconds(settings.connect_timeout)
        self._delays = seconds(settings.retry_delay), seconds(settings.retry_delay_max)
        self._connection: Connection | None = None
        self._member = self._members[0]
        self._changed = trio.Event()
        self._wanted = trio.Event()
        self._closed: Unavailable | None = None
        self._token: str | None = None if settings.user else ""
        self._login = trio.Lock()
        self._blocks: dict[tuple[str, str, str], bytes] = {}

    # --- for those who ask ---

    @property
    def version(self) -> str:
        """The version of the member that is asked now; empty while there is none."""
        return self._connection.version if self._connection is not None else ""

    @property
    def closed(self) -> bool:
        """Whether everyone who asks is refused."""
        return self._closed is not None

    async def call(self, path: str, message: bytes, *, change: bool = False) -> bytes:
        """Ask the cluster something.

        Args:
            path: what; see ``messages``.
            message: the request.
            change: doing it twice would be wrong. Cancelled, it is not done, or it was sent: then its answer is
                waited for in spite of the cancellation.

        Raises:
            OutcomeUnknown: a change was sent and not answered.
            Unavailable: no member could be asked; nothing was done.
            DeadlineExceeded: a question was not answered in time.
            AnswerTooLarge: the answer to a question is larger than ``max_message``.
            PlatformError: what etcd refused; see ``errors``.
        """
        deadline = trio.current_time() + self.timeout
        logins = 0
        attempt = 0
        while True:
            attempt += 1
            connection = await self._ready(deadline)
            token = await self._logged_in()
            headers = self._headers(path, token)
            try:
                reply = await connection.call(headers, message, deadline, keep=change)
            except Oversize as error:
                if change:
                    raise outcome_unknown(str(error)) from error
                raise AnswerTooLarge(str(error), subject="etcd", hint="ask for less, or raise max_message") from error
            except Lost as lost:
                if change and lost.sent:
                    raise outcome_unknown(lost.reason) from lost
                if isinstance(lost, TimedOut):
                    raise no_answer(lost.reason, self.timeout) if lost.sent else self._unavailable() from lost
                last: PlatformError = self._unavailable()
            else:
                if reply.status == 0:
                    return reply.data
                refused = refusal(reply.status, reply.message)
                logins += refused.again is Again.AFTER_LOGIN
                if logins > _LOGINS or not self._may_repeat(refused, change=change):
                    raise refused.error
                self.after_refusal(refused, connection, token)
                last = refused.error
            await self._pause(attempt, deadline, last)

    async def open(self, path: str, message: bytes) -> Exchange:
        """Begin an exchange of many messages.

        Raises: as ``call``.
        """
        deadline = trio.current_time() + self.timeout
        attempt = 0
        while True:
            attempt += 1
            connection = await self._ready(deadline)
            token = await self._logged_in()
            try:
                return Exchange(connection, connection.open(self._headers(path, token), message), token)
            except Lost:
                await self._pause(attempt, deadline, self._unavailable())

    def after_refusal(self, refused: Refusal, connection: Connection, token: str) -> None:
        """Something was refused that may be tried again: what is to be different then."""
        if refused.again is Again.AFTER_LOGIN:
            if self._settings.user and self._token == token:
                self._token = None
        elif connection is self._connection and len(self._members) > 1:
            self._failed(self._member, refused.error.message)
            connection.retire()

    def close(self, reason: Unavailable) -> None:
        """From here on everyone who asks is refused."""
        self._closed = reason
        if self._connection is not None:
            self._connection.stop(reason.message)
        self._announce()

    @staticmethod
    def _may_repeat(refused: Refusal, *, change: bool) -> bool:
        """Whether to ask again.

        Raises:
            OutcomeUnknown: nobody knows whether the change was done.
        """
        if refused.again is Again.UNKNOWN and change:
            raise outcome_unknown(refused.error.message) from refused.error
        return refused.again is not Again.NEVER

    async def _pause(self, attempt: int, deadline: float, last: PlatformError) -> None:
        """A moment before the next attempt.

        Raises:
            PlatformError: ``last``, if the deadline would be over.
        """
        pause = self.delay(attempt)
        if trio.current_time() + pause >= deadline:
            raise last
        await trio.sleep(pause)

    def delay(self, failures: int) -> float:
        """How long to wait after so many failures, seconds."""
        first, longest = self._delays
        return min(longest, first * 2.0 ** min(failures, 30)) * self._rng.uniform(0.5, 1)

    def _headers(self, path: str, token: str) -> bytes:
        authority = self._member.endpoint.authority
        block = self._blocks.get((path, authority, token))
        if block is None:
            if len(self._blocks) > 64 * len(self._members):  # old tokens
                self._blocks.clear()
            # hasleader: a member that has lost the cluster refuses at once, so that another one is asked.
            metadata = {"hasleader": "true"} | ({"token": token} if token else {})
            block = frames.header_block(path, authority, tls=self._tls is not None, metadata=metadata)
            self._blocks[path, authority, token] = block
        return block

    async def _logged_in(self) -> str:
        """The token to ask with; logs in if there is none.

        Raises: as ``call``.
        """
        if self._token is not None:
            return self._token
        async with self._login:
            if self._token is None:
                password = await trio.to_thread.run_sync(read_password, self._settings)
                self._token = await self._authenticate(self._settings.user, password)
        return self._token

    async def _authenticate(self, user: str, password: str) -> str:
        deadline = trio.current_time() + self.timeout
        message = messages.authenticate(user, password)
        attempt = 0
        while True:
            attempt += 1
            connection = await self._ready(deadline)
            last: PlatformError = self._unavailable()
            try:
                reply = await connection.call(self._headers(messages.AUTHENTICATE, ""), message, deadline, keep=False)
            except Lost:
                pass
            else:
                if reply.status == 0:
                    return messages.token(reply.data).decode("latin-1")
                if reply.message == _NOT_ENABLED:  # as etcd's own client: then nobody needs a token
                    return ""
                refused = refusal(reply.status, reply.message)
                if refused.again in {Again.NEVER, Again.AFTER_LOGIN}:
                    raise Unauthorized(
                        refused.error.message, subject=f"user {user}", hint=f"see {self._settings.password_file}"
                    )
                self.after_refusal(refused, connection, "")
                last = refused.error
            await self._pause(attempt, deadline, last)

    # --- connections ---

    async def _ready(self, deadline: float) -> Connection:
        """A connection to a member that is well.

        Raises:
            Unavailable: there is none until the deadline.
        """
        while True:
            if self._closed is not None:
                raise Unavailable(self._closed.message, subject="etcd")
            if self._connection is not None and self._connection.usable:
                return self._connection
            changed = self._changed
            self._wanted.set()
            with trio.move_on_at(deadline) as scope:
                await changed.wait()
            if scope.cancelled_caught:
                raise self._unavailable()

    def _unavailable(self) -> Unavailable:
        told = {member.endpoint.authority: member.reason for member in self._members if member.reason}
        return unavailable(told, self.timeout)

    async def run(self) -> Never:
        """Keep a connection for as long as anyone wants one."""
        async with trio.open_nursery() as nursery:
            while True:
                await self._wanted.wait()
                self._wanted = trio.Event()
                while self._connection is None or not self._connection.usable:
                    await self._connect(nursery)
                self._announce()

    def _announce(self) -> None:
        changed, self._changed = self._changed, trio.Event()
        changed.set()

    async def _connect(self, nursery: trio.Nursery) -> None:
        """Try the member that failed longest ago."""
        member = min(self._members, key=_retry_at)
        await trio.sleep_until(max(member.retry_at, trio.current_time()))
        connection: Connection | None = None
        try:
            with trio.fail_after(self._connect_timeout):
                connection = Connection(await dial(member.endpoint, self._tls), self._bounds)
                nursery.start_soon(self._serve, member, connection)
                await self._examine(member, connection)
        except trio.TooSlowError:
            reason = f"no answer within {self._connect_timeout:g} s"
        except Refused as error:
            reason = str(error)
        else:
            member.failures = 0
            self._member, self._connection = member, connection
            return
        self._failed(member, reason)
        if connection is not None:
            connection.stop(reason)

    async def _examine(self, member: Member, connection: Connection) -> None:
        """See that a member is one of etcd and can serve.

        Raises:
            Refused: it is not, or cannot now.
        """
        await connection.greeted.wait()
        headers = frames.header_block(
            messages.STATUS, member.endpoint.authority, tls=self._tls is not None, metadata={}
        )
        try:
            reply = await connection.call(headers, b"", trio.current_time() + self._connect_timeout, keep=False)
        except Lost as lost:
            raise Refused(lost.reason) from lost
        if reply.status:
            raise Refused(refusal(reply.status, reply.message).error.message)
        status = messages.member_status(reply.data)
        connection.version = status.version
        if not status.leader:
            raise Refused("it sees no leader")
        if status.learner:
            raise Refused("it is a learner, which does not serve")

    async def _serve(self, member: Member, connection: Connection) -> None:
        await connection.run()
        if connection is self._connection:
            self._connection = None
            if not connection.retired:
                self._failed(member, connection.lost or "the connection broke")
            self._announce()

    def _failed(self, member: Member, reason: str) -> None:
        member.reason = reason
        member.retry_at = trio.current_time() + self.delay(member.failures)
        member.failures += 1


def _retry_at(member: Member) -> float:
    return member.retry_at
