"""nng's wire protocol in the raw, for clients that misbehave and for ones that must not lose a message of their own."""

from __future__ import annotations

import socket
import struct
from types import TracebackType

PUSH, SUB = 0x50, 0x21
"""Protocol numbers of the clients' sides."""


DROP_OLDEST, BLOCK, DISCONNECT = 1, 2, 3
"""What a live subscriber may ask for in its handshake."""


def hello(protocol: int, policy: int = 0) -> bytes:
    """The handshake of a socket of that protocol; with a policy, that of a subscriber that knows platformd."""
    return struct.pack(">B2sBHH", 0, b"SP", 0, protocol, policy)


def frame(message: bytes) -> bytes:
    """A message on a Unix socket."""
    return b"\1" + struct.pack(">Q", len(message)) + message


class Raw:
    """A connection to a Unix socket.

    Args:
        url: ``ipc://PATH``.
        greeting: what is sent first; its answer is awaited when it is a whole handshake.
    """

    def __init__(self, url: str, greeting: bytes) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(10)
        self.socket.connect(url.removeprefix("ipc://"))
        self._read = b""
        try:
            if greeting:
                self.socket.sendall(greeting)
            self.heard = self._take(8) if len(greeting) == 8 else b""
        except OSError:
            self.socket.close()
            raise

    def __enter__(self) -> Raw:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.socket.close()

    def _take(self, count: int) -> bytes:
        while len(self._read) < count:
            more = self.socket.recv(1 << 16)
            if not more:
                return b""
            self._read += more
        taken, self._read = self._read[:count], self._read[count:]
        return taken

    def message(self) -> bytes | None:
        """The next message; ``None`` at the end of the connection."""
        head = self._take(9)
        if not head:
            return None
        assert head[0] == 1
        return self._take(int.from_bytes(head[1:], "big"))

    def ended(self) -> bool:
        """Whether the other side closes it, at once or after what it has sent."""
        try:
            while self.socket.recv(1 << 16):
                pass
        except ConnectionResetError:
            return True
        except TimeoutError:
            return False
        return True
