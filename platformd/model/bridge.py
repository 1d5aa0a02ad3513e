"""Bridge: records from a Kafka cluster into a stream, or from a stream into a Kafka topic."""

from __future__ import annotations

import re
from typing import Annotated, Literal

import msgspec

from platformd.core.clock import parse_rfc3339
from platformd.core.errors import FieldError, nearest
from platformd.core.ids import is_name
from platformd.core.quantities import Duration, Size, seconds, size_bytes
from platformd.model.kind import Action, Column, Kind
from platformd.model.resource import Status, Struct
from platformd.model.subjects import subject_error, subject_matches

FileName = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^(?:[A-Za-z0-9_-][A-Za-z0-9._-]*(?:/[A-Za-z0-9_-][A-Za-z0-9._-]*)*)?$",
        max_length=255,
        description="The name of a file in the daemon's folder `pipelines.files`, never a path elsewhere.",
    ),
]

BOTH, SOURCE, SINK = "source or sink", "source", "sink"
PROPERTIES: dict[str, str] = {
    "broker.address.family": BOTH,
    "client.id": BOTH,
    "client.rack": BOTH,
    "metadata.max.age.ms": BOTH,
    "reconnect.backoff.max.ms": BOTH,
    "reconnect.backoff.ms": BOTH,
    "retry.backoff.ms": BOTH,
    "socket.connection.setup.timeout.ms": BOTH,
    "socket.keepalive.enable": BOTH,
    "socket.timeout.ms": BOTH,
    "topic.metadata.refresh.interval.ms": BOTH,
    "auto.commit.interval.ms": SOURCE,
    "check.crcs": SOURCE,
    "fetch.error.backoff.ms": SOURCE,
    "fetch.max.bytes": SOURCE,
    "fetch.min.bytes": SOURCE,
    "fetch.queue.backoff.ms": SOURCE,
    "fetch.wait.max.ms": SOURCE,
    "group.instance.id": SOURCE,
    "heartbeat.interval.ms": SOURCE,
    "isolation.level": SOURCE,
    "max.partition.fetch.bytes": SOURCE,
    "max.poll.interval.ms": SOURCE,
    "partition.assignment.strategy": SOURCE,
    "queued.max.messages.kbytes": SOURCE,
    "session.timeout.ms": SOURCE,
    "batch.size": SINK,
    "compression.codec": SINK,
    "compression.level": SINK,
    "message.max.bytes": SINK,
    "partitioner": SINK,
    "request.timeout.ms": SINK,
    "sticky.partitioning.linger.ms": SINK,
}
"""The properties of librdkafka that a Bridge may set, and for which direction. Left out is what has a field of its own,
what keeps the promises (offsets, acknowledgements), and what runs programs or loads libraries."""

PLACEHOLDERS = ("topic", "partition", "key")
"""What a source's subject may have in braces."""
_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
_TOPIC = re.compile(r"[A-Za-z0-9._-]{1,249}")
MAX_LISTED = 64
"""Partitions that the status lists; all are counted."""


class Sasl(Struct, frozen=True, kw_only=True):
    """Who we are, by name and password."""

    mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"]
    """``PLAIN`` only with ``tls``: it sends the password itself."""
    username: Annotated[str, msgspec.Meta(min_length=1, max_length=255)]
    """The name that the password belongs to."""
    password_file: FileName
    """Its first line is the password; no specification ever has one."""


class Tls(Struct, frozen=True, kw_only=True):
    """Encryption, and who the brokers are."""

    ca_file: FileName = ""
    """Authorities whose brokers are believed, PEM; empty: the system's."""
    certificate_file: FileName = ""
    """Our certificate, where brokers ask for one, PEM."""
    key_file: FileName = ""
    verify_hostname: bool = True
    """Whether a broker's certificate must be for the name that it was reached by."""


