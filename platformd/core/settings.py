"""The daemon's settings: every key, its default and its meaning, declared once.

They come from a TOML file, then the environment (``PLATFORMD_SECTION_KEY``), then flags; the later one
wins. An unknown key is refused with the nearest known name. ``config/platformd.toml`` shows every key
and a test holds it to this file.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_origin

import msgspec

from platformd.core.errors import FieldError, InvalidInput, nearest
from platformd.core.quantities import Duration, Size
from platformd.core.settings_engines import EtcdSettings, NatsSettings, Section


class DaemonSettings(Section, frozen=True, kw_only=True):
    """The process itself."""

    state_dir: str = ""
    """Where all state lives. Empty: ``/var/lib/platformd`` for root, else ``~/.local/state/platformd``."""
    socket: str = ""
    """The control API's Unix socket. Empty: ``/run/platformd/platformd.sock`` for root with the default
    ``state_dir``, else ``STATE_DIR/platformd.sock``."""
    socket_mode: str = "0660"
    """Permissions of the socket, octal."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """The least severe log record that is written to standard error."""
    log_format: Literal["text", "json"] = "text"
    """How log records are written."""
    stop_deadline: Duration = "10s"
    """How long a stop may take before what is left is cancelled."""
    node_name: str = ""
    """This machine's name as a Node. Empty: the host name."""


class HttpSettings(Section, frozen=True, kw_only=True):
    """The control API."""

    listen: str = ""
    """HOST:PORT to serve beside the Unix socket. Empty: the socket only. Other than loopback addresses need
    ``cert_file``; whoever comes there needs a token or a certificate."""
    cert_file: str = ""
    """PEM file of the certificate for TLS 1.2 and 1.3 on ``listen``, with its chain. Empty: no TLS. This and the other
    two files are read again when they change."""
    key_file: str = ""
    """PEM file of its key. Empty: it is in ``cert_file``."""
    client_ca_file: str = ""
    """PEM file of the authorities whose certificates clients may show; ``access.certificates`` says who they are."""
    insecure: bool = False
    """Listen beyond loopback without TLS all the same: tokens and everything else can be read on the way."""
    max_body: Size = "4MiB"
    """The largest request body. Over it: 413."""
    max_connections: int = 512
    """Open connections at once. Over it: the one that is idle longest is closed; when none is, the new one: 429."""
    max_connections_per_peer: int = 384
    """Open connections of one user (Unix socket) or one address (TCP). Over it: as with ``max_connections``, among its
    own."""
    max_head: Size = "16KiB"
    """The largest request head: the first line and all headers. Over it: 431."""
    cors_origins: tuple[str, ...] = ()
    """Origins whose pages may ask over TCP: ``https://panel.example.org``. Empty: none but the daemon's own page."""
    max_watchers: int = 256
    """Open watches at once, streams and WebSockets together. Over it: 429."""
    read_timeout: Duration = "30s"
    """How long a client may take to send a whole request."""
    write_timeout: Duration = "20s"
    """How long a client may take to accept a piece of a response before it is cut off."""
    keep_alive_timeout: Duration = "60s"
    """How long an idle connection is kept."""
    idempotency_age: Duration = "24h"
    """How long the answer to a POST with an Idempotency-Key is kept."""
    idempotency_keys: int = 10_000
    """Answers that are kept; the oldest go first."""
    watch_heartbeat: Duration = "15s"
    """How often an idle watch stream carries a comment."""
    websocket_max_message: Size = "64KiB"
    """The largest message that a WebSocket client may send. Over it: closed with 1009."""
    websocket_buffer: Size = "256KiB"
    """What may wait for a WebSocket client to take it. Over it: what is sent waits, and when the client takes nothing
    for write_timeout, it is closed with 1008."""
    websocket_ping: Duration = "20s"
    """How long a WebSocket client may be silent before it is pinged; silent for as long again, it is closed: 1008."""
    websocket_close: Duration = "5s"
    """How long the closing handshake of a WebSocket may take before the connection is cut off."""


