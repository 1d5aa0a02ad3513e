"""Following records live, as they come, as far as one can keep up; for what must not be missed there are consumers.

The daemon's live socket speaks SP, as nng's PUB does (the bytes are at the head of ``native/src/live.c``). nng's own
SUB can follow it, but drops what its program is too slow for without a word. Here nothing is dropped on this side:
what is not taken waits in the connection and then at the daemon, which counts what it drops.
"""

from __future__ import annotations

import socket
import ssl
import struct
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Final, Literal, get_args

import msgspec

from platformd.client.endpoints import HELLO, TLS_SCHEME, ClientTls, Endpoint, diagnose, endpoint
from platformd.client.link import STEP, Backoff, LinkLost
from platformd.core.errors import InvalidInput, PlatformError, Unavailable
from platformd.model.subjects import subject_error, subject_matches

MAX_MESSAGE: Final = 256 << 20
"""The largest message that is taken, in bytes. Far above what a daemon sends."""
READ_BYTES: Final = 256 << 10
"""What is read at a time."""

PUB: Final = 0x20
SUB: Final = 0x21
_HELLO: Final = b"\0SP\0\0\x21"
"""Before the policy."""
_THEIR_HELLO: Final = b"\0SP\0\0\x20\0\0"
SlowPolicy = Literal["drop_oldest", "block", "disconnect"]
"""What becomes of a subscriber that does not keep up. ``drop_oldest``: the daemon drops the oldest records that wait
for it, and counts them. ``block``: they wait in the log, for as long as their streams keep them. ``disconnect``: the
connection ends, and ``receive`` raises."""
_POLICIES: Final = (None, *get_args(SlowPolicy))
"""As the handshake numbers them."""
_LENGTH: Final = struct.Struct(">Q")


class LiveRecord(msgspec.Struct, frozen=True):
    """What the live socket says of a record."""

    subject: str
    payload: bytes


class Subscriber:
    """Follows what is published. Used by one thread; a context manager, and an iterator over the records.

    It connects again when the connection is lost; what is published meanwhile does not come.

    Args:
        address: the daemon's live address (``ipc:///run/platformd/live.sock``, ``tls+tcp://queues.example:7074``).
        subject: only records whose subject matches this pattern. The daemon sends all of them.
        on_slow: what becomes of it when it does not keep up; ``None``: what ``queues.live_policy`` says there.
        tls: the files for an address with TLS; ``None``: none, and the system's authorities.
        timeout: seconds that the daemon may be away.

    Raises:
        InvalidInput: an argument is not valid.
    """

    def __init__(
        self,
        address: str,
        subject: str = ">",
        *,
        on_slow: SlowPolicy | None = None,
        tls: ClientTls | None = None,
        timeout: float = 30.0,
    ) -> None:
        self._where = endpoint(address, tls)
        wrong = subject_error(subject, pattern=True)
        if wrong:
            raise InvalidInput(f"{subject!r} {wrong}", subject="subject")
        if self._where.scheme not in ("ipc", "tcp", TLS_SCHEME):
            raise InvalidInput("cannot be subscribed to", subject=address, hint="use ipc://, tcp:// or tls+tcp://")
        if on_slow not in _POLICIES:
            raise InvalidInput(f"{on_slow!r} is not one of {', '.join(get_args(SlowPolicy))}", subject="on_slow")
        self._policy = _POLICIES.index(on_slow)
        self._subject = subject
        self._timeout = timeout
        self._connection: socket.socket | None = None
        self._frames = _Frames(ipc=self._where.scheme == "ipc")
        self._backoff = Backoff()
        self.losses = 0
        """How often a connection was lost."""

    def __enter__(self) -> Subscriber:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __iter__(self) -> Iterator[LiveRecord]:
        """All records, for ever; errors as ``receive``."""
        while True:
            yield from self.receive(wait=1.0)

    def connect(self) -> None:
        """Be there: what is published from now on comes. Without it the first ``receive`` connects.

        Raises:
            Unavailable: the daemon was not reached in time.
            InvalidInput: something else answers there, or files for TLS cannot be used.
            Unauthorized: the daemon does not want us.
        """
        deadline = time.monotonic() + self._timeout
        while self._connection is None:
            self._backoff.pause(deadline)
            try:
                self._connection = _connected(self._where, self._policy, max(deadline - time.monotonic(), 0.05))
            except LinkLost as lost:
                if time.monotonic() >= deadline:
                    raise Unavailable(
                        f"{lost}, for {self._timeout:g} s",
                        subject=self._where.address,
                        hint="is a daemon there, with a live socket at this address?",
                    ) from lost
            else:
                self._backoff.reset()

    def receive(self, wait: float = 1.0) -> tuple[LiveRecord, ...]:
        """The records that came, after waiting up to ``wait`` seconds for the first one.

        Raises:
            Unavailable: also when the daemon ended the connection, with the policy ``disconnect``.
            PlatformError: as ``connect``.
        """
        deadline = time.monotonic() + wait
        while True:
            self.connect()
            found = self._read(deadline)
            if found or time.monotonic() >= deadline:
                return found

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        self._frames.clear()

    def _read(self, deadline: float) -> tuple[LiveRecord, ...]:
        assert self._connection is not None
        self._connection.settimeout(max(deadline - time.monotonic(), 0.001))
        try:
            data = self._connection.recv(READ_BYTES)
        except TimeoutError:
            return ()
        except OSError:
            data = b""
        if not data:
            self.losses += 1
            self.close()
            if _POLICIES[self._policy] == "disconnect":
                raise Unavailable(
                    "the daemon ended the connection: records came faster than they were taken, or it stopped",
                    subject=self._where.address,
                    hint="receive again to go on with what is published from then on",
                )
            return ()
        try:
            messages = self._frames.add(data)
            records = [_record(message) for message in messages]
        except ValueError as error:
            self.close()
            raise PlatformError(
                f"what came is no record: {error}",
                subject=self._where.address,
                hint="is it the live socket of a platformd of this version?",
            ) from error
        return tuple(r for r in records if subject_matches(self._subject, r.subject))


