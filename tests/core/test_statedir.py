"""One daemon for each state directory."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from platformd.core.errors import Conflict, PlatformError
from platformd.core.statedir import hold_state_dir

HOLDER: dict[str, object] = {"pid": 4711, "socket": "/run/x.sock", "since": "2026-01-01T00:00:00Z"}


def test_the_second_is_told_who_has_it(tmp_path: Path) -> None:
    """The refusal names the process, its socket and since when."""
    with hold_state_dir(tmp_path / "state", HOLDER), pytest.raises(Conflict) as caught:
        with hold_state_dir(tmp_path / "state", HOLDER | {"pid": 1}):
            pass
    assert "process 4711 (socket /run/x.sock, since 2026-01-01T00:00:00Z)" in str(caught.value)


def test_it_is_free_again_afterwards(tmp_path: Path) -> None:
    """Leaving the block, also by an exception, frees the directory."""
    with pytest.raises(ZeroDivisionError), hold_state_dir(tmp_path / "state", HOLDER):
        raise ZeroDivisionError
    with hold_state_dir(tmp_path / "state", HOLDER):
        assert json.loads((tmp_path / "state" / "lock").read_text())["pid"] == 4711


def test_a_lock_file_that_says_nothing_is_still_a_lock(tmp_path: Path) -> None:
    """A holder that has not written its name yet is another process, not a traceback."""
    with hold_state_dir(tmp_path, HOLDER):
        (tmp_path / "lock").write_text("")
        with pytest.raises(Conflict, match="another process"), hold_state_dir(tmp_path, HOLDER):
            pass


def test_a_place_that_cannot_be_is_an_error(tmp_path: Path) -> None:
    """A file where the directory should be is refused with a sentence."""
    (tmp_path / "file").write_text("x")
    with pytest.raises(PlatformError, match="state directory"), hold_state_dir(tmp_path / "file" / "x", HOLDER):
        pass
