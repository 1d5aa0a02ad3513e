"""Contexts: names for daemons, and which one is meant."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from platformd.client.contexts import Context, Contexts, contexts_path, find_target, read_contexts, write_contexts
from platformd.client.target import Credentials, Target
from platformd.core.errors import InvalidInput, NotFound

from ..client.fake_api import FakeApi, serving, serving_tls
from .conftest import Cli

TOKEN = "pd_c2VjcmV0"


@pytest.fixture
def home(cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty place for the file; nothing else says where a daemon is."""
    monkeypatch.delenv("PLATFORMD_STATE_DIR")
    cli.env(XDG_CONFIG_HOME=str(tmp_path / "config"), HOME=str(tmp_path))
    return tmp_path


def token_file(home: Path) -> Path:
    """A file with a token, as it should be."""
    file = home / "token"
    file.write_text(TOKEN + "\n")
    file.chmod(0o600)
    return file


def test_a_life_of_contexts(cli: Cli, home: Path) -> None:
    """Made, changed, listed, chosen and removed; the file is for its owner alone, and no secret is anywhere."""
    file = token_file(home)
    assert cli("context", "ls").err == "there are no contexts\n"
    assert cli("context", "set", "site", "--url", "https://s:7070", "--token-file", str(file)).out == (
        "context site created\n"
    )
    assert cli("context", "set", "lab", "--socket", "/run/x.sock", "--tenant", "optics", "--use").code == 0
    path = home / "config" / "platformd" / "contexts.toml"
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o077 == 0
    listed = cli("context", "ls")
    assert [line.split() for line in listed.out.splitlines()] == [
        ["NAME", "WHERE", "TENANT", "WITH"],
        ["site", "https://s:7070", "<none>", "token"],
        ["*", "lab", "/run/x.sock", "optics", "<none>"],
    ]
    assert cli("context", "use", "site").code == 0
    shown = cli("context", "show", "-o", "json")
    assert shown.json() == {"name": "site", "current": True, "url": "https://s:7070", "token_file": str(file)}
    assert TOKEN not in shown.out + listed.out + path.read_text()
    assert cli("context", "set", "site", "--token-file", "").code == 0
    assert cli("context", "rm", "site").code == 0
    assert cli("context", "ls", "-o", "name").out == "lab\n"
    assert cli("context", "show").code == 3
    assert cli("context", "use", "--none").code == 0


def test_a_dry_run_leaves_the_file(cli: Cli, home: Path) -> None:
    """What would be done is said and checked."""
    assert "(dry run)" in cli("context", "set", "a", "--url", "https://h", "--dry-run").out
    assert cli("context", "set", "a", "--url", "nonsense", "--dry-run").code == 2
    assert not contexts_path({"XDG_CONFIG_HOME": str(home / "config")}).exists()


def test_which_daemon_is_meant(cli: Cli, home: Path) -> None:
    """A flag, then --context, then the environment, then the current context; tenants go along."""
    with serving(FakeApi(), home / "one") as one, serving(FakeApi(), home / "two") as two:
        cli("context", "set", "one", "--socket", str(home / "one"), "--tenant", "t", "--use")
        cli("context", "set", "two", "--socket", str(home / "two"))

        def asked(*words: str) -> list[str]:
            """Who was asked, and for what."""
            one.seen.clear()
            two.seen.clear()
            assert cli(*words).code == 0
            return [f"{name} {seen.path}" for name, api in (("one", one), ("two", two)) for seen in api.seen]

        assert asked("get", "streams") == ["one /v1/tenants/t/streams"]
        assert asked("get", "streams", "--tenant", "default") == ["one /v1/streams"]
        assert asked("get", "streams", "--context", "two") == ["two /v1/streams"]
        assert asked("--context", "two", "get", "streams") == ["two /v1/streams"]
        assert asked("get", "streams", "--socket", str(home / "two")) == ["two /v1/streams"]
        cli.env(PLATFORMD_CONTEXT="two", PLATFORMD_TENANT="u")
        assert asked("get", "streams") == ["two /v1/tenants/u/streams"]
        cli.env(PLATFORMD_SOCKET=str(home / "one"))
        assert asked("get", "streams") == ["one /v1/tenants/u/streams"]
        assert asked("get", "streams", "--context", "two") == ["two /v1/tenants/u/streams"]
        assert cli("get", "streams", "--context", "tow").code == 3


def test_a_token_goes_only_where_it_belongs(cli: Cli, home: Path) -> None:
    """It is sent as a bearer token, never with a context that has another or none, and never readably."""
    with serving(FakeApi(), home / "s") as api:
        cli.env(PLATFORMD_TOKEN="pd_environment")
        cli("context", "set", "mine", "--socket", str(home / "s"), "--token-file", str(token_file(home)))
        cli("context", "set", "plain", "--socket", str(home / "s"))
        cli("status", "--context", "mine")
        cli("status", "--context", "plain")
        cli("status", "--socket", str(home / "s"))
        cli("status", "--socket", str(home / "s"), "--token-file", str(home / "token"))
        sent = [seen.headers.get("authorization") for seen in api.seen]
        assert sent == [f"Bearer {TOKEN}", None, "Bearer pd_environment", f"Bearer {TOKEN}"]
    refused = cli("status", "--url", "http://far.example:80")
    assert (refused.code, "everybody" in refused.err) == (2, True)
    assert "pd_environment" not in refused.err + repr(Target(credentials=Credentials(token="pd_environment")))


