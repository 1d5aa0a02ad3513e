"""Keeping a lease alive from the command line, and running a command for as long as a lock is held.

The command is a child of ours in every respect: it gets our signals, its exit code becomes ours, and it does not
outlive us: if we are killed the kernel sends it SIGTERM, because from then on nobody keeps its lock.

The lock is lost when the lease cannot be kept alive, and at once when its key is removed, which a second connection
watches. Then the command is asked to stop (SIGTERM), and made to (SIGKILL) after a grace. It may not know that it is
late; what it writes elsewhere is safe only if it sends the fencing revision along (PLATFORMD_LOCK_REVISION).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import FrameType
from typing import Any, Final

import click

from platformd.cli.options import Session
from platformd.cli.output import note
from platformd.client import kv
from platformd.client.blocking import Client
from platformd.core.errors import (
    Conflict,
    DeadlineExceeded,
    OutcomeUnknown,
    PlatformError,
    Unavailable,
)
from platformd.core.keeping import Keeping

LOST: Final = 123
"""Exit code when the lock was lost and the command was stopped for it."""
NOT_FOUND: Final = 127
"""Exit code when there is no such command, as of a shell."""
NOT_EXECUTABLE: Final = 126
"""Exit code when it cannot be run, as of a shell."""
SLICE: Final = 20.0
"""Seconds that one request waits for the lock; then it is asked again, at the same place."""
FORWARDED: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
"""Signals that the command gets."""
_FROM_TERMINAL: Final = (signal.SIGINT, signal.SIGQUIT)
_PR_SET_PDEATHSIG: Final = 1
_UNREACHED = (Unavailable, OutcomeUnknown, DeadlineExceeded)


class Keeper:
    """Keeps a lease alive, by questions that are asked when they are due.

    Args:
        session: where the daemon is.
        lease: the lease, which is kept alive at once.

    Raises:
        NotFound: the lease is not there.
    """

    def __init__(self, session: Session, lease: str) -> None:
        self.lease = lease
        asked_at = time.monotonic()
        self.document: dict[str, Any] = kv.read_document(session.client.send(kv.keep_alive(lease)))
        self._keeping = Keeping(asked_at, float(self.document["ttl"]))
        self._client = Client(session.target(), timeout=max(0.5, self._keeping.ttl / 4))

    @property
    def due(self) -> float:
        """When the next question is due, on the monotonic clock."""
        return self._keeping.due

    def ask(self) -> None:
        """Keep it alive once more; a question that is not answered is asked again soon, until it is too late.

        Raises:
            NotFound: it ended, or was revoked.
            Conflict: nobody answered for its whole time to live.
        """
        asked_at = time.monotonic()
        if self._keeping.over(asked_at):
            raise Conflict(f"no keep-alive came through for {self._keeping.ttl:g}s", subject=f"lease {self.lease}")
        try:
            self.document = kv.read_document(self._client.send(kv.keep_alive(self.lease)))
        except _UNREACHED:
            self._keeping.failed(time.monotonic())
        else:
            self._keeping.kept(asked_at, float(self.document["ttl"]))

    def close(self) -> None:
        """Close its connection."""
        self._client.close()


def acquire(session: Session, name: str, lease: str, *, wait: float, owner: str) -> dict[str, Any]:
    """Have the lock; its document. The wait goes on over a restart of the daemon.

    Raises:
        Conflict: somebody else has it, also after ``wait``.
    """
    deadline = time.monotonic() + wait
    while True:
        left = deadline - time.monotonic()
        try:
            request = kv.acquire(name, lease, wait=round(max(0.0, min(left, SLICE)), 3), owner=owner)
            return kv.read_document(session.client.send(request))
        except Conflict:
            if left <= SLICE:
                raise
        except _UNREACHED:
            if left <= 0:
                raise
            time.sleep(min(0.5, left))


def run_locked(
    session: Session, name: str, command: Sequence[str], *, ttl: str, wait: float, grace: float, owner: str
) -> int:
    """Run ``command`` while holding the lock ``name``; its exit code, or ``LOST``.

    Raises:
        Conflict: somebody else has the lock.
        PlatformError: the daemon refuses, or does not answer.
    """
    lease = str(kv.read_document(session.client.send(kv.grant(ttl)))["id"])
    signals = _Signals()
    keeper: Keeper | None = None
    try:
        with signals.handled():
            lock = acquire(session, name, lease, wait=wait, owner=owner)
            environ = dict(session.environ) | {
                "PLATFORMD_LOCK_NAME": name,
                "PLATFORMD_LOCK_REVISION": str(lock["revision"]),
                "PLATFORMD_LOCK_KEY": str(lock["key"]),
                "PLATFORMD_LOCK_LEASE": lease,
            }
            keeper = Keeper(session, lease)
            with signals.starting():
                child = _start(command, environ)
                if isinstance(child, int):
                    return child
                signals.belong_to(child)
            return _hold(session, lock, keeper, child, grace)
    finally:
        if keeper is not None:
            keeper.close()
        with contextlib.suppress(PlatformError):  # what cannot be given back ends by itself
            session.client.send(kv.revoke(lease)).check()


class _Child:
    """The command that runs."""

    def __init__(self, process: subprocess.Popen[bytes], *, own_group: bool) -> None:
        self.process = process
        self._own_group = own_group

    def signal(self, number: int) -> None:
        """Give it a signal, and what it started too when that can be told apart from us."""
        with contextlib.suppress(ProcessLookupError):
            if self._own_group:
                os.killpg(self.process.pid, number)
            else:
                self.process.send_signal(number)

    @property
    def shares_terminal(self) -> bool:
        """Whether what is typed at the terminal reaches it anyway."""
        return not self._own_group


class _Signals:
    """What we are told: while waiting it ends us, then it is the command's."""

    def __init__(self) -> None:
        self._child: _Child | None = None
        self._starting = False
        self._pending: list[int] = []

    @contextlib.contextmanager
    def starting(self) -> Iterator[None]:
        """While the command is started they wait: to end now might leave it without us."""
        self._starting = True
        try:
            yield
        finally:
            self._starting = False
            for number in self._pending:
                self._take(number, None)

    def belong_to(self, child: _Child) -> None:
        """From now on they are the command's."""
        self._child = child

    @contextlib.contextmanager
    def handled(self) -> Iterator[None]:
        before = {number: signal.signal(number, self._take) for number in FORWARDED}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _take(self, number: int, _frame: FrameType | None) -> None:
        if self._starting:
            self._pending.append(number)
        elif self._child is None:
            raise click.exceptions.Exit(128 + number)
        elif not (self._child.shares_terminal and number in _FROM_TERMINAL):
            self._child.signal(number)