class Kafka(Struct, frozen=True, kw_only=True):
    """A cluster, and how to get in."""

    bootstrap_servers: Annotated[tuple[str, ...], msgspec.Meta(min_length=1, max_length=32)]
    """Some of the brokers, each as HOST:PORT."""
    group: Annotated[str, msgspec.Meta(max_length=249)] = ""
    """The consumer group of a source, where its offsets are kept; empty: ``platformd-NAME``."""
    sasl: Sasl | None = None
    """Who we are; without it nobody."""
    tls: Tls | None = None
    """Encryption; without it there is none."""
    properties: dict[str, str] = {}
    """Of librdkafka, where its defaults do not fit; only some can be set."""


class BridgeFormat(Struct, frozen=True, kw_only=True):
    """What is inside records, and what becomes of it on the way.

    - ``bytes``: anything, left as it is.
    - ``container``: a whole Avro object container file in each record, as ZTF sends them.
    - ``registry``: Avro behind a zero byte and the four bytes of its schema's id, as a schema registry frames it and
      Rubin sends it. With ``register`` or ``directory`` a source makes object container files of it, which pipelines
      read, and a sink makes it of them; with neither it is left as it is, and only the frame is checked."""

    type: Literal["bytes", "container", "registry"] = "bytes"
    """One of the three."""
    register: Annotated[str, msgspec.Meta(max_length=63)] = ""
    """The Schema whose version numbers are the registry's ids."""
    directory: FileName = ""
    """The folder in ``pipelines.files`` that has the schemas as ``ID.avsc``."""
    check: bool = True
    """Whether Avro packets are decoded on the way, so that what cannot be is a dead letter. Without it only what is
    around them is looked at, which is several times quicker."""


class BridgeKey(Struct, frozen=True, kw_only=True):
    """What the key of a Kafka record is, which decides its partition. One of the three; with none of them there is no
    key."""

    header: str = ""
    """The value of this header; a record without it has no key. A source keeps keys in ``Kafka-Key``."""
    expression: Annotated[str, msgspec.Meta(max_length=4096, examples=["packet.objectId"])] = ""
    """The value of a CEL expression over ``subject``, ``headers``, ``msg_id`` and, for Avro, ``packet``."""
    subject: bool = False
    """The record's subject."""


class BridgeLimits(Struct, frozen=True, kw_only=True):
    """How much is under way; nothing that is not yet durable at the other end is more than this."""

    batch: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 500
    """Records that are taken at once."""
    linger: Duration = "20ms"
    """How long a batch may wait for more."""
    max_in_flight: Annotated[int, msgspec.Meta(ge=1, le=100_000)] = 4000
    """Records that are under way; at this limit no more are taken."""
    max_in_flight_bytes: Size = "32MiB"
    """The same in bytes of payload."""


class BridgeSpec(Struct, frozen=True, kw_only=True):
    """From where to where, and how.

    A **source** commits an offset only when its record is on the disk here, and names each record by topic, partition,
    offset and time, so that what comes again after a crash is not stored again within the stream's
    ``duplicate_window``. A **sink** acknowledges a record only when Kafka has reported it delivered; after a crash some
    may be sent again. Headers go both ways; the time of a record is kept."""

    direction: Literal["source", "sink"]
    """``source``: from Kafka to a stream. ``sink``: from a stream to Kafka."""
    kafka: Kafka
    """The cluster at the other end."""
    topics: Annotated[tuple[str, ...], msgspec.Meta(max_length=256)] = ()
    """Which topics; a sink has one."""
    pattern: Annotated[str, msgspec.Meta(max_length=249, examples=["^ztf_.*_programid1$"])] = ""
    """For a source instead of ``topics``: a regular expression that begins with ``^``. New topics that match are found
    when the list of topics is read again (``topic.metadata.refresh.interval.ms``, five minutes)."""
    subject: str
    """Of a source: where records go, with ``{topic}``, ``{partition}`` and ``{key}`` filled in (dots of a topic become
    ``:``, so that it is one token). Of a sink: the pattern of the records that are sent. A stream must capture it."""
    dead_letter: str
    """The subject for records that can never be bridged: too large, or not what ``format`` says."""
    format: BridgeFormat = BridgeFormat()
    """What is inside records."""
    key: BridgeKey = BridgeKey()
    """Of a sink: what decides a record's partition."""
    start: Literal["earliest", "latest", "time"] = "earliest"
    """Where a source begins in partitions in which its group has committed nothing yet, and a new sink in its
    stream."""
    start_time: str = ""
    """For ``time``: the first records that are as new as this, RFC 3339."""
    limits: BridgeLimits = BridgeLimits()
    """How much is under way at a time."""
    paused: bool = False
    """Stops the worker; what has not been bridged waits where it is."""


