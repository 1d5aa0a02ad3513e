"""What waits to be sent on a connection, and how much of it may be sent now. No I/O.

Frames are made at the last moment: until then a request can be withdrawn without a trace, and if the connection
breaks it is known that it was not sent.
"""

from __future__ import annotations

import collections
from collections.abc import Iterator
from typing import Final

import trio

from platformd.coordination.etcd import frames
from platformd.coordination.etcd.frames import PeerSettings
from platformd.coordination.etcd.stream import STREAM_WINDOW, Stream

CONNECTION_WINDOW = 16 * 1024 * 1024
"""How much a member may send beyond what was read off the socket, on all exchanges together."""

_LAST_ID: Final = frames.MAX_STREAM_ID - 2


class Outgoing:
    """The sending side of a connection.

    Args:
        streams: the exchanges that the member knows of, by number; new ones are put in.
    """

    def __init__(self, streams: dict[int, Stream]) -> None:
        self.unsent = 0
        """Bytes of requests that wait."""
        self.exhausted = False
        """There are no more numbers for exchanges."""
        self._streams = streams
        self._control: list[bytes] = [frames.preface(STREAM_WINDOW, CONNECTION_WINDOW)]
        self._fresh: collections.deque[Stream] = collections.deque()
        self._stalled: dict[Stream, None] = {}  # begun, with something left to send; a dict for a set that keeps order
        self._next_id = 1
        self._window = self._stream_window = frames.DEFAULT_WINDOW
        self._max_streams = frames.MAX_STREAM_ID
        self._max_frame = frames.MAX_FRAME
        self._lot = trio.lowlevel.ParkingLot()

    # --- what is to be sent ---

    def control(self, frame: bytes) -> None:
        """Send a frame that is of no exchange's data."""
        self._control.append(frame)
        self._lot.unpark()

    def begin(self, stream: Stream) -> None:
        """Send a new exchange when it may be."""
        self._fresh.append(stream)
        self.unsent += len(stream.unsent)
        self._lot.unpark()

    def go_on(self, stream: Stream, more: int) -> None:
        """Send ``more`` bytes that were added to an exchange that goes on."""
        if stream.id == 0 or stream.id in self._streams:
            self.unsent += more
            if stream.id:  # else it waits as a whole
                self._stalled[stream] = None
            self._lot.unpark()

    def forget(self, stream: Stream) -> None:
        """Send nothing more of an exchange that has begun."""
        if stream in self._stalled:
            del self._stalled[stream]
            self.unsent -= len(stream.unsent)

    def drop_fresh(self) -> list[Stream]:
        """Everything that has not begun; it will not."""
        dropped = list(self._fresh)
        self._fresh.clear()
        self.unsent -= sum(len(stream.unsent) for stream in dropped)
        return dropped

    # --- what the member allows ---

    def allow(self, stream_id: int, more: int) -> None:
        """A window was opened."""
        if stream_id == 0:
            self._window += more
        elif stream_id in self._streams:
            self._streams[stream_id].window += more
        self._lot.unpark()

    def settings(self, found: PeerSettings) -> None:
        """The member's settings have come."""
        if found.max_streams is not None:
            self._max_streams = found.max_streams
        if found.max_frame is not None:
            self._max_frame = found.max_frame
        if found.initial_window is not None:
            change = found.initial_window - self._stream_window
            self._stream_window = found.initial_window
            for stream in self._streams.values():
                stream.window += change
        self._lot.unpark()

    def ended(self) -> None:
        """An exchange has ended: another one may fit in."""
        if self._fresh:
            self._lot.unpark()

    # --- the writer ---

    async def wait(self) -> None:
        """Until there may be something to send."""
        await self._lot.park()

    def take(self) -> bytes:
        """Everything that may be sent now, as frames. From here on the network may have it."""
        return b"".join(self._take())

    def _take(self) -> Iterator[bytes]:
        control, self._control = self._control, []
        yield from control
        for stream in list(self._stalled):
            if self._window <= 0:
                return
            yield from self._data(stream)
        while self._fresh and self._window > 0 and len(self._streams) < self._max_streams:
            if self._next_id >= _LAST_ID:
                self.exhausted = True
                return
            stream = self._fresh.popleft()
            if stream.failure is not None:  # withdrawn
                self.unsent -= len(stream.unsent)
                continue
            stream.id, self._next_id = self._next_id, self._next_id + 2
            stream.window = self._stream_window
            stream.handed = True
            self._streams[stream.id] = stream
            yield frames.frame(frames.HEADERS, frames.END_HEADERS, stream.id, stream.headers)
            yield from self._data(stream)

    def _data(self, stream: Stream) -> Iterator[bytes]:
        """As much of what an exchange has to send as the windows allow."""
        rest = stream.unsent
        at, allowed = 0, min(self._window, stream.window, len(rest))
        while at < allowed:
            stop = min(at + self._max_frame, allowed)
            last = stream.call and stop == len(rest)
            yield frames.frame(frames.DATA, frames.END_STREAM if last else 0, stream.id, rest[at:stop])
            at = stop
        if at:
            self._window -= at
            stream.window -= at
            self.unsent -= at
            stream.unsent = rest[at:]
        if stream.unsent:
            self._stalled[stream] = None
        else:
            self._stalled.pop(stream, None)
