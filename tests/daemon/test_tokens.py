"""Tokens from the command line against a running daemon, over TCP as well; and what a restart leaves of them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.daemon import DaemonProcess, short_directory


@pytest.fixture(scope="module")
def daemon() -> Iterator[DaemonProcess]:
    with short_directory() as directory, DaemonProcess(directory, "--http", "127.0.0.1:0") as found:
        yield found


def said(daemon: DaemonProcess, *arguments: str, code: int = 0) -> str:
    done = daemon.command(*arguments)
    assert done.returncode == code, done.stderr.decode()
    return (done.stdout if code == 0 else done.stderr).decode()


def test_a_token_from_its_creation_to_its_end(daemon: DaemonProcess, tmp_path: Path) -> None:
    """Created into a file of its own, shown over TCP, refused beyond its role with what is needed, revoked by name."""
    file = tmp_path / "t.token"
    url = re.findall(r"http://127\.0\.0\.1:\d+", daemon.log.read_text())[-1]
    over_tcp = ("--url", url, "--token-file", str(file))
    assert "its secret is in" in said(
        daemon,
        "token",
        "create",
        "guest",
        "--role",
        "reader",
        "--tenant",
        "survey",
        "--expires",
        "1h",
        "--to",
        str(file),
    )
    assert file.stat().st_mode & 0o777 == 0o600
    assert said(daemon, "access", "whoami", *over_tcp) == "token:guest: reader of tenant survey, known by token\n"
    refused = said(daemon, "kv", "put", "tenants/survey/a", "b", *over_tcp, code=4)
    assert "token:guest is reader of tenant survey and may not do kv.write" in refused
    assert "the role that may: tenant or operator or admin" in refused
    (row,) = json.loads(said(daemon, "token", "ls", "-o", "json"))["items"]
    assert (row["name"], row["state"], row["tenant"]) == ("guest", "active", "survey")
    assert "kv.write" in said(daemon, "access", "audit")
    said(daemon, "token", "create", "again", "--role", "reader", "--to", str(file), code=5)
    daemon.stop()
    daemon.start()
    url = re.findall(r"http://127\.0\.0\.1:\d+", daemon.log.read_text())[-1]
    over_tcp = ("--url", url, "--token-file", str(file))
    assert said(daemon, "access", "whoami", *over_tcp).startswith("token:guest")
    assert "revoked" in said(daemon, "token", "revoke", "guest")
    assert "token guest was revoked at" in said(daemon, "access", "whoami", *over_tcp, code=4)
    said(daemon, "token", "revoke", "nobody", code=3)
    secret = file.read_text().strip()
    assert secret not in daemon.log.read_text()
    # Without a token, whoever comes over loopback looks on, and is told what it would need.
    assert "reader" in said(daemon, "access", "whoami", "--url", url)
    assert "kv.write needs a token of role operator or admin" in said(
        daemon, "kv", "put", "a", "b", "--url", url, code=4
    )