class AccessSettings(Section, frozen=True, kw_only=True):
    """Who is who. What each role may do: ``platformd access matrix``. On the Unix sockets the daemon's own user, root
    and the daemon's group are admins; tokens come from ``platformd token create``."""

    peers: tuple[str, ...] = ()
    """Other users and groups of this machine, on the Unix sockets: ``user:alice=operator``, ``group:survey=reader``,
    ``user:carol=tenant:survey``. The first that fits counts."""
    others: Literal["none", "reader"] = "reader"
    """What everybody else is whom ``daemon.socket_mode`` lets connect."""
    loopback: Literal["none", "reader", "operator", "admin"] = "reader"
    """What whoever shows no token over TCP on a loopback address is: any user of this machine, any program in it.
    Beyond loopback nobody is anything without a token or a certificate."""
    certificates: tuple[str, ...] = ()
    """Names in clients' certificates (``http.client_ca_file``): ``cn:planner=operator``, ``dns:gw.example.org=reader``;
    ``uri:`` and ``email:`` too. The first that fits counts."""
    max_tokens: int = 1024
    """Tokens that are kept. Over it: none is created."""
    max_failures: int = 10
    """Wrong tokens of one address in a minute that are answered; more are told to wait: 429."""


class StoreSettings(Section, frozen=True, kw_only=True):
    """The coordination store."""

    engine: Literal["sqlite", "etcd"] = "sqlite"
    """Which engine keeps the keyspace: ``sqlite`` in the state directory, or the cluster of section etcd."""
    max_key: Size = "4KiB"
    """The largest key."""
    max_value: Size = "1MiB"
    """The largest value."""
    max_txn_operations: int = 128
    """The most operations (compares and both branches together) in one transaction."""
    max_pending: int = 4096
    """Writes waiting for the writer thread. Over it: callers wait."""
    max_batch: int = 512
    """The most transactions that one group commit takes."""
    max_watchers: int = 4096
    """Open watches at once. Over it: refused."""
    watch_buffer: int = 1024
    """Events kept in memory for a watch; a slower watcher is served from history instead."""
    lease_min_ttl: Duration = "1s"
    """The shortest lease that is granted; a shorter wish becomes this."""
    lease_max_ttl: Duration = "365d"
    """The longest lease that is granted."""
    history_age: Duration = "1h"
    """History younger than this is never compacted away."""
    history_revisions: int = 100_000
    """At least this many of the newest revisions are kept."""


class DoorSettings(Section, frozen=True, kw_only=True):
    """The store's own socket, for programs that use it hard."""

    max_frame: Size = "16MiB"
    """The largest request. Over it: refused, and the connection is closed."""
    max_in_flight: int = 1024
    """Requests of one connection at once. Over it: no more is read from it until some are answered."""
    max_connections: int = 256
    """Open connections at once. Over it: refused."""
    watch_credit: Size = "1MiB"
    """Bytes of events that may be on their way to a watching client before it has taken them; then the watch waits."""