class _Frames:
    """Messages out of bytes: on a Unix socket a byte 1, then a length and as many bytes."""

    def __init__(self, *, ipc: bool) -> None:
        self._head = 9 if ipc else 8
        self._held = bytearray()

    def clear(self) -> None:
        self._held.clear()

    def add(self, data: bytes) -> list[bytes]:
        """Messages that are whole now; raises ``ValueError`` for what is not one."""
        self._held += data
        messages = []
        at = 0
        while at + self._head <= len(self._held):
            (length,) = _LENGTH.unpack_from(self._held, at + self._head - 8)
            if length > MAX_MESSAGE or (self._head == 9 and self._held[at] != 1):
                raise ValueError(f"a message of {length} bytes")
            end = at + self._head + length
            if end > len(self._held):
                break
            messages.append(bytes(self._held[at + self._head : end]))
            at = end
        del self._held[:at]
        return messages


def _record(message: bytes) -> LiveRecord:
    subject, found, payload = message.partition(b"\n")
    if not found:
        raise ValueError("it has no line feed")
    return LiveRecord(subject.decode("ascii"), payload)


def _connected(where: Endpoint, policy: int, timeout: float) -> socket.socket:
    timeout = min(timeout, STEP)
    connection: socket.socket | None = None
    try:
        if where.scheme == "ipc":
            connection = socket.socket(socket.AF_UNIX)
            connection.settimeout(timeout)
            connection.connect(where.address.partition("://")[2])
        else:
            connection = socket.create_connection(where.host_and_port, timeout)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if where.scheme == TLS_SCHEME:
            connection = where.context().wrap_socket(connection, server_hostname=where.server_name)
        _shake_hands(connection, policy)
    except (OSError, ValueError) as error:
        if connection is not None:
            connection.close()
        cause = diagnose(where, PUB, SUB, timeout)
        said = error.strerror or str(error) if isinstance(error, OSError) else "something else answers there"
        if isinstance(error, ssl.SSLError):
            said = "no TLS came about"
        raise LinkLost(cause or said) from error
    return connection


def _shake_hands(connection: socket.socket, policy: int) -> None:
    connection.sendall(_HELLO + policy.to_bytes(2, "big"))
    heard = b""
    while len(heard) < HELLO:
        more = connection.recv(HELLO - len(heard))
        if not more:
            raise ConnectionResetError("what answers there hangs up")
        heard += more
    if heard != _THEIR_HELLO:
        raise ValueError("it is not a live socket")
