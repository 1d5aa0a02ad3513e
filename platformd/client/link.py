"""One connection to one of the broker's sockets, for requests and their replies.

A link is made once and lost once. nng's REQ socket would connect again by itself and send what waits
over the new connection, which could put a later batch before an earlier one whose fate is not known
yet. So a link refuses every connection after its first, its owner sees the loss, decides what of the
unanswered is sent again and in which order, and makes a new link. Resending by nng is switched off for
the same reason: a lost connection is an error here, never a silent second attempt.
"""

from __future__ import annotations

import contextlib
import threading
import time
from typing import Any

import pynng
from pynng import ffi, lib

from platformd.client.endpoints import Endpoint, diagnose
from platformd.core.buffers import keep_buffers
from platformd.core.errors import InvalidInput

MAX_REPLY = 256 << 20
"""The largest reply that is taken, in bytes; nng closes the connection over it. Far above what a daemon sends."""

DIAGNOSE_AFTER = 0.1
"""Seconds without a connection after which it is looked why."""
STEP = 5.0
"""Seconds that each step of looking may take."""
REQ, REP = 0x30, 0x31
"""What the two sides of a connection say that they are."""

_DIAL_FIRST_MS = 20
_DIAL_SLOWEST_MS = 500
_NEVER_MS = 24 * 3600 * 1000
_LOOK_AGAIN = 0.25
"""Seconds after which a send that waits looks whether its connection is still there."""
_SEND_TIMEOUT = b"send-timeout"
_RECEIVE_TIMEOUT = b"recv-timeout"


class LinkLost(Exception):
    """The connection is gone, or was not made; its owner makes a new one or gives up."""


class Link:
    """A connection to a socket. Not thread-safe.

    Args:
        where: the socket.
        timeout: seconds to wait for the connection.

    Raises:
        InvalidInput: it is not an address, or something else answers there, or files for TLS cannot be used.
        Unauthorized: the daemon does not want us.
        LinkLost: nothing answered within ``timeout``.
    """

    def __init__(self, where: Endpoint, *, timeout: float) -> None:
        keep_buffers()
        deadline = time.monotonic() + timeout
        config = where.tls_config()
        self._admitted = False
        self._ready = threading.Event()
        self._free: list[Exchange] = []
        self._socket = pynng.Req0(
            resend_time=-1,
            recv_max_size=MAX_REPLY,
            reconnect_time_min=_DIAL_FIRST_MS,
            reconnect_time_max=_DIAL_SLOWEST_MS,
        )
        self._socket.add_pre_pipe_connect_cb(self._admit)
        self._socket.add_post_pipe_connect_cb(lambda _pipe: self._ready.set())
        if config is not None:
            self._socket.tls_config = config
        try:
            dialer = self._socket.dial(where.address, block=False)
        except pynng.NNGException as error:
            self._socket.close()
            raise InvalidInput(f"is not an address: {error}", subject=where.address) from error
        try:
            self._wait_until_ready(where, deadline)
        except BaseException:
            self._socket.close()
            raise
        dialer.reconnect_time_max = 0
        dialer.reconnect_time_min = _NEVER_MS

    def _wait_until_ready(self, where: Endpoint, deadline: float) -> None:
        """Wait; look why it takes long, early and again at the end, when the daemon may be another one."""
        for until in (min(time.monotonic() + DIAGNOSE_AFTER, deadline), deadline):
            if self._ready.wait(max(until - time.monotonic(), 0.0)):
                return
            cause = diagnose(where, REP, REQ, min(max(deadline - time.monotonic(), DIAGNOSE_AFTER), STEP))
        if not self._ready.is_set():
            raise LinkLost(cause or "nothing answers there")

    def _admit(self, pipe: Any) -> None:
        if self._admitted:
            pipe.close()
        self._admitted = True

    @property
    def alive(self) -> bool:
        """Whether the connection is still there, as far as nng knows."""
        return bool(self._socket.pipes)

    def request(self, frame: bytes, *, timeout: float) -> Exchange:
        """Send ``frame``; the reply is received from what is returned.

        Raises:
            LinkLost: the connection is gone, or did not take the frame in time; it was not sent.
        """
        exchange = self._free.pop() if self._free else Exchange(self._socket)
        exchange.send(frame, self, time.monotonic() + timeout)
        return exchange

    def release(self, exchange: Exchange) -> None:
        """Take back an exchange that is over, to be used again."""
        self._free.append(exchange)

    def close(self) -> None:
        """Close the connection; the daemon gives what it had out to others."""
        self._socket.close()


class Exchange:
    """One request and its reply, on an nng context, so that several can be under way at once."""

    def __init__(self, socket: Any) -> None:
        self._socket = socket  # a collected socket would close under us
        self._context = ffi.new("nng_ctx *")
        pynng.check_err(lib.nng_ctx_open(self._context, socket.socket))
        self._message = ffi.new("nng_msg **")

    def send(self, frame: bytes, link: Link, deadline: float) -> None:
        """Hand ``frame`` to the connection of ``link``.

        Raises:
            LinkLost: as ``Link.request``.
        """
        pynng.check_err(lib.nng_msg_alloc(self._message, 0))
        message = self._message[0]
        error = lib.nng_msg_append(message, frame, len(frame))
        while error == 0:
            remaining = deadline - time.monotonic()
            if not link.alive or remaining <= 0:
                lib.nng_msg_free(message)
                reason = "the daemon does not take requests" if link.alive else "the connection was closed"
                raise LinkLost(reason)
            self._set_timeout(_SEND_TIMEOUT, min(remaining, _LOOK_AGAIN))
            # With a timeout nng keeps nothing: the message is ours again and was not sent.
            error = lib.nng_ctx_sendmsg(self._context[0], message, 0)
            if error == 0:
                return
            if error == lib.NNG_ETIMEDOUT:
                error = 0
        lib.nng_msg_free(message)
        raise LinkLost(_text(error))

    def receive(self, timeout: float) -> bytes:
        """The reply; 0 seconds only looks whether it is there.

        Raises:
            LinkLost: the connection is gone, or there was no reply in time.
        """
        self._set_timeout(_RECEIVE_TIMEOUT, timeout)
        error = lib.nng_ctx_recvmsg(self._context[0], self._message, 0)
        if error:
            raise LinkLost(_text(error))
        message = self._message[0]
        try:
            return bytes(ffi.buffer(lib.nng_msg_body(message), lib.nng_msg_len(message)))
        finally:
            lib.nng_msg_free(message)

    def _set_timeout(self, option: bytes, seconds: float) -> None:
        milliseconds = min(max(round(seconds * 1000), 0), _NEVER_MS)
        with contextlib.suppress(pynng.Closed):
            pynng.check_err(lib.nng_ctx_set_ms(self._context[0], option, milliseconds))


def _text(error: int) -> str:
    if error == lib.NNG_ETIMEDOUT:
        return "the daemon did not answer in time"
    return f"the connection was lost ({ffi.string(lib.nng_strerror(error)).decode().lower()})"


class Backoff:
    """Growing pauses between attempts: 10 ms, doubling up to half a second."""

    FIRST = 0.01
    LONGEST = 0.5

    def __init__(self) -> None:
        self._next = 0.0

    def pause(self, deadline: float) -> None:
        """Sleep until the next attempt is due, at most until ``deadline`` on ``time.monotonic``."""
        time.sleep(max(min(self._next, deadline - time.monotonic()), 0.0))
        self._next = min(max(self._next * 2, self.FIRST), self.LONGEST)

    def reset(self) -> None:
        """The other side answered: start over."""
        self._next = 0.0