class QueueSettings(Section, frozen=True, kw_only=True):
    """The data queues."""

    engine: Literal["native", "jetstream"] = "native"
    """Which engine keeps the streams: ``native`` in the state directory, or the NATS of section nats."""
    segment_size: Size = "64MiB"
    """The size of one log file of a stream; retention drops whole files."""
    max_batch: Size = "16MiB"
    """The largest batch on the wire and on disk. Over it: refused."""
    max_record: Size = "8MiB"
    """The largest record (payload, headers and id together). Over it: refused."""
    max_streams: int = 1024
    """Streams of the engine. Over it: refused."""
    max_consumers: int = 4096
    """Consumers of the engine. Over it: refused."""
    max_pending_appends: Size = "64MiB"
    """Bytes of batches waiting for the disk. Over it: ingest waits, which holds producers back."""
    max_waiting_fetches: int = 4096
    """Long polls waiting for records. Over it: refused."""
    decompressed_cache: Size = "64MiB"
    """Memory for what is read of compressed segments, in pieces of 256 KiB. Over it: those that were read the longest
    ago are given up, and decompressed again when they are read again."""
    push_durability: Literal["memory", "os", "fsync"] = "os"
    """What a record from the push socket waits for until consumers see it. Senders never hear of it."""
    push_buffer: Size = "1MiB"
    """Bytes of messages of the push socket waiting for the log. Over it: none are received, and senders wait."""
    live_buffer: Size = "8MiB"
    """The newest records, kept for all subscribers of the live socket together. Over it: the oldest are lost to those
    that have not taken them, and counted. A larger record is not published."""
    live_policy: Literal["drop_oldest", "block", "disconnect"] = "drop_oldest"
    """What becomes of a subscriber of the live socket that is too slow and did not say what it wants, as plain nng
    programs cannot: it misses the oldest records; it waits, and is fed out of the log at its own pace, for as long as
    the streams keep what it has not got; or it is disconnected. Others are not held up in any case."""
    live_subscribers: int = 256
    """Connections to the live socket. Over it: refused."""
    live_timeout: Duration = "60s"
    """How long a subscriber of the live socket may take nothing of what is sent before it is disconnected."""
    listen_ingest: tuple[str, ...] = ()
    """TCP addresses of the ingest socket, beside its Unix socket: ``tcp://HOST:PORT`` on loopback addresses only,
    ``tls+tcp://HOST:PORT`` with a certificate; where it is not loopback, clients need one of ``client_ca_file``."""
    listen_fetch: tuple[str, ...] = ()
    """The same of the fetch socket."""
    listen_push: tuple[str, ...] = ()
    """The same of the push socket."""
    listen_live: tuple[str, ...] = ()
    """The same of the live socket."""
    cert_file: str = ""
    """PEM file of the certificate for ``tls+tcp`` addresses, with its chain."""
    key_file: str = ""
    """PEM file of the key of ``cert_file``."""
    client_ca_file: str = ""
    """PEM file of the authorities whose clients may connect with TLS; who has no certificate of theirs may not. Empty:
    anybody may, on loopback addresses."""


class HistorySettings(Section, frozen=True, kw_only=True):
    """Who changed which resource, when and why."""

    records: int = 20_000
    """Changes that are kept, of all resources together. Over it: the oldest go."""
    records_per_object: int = 200
    """Changes that are kept of one resource. Over it: its oldest go."""
    max_age: Duration = "365d"
    """How long a change is kept; 0 for ever."""


class EventSettings(Section, frozen=True, kw_only=True):
    """What controllers tell of resources, such as a worker that was started again."""

    events: int = 5_000
    """Events that are kept, of all resources together. Over it: the oldest go."""
    events_per_object: int = 50
    """Events that are kept of one resource. Over it: its oldest go."""
    max_age: Duration = "7d"
    """How long an event is kept after it happened last; 0 for ever."""


class HealthSettings(Section, frozen=True, kw_only=True):
    """The host collector."""

    collect_interval: Duration = "5s"
    """How often the machine is measured into its Node's status."""


class PipelineSettings(Section, frozen=True, kw_only=True):
    """Event pipelines."""

    max_workers: int = 64
    """Stage processes of all pipelines together. Over it: the pipeline says so and runs with fewer."""
    restart_delay: Duration = "200ms"
    """How long after its first failure a stage process is started again; doubles up to
    ``restart_delay_max``, and starts over after a minute without failure."""
    restart_delay_max: Duration = "30s"
    """The longest wait between restarts of a stage process."""
    status_interval: Duration = "1s"
    """How often counts and lags of stages and bridges are written to the status."""
    max_bridges: int = 16
    """Processes of all bridges together. Over it: the bridge says so and waits."""
    files: str = ""
    """Where the files are that bridges name: passwords, certificates, schemas; they can name none elsewhere. Empty:
    ``files`` in the state directory."""


