"""What every stream of server-sent events that we follow has in common: how it begins, is read, and ends."""

from __future__ import annotations

import abc
from typing import ClassVar, Final, Generic, TypeVar

from platformd.client.events import EventParser, ServerEvent
from platformd.client.http import Head
from platformd.client.problems import problem_of
from platformd.core.errors import PlatformError

EVENT_STREAM: Final = "text/event-stream"
"""The media type."""
ACCEPT: Final = {"accept": f"{EVENT_STREAM}, application/problem+json"}
"""The header of a request for one."""

T = TypeVar("T")


class Following(abc.ABC, Generic[T]):
    """The state of one that is followed over any number of connections; what knows no input or output."""

    WHAT: ClassVar[str]
    """Its name in an error: ``a watch``."""

    def __init__(self) -> None:
        self._parser = EventParser()
        self._failure: PlatformError | None = None

    def check(self, head: Head) -> None:
        """Whether ``head`` begins one.

        Raises:
            PlatformError: it is a success of another kind. A failure (status 300 and up) is for the caller, who
                collects its body.
        """
        if head.status < 300 and head.media_type != EVENT_STREAM:
            raise problem_of(500, {}, f"{self.WHAT} was asked for, {head.media_type or 'nothing'} came".encode())

    def feed(self, data: bytes) -> list[T]:
        """What ``data`` (body bytes) completes.

        What ends the stream never hides what came with it: it is kept for ``raise_if_failed``, which is to be called
        once that is delivered.
        """
        found: list[T] = []
        try:
            for event in self._parser.feed(data):
                one = self._read(event)
                if one is not None:
                    found.append(one)
        except PlatformError as error:
            self._failure = error
        return found

    def raise_if_failed(self) -> None:
        """Raise what ended it, if something did.

        Raises:
            Gone: the place to go on from has been compacted away.
            NotFound: what was followed was deleted.
            LimitReached: this reader was too slow, and its policy is ``disconnect``.
            TooLarge: an event is over its limit.
            PlatformError: any other error that the server ends it with, or an event that cannot be read.
        """
        if self._failure is not None:
            raise self._failure

    def _connect(self) -> None:
        """A new connection begins: nothing of the last one is left."""
        self._parser, self._failure = EventParser(), None

    @abc.abstractmethod
    def _read(self, event: ServerEvent) -> T | None:
        """An event as what the caller wants; ``None`` if it is for nobody.

        Raises:
            PlatformError: the server ends the stream with it, or it cannot be read.
        """
