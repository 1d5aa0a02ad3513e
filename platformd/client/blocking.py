"""The control client for plain programs: a thin shell of blocking sockets around the sans-I/O core.

``Client`` keeps one connection open between requests and is used by one thread at a time. A watch has a
connection of its own. Every wait has a deadline.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Protocol, TypeVar

from platformd.client import control
from platformd.client.blocking_link import Link
from platformd.client.contexts import find_target
from platformd.client.following import EVENT_STREAM
from platformd.client.http import (
    Collector,
    End,
    Head,
    Request,
    Response,
    Target,
    make_request,
)
from platformd.client.kv_watching import KeyChange, KeyWatchState
from platformd.client.reading import as_kind, read_resource
from platformd.client.retrying import NEVER, Attempts, Retry
from platformd.client.tailing import Tailed, TailState
from platformd.client.watching import Change, WatchState
from platformd.core.errors import DeadlineExceeded, PlatformError, Unavailable
from platformd.model.kind import Kind
from platformd.model.resource import DEFAULT_TENANT, AnyResource

SILENCE_TIMEOUT: Final = 60.0
"""Seconds without any byte (heartbeats come every 15 by default) after which a watch is taken as lost."""
FIRST_DELAY: Final = 0.1
"""Seconds before a lost watch is tried again; doubles with each failure up to ``MAX_DELAY``."""
MAX_DELAY: Final = 5.0
"""The longest wait between two attempts to go on with a watch."""


Followed_co = TypeVar("Followed_co", covariant=True)


class _State(Protocol[Followed_co]):
    """What a watch is, without its connection."""

    def request(self) -> Request: ...
    def check(self, head: Head) -> None: ...
    def feed(self, data: bytes) -> Sequence[Followed_co]: ...
    def raise_if_failed(self) -> None: ...


@dataclass(frozen=True)
class Applied:
    """What applying did."""

    resource: AnyResource
    outcome: control.Outcome


@dataclass(frozen=True)
class Listing:
    """All resources of a kind that were asked for."""

    items: tuple[AnyResource, ...]
    revision: int
    """The revision of the first page; a watch after it misses nothing."""


class Client:
    """Talks to one daemon.

    Args:
        target: where it is; ``None`` for what the environment and the contexts say (``find_target``).
        timeout: seconds that an answer may keep silent.
        retry: how long what may be sent again is; by default one attempt is made.
        reason: why changes are made; it stands in their history.
        sleep: how to wait between attempts of a watch.

    Every method raises ``Unavailable`` when the daemon cannot be reached, ``Forbidden`` when its socket may
    not be opened, ``DeadlineExceeded`` when it does not answer in time, ``OutcomeUnknown`` when the answer
    to a change was lost, and the error that the daemon answers with.
    """

    def __init__(
        self,
        target: Target | None = None,
        *,
        timeout: float = 30.0,
        retry: Retry = NEVER,
        reason: str = "",
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.target = target if target is not None else find_target(os.environ)
        self._timeout = timeout
        self._sleep = sleep
        self._retry = retry
        self._reason = reason
        self._link: Link | None = None

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; a later request opens a new one."""
        if self._link is not None:
            self._link.close()
            self._link = None

    def send(self, request: Request) -> Response:
        """Send ``request`` and return the answer, whatever its status; sent again as ``retry`` says."""
        attempts = Attempts(request.because(self._reason), self._retry, time.monotonic)
        while True:
            try:
                response = self._once(attempts.request)
            except PlatformError as error:
                wait = attempts.after_error(error)
                if wait is None:
                    raise
            else:
                wait = attempts.after_answer(response)
                if wait is None:
                    return response
            self._sleep(wait)

    def _once(self, request: Request) -> Response:
        """The answer to ``request``.

        One that may be repeated is sent once more when the kept connection turns out to have been closed by the
        server in the meantime.
        """
        link, kept = self._link, True
        if link is None or link.stale():
            self.close()
            link, kept = Link(self.target, self._timeout), False
        self._link = None  # until the answer has been read to its end, nobody else may use it
        try:
            response = link.exchange(request, give_up_early=kept and request.repeatable)
            if response is None:
                link.close()
                link = Link(self.target, self._timeout)
                response = link.exchange(request)
        except BaseException:
            link.close()
            raise
        if response is None:
            raise link.http.lost("it closed the connection")
        if link.http.reusable:
            self._link = link
        else:
            link.close()
        return response

    def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        json: Any = None,
        body: bytes | None = None,
        content_type: str = "application/json",
        headers: Mapping[str, str] | None = None,
    ) -> Response:
        """Send any request; the answer is a success. See ``platformd.client.http.make_request``.

        Raises:
            PlatformError: the answer is a failure.
        """
        request = make_request(
            method, path, query=query, json=json, body=body, content_type=content_type, headers=headers
        )
        return self.send(request).check()

    def stream(self, request: Request) -> Iterator[Head | bytes]:
        """Send ``request`` on a connection of its own, and give its answer as it comes: the head, then pieces of body.

        Closing the iterator closes the connection.

        Raises:
            PlatformError: the answer is a failure.
        """
        link = Link(self.target, self._timeout)
        failure: Collector | None = None
        try:
            link.send(request.because(self._reason))
            while True:
                for part in link.http.receive(link.receive()):
                    if isinstance(part, Head):
                        failure = Collector() if part.status >= 300 else None
                        if part.media_type == EVENT_STREAM:
                            link.wait_at_most(SILENCE_TIMEOUT)
                    response = None if failure is None else failure.add(part)
                    if response is not None:
                        response.check()
                    if isinstance(part, End):
                        return
                    if failure is None:
                        yield part
        finally:
            link.close()

    def status(self) -> dict[str, Any]:
        """What the daemon is and does: ``GET /status``."""
        document: dict[str, Any] = self.send(control.status()).check().json()
        return document

    def get(self, kind: Kind | str, name: str, *, tenant: str = DEFAULT_TENANT) -> AnyResource:
        """One resource.

        Raises:
            NotFound: it is not there.
        """
        kind = as_kind(kind)
        return read_resource(kind, self.send(control.get(kind, name, tenant=tenant)).check().json())

    def pages(
        self,
        kind: Kind,
        *,
        tenant: str = DEFAULT_TENANT,
        selector: str = "",
        fields: str = "",
        limit: int | None = None,
        cursor: str | None = None,
    ) -> Iterator[control.DocumentPage]:
        """All resources of a kind, or ``limit`` of them, as they are sent, page by page, from ``cursor`` on."""
        left = limit
        while True:
            size = control.PAGE_LIMIT if left is None else min(left, control.PAGE_LIMIT)
            request = control.list_page(
                kind, tenant=tenant, selector=selector, fields=fields, limit=size, cursor=cursor
            )
            page = control.read_page(self.send(request))
            yield page
            cursor = page.cursor
            left = None if left is None else left - len(page.items)
            if cursor is None or (left is not None and left <= 0):
                return

    def list(self, kind: Kind | str, *, tenant: str = DEFAULT_TENANT, selector: str = "") -> Listing:
        """All resources of a kind whose labels match ``selector`` (``a=b,c!=d,e``)."""
        kind = as_kind(kind)
        items: list[AnyResource] = []
        revision = 0
        for page in self.pages(kind, tenant=tenant, selector=selector):
            revision = revision or page.revision
            items += [read_resource(kind, document) for document in page.items]
        return Listing(tuple(items), revision)

    def create(
        self,
        kind: Kind | str,
        resource: AnyResource | Mapping[str, Any],
        *,
        tenant: str = DEFAULT_TENANT,
        dry_run: bool = False,
    ) -> AnyResource:
        """Create a resource from a resource or a document (name, labels, annotations, spec).

        Raises:
            Conflict: it is there.
            Unprocessable: the document is not valid; ``errors`` has everything that is wrong.
        """
        kind = as_kind(kind)
        response = self.send(control.create(kind, resource, tenant=tenant, dry_run=dry_run))
        return read_resource(kind, response.check().json())

    def apply(
        self,
        kind: Kind | str,
        resource: AnyResource | Mapping[str, Any],
        *,
        tenant: str = DEFAULT_TENANT,
        dry_run: bool = False,
        expect_revision: int | None = None,
    ) -> Applied:
        """Make a resource what the document says, creating it when it is not there.

        Raises:
            PreconditionFailed: its revision is not ``expect_revision``.
            Unprocessable: the document is not valid; ``errors`` has everything that is wrong.
        """
        kind = as_kind(kind)
        response = self.send(
            control.apply(kind, resource, tenant=tenant, dry_run=dry_run, expect_revision=expect_revision)
        )
        return Applied(read_resource(kind, response.check().json()), control.read_outcome(response))

    def patch(
        self,
        kind: Kind | str,
        name: str,
        changes: Mapping[str, Any],
        *,
        tenant: str = DEFAULT_TENANT,
        dry_run: bool = False,
        expect_revision: int | None = None,
    ) -> AnyResource:
        """Change members of a resource (RFC 7396: ``None`` removes one).

        Raises:
            NotFound: it is not there.
            PreconditionFailed: its revision is not ``expect_revision``.
            Unprocessable: the result would not be valid.
        """
        kind = as_kind(kind)
        response = self.send(
            control.patch(kind, name, changes, tenant=tenant, dry_run=dry_run, expect_revision=expect_revision)
        )
        return read_resource(kind, response.check().json())

    def delete(
        self,
        kind: Kind | str,
        name: str,
        *,
        tenant: str = DEFAULT_TENANT,
        dry_run: bool = False,
        expect_revision: int | None = None,
    ) -> bool:
        """Delete a resource. Returns whether it is gone already; if not, its controller is cleaning up.

        Raises:
            NotFound: it is not there.
            PreconditionFailed: its revision is not ``expect_revision``.
        """
        kind = as_kind(kind)
        request = control.delete(kind, name, tenant=tenant, dry_run=dry_run, expect_revision=expect_revision)
        return self.send(request).check().status != 202

    def watch(
        self,
        kinds: Sequence[Kind | str],
        *,
        tenant: str = DEFAULT_TENANT,
        after: int | None = None,
        selector: str = "",
        within: float | None = None,
        on_lost: Callable[[PlatformError, float], None] | None = None,
    ) -> Iterator[Change]:
        """Follow resources; see ``platformd.client.watching`` for what is promised.

        A connection that is lost after it stood once is opened again, for as long as it takes. Closing
        the iterator closes the connection.

        Args:
            kinds: what to follow.
            tenant: whose resources.
            after: go on after this revision; ``None`` begins with what is there.
            selector: only resources whose labels match.
            within: end after so many seconds; ``None`` goes on for ever.
            on_lost: told of each lost connection and the seconds until the next attempt.

        Raises:
            Gone: the revision to go on from has been compacted away; begin a new watch.
            DeadlineExceeded: the time is over.
        """
        return self._follow(WatchState(kinds, tenant=tenant, after=after, selector=selector), on_lost, within)

    def watch_keys(
        self,
        key: bytes,
        *,
        exact: bool = False,
        after: int | None = None,
        previous: bool = False,
        on_lost: Callable[[PlatformError, float], None] | None = None,
    ) -> Iterator[KeyChange]:
        """Follow the keys that begin with ``key``, or with ``exact`` that one, from now on or after a revision.

        As ``watch``; see ``platformd.client.kv_watching`` for what is promised.

        Raises:
            Gone: the revision to go on from has been compacted away; list again.
        """
        return self._follow(KeyWatchState(key, exact=exact, after=after, previous=previous), on_lost)

    def tail(self, state: TailState, on_lost: Callable[[PlatformError, float], None] | None = None) -> Iterator[Tailed]:
        """Follow the records of a stream without a consumer; see ``platformd.client.tailing`` for what is promised.

        As ``watch``.

        Raises:
            Gone: the sequence to go on after is not there: the stream was made anew.
        """
        return self._follow(state, on_lost)

    def _follow(
        self,
        state: _State[Followed_co],
        on_lost: Callable[[PlatformError, float], None] | None,
        within: float | None = None,
    ) -> Iterator[Followed_co]:
        stood, delay = False, FIRST_DELAY
        until = None if within is None else time.monotonic() + within
        while True:
            try:
                for change in self._watch_once(state, until):
                    stood = True
                    if change is not None:
                        delay = FIRST_DELAY
                        yield change
                lost: PlatformError = Unavailable("the watch was ended by the daemon", subject=str(self.target))
            except (Unavailable, DeadlineExceeded) as error:
                if not stood:
                    raise
                lost = error
            if until is not None and time.monotonic() + delay >= until:
                raise DeadlineExceeded(f"the watch was to end after {within:g}s", subject=str(self.target))
            if on_lost is not None:
                on_lost(lost, delay)
            self._sleep(delay)
            delay = min(delay * 2, MAX_DELAY)

    def _watch_once(self, state: _State[Followed_co], until: float | None) -> Iterator[Followed_co | None]:
        """The changes that one connection brings until ``until`` (monotonic time); ``None`` once it stands."""
        link = Link(self.target, SILENCE_TIMEOUT)
        failure: Collector | None = None
        try:
            link.send(state.request())
            while True:
                if until is not None:
                    link.wait_until(until, SILENCE_TIMEOUT)
                for part in link.http.receive(link.receive()):
                    if isinstance(part, Head):
                        state.check(part)
                        failure = Collector() if part.status >= 300 else None
                        if failure is None:
                            yield None
                    if failure is not None:
                        response = failure.add(part)
                        if response is not None:
                            response.check()
                    elif isinstance(part, bytes):
                        yield from state.feed(part)
                        state.raise_if_failed()
                    elif not isinstance(part, Head):
                        return
        finally:
            link.close()
