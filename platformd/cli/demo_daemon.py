"""A daemon of one's own: started as a process on a state directory, and ended with what started it."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from platformd.client.blocking import Client
from platformd.client.http import Target
from platformd.core.errors import PlatformError, Unavailable
from platformd.core.processes import own_environment, own_module

START_DEADLINE: Final = 30.0
"""Seconds until the daemon must answer."""
STOP_DEADLINE: Final = 15.0
"""Seconds until a daemon that was told to stop is killed; longer than its own deadline."""
LONGEST_DIRECTORY: Final = 60
"""Characters of the temporary directory's path; Unix sockets are below it and may have 107 in all."""
LAST_WORDS: Final = 20
"""Lines of the daemon's log that are shown when it fails."""
_PR_SET_PDEATHSIG: Final = 1


@dataclass(frozen=True)
class PrivateDaemon:
    """A daemon that runs."""

    process: subprocess.Popen[bytes]
    state_dir: Path
    socket: Path
    log: Path

    def client(self) -> Client:
        """A client of it."""
        return Client(Target(unix=str(self.socket)))

    def check(self) -> None:
        """Make sure that it runs.

        Raises:
            Unavailable: it has ended; the message has its last words.
        """
        code = self.process.poll()
        if code is not None:
            how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
            raise Unavailable(f"the daemon ended {how}\n{self.last_words()}", subject="platformd demo")

    def last_words(self) -> str:
        """The end of its log."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join(f"  | {line}" for line in lines[-LAST_WORDS:])


@contextlib.contextmanager
def private_daemon(state_dir: Path | None, settings: Mapping[str, str]) -> Iterator[PrivateDaemon]:
    """A daemon for as long as the block runs; a temporary state directory goes with it.

    Args:
        state_dir: where its state is; ``None`` for a temporary directory.
        settings: environment variables for it. What the user's own daemon is told that way is not passed on.

    Raises:
        Unavailable: it does not start.
    """
    with contextlib.ExitStack() as stack:
        if state_dir is None:
            state_dir = stack.enter_context(_temporary_directory())
        else:
            state_dir.mkdir(parents=True, exist_ok=True)
        daemon = _start(state_dir.resolve(), settings)
        stack.callback(_stop, daemon.process)
        _wait_until_ready(daemon)
        yield daemon


@contextlib.contextmanager
def _temporary_directory() -> Iterator[Path]:
    parent = None if len(tempfile.gettempdir()) + 24 <= LONGEST_DIRECTORY else "/tmp"  # noqa: S108 - made private
    with tempfile.TemporaryDirectory(prefix="platformd-demo-", dir=parent) as directory:
        yield Path(directory)


def _start(state_dir: Path, settings: Mapping[str, str]) -> PrivateDaemon:
    socket, log = state_dir / "platformd.sock", state_dir / "daemon.log"
    environ = {k: v for k, v in os.environ.items() if not k.startswith("PLATFORMD_")} | dict(settings)
    command = own_module("platformd.cli.main", "run", "--state-dir", str(state_dir), "--socket", str(socket))
    libc = ctypes.CDLL(None)

    def end_with_parent() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)

    with log.open("ab") as output:
        # A session of its own: Ctrl-C is for us, and we end it in order. There are no other threads yet that
        # preexec_fn could meet in the middle of something.
        process = subprocess.Popen(
            command,
            env=own_environment(environ),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            preexec_fn=end_with_parent,  # noqa: PLW1509 - see above
        )
    return PrivateDaemon(process, state_dir, socket, log)


def _wait_until_ready(daemon: PrivateDaemon) -> None:
    deadline = time.monotonic() + START_DEADLINE
    while True:
        daemon.check()
        try:
            with daemon.client() as client:
                if client.status().get("state") == "running":
                    return
            problem = "it is still starting"
        except PlatformError as error:
            problem = error.message
        if time.monotonic() > deadline:
            raise Unavailable(
                f"the daemon did not get ready within {START_DEADLINE:g} s: {problem}\n{daemon.last_words()}",
                subject="platformd demo",
            )
        time.sleep(0.05)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Let it stop in order; kill it if it does not, or if there is no more patience (a second Ctrl-C)."""
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(STOP_DEADLINE)
    except (subprocess.TimeoutExpired, KeyboardInterrupt, SystemExit):
        process.kill()
        process.wait()
