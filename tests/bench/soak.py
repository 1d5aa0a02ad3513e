"""Whether the queues stay as they are: ``python -m tests.bench.soak [--minutes 10] [--quick]``.

An engine in a process of its own; a Python producer that publishes with fsync at half of the rate at which records went
through when it was tried before; a Python consumer, in a process of its own, that acknowledges all. The stream keeps
512 MiB, so retention runs all the while. Each window (30 seconds) gives the memory of all three processes and the 99th
percentiles of the time from publishing to the acknowledgement and to the delivery.

Progress goes to standard error, one JSON document to standard output: the windows, the trend of each figure (the
median of all slopes between two windows, which a single disturbance does not move) over the whole run, and a verdict.
The machine's own load average stands beside: what others do at the same time moves times, and no memory.
The first window warms up and does not count. A figure is flat when its trend over the run is less than ``MEMORY_RISE``
for memory, or ``LATENCY_RISE`` of its median for a time.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import select
import statistics
import subprocess
import sys
import time
from itertools import combinations
from pathlib import Path
from typing import Any

from platformd.client.queues import Consumer, Producer
from tests.bench.harness import percentile, scratch
from tests.bench.queues_host import Host, hosted

PERIOD = 0.005
"""Seconds between two batches of the producer."""
PAYLOAD = bytes(128)
KEEP = 512 << 20
MEMORY_RISE = 4.0
"""MiB over the whole run."""
LATENCY_RISE = 0.5
"""Of the median, over the whole run."""

Window = dict[str, float]


def main() -> None:
    """Run, print, and end with 1 if something was not flat or got lost."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--window", type=float, default=30.0, help="seconds")
    parser.add_argument("--quick", action="store_true", help="half a minute, windows of five seconds")
    parser.add_argument("--consume", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.quick:
        options.minutes, options.window = 0.5, 5.0
    if options.consume:
        _consume(options.consume)
        return
    with scratch() as name, hosted(Path(name) / "engine") as host:
        document = soak(host, options.minutes * 60, options.window)
    sys.stdout.write(json.dumps(document, indent=2) + "\n")
    sys.exit(document["verdict"] != "flat")


def soak(host: Host, seconds: float, window: float) -> dict[str, Any]:
    """Everything; the document."""
    host.stream("soak", max_bytes=KEEP)
    host.consumer("soak", max_ack_pending=65536)
    with _Consuming(host) as consuming:
        full = _publish(host, 5.0)
        _note(f"{full:,.0f} records/s at full load; half of that for {seconds / 60:g} minutes")
        rows, published = _at(host, consuming, full / 2, seconds, window)
        delivered = consuming.finish()
    trends = {
        key: _trend([row[key] for row in rows[1:]])
        for key in rows[0]
        if key not in ("seconds", "records", "machine_load")
    }
    wrong = [_judged(key, [row[key] for row in rows[1:]], trend) for key, trend in trends.items()]
    found = [reason for reason in wrong if reason]
    if delivered < published:
        found.append(f"{published - delivered} records were not delivered")
    return {
        "machine": f"{platform.machine()}, Python {platform.python_version()}",
        "full_rate": round(full),
        "rate": round(published / seconds),
        "windows": rows,
        "rise_over_the_run": {key: round(value, 3) for key, value in trends.items()},
        "verdict": "not flat" if found else "flat",
        "reasons": found,
    }


def _note(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def _publish(host: Host, seconds: float) -> float:
    payloads = [PAYLOAD] * 2048
    with Producer(host.address("ingest")) as producer:
        count, begin = 0, time.perf_counter()
        while time.perf_counter() - begin < seconds:
            producer.submit_payloads("soak.a", payloads)
            count += len(payloads)
            while count % (len(payloads) * 16) == 0 and host.behind("soak") > 300_000:  # as much as the consumer takes
                time.sleep(0.002)
        return count / (time.perf_counter() - begin)


def _at(host: Host, consuming: _Consuming, rate: float, seconds: float, window: float) -> tuple[list[Window], int]:
    """A window each, and how many records were published in all of them."""
    batch = [PAYLOAD] * max(1, round(rate * PERIOD))
    rows: list[Window] = []
    published = 0
    with Producer(host.address("ingest")) as producer:
        begin = due = time.perf_counter()
        consuming.window()
        while len(rows) < max(3, round(seconds / window)):
            taken: list[float] = []
            while (now := time.perf_counter()) - begin < (len(rows) + 1) * window:
                if now < due:
                    time.sleep(due - now)
                due += PERIOD
                sent = time.perf_counter()
                producer.submit_payloads("soak.a", batch).wait()
                taken.append((time.perf_counter() - sent) * 1e3)
            published += len(taken) * len(batch)
            behind = consuming.window()
            rows.append(
                {
                    "seconds": round(time.perf_counter() - begin, 1),
                    "records": len(taken) * len(batch),
                    "machine_load": os.getloadavg()[0],
                    "engine_anon_mib": host.memory_kib() / 1024,
                    "producer_mib": _anon_mib("self"),
                    "consumer_mib": _anon_mib(str(consuming.pid)),
                    "acknowledged_p99_ms": percentile(taken, 99),
                    "delivered_p99_ms": behind["p99_ms"],
                }
            )
            _note(" ".join(f"{key}={value:,.2f}" for key, value in rows[-1].items()))
    return rows, published


def _anon_mib(process: str) -> float:
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) / 1024
    raise LookupError(process)


def _trend(values: list[float]) -> float:
    """How much the figure rises over all windows (Theil and Sen)."""
    slopes = [(right - left) / (j - i) for (i, left), (j, right) in combinations(enumerate(values), 2)]
    return statistics.median(slopes) * (len(values) - 1) if slopes else 0.0


def _judged(key: str, values: list[float], rise: float) -> str:
    limit = MEMORY_RISE if key.endswith("_mib") else LATENCY_RISE * statistics.median(values)
    return f"{key} rose by {rise:.2f}; the limit is {limit:.2f}" if rise > limit else ""


# The consumer, in a process of its own


class _Consuming:
    """It tells of each window when it is asked, and drains what is left when it is to finish."""

    def __init__(self, host: Host) -> None:
        command = [sys.executable, "-m", "tests.bench.soak", "--consume", host.address("fetch")]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.pid = self._process.pid

    def __enter__(self) -> _Consuming:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def window(self) -> dict[str, float]:
        """What it measured since it was asked before."""
        return self._ask("window")

    def finish(self) -> int:
        """How many records it had since the first window began."""
        return int(self._ask("finish")["records"])

    def _ask(self, what: str) -> dict[str, float]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(what + "\n")
        self._process.stdin.flush()
        answer: dict[str, float] = json.loads(self._process.stdout.readline())
        return answer


def _consume(address: str) -> None:
    with Consumer(address, "soak", "c") as consumer:
        total, taken = 0, [0.0]
        counting = finishing = False
        while True:
            deliveries = consumer.fetch_batch(max_records=8192, max_bytes=2 << 20, wait=0.05)
            if deliveries:
                taken.append((time.time_ns() - deliveries[0].time_ns) / 1e6)
                consumer.ack(deliveries)
                total += len(deliveries) if counting else 0
            elif finishing:
                print(json.dumps({"records": total}), flush=True)
                return
            if not finishing and select.select([sys.stdin], [], [], 0)[0]:
                finishing = sys.stdin.readline().strip() == "finish"
                if not finishing:
                    while not counting and (rest := consumer.fetch_batch(wait=0.2)):
                        consumer.ack(rest)
                    counting = True
                    print(json.dumps({"p99_ms": percentile(taken, 99)}), flush=True)
                    taken = [0.0]


if __name__ == "__main__":
    main()