class PartitionStatus(Struct, frozen=True, kw_only=True):
    """One partition of a topic, as the bridge sees it."""

    topic: str
    """Its topic's name."""
    partition: int
    """Its number."""
    offset: int = -1
    """Source: the next record that is not yet durable here. Sink: the last that Kafka has reported; -1: none yet."""
    lag: int = -1
    """Source: records between that and the partition's end; -1: not known."""


class BridgeStatus(Status, frozen=True, kw_only=True):
    """``pending``, ``running``, ``degraded`` (it cannot get on, and says why), ``paused``, ``error``.

    Counted since the bridge was created; a kill of the daemon can lose the counts of one status interval, and a
    worker's those of its last 200 ms. The records themselves are never lost."""

    assigned: int = 0
    """Partitions: of a source those that its group gave it, of a sink those that were written to."""
    partitions: tuple[PartitionStatus, ...] = ()
    """At most 64 of them, those with the greatest lag first."""
    lag: int = 0
    """Records that wait at the other end."""
    in_flight: int = 0
    """Records that were taken and are not yet durable at the other end."""
    records_in: int = 0
    """Records taken at the one end, those that came again included."""
    records_out: int = 0
    """Durable at the other end, dead letters not included."""
    bytes: int = 0
    """Of the payloads of ``records_out``."""
    duplicates: int = 0
    """Records that were there already: they came again after something died."""
    dead_lettered: int = 0
    """Records that can never be bridged, and lie on the dead-letter subject."""
    errors: int = 0
    """What Kafka or the queues refused or failed at, retries included."""
    last_error: str = ""
    """The newest of them."""
    records_per_second: float = 0.0
    """Of ``records_out``, over the last status interval."""
    bytes_per_second: float = 0.0
    """Of ``bytes``, over the last status interval."""
    restarts: int = 0
    """Of the worker process, because it failed."""


def subject_pattern(template: str) -> str:
    """The pattern that covers every subject of a source's template."""
    return ".".join("*" if "{" in token else token for token in template.split("."))


def _check_topics(spec: BridgeSpec) -> list[FieldError]:
    """Topics or a pattern, one topic for a sink, and brokers as HOST:PORT."""
    errors = []
    if bool(spec.topics) == bool(spec.pattern):
        message = "names no topic" if not spec.topics else "has topics and a pattern"
        errors.append(FieldError(path="spec.topics", message=message, hint="give one of topics and pattern"))
    for i, topic in enumerate(spec.topics):
        if not _TOPIC.fullmatch(topic) or topic in (".", ".."):
            hint = "up to 249 of A-Z a-z 0-9 . _ -; an expression goes into pattern"
            errors.append(FieldError(path=f"spec.topics[{i}]", message=f"{topic!r} is no topic", hint=hint))
    if spec.pattern:
        try:
            re.compile(spec.pattern)
            wrong = "" if spec.pattern.startswith("^") else "does not begin with ^"
        except (re.error, RecursionError, OverflowError) as error:
            wrong = f"cannot be read: {error}"
        if wrong:
            errors.append(FieldError(path="spec.pattern", message=wrong))
    if spec.direction == "sink" and (spec.pattern or len(spec.topics) > 1):
        errors.append(FieldError(path="spec.topics", message="a sink writes to one topic"))
    for i, server in enumerate(spec.kafka.bootstrap_servers):
        host, _, port = server.rpartition(":")
        if not host or not port.isascii() or not port.isdigit() or not 0 < int(port[:6]) < 65536 or "," in host:
            message = f"{server!r} is not HOST:PORT"
            errors.append(FieldError(path=f"spec.kafka.bootstrap_servers[{i}]", message=message))
    return errors


