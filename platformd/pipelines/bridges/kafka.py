"""librdkafka, configured and listened to: what a bridge tells it, and what it says of its brokers."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import msgspec
from confluent_kafka import KafkaError, KafkaException

from platformd.core.errors import InvalidInput
from platformd.model.bridge import Kafka
from platformd.pipelines.bridges.plan import BridgeConfig

MAX_PASSWORD = 4096
"""Bytes of a password's file."""
STATISTICS_INTERVAL = 500
"""Milliseconds between librdkafka's own measurements, from which lags and the brokers' states come."""
PREFETCH_KBYTES = 16384
"""What librdkafka may fetch ahead of us."""
SESSION_TIMEOUT = 10_000
"""Milliseconds until the group gives a dead worker's partitions to others; the next worker waits for it."""

_DOWN = frozenset({KafkaError._ALL_BROKERS_DOWN, KafkaError._TRANSPORT, KafkaError._RESOLVE})  # noqa: SLF001
_REFUSED = frozenset({
    KafkaError._AUTHENTICATION, KafkaError._SSL, KafkaError.SASL_AUTHENTICATION_FAILED,  # noqa: SLF001
    KafkaError.GROUP_AUTHORIZATION_FAILED, KafkaError.CLUSTER_AUTHORIZATION_FAILED,
})  # fmt: skip


def base_config(config: BridgeConfig) -> dict[str, Any]:
    """What sources and sinks have in common.

    Raises:
        InvalidInput: a file is missing or cannot be read.
    """
    kafka, files = config.kafka, Path(config.files)
    # Its log would tell what ``error_cb`` tells; nothing of it may reach the daemon's own log unread.
    silent = logging.getLogger("platformd.librdkafka")
    silent.addHandler(logging.NullHandler())
    silent.propagate = False
    return {
        "bootstrap.servers": ",".join(kafka.bootstrap_servers),
        "client.id": f"platformd-{config.bridge}",
        "statistics.interval.ms": STATISTICS_INTERVAL,
        "logger": silent,
        **_security(kafka, files),
    }


def source_config(config: BridgeConfig) -> dict[str, Any]:
    """Of a source. What is stored is committed in the background, and nothing is stored but by us.

    An offset that Kafka no longer has is answered with the oldest that it has: never with a gap more.
    """
    return base_config(config) | {
        "queued.max.messages.kbytes": PREFETCH_KBYTES,
        "session.timeout.ms": SESSION_TIMEOUT,
        "auto.commit.interval.ms": 1000,
        **config.kafka.properties,
        "group.id": config.group,
        "enable.auto.commit": True,
        "enable.auto.offset.store": False,
        "auto.offset.reset": "earliest",
        "enable.partition.eof": False,
    }


def sink_config(config: BridgeConfig) -> dict[str, Any]:
    """Of a sink. A record waits for Kafka as long as it takes: what gives up is the process, when it is stopped."""
    kbytes = max(config.max_in_flight_bytes // 1024 * 2, 1024)
    return base_config(config) | {
        **config.kafka.properties,
        "enable.idempotence": True,
        "acks": "all",
        "message.timeout.ms": 0,
        "linger.ms": round(config.linger * 1000),
        "queue.buffering.max.messages": config.max_in_flight + 1,
        "queue.buffering.max.kbytes": min(kbytes, 2_097_151),
    }


def _security(kafka: Kafka, files: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    protocol = ("SASL_" if kafka.sasl is not None else "") + ("SSL" if kafka.tls is not None else "PLAINTEXT")
    found["security.protocol"] = protocol
    if kafka.sasl is not None:
        found |= {
            "sasl.mechanism": kafka.sasl.mechanism,
            "sasl.username": kafka.sasl.username,
            "sasl.password": _secret(files / kafka.sasl.password_file),
        }
    if kafka.tls is not None:
        named = {
            "ssl.ca.location": kafka.tls.ca_file,
            "ssl.certificate.location": kafka.tls.certificate_file,
            "ssl.key.location": kafka.tls.key_file,
        }
        found |= {name: str(_readable(files / file)) for name, file in named.items() if file}
        found["ssl.endpoint.identification.algorithm"] = "https" if kafka.tls.verify_hostname else "none"
    return found


def _readable(path: Path) -> Path:
    try:
        path.open("rb").close()
    except OSError as error:
        hint = "it belongs into the daemon's folder pipelines.files, readable for the daemon"
        raise InvalidInput(f"cannot be read: {error.strerror}", subject=str(path), hint=hint) from error
    return path


def _secret(path: Path) -> str:
    with _readable(path).open("rb") as file:
        first = file.read(MAX_PASSWORD).split(b"\n")[0].rstrip(b"\r")
    try:
        text = first.decode()
    except UnicodeDecodeError:
        text = ""
    if not text:
        raise InvalidInput("its first line is no password", subject=str(path))
    return text


class _Partition(msgspec.Struct):
    consumer_lag: int = -1


class _Topic(msgspec.Struct):
    partitions: dict[str, _Partition] = {}


class _Broker(msgspec.Struct):
    state: str = ""
    source: str = ""


class _Statistics(msgspec.Struct):
    brokers: dict[str, _Broker] = {}
    topics: dict[str, _Topic] = {}


class Connection:
    """What librdkafka's callbacks tell of its brokers."""

    def __init__(self) -> None:
        self.errors = 0
        self.last_error = ""
        self.ever_up = False
        self.lags: dict[tuple[str, int], int] = {}
        """By topic and partition, -1 where it is not known."""
        self._down = ""

    def on_error(self, error: KafkaError) -> None:
        """Take an error that concerns the connection."""
        self.failed(error)
        if error.code() in _REFUSED:
            self._down = f"Kafka does not let it in: {error.str()}"
        elif error.code() in _DOWN:
            self._down = f"no broker of Kafka can be reached: {error.str()}"

    def failed(self, error: KafkaError) -> None:
        """Count an error of any kind."""
        self.errors += 1
        self.last_error = describe(error)

    def works(self) -> None:
        """Something came through."""
        self.ever_up, self._down = True, ""

    def on_statistics(self, text: str) -> None:
        """Take a measurement."""
        statistics = msgspec.json.decode(text, type=_Statistics)
        if any(b.state == "UP" and b.source != "logical" for b in statistics.brokers.values()):
            self.works()
        self.lags = {
            (topic, int(number)): partition.consumer_lag
            for topic, found in statistics.topics.items()
            for number, partition in found.partitions.items()
        }

    def trouble(self, *, needed: bool) -> str:
        """Why it cannot get on, or nothing. A broker ends connections that nobody uses, which is no trouble until
        one is ``needed`` again.
        """
        return self._down if needed or not self.ever_up else ""


def describe(error: KafkaError) -> str:
    """An error of Kafka for a person."""
    return f"{error.str()} ({error.name()})"


def error_of(exception: KafkaException) -> KafkaError:
    """The error in an exception."""
    error = exception.args[0]
    assert isinstance(error, KafkaError)
    return error
