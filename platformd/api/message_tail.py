"""Following a stream's records without a consumer: from now on, or from any sequence that is kept.

Events are ``record`` and ``bookmark``, which says what has been looked through; the id of each is the sequence to go on
after, so nothing is kept at the daemon of a reader that comes back. ``dropped`` says how many records a reader does not
get: they were removed before it came to them, or it was too slow for its policy.

The log itself is the buffer of a reader that is behind: its records are read when there is room for them. Policies are
about a reader that has seen the end of the log once and then does not keep up, so that ``max_waiting`` records wait:

``block``        what comes waits in the log, until the stream removes it
``drop_oldest``  the oldest that wait give way; each is counted
``disconnect``   the tail ends with an error

A client that takes nothing at all is cut off by the server's write deadline, whatever the policy. A tail at the end of
its log waits until the engine tells that there is more, which costs nothing however many do.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final, Literal, cast, get_args

import trio

from platformd.api.asked import asked
from platformd.api.message_forms import shown
from platformd.api.replies import Query, encode
from platformd.api.watch import CHUNK_BYTES, MAX_REVISION, Followed, Said, Say
from platformd.core.errors import FieldError, Gone, InvalidInput, LimitReached
from platformd.model.subjects import subject_error
from platformd.queues.contract import Delivery, Streams

SlowPolicy = Literal["block", "drop_oldest", "disconnect"]
"""What becomes of a reader that does not keep up."""

PARAMETERS: Final = ("watch", "after", "subject", "on_slow", "max_waiting")
"""What a tail may be told."""
DEFAULT_WAITING: Final = 1024
MAX_WAITING: Final = 65_536
"""Records that wait for one reader: when it does not say, and at most."""
WAITING_BYTES: Final = 8 << 20
"""Bytes of payloads that wait for one reader; one record always may."""
PAGE: Final = 256
"""Records that are read at once."""
SKIPPED_BEFORE_BOOKMARK: Final = 1024
"""Sequences without a record for this reader after which it is told how far it is."""


def followed_records(streams: Streams, stream: str, query: Query, dropped: Callable[[str, int], None]) -> Followed:
    """The tail of ``stream`` that the query and ``Last-Event-ID`` ask for.

    Args:
        streams: the engine.
        stream: its name there.
        query: with ``PARAMETERS``.
        dropped: told why and how many records a reader does not get.

    Raises:
        InvalidInput: a parameter cannot be read.
        NotFound: the stream is not there.
        Gone: the sequence to go on after is not there yet: it is another stream than it was.
    """
    pattern, policy = query.text("subject", ">"), query.text("on_slow", "block")
    errors = []
    wrong = subject_error(pattern, pattern=True)
    if wrong:
        errors.append(FieldError(path="subject", message=f"the pattern {pattern!r} {wrong}"))
    if policy not in get_args(SlowPolicy):
        known = ", ".join(get_args(SlowPolicy))
        errors.append(FieldError(path="on_slow", message=f"{policy!r} is none", hint=f"one of {known}"))
    if errors:
        raise InvalidInput("the query is not valid", subject=asked.path, errors=tuple(errors))
    limit = query.number("max_waiting", DEFAULT_WAITING, 1, MAX_WAITING)
    last = streams.stream(stream).last_sequence
    after = _after(query)
    if after is not None and after > last:
        raise Gone(
            f"sequence {after} is not there yet, the last one is {last}",
            subject=f"stream/{stream}",
            hint="the stream was made anew; leave after and Last-Event-ID out",
            details={"last_sequence": last},
        )
    waiting = Waiting(cast("SlowPolicy", policy), limit)
    return FollowedRecords(streams, stream, pattern, last if after is None else after, waiting, dropped)


def _after(query: Query) -> int | None:
    """The sequence to go on after; ``None`` for from now on."""
    given = asked.headers.get("Last-Event-ID", "").strip()
    if given:
        if not given.isascii() or not given.isdigit() or int(given[:20]) > MAX_REVISION:
            raise InvalidInput(f"{given[:40]!r} is not a sequence", subject="Last-Event-ID")
        return int(given)
    return query.number("after", 0, 0, MAX_REVISION) if query.text("after") else None


class Waiting:
    """The records that wait for one reader.

    Args:
        policy: what happens when there are too many.
        limit: how many may wait.
    """

    def __init__(self, policy: SlowPolicy, limit: int) -> None:
        self._policy, self._limit = policy, limit
        self._records: deque[Delivery | int] = deque()
        """In order; a number stands for how far the log was looked through."""
        self._bytes = 0
        self._changed = trio.Event()
        self.live = False
        """Whether the reader has seen the end of the log: the policy holds."""
        self.slow = self.removed = 0
        """Records that were dropped and not told yet: for slowness, and by the stream."""
        self.dropped_last = 0
        """The newest of them."""

    def __len__(self) -> int:
        return len(self._records)

    async def put(self, delivery: Delivery) -> int:
        """Let a record wait; how many older ones gave way to it.

        Raises:
            LimitReached: there is no room, and the policy is ``disconnect``.
        """
        gone = 0
        while self._full(len(delivery.payload)):
            if not self.live or self._policy == "block":
                await self._change()
            elif self._policy == "disconnect":
                raise LimitReached(
                    f"{len(self)} records wait for this reader, which is too slow",
                    subject="max_waiting",
                    hint="go on after the last id, or take on_slow=block or drop_oldest",
                )
            else:
                gone += self._drop()
        self._records.append(delivery)
        self._bytes += len(delivery.payload)
        self._wake()
        return gone

    def mark(self, sequence: int) -> None:
        """Everything up to ``sequence`` has been looked through."""
        if self._records and isinstance(self._records[-1], int):
            self._records[-1] = sequence
        else:
            self._records.append(sequence)
        self._wake()

    def lose(self, first: int, last: int) -> None:
        """The stream has removed these before they were read."""
        self.removed += last - first + 1
        self.dropped_last = max(self.dropped_last, last)
        self._wake()

    async def take(self) -> list[Delivery | int]:
        """What waits, up to about ``CHUNK_BYTES``; at least one thing, or drops to tell of."""
        while not self._records and not (self.slow or self.removed):
            await self._change()
        taken, size = list[Delivery | int](), 0
        while self._records and size < CHUNK_BYTES:
            one = self._records.popleft()
            if not isinstance(one, int):
                self._bytes -= len(one.payload)
                size += len(one.payload) + 256
            taken.append(one)
        self._wake()
        return taken

    def _full(self, size: int) -> bool:
        return bool(self._records) and (len(self) >= self._limit or self._bytes + size > WAITING_BYTES)

    def _drop(self) -> int:
        one = self._records.popleft()
        if isinstance(one, int):
            return 0
        self._bytes -= len(one.payload)
        self.slow += 1
        self.dropped_last = one.sequence
        return 1

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def _change(self) -> None:
        await self._changed.wait()


class FollowedRecords(Followed):
    """Records of one stream; ``after`` is what the reader has."""

    def __init__(
        self,
        streams: Streams,
        stream: str,
        pattern: str,
        after: int,
        waiting: Waiting,
        dropped: Callable[[str, int], None],
    ) -> None:
        super().__init__(after)
        self._streams, self._stream, self._pattern = streams, stream, pattern
        self._read_up_to = after
        self._waiting = waiting
        self._dropped = dropped
        self._total = 0

    async def follow(self, say: Say) -> None:
        """Give out the records."""
        await say([self._bookmark(self.safe)])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._read)
            while True:
                taken = await self._waiting.take()
                said = self._told_drops()
                said += [self._bookmark(one) if isinstance(one, int) else self._record(one) for one in taken]
                await say(said)

    def _record(self, delivery: Delivery) -> Said:
        self.safe = delivery.sequence
        return Said("record", self.safe, encode(shown(delivery)))

    def _bookmark(self, sequence: int) -> Said:
        self.safe = max(self.safe, sequence)
        return Said("bookmark", self.safe, encode({"sequence": self.safe}))

    def _told_drops(self) -> list[Said]:
        """What is missing before what comes now."""
        waiting, said = self._waiting, []
        self.safe = max(self.safe, waiting.dropped_last)
        for reason, records in (("removed", waiting.removed), ("slow", waiting.slow)):
            if records:
                self._total += records
                self._dropped(reason, records)
                document = {"records": records, "reason": reason, "total": self._total, "last_sequence": self.safe}
                said.append(Said("dropped", self.safe, encode(document)))
        waiting.removed = waiting.slow = 0
        return said

    async def _read(self) -> None:
        seen = -1
        while True:
            seen = await self._streams.wait(self._stream, seen)
            while await self._read_page(seen):
                pass
            self._waiting.live = True

    async def _read_page(self, seen: int) -> bool:
        """Let the next records wait, of which those up to ``seen`` can be read; whether there may be more of them."""
        first = self._streams.stream(self._stream).first_sequence
        if first > self._read_up_to + 1:
            self._waiting.lose(self._read_up_to + 1, first - 1)
            self._read_up_to = first - 1
        found = await self._streams.read(self._stream, after=self._read_up_to, limit=PAGE, subject=self._pattern)
        for delivery in found:
            self._read_up_to = delivery.sequence
            await self._waiting.put(delivery)
        if not found and self._pattern != ">" and seen - self._read_up_to >= SKIPPED_BEFORE_BOOKMARK:
            self._read_up_to = seen  # or a reader of few of many subjects would look through them at every look
            self._waiting.mark(seen)
        return bool(found) and self._read_up_to < seen