def _check_security(spec: BridgeSpec) -> list[FieldError]:
    """Secrets are files, PLAIN needs TLS, and only some properties of librdkafka can be set."""
    kafka, errors = spec.kafka, []
    if kafka.sasl is not None and not kafka.sasl.password_file:
        errors.append(FieldError(path="spec.kafka.sasl.password_file", message="names no file"))
    if kafka.sasl is not None and kafka.sasl.mechanism == "PLAIN" and kafka.tls is None:
        message, hint = "PLAIN sends the password as it is", "add tls, or use SCRAM-SHA-512"
        errors.append(FieldError(path="spec.kafka.sasl.mechanism", message=message, hint=hint))
    if kafka.tls is not None and bool(kafka.tls.certificate_file) != bool(kafka.tls.key_file):
        message = "a certificate and its key belong together"
        errors.append(FieldError(path="spec.kafka.tls.certificate_file", message=message))
    for name, value in kafka.properties.items():
        path, allowed = f"spec.kafka.properties.{name}", PROPERTIES.get(name)
        if allowed is None:
            near = nearest(name, list(PROPERTIES))
            hint = f"did you mean {near}?" if near else f"these can: {', '.join(PROPERTIES)}"
            errors.append(FieldError(path=path, message="cannot be set here", hint=hint))
        elif allowed not in (BOTH, spec.direction):
            errors.append(FieldError(path=path, message=f"is for a {allowed}"))
        elif not value or len(value) > 255 or not value.isprintable():
            errors.append(FieldError(path=path, message="is empty, too long or not printable"))
    return errors


def _check_subjects(spec: BridgeSpec) -> list[FieldError]:
    """Subjects are valid, and a sink does not read its own dead letters."""
    errors = []
    subject = spec.subject
    if spec.direction == "source":
        for name in _PLACEHOLDER.findall(subject):
            if name not in PLACEHOLDERS:
                hint = "known: " + ", ".join(f"{{{p}}}" for p in PLACEHOLDERS)
                message = f"there is no {{{name}}} to fill in"
                errors.append(FieldError(path="spec.subject", message=message, hint=hint))
        if "*" in subject or ">" in subject:
            errors.append(FieldError(path="spec.subject", message="a source's subject has no wildcards"))
        subject = _PLACEHOLDER.sub("x", subject)
        if "{" in subject or "}" in subject:
            errors.append(FieldError(path="spec.subject", message="has a brace without its other one"))
    wrong = None if errors else subject_error(subject, pattern=spec.direction == "sink")
    if wrong:
        errors.append(FieldError(path="spec.subject", message=f"{spec.subject!r} {wrong}"))
    wrong = subject_error(spec.dead_letter, pattern=False)
    if wrong:
        errors.append(FieldError(path="spec.dead_letter", message=f"{spec.dead_letter!r} {wrong}"))
    elif not errors and spec.direction == "sink" and subject_matches(spec.subject, spec.dead_letter):
        message = f"{spec.dead_letter!r} is matched by the subject {spec.subject!r}"
        hint = "the bridge would read its own dead letters for ever"
        errors.append(FieldError(path="spec.dead_letter", message=message, hint=hint))
    return errors


def _subjects(spec: BridgeSpec) -> list[tuple[str, str]]:
    own = spec.subject if spec.direction == "sink" else subject_pattern(spec.subject)
    return [("spec.subject", own), ("spec.dead_letter", spec.dead_letter)]


MAX_LINGER = 5.0
"""Seconds."""
MIN_IN_FLIGHT_BYTES = 64 << 10


def _check_start(spec: BridgeSpec) -> list[FieldError]:
    errors = []
    if bool(spec.start_time) != (spec.start == "time"):
        errors.append(FieldError(path="spec.start_time", message="belongs to start: time, and that to it"))
    if spec.start_time:
        try:
            wrong = "" if parse_rfc3339(spec.start_time) >= 0 else "is before 1970"
        except (ValueError, OverflowError) as error:
            wrong = str(error)
        if wrong:
            errors.append(FieldError(path="spec.start_time", message=wrong))
    return errors


