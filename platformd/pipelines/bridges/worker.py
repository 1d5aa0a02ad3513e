"""The process that is a bridge: ``python -m platformd.pipelines.bridges.worker``, started by the daemon.

standard input    line 1: its configuration (``plan.BridgeConfig``, JSON); its end means: settle what is under way,
                  then end (so no worker outlives its daemon)
standard output   reports (``plan.BridgeReport``, one JSON line each), at most one in 200 ms unless urgent
standard error    why it failed
SIGTERM           as the end of standard input
"""

from __future__ import annotations

import os
import resource
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import msgspec

from platformd.core.errors import PlatformError
from platformd.pipelines.bridges.formats import Formats, GivenSchemas, SchemaFiles, Schemas
from platformd.pipelines.bridges.plan import BridgeConfig, BridgeReport
from platformd.pipelines.worker import EXIT_CONFIG, EXIT_FAILED, MEMORY_LIMIT, STOP_DEADLINE, Reporter

PUBLISH_TIMEOUT = 10.0
"""Seconds that the daemon may take for a batch before that is told as trouble."""


def main() -> NoReturn:
    """Be a bridge until told to stop."""
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_LIMIT, MEMORY_LIMIT))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C is for the daemon, which tells us
    try:
        config = msgspec.json.decode(sys.stdin.buffer.readline(), type=BridgeConfig)
    except msgspec.DecodeError as error:
        sys.stderr.write(f"the first line is no configuration: {error}\n")
        sys.exit(EXIT_CONFIG)
    stopping = threading.Event()

    def stop() -> None:
        stopping.set()
        deadline = threading.Timer(STOP_DEADLINE, os._exit, (EXIT_FAILED,))
        deadline.daemon = True
        deadline.start()

    def listen() -> None:
        while sys.stdin.buffer.readline():
            pass  # nothing is told later; only the end counts
        stop()

    signal.signal(signal.SIGTERM, lambda *_: stop())
    threading.Thread(target=listen, daemon=True).start()
    code = _serve(config, stopping.is_set)
    sys.stderr.flush()
    # The listener may still be reading standard input, and librdkafka's threads may still be waiting for Kafka.
    os._exit(code)


def _serve(config: BridgeConfig, stopping: Callable[[], bool]) -> int:
    from confluent_kafka import KafkaException  # after the configuration, which may be wrong

    def write(line: bytes) -> None:
        sys.stdout.buffer.write(line)
        sys.stdout.buffer.flush()

    reporter = Reporter(write)

    def tell(report: BridgeReport, urgent: bool) -> None:
        reporter.tell(report, urgent)

    tell(BridgeReport(), True)
    try:
        (_source if config.direction == "source" else _sink)(config, tell, stopping)
        reporter.flush()
    except PlatformError as error:
        sys.stderr.write("; ".join(str(error).split("\n")) + "\n")
        return EXIT_FAILED
    except KafkaException as exception:
        cause = exception.args[0]
        sys.stderr.write(f"Kafka: {cause.str() if hasattr(cause, 'str') else cause}\n")
        return EXIT_FAILED
    return 0


def _source(config: BridgeConfig, tell: Callable[[BridgeReport, bool], None], stopping: Callable[[], bool]) -> None:
    from confluent_kafka import Consumer

    from platformd.client.queues import Producer
    from platformd.pipelines.bridges.kafka import Connection, source_config
    from platformd.pipelines.bridges.source import Source

    connection = Connection()
    callbacks = {"error_cb": connection.on_error, "stats_cb": connection.on_statistics}
    kafka = Consumer(source_config(config) | callbacks)
    with Producer(config.ingest, timeout=PUBLISH_TIMEOUT) as producer:
        Source(config, kafka, connection, producer, formats_of(config), tell, stopping).run()


def _sink(config: BridgeConfig, tell: Callable[[BridgeReport, bool], None], stopping: Callable[[], bool]) -> None:
    from confluent_kafka import Producer as KafkaProducer

    from platformd.client.queues import Consumer, Producer
    from platformd.pipelines.bridges.kafka import Connection, sink_config
    from platformd.pipelines.bridges.sink import Sink

    connection = Connection()
    callbacks = {"error_cb": connection.on_error, "stats_cb": connection.on_statistics}
    kafka = KafkaProducer(sink_config(config) | callbacks)
    with (
        Producer(config.ingest, timeout=PUBLISH_TIMEOUT) as producer,
        Consumer(config.fetch, config.stream, config.consumer) as cursor,
    ):
        Sink(config, kafka, connection, cursor, producer, formats_of(config), tell, stopping).run()


def formats_of(config: BridgeConfig) -> Formats:
    """What payloads become on the way."""
    schemas: Schemas | None = None
    if config.format.register:
        schemas = GivenSchemas(config.format.register, {int(v): text for v, text in config.schemas.items()})
    elif config.format.directory:
        schemas = SchemaFiles(Path(config.files) / config.format.directory)
    return Formats(config.format, schemas)


if __name__ == "__main__":
    main()
