"""Certificates of a site, and of nobody: files for a daemon and for its clients."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import trustme

from platformd.client.endpoints import ClientTls


class Site:
    """The authority of a site, one that is not trusted there, and what they have signed.

    For the daemon there are ``cert.pem``, ``key.pem`` and ``ca.pem``, for clients ``client.pem``, ``expired.pem`` and
    ``stranger.pem``, each with its key.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(exist_ok=True)
        authority, stranger = trustme.CA(), trustme.CA()
        server = authority.issue_cert("127.0.0.1", "localhost")
        self.file("cert").write_bytes(b"".join(blob.bytes() for blob in server.cert_chain_pems))
        server.private_key_pem.write_to_path(str(self.file("key")))
        authority.cert_pem.write_to_path(str(self.file("ca")))
        stranger.cert_pem.write_to_path(str(self.file("other-ca")))
        long_ago = dt.datetime(2001, 1, 1)
        for name, issued in {
            "client": authority.issue_cert("client@site.example"),
            "expired": authority.issue_cert(
                "old@site.example", not_before=long_ago, not_after=long_ago.replace(year=2002)
            ),
            "stranger": stranger.issue_cert("somebody@else.example"),
        }.items():
            issued.private_key_and_cert_chain_pem.write_to_path(str(self.file(name)))

    def file(self, name: str) -> Path:
        return self.directory / f"{name}.pem"

    def settings(self, *, clients: bool = True) -> dict[str, str]:
        """For ``QueueSettings``: with ``clients`` they need a certificate of this site."""
        names = {"cert_file": "cert", "key_file": "key"} | ({"client_ca_file": "ca"} if clients else {})
        return {setting: str(self.file(name)) for setting, name in names.items()}

    def client(self, certificate: str = "client", ca: str = "ca", server_name: str = "") -> ClientTls:
        """What a client has; ``certificate=""``: none."""
        own = str(self.file(certificate)) if certificate else ""
        return ClientTls(ca_file=str(self.file(ca)), cert_file=own, server_name=server_name)