def _start(command: Sequence[str], environ: Mapping[str, str]) -> _Child | int:
    """Start the command; the exit code if it cannot be."""
    # On a terminal it stays in our process group, or it could not read from it; elsewhere it gets one of its own.
    own_group = not sys.stdin.isatty()
    try:
        # There are no other threads yet, so that what runs between fork and exec is safe.
        process = subprocess.Popen(
            list(command),
            env=dict(environ),
            process_group=0 if own_group else None,
            preexec_fn=_die_with(os.getpid()),  # noqa: PLW1509 - see above
        )
    except FileNotFoundError:
        note(f"{command[0]}: there is no such command")
        return NOT_FOUND
    except OSError as error:
        note(f"{command[0]}: cannot be run: {error.strerror}")
        return NOT_EXECUTABLE
    return _Child(process, own_group=own_group)


def _die_with(parent: int) -> Callable[[], None]:
    """What the child does before its command: have itself stopped when we die, however we die."""
    prctl = ctypes.CDLL(None, use_errno=True).prctl

    def prepare() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != parent:  # we died before the kernel had been asked
            os.kill(os.getpid(), signal.SIGTERM)

    return prepare


def _hold(session: Session, lock: Mapping[str, Any], keeper: Keeper, child: _Child, grace: float) -> int:
    """Keep the lease alive until the command has ended, or stop it when the lock is lost."""
    watcher = _KeyWatcher(session, lock)
    ended = os.pidfd_open(child.process.pid)
    poll = select.poll()
    poll.register(ended, select.POLLIN)
    poll.register(watcher.fd, select.POLLIN)
    lost: str | None = None
    try:
        while True:
            ready = [fd for fd, _ in poll.poll(max(0.0, keeper.due - time.monotonic()) * 1000)]
            if ended in ready:
                return _exit_code(child.process.wait())
            if watcher.fd in ready:
                lost = "its key was removed"
            elif time.monotonic() >= keeper.due:
                try:
                    keeper.ask()
                except PlatformError as error:
                    lost = error.message
            if lost is not None:
                note(f"the lock {lock['name']} was lost ({lost}); the command is stopped")
                _stop(child, ended, grace)
                return LOST
    finally:
        os.close(ended)


def _stop(child: _Child, ended: int, grace: float) -> None:
    child.signal(signal.SIGTERM)
    child.signal(signal.SIGCONT)  # a stopped one would not notice
    poll = select.poll()
    poll.register(ended, select.POLLIN)
    if not poll.poll(grace * 1000):
        child.signal(signal.SIGKILL)
    child.process.wait()


def _exit_code(code: int) -> int:
    return 128 - code if code < 0 else code


class _KeyWatcher:
    """Says, by ``fd`` becoming readable, that the key of a lock is gone.

    Its thread only shortens the time in which a loss is noticed, so whatever goes wrong with it ends it quietly: the
    keep-alives notice everything that it could.
    """

    def __init__(self, session: Session, lock: Mapping[str, Any]) -> None:
        self.fd, self._told = os.pipe()
        self._client = Client(session.target())
        self._key, self._revision = str(lock["key"]).encode(), int(lock["revision"])
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        with contextlib.suppress(PlatformError, OSError):
            for change in self._client.watch_keys(self._key, exact=True, after=self._revision):
                if change.type == "delete":
                    os.write(self._told, b"x")
                    return
