"""A daemon of a few lines on a socket, and the command line pointed at it."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest

from platformd.cli.main import main
from platformd.client.blocking import Client
from tests.client.fake_api import FakeApi, serving


@dataclass(frozen=True)
class Ran:
    """What an invocation left."""

    code: int
    out: str
    err: str
    raw: bytes = b""

    def json(self) -> Any:
        """Standard output as one JSON document."""
        return msgspec.json.decode(self.out)


class Cli:
    """Runs ``platformd`` in this process."""

    def __init__(self, capture: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
        self._capture = capture
        self._monkeypatch = monkeypatch

    def __call__(self, *words: str, stdin: bytes | None = None) -> Ran:
        """The outcome of ``platformd WORDS``."""
        if stdin is not None:
            self._monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        code = main(list(words))
        captured = self._capture.readouterr()
        return Ran(code, captured.out.decode("utf-8", "replace"), captured.err.decode(), captured.out)

    def env(self, **variables: str) -> None:
        """Set environment variables."""
        for name, value in variables.items():
            self._monkeypatch.setenv(name, value)


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whoever runs the tests may have a daemon of their own; it is not asked."""
    for name in ("PLATFORMD_URL", "PLATFORMD_SOCKET", "PLATFORMD_OUTPUT", "NO_COLOR", "_PLATFORMD_COMPLETE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("TENANT", "CONTEXT", "TOKEN", "TOKEN_FILE", "CA_FILE", "CERT_FILE", "KEY_FILE"):
        monkeypatch.delenv(f"PLATFORMD_{name}", raising=False)
    monkeypatch.setenv("EDITOR", "true")
    monkeypatch.setenv("PLATFORMD_STATE_DIR", str(tmp_path / "nobody"))


@pytest.fixture
def no_real_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """A watch that is lost is tried again at once."""
    made = Client.__init__

    def init(self: Client, *args: Any, **options: Any) -> None:
        made(self, *args, **options)
        self._sleep = lambda _seconds: None

    monkeypatch.setattr(Client, "__init__", init)


@pytest.fixture
def cli(capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch) -> Cli:
    """The command line, with nobody to talk to."""
    return Cli(capfdbinary, monkeypatch)


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_real_waiting: None) -> Iterator[FakeApi]:
    """A daemon that the environment points at."""
    path = tmp_path / "s"
    monkeypatch.setenv("PLATFORMD_SOCKET", str(path))
    with serving(FakeApi(), path) as api:
        yield api
