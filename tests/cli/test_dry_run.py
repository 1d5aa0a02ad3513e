"""``--dry-run`` and ``--reason``, on everything that changes something."""

from __future__ import annotations

import click
import pytest

from platformd.cli.main import root
from tests.support.daemon import DaemonProcess

from ..client.fake_api import FakeApi
from .conftest import Cli
from .kv_daemon import daemon, running

__all__ = ["daemon", "running"]

CHANGES = [
    "api", "apply", "consumer create", "consumer delete", "consumer seek", "context rm", "context set", "context use",
    "delete", "edit", "kv del", "kv import", "kv put", "kv txn", "lease grant", "lease revoke", "lock", "publish",
    "store compact", "store migrate", "stream create", "stream delete", "stream purge", "token create", "token revoke",
]  # fmt: skip


@pytest.mark.parametrize("line", CHANGES)
def test_what_changes_something_can_be_rehearsed(line: str) -> None:
    """Each such command has the option."""
    command: click.Command = root
    for word in line.split():
        assert isinstance(command, click.Group)
        found = command.get_command(click.Context(command), word)
        assert found is not None
        command = found
    assert any("--dry-run" in parameter.opts for parameter in command.params)


def test_nothing_is_sent_that_changes_something(cli: Cli, api: FakeApi) -> None:
    """What the daemon rehearses is asked with dry_run, the rest only reads; the words are those of the real thing."""
    api.put("streams", "a")
    assert cli("stream", "create", "b", "--subject", "b", "--dry-run").out == "stream/b created (dry run)\n"
    assert cli("stream", "delete", "a", "--dry-run").out == "stream/a deleted (dry run)\n"
    assert cli("consumer", "create", "a", "c", "--dry-run").out == "stream/a/consumer/c created (dry run)\n"
    assert cli("consumer", "create", "nobody", "c", "--dry-run").code == 3
    assert cli("context", "use", "--none", "--dry-run").code == 0
    changing = [seen for seen in api.seen if seen.method != "GET" and seen.query.get("dry_run") != "true"]
    assert not changing


def test_keys_and_leases(cli: Cli, daemon: DaemonProcess) -> None:
    """Preconditions are looked at, transactions are asked, and afterwards everything is as it was."""
    cli("kv", "put", "a", "1")
    revision = cli("kv", "get", "a", "-o", "jsonpath=mod_revision").out.strip()
    assert cli("kv", "put", "a", "2", "--dry-run").out == "a changed (dry run)\n"
    assert cli("kv", "put", "a", "1", "--dry-run").out == "a unchanged (dry run)\n"
    assert cli("kv", "put", "b", "2", "--dry-run").out == "b created (dry run)\n"
    assert cli("kv", "put", "a", "2", "--create", "--dry-run").code == 5
    assert cli("kv", "put", "a", "2", "--if-revision", str(int(revision) + 1), "--dry-run").code == 5
    assert cli("kv", "del", "a", "--dry-run").out == "a deleted (dry run)\n"
    assert cli("kv", "del", "--prefix", "a", "--dry-run").out == "a*: 1 keys deleted (dry run)\n"
    assert cli("kv", "del", "x", "--dry-run").code == 3
    held = '{"compares": [{"key": "a", "target": "version", "operator": "==", "operand": 1}],'
    held += '"then": [{"op": "delete", "key": "a"}]}'
    would = cli("kv", "txn", "-f", "-", "--dry-run", "-o", "json", stdin=held.encode())
    assert (would.code, would.json()["would_do"]) == (0, [{"op": "delete", "key": "a"}])
    failed = held.replace('"operand": 1', '"operand": 9')
    assert cli("kv", "txn", "-f", "-", "--dry-run", stdin=failed.encode()).code == 5
    lease = cli("lease", "grant", "1m").out.strip()
    assert "ended" in cli("lease", "revoke", lease, "--dry-run").out
    assert cli("lease", "grant", "1m", "--id", "ff", "--dry-run").out == "ff\n"
    assert cli("lease", "ls", "-o", "name").out == f"{lease}\n"
    assert cli("lock", "l", "--dry-run").code == 0
    assert "dry run" in cli("store", "compact", "--dry-run").out
    assert cli("kv", "get", "a", "-o", "jsonpath=mod_revision").out.strip() == revision


def test_records_and_streams(cli: Cli, daemon: DaemonProcess) -> None:
    """What would be published goes nowhere; what would be removed stays."""
    cli("stream", "create", "dry", "--subject", "dry.>")
    cli("publish", "dry.a", "x", "--count", "3")
    assert cli("publish", "dry.a", "hello", "--dry-run").out == "stream/dry 1 records, 5 bytes published (dry run)\n"
    assert cli("publish", "elsewhere", "hello", "--dry-run").code == 3
    purged = cli("stream", "purge", "dry", "--keep", "1", "--dry-run")
    assert purged.out == "stream/dry at most 2 records removed (dry run)\n"
    cli("consumer", "create", "dry", "c")
    assert cli("consumer", "seek", "dry", "c", "--to", "all", "--dry-run").out == (
        "stream/dry/consumer/c moved (dry run)\n"
    )
    assert cli("consumer", "delete", "dry", "c", "--dry-run").out == "stream/dry/consumer/c deleted (dry run)\n"
    assert cli("consumer", "ls", "dry", "-o", "name").out == "c\n"
    assert cli("stream", "info", "dry", "-o", "jsonpath=messages").out == "3\n"
    assert cli("stream", "delete", "dry", "--dry-run").code == 0
    assert cli("stream", "delete", "dry").code == 0


def test_tokens(cli: Cli, daemon: DaemonProcess) -> None:
    """Neither made nor ended; what would be refused is refused."""
    assert cli("token", "create", "dry", "--role", "reader", "--dry-run").out == "token dry created (dry run)\n"
    assert cli("token", "ls", "-o", "jsonpath=items[*].name").out == ""
    assert cli("token", "create", "dry", "--role", "king", "--dry-run").code == 2
    assert cli("token", "create", "dry", "--role", "reader", "-o", "jsonpath=.name").out == "dry\n"
    assert cli("token", "create", "dry", "--role", "reader", "--dry-run").code == 5
    assert "(dry run)" in cli("token", "revoke", "dry", "--dry-run").out
    assert cli("token", "revoke", "nobody", "--dry-run").code == 3
    assert cli("token", "ls", "-o", "jsonpath=items[0].state").out == "active\n"
    cli("token", "revoke", "dry")


def test_a_reason_goes_along(cli: Cli, api: FakeApi) -> None:
    """On what changes something, on one line, and not on what only reads."""
    api.put("streams", "a")
    assert cli("delete", "stream/a", "--reason", "old\n  naïve", "--no-wait").code == 0
    assert api.seen[-1].headers["platformd-reason"].encode("latin-1").decode() == "old naïve"
    cli("api", "streams", "--reason", "because")
    assert "platformd-reason" not in api.seen[-1].headers