class Settings(Section, frozen=True, kw_only=True):
    """All settings, by section."""

    daemon: DaemonSettings = msgspec.field(default_factory=DaemonSettings)
    http: HttpSettings = msgspec.field(default_factory=HttpSettings)
    access: AccessSettings = msgspec.field(default_factory=AccessSettings)
    store: StoreSettings = msgspec.field(default_factory=StoreSettings)
    door: DoorSettings = msgspec.field(default_factory=DoorSettings)
    etcd: EtcdSettings = msgspec.field(default_factory=EtcdSettings)
    queues: QueueSettings = msgspec.field(default_factory=QueueSettings)
    nats: NatsSettings = msgspec.field(default_factory=NatsSettings)
    history: HistorySettings = msgspec.field(default_factory=HistorySettings)
    events: EventSettings = msgspec.field(default_factory=EventSettings)
    health: HealthSettings = msgspec.field(default_factory=HealthSettings)
    pipelines: PipelineSettings = msgspec.field(default_factory=PipelineSettings)

    @property
    def state_path(self) -> Path:
        """The state directory, with the default filled in."""
        return Path(self.daemon.state_dir).absolute() if self.daemon.state_dir else default_state_dir()

    @property
    def files_path(self) -> Path:
        """The folder of files that resources may name, with the default filled in."""
        return Path(self.pipelines.files).absolute() if self.pipelines.files else self.state_path / "files"

    @property
    def socket_path(self) -> Path:
        """The control socket, with the default filled in."""
        return Path(self.daemon.socket).absolute() if self.daemon.socket else socket_for(self.daemon.state_dir)

    @property
    def store_socket_path(self) -> Path:
        """The store's own socket, beside the control socket and named after it."""
        return store_socket_for(self.socket_path)


def default_state_dir() -> Path:
    """Where state lives when nobody said: the system's place for root, the user's for others."""
    if os.geteuid() == 0:
        return Path("/var/lib/platformd")
    base = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(base) / "platformd"


def socket_for(state_dir: str) -> Path:
    """The control socket that belongs to ``state_dir`` (``""``: the default one) when nobody said."""
    if not state_dir and os.geteuid() == 0:
        return Path("/run/platformd/platformd.sock")
    return (Path(state_dir).absolute() if state_dir else default_state_dir()) / "platformd.sock"


def store_socket_for(control_socket: Path) -> Path:
    """The store's own socket that belongs to a control socket."""
    return control_socket.with_suffix(".store")


SECTIONS: dict[str, type[Section]] = {
    "daemon": DaemonSettings,
    "http": HttpSettings,
    "access": AccessSettings,
    "store": StoreSettings,
    "door": DoorSettings,
    "etcd": EtcdSettings,
    "queues": QueueSettings,
    "nats": NatsSettings,
    "history": HistorySettings,
    "events": EventSettings,
    "health": HealthSettings,
    "pipelines": PipelineSettings,
}
"""Each section's type by its TOML name."""

_ENV_NOT_SETTINGS = {
    "PLATFORMD_OUTPUT", "PLATFORMD_URL", "PLATFORMD_SOCKET", "PLATFORMD_STATE_DIR",
    "PLATFORMD_QUEUE_URL", "PLATFORMD_QUEUE_CA_FILE", "PLATFORMD_QUEUE_CERT_FILE", "PLATFORMD_QUEUE_KEY_FILE",
    "PLATFORMD_QUEUE_SERVER_NAME",
    "PLATFORMD_CONTEXT", "PLATFORMD_TENANT",
    "PLATFORMD_TOKEN", "PLATFORMD_TOKEN_FILE", "PLATFORMD_CA_FILE", "PLATFORMD_CERT_FILE", "PLATFORMD_KEY_FILE",
    "PLATFORMD_LOCK_NAME", "PLATFORMD_LOCK_KEY", "PLATFORMD_LOCK_LEASE", "PLATFORMD_LOCK_REVISION",
}  # fmt: skip
_ENV_SHORT = {"PLATFORMD_SOCKET": ("daemon", "socket"), "PLATFORMD_STATE_DIR": ("daemon", "state_dir")}


