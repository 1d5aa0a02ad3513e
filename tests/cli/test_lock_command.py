"""``platformd lock`` against a daemon: held, handed on, and taken away."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from platformd.cli.kv_keeping import LOST, Keeper
from platformd.cli.options import Session
from platformd.client import kv
from platformd.core.errors import Conflict, NotFound
from tests.support.daemon import DaemonProcess, environment

from .conftest import Cli
from .kv_daemon import daemon, running

__all__ = ["daemon", "running"]


def eventually(condition: Callable[[], bool]) -> None:
    """Wait for what other processes do."""
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "it never came to be"
        time.sleep(0.01)


class Locked:
    """``platformd lock`` as a process that others can be run beside."""

    def __init__(self, daemon: DaemonProcess) -> None:
        self._daemon = daemon
        self.processes: list[subprocess.Popen[bytes]] = []

    def __call__(self, *words: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "platformd.cli.main", "--socket", str(self._daemon.socket), "lock", *words]
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()
        )
        self.processes.append(process)
        return process

    def state(self, name: str = "a") -> dict[str, object]:
        with self._daemon.client as client:
            return kv.read_document(client.send(kv.lock_state(name)))

    def held_by(self, owner: str) -> bool:
        holder = self.state()["holder"]
        return isinstance(holder, dict) and holder["owner"] == owner

    def lease(self) -> str:
        holder = self.state()["holder"]
        assert isinstance(holder, dict)
        return str(holder["lease"])


@pytest.fixture
def lock(daemon: DaemonProcess) -> Iterator[Locked]:
    """Starts the command; what is left of it is killed."""
    locked = Locked(daemon)
    yield locked
    for process in locked.processes:
        if process.poll() is None:
            process.kill()
        process.communicate(timeout=10)


def python(text: str) -> tuple[str, str, str, str]:
    return "--", sys.executable, "-c", text


def test_a_command_runs_with_the_lock(lock: Locked) -> None:
    """It finds its revision in the environment; its exit code is ours; afterwards the lock is free."""
    code = "import os; e = os.environ; print(e['PLATFORMD_LOCK_NAME'], e['PLATFORMD_LOCK_REVISION']); exit(7)"
    revisions = []
    for _ in range(2):
        process = lock("a", *python(code))
        out, err = process.communicate(timeout=20)
        assert (process.returncode, err) == (7, b"")
        name, revision = out.decode().split()
        assert name == "a"
        revisions.append(int(revision))
    assert revisions[0] < revisions[1]
    assert lock.state() == {"name": "a", "holder": None, "waiters": []}


def test_the_lock_is_handed_on(lock: Locked, tmp_path: Path) -> None:
    """A second one waits until the first has ended; one that only tries is refused with who has it."""
    gate = tmp_path / "gate"
    first = lock(
        "a", "--owner", "first", *python(f"import os, time\nwhile not os.path.exists({str(gate)!r}): time.sleep(.01)")
    )
    eventually(lambda: lock.held_by("first"))
    second = lock("a", "--owner", "second", *python("pass"))
    eventually(lambda: len(lock.state()["waiters"]) == 1)  # type: ignore[arg-type]
    third = lock("a", "--wait", "0s", *python("pass"))
    _, err = third.communicate(timeout=20)
    assert (third.returncode, b"it is held by first" in err) == (5, True)
    assert second.poll() is None
    gate.touch()
    assert [first.wait(20), second.wait(20)] == [0, 0]


@pytest.mark.parametrize("stubborn", [False, True])
def test_a_lost_lock_stops_the_command(lock: Locked, daemon: DaemonProcess, tmp_path: Path, stubborn: bool) -> None:
    """When the lease is revoked the command is stopped at once, by force if it does not mind, and 123 says so."""
    mark = tmp_path / "mark"
    ignore = "signal.signal(signal.SIGTERM, signal.SIG_IGN)" if stubborn else "pass"
    code = f"import pathlib, signal, time; {ignore}\npathlib.Path({str(mark)!r}).touch()\ntime.sleep(60)"
    process = lock("a", "--ttl", "60s", "--grace", "300ms", *python(code))
    eventually(mark.exists)
    with daemon.client as client:
        client.send(kv.revoke(lock.lease())).check()
    started = time.monotonic()
    _, err = process.communicate(timeout=20)
    assert process.returncode == LOST
    assert time.monotonic() - started < 15  # long before the next keep-alive, which is due after 20 s
    assert b"the lock a was lost (its key was removed)" in err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_signals_are_the_commands(lock: Locked, tmp_path: Path, number: signal.Signals) -> None:
    """A signal goes to the command, whose answer to it is the exit code; one that ends it is 128 and its number."""
    mark = tmp_path / "mark"
    code = f"import pathlib, signal, time, sys; signal.signal({int(number)}, lambda *_: sys.exit(42))\npathlib.Path({str(mark)!r}).touch()\ntime.sleep(60)"  # noqa: E501
    process = lock("a", *python(code))
    eventually(mark.exists)
    process.send_signal(number)
    assert process.wait(20) == 42
    mark.unlink()
    process = lock("a", *python(code.replace("lambda *_: sys.exit(42)", "signal.SIG_DFL")))
    eventually(mark.exists)
    process.send_signal(number)
    assert process.wait(20) == 128 + number
    assert lock.state()["holder"] is None


def test_who_stops_waiting_leaves_the_queue(lock: Locked) -> None:
    """A signal while waiting ends the wait, and the place is given up."""
    holder = lock("a", "--owner", "first", *python("import time; time.sleep(60)"))
    eventually(lambda: lock.held_by("first"))
    waiting = lock("a", *python("pass"))
    eventually(lambda: len(lock.state()["waiters"]) == 1)  # type: ignore[arg-type]
    waiting.send_signal(signal.SIGTERM)
    assert waiting.wait(20) == 143
    assert lock.state()["waiters"] == []
    holder.terminate()
    assert holder.wait(20) == 143


def test_the_command_does_not_outlive_its_keeper(lock: Locked, tmp_path: Path) -> None:
    """When we are killed the command gets SIGTERM: nobody would keep its lock alive."""
    mark = tmp_path / "mark"
    process = lock(
        "a",
        *python(f"import os, pathlib, time; pathlib.Path({str(mark)!r}).write_text(str(os.getpid()))\ntime.sleep(60)"),
    )
    eventually(lambda: mark.exists() and mark.read_text() != "")
    child = int(mark.read_text())
    process.kill()

    def gone() -> bool:
        try:
            os.kill(child, 0)
        except ProcessLookupError:
            return True
        return Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0] == "Z"

    eventually(gone)


def test_a_restart_of_the_daemon_is_survived(lock: Locked, daemon: DaemonProcess, tmp_path: Path) -> None:
    """Holder and waiter go on over a killed daemon: the lock stays whose it was, the waiter keeps its place."""
    gate, mark = tmp_path / "gate", tmp_path / "mark"
    code = f"import os, time\nopen({str(mark)!r}, 'w')\nwhile not os.path.exists({str(gate)!r}): time.sleep(.01)"
    holder = lock("a", "--owner", "first", "--ttl", "30s", *python(code))
    eventually(mark.exists)
    waiting = lock("a", "--owner", "second", "--ttl", "30s", *python("pass"))
    eventually(lambda: len(lock.state()["waiters"]) == 1)  # type: ignore[arg-type]
    before = lock.state()
    daemon.kill()
    daemon.start()
    assert lock.state() == before
    gate.touch()
    assert [holder.wait(20), waiting.wait(20)] == [0, 0]


def test_what_cannot_be_run(cli: Cli, lock: Locked, tmp_path: Path) -> None:
    """A command that is not there is 127, one that is no program 126, as in a shell; no command at all is 2."""
    (tmp_path / "text").write_text("no program")
    for word, code in (("/nonexistent/command", 127), (str(tmp_path / "text"), 126)):
        process = lock("a", "--", word)
        assert process.wait(20) == code
    assert cli("lock", "a").code == 2
    assert cli("lock", "a", "--ttl", "soon", "--", "true").code == 2
    assert lock.state()["holder"] is None


def test_showing_a_lock(cli: Cli, lock: Locked) -> None:
    """--show lists the holder and who waits."""
    assert cli("lock", "a", "--show").out.split() == ["ROLE", "REVISION", "LEASE", "OWNER"]
    process = lock("a", "--owner", "first", *python("import time; time.sleep(60)"))
    eventually(lambda: lock.held_by("first"))
    header, line = cli("lock", "a", "--show").out.splitlines()
    assert (header.split()[0], line.split()[0], line.split()[-1]) == ("ROLE", "holder", "first")
    process.terminate()
    process.wait(20)


def test_a_keeper_knows_when_it_is_too_late(daemon: DaemonProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unanswered questions are asked again soon; after a whole time to live without an answer the lease is lost."""
    with daemon.client as client:
        lease = kv.read_document(client.send(kv.grant("60s")))["id"]
    now = 1000.0
    monkeypatch.setattr("platformd.cli.kv_keeping.time.monotonic", lambda: now)
    session = Session(socket=str(daemon.socket))
    keeper = Keeper(session, lease)
    assert keeper.due == 1020
    now = 1020
    keeper.ask()
    assert keeper.due == 1040
    keeper.close()
    monkeypatch.setattr(keeper, "_client", Session(socket="/nonexistent").client)
    for asked, due in ((1040, 1041), (1041, 1042), (1079.5, 1080)):
        now = asked
        keeper.ask()
        assert keeper.due == due
    now = 1080
    with pytest.raises(Conflict, match="no keep-alive came through for 60s"):
        keeper.ask()
    session.client.send(kv.revoke(lease)).check()
    with pytest.raises(NotFound):
        Keeper(session, lease)
    session.close()
