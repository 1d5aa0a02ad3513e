"""Settings: three sources, one precedence, and no key that is silently ignored."""

from __future__ import annotations

from pathlib import Path

import pytest

from platformd.core.errors import InvalidInput
from platformd.core.settings import load


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "platformd.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_flags_win_over_environment_over_file(tmp_path: Path) -> None:
    """Each source overrides only the keys that it sets."""
    path = write(tmp_path, '[daemon]\nlog_level = "debug"\nnode_name = "a"\nstop_deadline = "1s"\n')
    environ = {"PLATFORMD_DAEMON_NODE_NAME": "b", "PLATFORMD_DAEMON_STOP_DEADLINE": "2s", "HOME": "/"}
    daemon = load(path, environ, {"daemon": {"stop_deadline": "3s"}}).daemon
    assert (daemon.log_level, daemon.node_name, daemon.stop_deadline) == ("debug", "b", "3s")


def test_every_wrong_key_is_named_at_once_with_the_nearest_known(tmp_path: Path) -> None:
    """Unknown sections, keys and variables, and wrong values, come together, each with its path."""
    path = write(
        tmp_path, '[deamon]\nx = 1\n[daemon]\nlog_levle = "info"\n[store]\nmax_pending = "many"\nmax_batch = 1.5\n'
    )
    with pytest.raises(InvalidInput) as caught:
        load(path, {"PLATFORMD_HTTP_LISTN": "x"})
    found = {e.path: e for e in caught.value.errors}
    assert set(found) == {"deamon", "daemon.log_levle", "store.max_pending", "store.max_batch", "PLATFORMD_HTTP_LISTN"}
    assert found["deamon"].hint == "did you mean daemon?"
    assert found["daemon.log_levle"].hint == "did you mean daemon.log_level?"
    assert found["PLATFORMD_HTTP_LISTN"].hint == "did you mean PLATFORMD_HTTP_LISTEN?"


@pytest.mark.parametrize("text", ["[daemon", "daemon = 3", "[daemon]\nlog_level = 'loud'", "[http]\nmax_body = '4MB'"])
def test_wrong_files_are_refused(tmp_path: Path, text: str) -> None:
    """What is not TOML, not a section, or not a legal value is an error that names the file."""
    path = write(tmp_path, text)
    with pytest.raises(InvalidInput, match=r"platformd\.toml"):
        load(path)


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    """Bytes that are not UTF-8 are an error and not a traceback."""
    path = tmp_path / "platformd.toml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InvalidInput, match="is not TOML"):
        load(path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    """A file that was named must be there."""
    with pytest.raises(InvalidInput, match="cannot be read"):
        load(tmp_path / "none.toml")


def test_numbers_may_come_from_the_environment() -> None:
    """The environment has only strings, and numeric keys take them."""
    assert load(environ={"PLATFORMD_STORE_MAX_PENDING": "12"}).store.max_pending == 12


def test_short_environment_names(tmp_path: Path) -> None:
    """The variables that clients use for the socket and the state directory serve the daemon too."""
    settings = load(environ={"PLATFORMD_SOCKET": "/x/p.sock", "PLATFORMD_STATE_DIR": str(tmp_path)})
    assert settings.socket_path == Path("/x/p.sock")
    assert settings.state_path == tmp_path
    assert load(environ={"PLATFORMD_STATE_DIR": str(tmp_path)}).socket_path == tmp_path / "platformd.sock"


def test_relative_paths_are_made_absolute() -> None:
    """A path that others are told must mean the same from where they stand."""
    settings = load(environ={"PLATFORMD_STATE_DIR": "state"})
    assert settings.state_path == Path.cwd() / "state"
    assert settings.socket_path == Path.cwd() / "state" / "platformd.sock"
    assert load(environ={"PLATFORMD_SOCKET": "p.sock"}).socket_path == Path.cwd() / "p.sock"