def load(
    path: Path | None = None,
    environ: Mapping[str, str] | None = None,
    overrides: Mapping[str, Mapping[str, Any]] | None = None,
) -> Settings:
    """The settings from a TOML file, the environment and flags, in rising order of precedence.

    Args:
        path: the TOML file; ``None`` for none.
        environ: the environment to read ``PLATFORMD_SECTION_KEY`` from; ``None`` for none.
        overrides: ``{section: {key: value}}`` from flags.

    Raises:
        InvalidInput: the file cannot be read or is not TOML, or a key or a value is wrong; ``errors``
            has all of them.
    """
    merged: dict[str, dict[str, Any]] = {name: {} for name in SECTIONS}
    errors: list[FieldError] = []
    if path is not None:
        _merge_document(merged, _read_toml(path), errors)
    _merge_environment(merged, environ or {}, errors)
    for section, values in (overrides or {}).items():
        merged[section] |= values
    sections = {name: _convert(name, values, errors) for name, values in merged.items()}
    if errors:
        raise InvalidInput("the settings are not valid", subject=str(path or "settings"), errors=tuple(errors))
    return msgspec.convert(sections, Settings)


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidInput(f"cannot be read: {error.strerror}", subject=str(path)) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidInput(f"is not TOML: {error}", subject=str(path)) from error


def _merge_document(merged: dict[str, dict[str, Any]], document: dict[str, Any], errors: list[FieldError]) -> None:
    for section, values in document.items():
        if section not in SECTIONS:
            errors.append(_unknown(section, list(SECTIONS), "section"))
        elif not isinstance(values, dict):
            errors.append(FieldError(path=section, message="is a section, not a value", hint=f"write [{section}]"))
        else:
            for key, value in values.items():
                if key in SECTIONS[section].__struct_fields__:
                    merged[section][key] = value
                else:
                    known = list(SECTIONS[section].__struct_fields__)
                    errors.append(_unknown(f"{section}.{key}", known, "key", prefix=f"{section}."))


def _merge_environment(merged: dict[str, dict[str, Any]], environ: Mapping[str, str], errors: list[FieldError]) -> None:
    known = {f"PLATFORMD_{s}_{k}".upper(): (s, k) for s, t in SECTIONS.items() for k in t.__struct_fields__}
    for variable, text in sorted(environ.items()):
        if not variable.startswith("PLATFORMD_"):
            continue
        place = known.get(variable) or _ENV_SHORT.get(variable)
        if place is not None:
            merged[place[0]][place[1]] = text
        elif variable not in _ENV_NOT_SETTINGS:
            errors.append(_unknown(variable, list(known), "environment variable"))


def _convert(section: str, values: dict[str, Any], errors: list[FieldError]) -> dict[str, Any]:
    """Each value of a section on its own, so that all that is wrong is said at once."""
    good: dict[str, Any] = {}
    for info in msgspec.structs.fields(SECTIONS[section]):
        if info.name not in values:
            continue
        given = values[info.name]
        # Environment variables are strings: numbers are written as such (strict=False), lists with commas.
        if isinstance(given, str) and get_origin(info.type) is tuple:
            given = [item.strip() for item in given.split(",") if item.strip()]
        try:
            value = msgspec.convert(given, info.type, strict=not isinstance(given, str))
        except msgspec.ValidationError as error:
            errors.append(FieldError(path=f"{section}.{info.name}", message=str(error)))
        else:
            good[info.name] = value
    return good


def _unknown(path: str, known: list[str], what: str, prefix: str = "") -> FieldError:
    found = nearest(path.removeprefix(prefix), known)
    hint = f"did you mean {prefix}{found}?" if found else f"known: {', '.join(known[:40])}"
    return FieldError(path=path, message=f"is not a known {what}", hint=hint)