def test_a_token_file_that_others_may_read_is_refused(home: Path) -> None:
    """As is one that is not there, is empty, or holds something else."""
    file = token_file(home)
    assert Credentials(token_file=str(file)).read_token() == TOKEN
    file.chmod(0o640)
    with pytest.raises(InvalidInput, match="others may read"):
        Credentials(token_file=str(file)).read_token()
    file.chmod(0o600)
    for content in ("", "two words", "ü", "x" * 5000):
        file.write_text(content)
        with pytest.raises(InvalidInput):
            Credentials(token_file=str(file)).read_token()
    with pytest.raises(InvalidInput, match="No such file"):
        Credentials(token_file=str(home / "no")).read_token()


def test_a_file_that_others_may_change_is_not_trusted(cli: Cli, home: Path) -> None:
    """Whoever writes it decides whom we trust; so it is refused, with what to do."""
    cli("context", "set", "a", "--url", "https://h")
    path = contexts_path({"XDG_CONFIG_HOME": str(home / "config")})
    path.chmod(0o620)
    ran = cli("status")
    assert (ran.code, "chmod 600" in ran.err) == (2, True)


@pytest.mark.parametrize(
    "text",
    [
        "current = 1", "nonsense", "[other]", "contexts = 1", "[contexts.a]\nulr = 'x'", "[contexts.a]\nurl = 1",
        "[contexts.'a b']\nurl = 'x'", "\xff",
    ],
)  # fmt: skip
def test_a_file_that_is_not_one_is_refused(tmp_path: Path, text: str) -> None:
    """What is wrong is said with its place; nothing is guessed."""
    path = tmp_path / "contexts.toml"
    path.write_bytes(text.encode("latin-1"))
    path.chmod(0o600)
    with pytest.raises(InvalidInput) as caught:
        read_contexts(path)
    assert str(path) in str(caught.value.subject)


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    """Whatever is in it."""
    path = tmp_path / "deep" / "contexts.toml"
    odd = Context(url="unix:///a", token_file='/q"u\\o\n\u2028te', tenant="ü")
    contexts = Contexts("a.b", {"a.b": odd, "c": Context(socket="/s")})
    write_contexts(path, contexts)
    assert read_contexts(path) == contexts
    with pytest.raises(InvalidInput):
        write_contexts(path, Contexts("", {"a b": odd}))
    assert read_contexts(path) == contexts
    with pytest.raises(NotFound):
        find_target({"XDG_CONFIG_HOME": str(tmp_path)}, "x")


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """Who signs certificates here."""
    return trustme.CA()


@pytest.fixture
def sealed(authority: trustme.CA) -> Iterator[tuple[FakeApi, int]]:
    """A daemon with TLS, and its port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    with serving_tls(FakeApi(status={"version": "1"}), context) as (api, port):
        yield api, port


def test_a_daemon_behind_tls(cli: Cli, home: Path, authority: trustme.CA, sealed: tuple[FakeApi, int]) -> None:
    """With its authority it is asked, with the token, and connections are kept; without, it is not trusted."""
    api, port = sealed
    ca = home / "ca.pem"
    authority.cert_pem.write_to_path(str(ca))
    cli("context", "set", "far", "--url", f"https://localhost:{port}", "--ca-file", str(ca), "--use")
    cli("context", "set", "far", "--token-file", str(token_file(home)))
    assert cli("status", "-o", "jsonpath=version").out == "1\n"
    assert api.seen[-1].headers["authorization"] == f"Bearer {TOKEN}"
    api.put("streams", "a")
    api.put("streams", "b")
    assert cli("get", "stream/a", "stream/b", "-o", "name").code == 0
    assert len({seen.peer for seen in api.seen[-2:]}) == 1
    unknown = cli("status", "--url", f"https://localhost:{port}")
    assert (unknown.code, "certificate" in unknown.err) == (2, True)
    mismatch = cli("status", "--url", f"https://127.0.0.1:{port}", "--ca", str(ca))
    assert (mismatch.code, "name that the certificate is for" in mismatch.err) == (2, True)
    assert threading.active_count() < 50


def test_a_port_that_speaks_no_tls(cli: Cli, home: Path) -> None:
    """It is said so, instead of OpenSSL's words."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        ran = cli("status", "--url", f"https://127.0.0.1:{listener.getsockname()[1]}")
        thread.join()
    assert (ran.code, "not TLS" in ran.err) == (2, True)