def _check_details(spec: BridgeSpec) -> list[FieldError]:
    """Format, key, start and limits fit each other and the direction."""
    errors = []
    form, key = spec.format, spec.key
    if form.type != "registry" and (form.register or form.directory):
        errors.append(FieldError(path="spec.format", message=f"a register or directory says nothing about {form.type}"))
    if form.register and not is_name(form.register):
        errors.append(FieldError(path="spec.format.register", message=f"{form.register!r} is no name of a Schema"))
    if form.register and form.directory:
        errors.append(FieldError(path="spec.format", message="has a register and a directory", hint="give one of them"))
    errors += _check_start(spec)
    given = bool(key.header) + bool(key.expression) + key.subject
    if given > 1:
        errors.append(FieldError(path="spec.key", message="says more than one thing", hint="a record has one key"))
    if given and spec.direction == "source":
        message, hint = "is for a sink", "a source keeps keys in the header Kafka-Key"
        errors.append(FieldError(path="spec.key", message=message, hint=hint))
    if seconds(spec.limits.linger) > MAX_LINGER:
        message = f"{spec.limits.linger!r} is too long; at most {MAX_LINGER:g}s"
        errors.append(FieldError(path="spec.limits.linger", message=message))
    if size_bytes(spec.limits.max_in_flight_bytes) < MIN_IN_FLIGHT_BYTES:
        errors.append(FieldError(path="spec.limits.max_in_flight_bytes", message="is too little; at least 64KiB"))
    return errors


BRIDGE = Kind(
    name="Bridge",
    plural="bridges",
    summary="Records from a Kafka cluster into a stream, or from a stream into a Kafka topic.",
    spec=BridgeSpec,
    status=BridgeStatus,
    aliases=("br",),
    granted=True,  # it connects anywhere, with the secrets of the whole site
    example={
        "direction": "source",
        "kafka": {"bootstrap_servers": ["localhost:9092"]},
        "topics": ["ztf"],
        "subject": "alerts.ztf",
        "dead_letter": "dead.ztf",
        "format": {"type": "container"},
    },
    finalizer="bridges",
    facility=True,  # it names files of the daemon's and reaches out of the house
    actions=(
        Action(name="pause", summary="Stop the worker; what has not been bridged waits where it is."),
        Action(name="resume", summary="Start the worker again where it was stopped."),
    ),
    subjects=_subjects,
    checks=(_check_topics, _check_security, _check_subjects, _check_details),
    transitions={
        "pending": frozenset({"running", "degraded", "paused", "error"}),
        "running": frozenset({"pending", "degraded", "paused", "error"}),
        "degraded": frozenset({"pending", "running", "paused", "error"}),
        "paused": frozenset({"pending", "running", "degraded", "error"}),
        "error": frozenset({"pending", "running", "degraded", "paused"}),
    },
    columns=(
        Column(title="STATE", path="status.state"),
        Column(title="DIRECTION", path="spec.direction"),
        Column(title="SUBJECT", path="spec.subject"),
        Column(title="TOPICS", path="spec.topics"),
        Column(title="LAG", path="status.lag", format="count"),
        Column(title="OUT", path="status.records_out", format="count"),
        Column(title="RATE", path="status.records_per_second", format="rate"),
        Column(title="PATTERN", path="spec.pattern", wide=True),
        Column(title="PARTITIONS", path="status.assigned", format="count", wide=True),
        Column(title="BYTES", path="status.bytes", format="bytes", wide=True),
        Column(title="DEAD", path="status.dead_lettered", format="count", wide=True),
        Column(title="ERRORS", path="status.errors", format="count", wide=True),
        Column(title="RESTARTS", path="status.restarts", format="count", wide=True),
        Column(title="MESSAGE", path="status.message", wide=True),
    ),
)
