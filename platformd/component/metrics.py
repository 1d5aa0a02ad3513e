"""A component's metrics: read when somebody asks."""

from __future__ import annotations

import typing
from collections.abc import Iterator, Sequence

import msgspec
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from platformd.component.declaration import Component
from platformd.model.component import ComponentState, JobCounts, JobDocument


class _Snapshot(Collector):
    def __init__(
        self,
        component: Component,
        state: ComponentState,
        started_ns: int,
        counts: JobCounts,
        jobs: Sequence[JobDocument],
    ) -> None:
        self._component, self._state, self._started_ns = component, state, started_ns
        self._counts, self._jobs = counts, jobs

    def collect(self) -> Iterator[Metric]:
        component = self._component
        yield InfoMetricFamily(
            "component", "Which component this is.", {"name": component.name, "version": component.version}
        )
        states = GaugeMetricFamily("component_state", "1 for the state that it is in.", labels=("state",))
        for known in typing.get_args(ComponentState):
            states.add_metric((known,), float(known == self._state))
        yield states
        yield GaugeMetricFamily(
            "component_start_time_seconds", "When it started, since the epoch.", self._started_ns / 1e9
        )
        yield GaugeMetricFamily("component_jobs_today", "Jobs that began since midnight UTC.", self._counts.today)
        jobs = GaugeMetricFamily("component_jobs", "Jobs by service and state.", labels=("service", "state"))
        found: dict[tuple[str, str], int] = {}
        for job in self._jobs:
            found[job.service, job.state] = found.get((job.service, job.state), 0) + 1
        for (service, state), count in sorted(found.items()):
            jobs.add_metric((service, state), count)
        yield jobs
        for name, read in component.gauges.items():
            yield GaugeMetricFamily(name, f"A gauge of {component.name}.", read())


def render(
    component: Component, state: ComponentState, started_ns: int, counts: JobCounts, jobs: Sequence[JobDocument]
) -> bytes:
    """The text format of Prometheus."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Snapshot(component, state, started_ns, msgspec.structs.replace(counts), jobs))
    return generate_latest(registry)
