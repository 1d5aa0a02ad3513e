"""What librdkafka is told, and what is made of what it tells."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

pytest.importorskip("confluent_kafka", reason="the extra kafka is not installed")

from confluent_kafka import Consumer, KafkaError, Producer

from platformd.core.errors import InvalidInput
from platformd.model.bridge import BOTH, PROPERTIES, SINK, SOURCE, Kafka, Sasl, Tls
from platformd.pipelines.bridges.kafka import Connection, sink_config, source_config
from tests.pipelines.bridges.fakes import FakeError
from tests.pipelines.bridges.resources import config

SAMPLES = {
    "broker.address.family": "v4", "check.crcs": "true", "compression.codec": "zstd",
    "isolation.level": "read_committed",
    "partition.assignment.strategy": "cooperative-sticky", "partitioner": "murmur2_random",
    "socket.keepalive.enable": "true", "fetch.max.bytes": "52428800", "message.max.bytes": "2000000",
    "max.poll.interval.ms": "300000", "session.timeout.ms": "6000", "client.id": "a", "client.rack": "r",
    "group.instance.id": "i", "compression.level": "3", "socket.connection.setup.timeout.ms": "1000",
}  # fmt: skip


def kafka(**fields: object) -> Kafka:
    return Kafka(bootstrap_servers=("127.0.0.1:1",), **fields)  # type: ignore[arg-type]


def test_every_allowed_property_exists() -> None:
    """librdkafka knows each property that a Bridge may set, for the direction that is said."""
    for direction, make, client in (("source", source_config, Consumer), ("sink", sink_config, Producer)):
        wanted = {n: SAMPLES.get(n, "1000") for n, of in PROPERTIES.items() if of in (BOTH, direction)}
        told = make(config(direction, kafka=kafka(properties=wanted)))
        assert wanted.items() <= told.items()
        made = client(told)
        if direction == "source":
            made.close()
    assert {SOURCE, SINK, BOTH} == set(PROPERTIES.values())


def test_what_keeps_the_promises_cannot_be_set() -> None:
    """Nothing of the commit, the acknowledgement, or of programs and libraries to run is among the properties."""
    words = ("plugin", "kinit", "engine", "enable.auto", "enable.idem", "acks", "group.id", "sasl", "ssl", "security")
    assert not [name for name in PROPERTIES for word in words if name.startswith(word) or f".{word}" in name]


def test_a_password_comes_from_its_file_alone(tmp_path: Path) -> None:
    """It is the first line of the file; a configuration that a process is started with does not have it."""
    (tmp_path / "password").write_text("s3cret\r\nnot this\n")
    secured = kafka(sasl=Sasl(mechanism="SCRAM-SHA-512", username="me", password_file="password"))
    made = config(kafka=secured, files=str(tmp_path))
    assert b"s3cret" not in msgspec.json.encode(made)
    told = source_config(made)
    assert (told["sasl.username"], told["sasl.password"]) == ("me", "s3cret")
    assert told["security.protocol"] == "SASL_PLAINTEXT"


def test_certificates(tmp_path: Path) -> None:
    """Files are looked for in the daemon's folder; hostnames are checked unless that is taken off."""
    (tmp_path / "ca.pem").write_text("")
    told = sink_config(config("sink", kafka=kafka(tls=Tls(ca_file="ca.pem")), files=str(tmp_path)))
    assert told["security.protocol"] == "SSL"
    assert told["ssl.ca.location"] == str(tmp_path / "ca.pem")
    assert told["ssl.endpoint.identification.algorithm"] == "https"


@pytest.mark.parametrize("content", [None, b"", b"\n", b"\xff\n"])
def test_a_password_that_cannot_be_read(tmp_path: Path, content: bytes | None) -> None:
    """A missing, empty or unreadable file is an error that names it and not what is in it."""
    if content is not None:
        (tmp_path / "password").write_bytes(content)
    secured = kafka(sasl=Sasl(mechanism="SCRAM-SHA-256", username="me", password_file="password"))
    with pytest.raises(InvalidInput, match="password"):
        source_config(config(kafka=secured, files=str(tmp_path)))


def statistics(state: str, source: str = "learned") -> str:
    return msgspec.json.encode({"brokers": {"b": {"state": state, "source": source}}, "topics": {}}).decode()


def test_the_connection_says_when_no_broker_is_there() -> None:
    """It is trouble from the first failure until a broker is up; a coordinator's logical broker is none."""
    connection = Connection()
    connection.on_error(FakeError(KafkaError._ALL_BROKERS_DOWN, "1/1 brokers are down"))  # type: ignore[arg-type]
    assert "no broker" in connection.trouble(needed=False)
    connection.on_statistics(statistics("UP", "logical"))
    assert connection.trouble(needed=True)
    connection.on_statistics(statistics("UP"))
    assert not connection.trouble(needed=True)
    assert connection.errors == 1
    assert "brokers are down" in connection.last_error


def test_an_idle_connection_that_ends_is_no_trouble() -> None:
    """Brokers close what nobody uses; it is told when somebody wants it again."""
    connection = Connection()
    connection.works()
    connection.on_error(FakeError(KafkaError._ALL_BROKERS_DOWN, "down"))  # type: ignore[arg-type]
    assert not connection.trouble(needed=False)
    assert connection.trouble(needed=True)


def test_a_refused_password_is_said() -> None:
    """What a person has to do something about is told as what it is."""
    connection = Connection()
    connection.on_error(FakeError(KafkaError._AUTHENTICATION, "wrong password"))  # type: ignore[arg-type]
    assert connection.trouble(needed=True) == "Kafka does not let it in: wrong password"
