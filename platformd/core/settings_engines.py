"""The settings of engines that are other programs: how an etcd and a NATS are reached and spoken with."""

from __future__ import annotations

from typing import Literal

import msgspec

from platformd.core.quantities import Duration, Size


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The base of all sections: frozen, and nothing unknown."""


class EtcdSettings(Section, frozen=True, kw_only=True):
    """The etcd cluster (3.4 or newer) that keeps the coordination store when its engine is ``etcd``."""

    endpoints: tuple[str, ...] = ("http://127.0.0.1:2379",)
    """Client URLs of its members; more than one for fail-over. All ``http`` or all ``https``."""
    prefix: str = ""
    """Put in front of every key, so that several programs can share a cluster: ``platformd/``. Empty: none."""
    shared: bool = False
    """Whether several daemons may share the keys: one of them leads and runs the controllers, the others answer, and
    take over when it dies. Records stay with the daemon that has their log. False: a second daemon is refused."""
    leader_lease: Duration = "10s"
    """How long a leader that died is waited for before another daemon leads, where they are ``shared``."""
    ca_file: str = ""
    """PEM file of the authority that signed the members' certificates. Empty: the system's authorities."""
    cert_file: str = ""
    """PEM file of our certificate, where the members ask for one."""
    key_file: str = ""
    """PEM file of the key of ``cert_file``."""
    user: str = ""
    """User name at the cluster, when its authentication is on."""
    password_file: str = ""
    """File with the user's password on its first line; read again at every login."""
    request_timeout: Duration = "5s"
    """How long a request may take, with all attempts at all members."""
    connect_timeout: Duration = "2s"
    """How long one attempt to connect to a member may take."""
    keepalive_interval: Duration = "5s"
    """How long a connection in use may be silent before the member is asked for a sign of life. Members
    refuse to be asked more often than their ``--grpc-keepalive-min-time`` (5 s)."""
    keepalive_timeout: Duration = "3s"
    """How long that sign of life may take before the connection is given up."""
    retry_delay: Duration = "50ms"
    """The first wait before a member that failed is tried again; doubles up to ``retry_delay_max``."""
    retry_delay_max: Duration = "2s"
    """The longest wait before a member that failed is tried again."""
    progress_interval: Duration = "5s"
    """How often an idle watch asks how far it is, where the cluster's version answers that reliably (3.4.31,
    3.5.13, 3.6); else it is told at the members' ``--experimental-watch-progress-notify-interval``."""
    max_in_flight: int = 1024
    """Requests on their way at once. Over it: callers wait."""
    max_unsent: Size = "16MiB"
    """Bytes of requests that wait for the network. Over it: callers wait."""
    max_message: Size = "64MiB"
    """The largest message that is taken from a member. Over it: refused; long lists are asked for in parts."""


class NatsSettings(Section, frozen=True, kw_only=True):
    """The NATS (2.10 or newer, with JetStream) that keeps the streams when their engine is ``jetstream``."""

    servers: tuple[str, ...] = ("nats://127.0.0.1:4222",)
    """Its servers; more than one for fail-over. ``tls://`` asks for TLS; a server may ask for it too."""
    prefix: str = ""
    """One token put in front of every subject (``north.alerts.ztf``) and every stream's name, so that several sites
    can share an account. Empty: none. One daemon for each prefix."""
    domain: str = ""
    """The JetStream domain to use. Empty: the server's own."""
    replicas: int = 1
    """How many servers keep each stream: 1, 3 or 5."""
    sync: Literal["interval", "always"] = "interval"
    """What the servers' ``sync_interval`` says. With ``interval`` (their default, two minutes) an acknowledgement means
    that the servers' operating systems have the record, and ``fsync`` is refused; with ``always`` it is on the disk."""
    user: str = ""
    """User name, where the servers know users."""
    password_file: str = ""
    """File with the user's password on its first line; read again at every login, as the other files are."""
    token_file: str = ""
    """File with a token on its first line."""
    nkey_file: str = ""
    """File with the seed of a user's nkey (``SU…``) on its first line."""
    creds_file: str = ""
    """File with a user's JWT and seed, as ``nsc`` writes them."""
    ca_file: str = ""
    """PEM file of the authority that signed the servers' certificates. Empty: the system's authorities."""
    cert_file: str = ""
    """PEM file of our certificate, where the servers ask for one."""
    key_file: str = ""
    """PEM file of the key of ``cert_file``."""
    tls_first: bool = False
    """Speak TLS from the first byte, for servers with ``handshake_first``."""
    request_timeout: Duration = "5s"
    """How long a request may take, reconnecting included."""
    connect_timeout: Duration = "2s"
    """How long one attempt to connect to a server may take."""
    keepalive_interval: Duration = "5s"
    """How long a connection may be silent before the server is asked for a sign of life."""
    keepalive_timeout: Duration = "3s"
    """How long that sign of life may take before the connection is given up."""
    retry_delay: Duration = "50ms"
    """The first wait before another attempt to connect; doubles up to ``retry_delay_max``."""
    retry_delay_max: Duration = "2s"
    """The longest wait before another attempt to connect."""
    max_unsent: Size = "16MiB"
    """Bytes that wait for the network. Over it: callers wait."""
    status_interval: Duration = "1s"
    """How often the state of all streams and consumers is asked for, beside what each operation tells."""
