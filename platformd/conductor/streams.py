"""The controller of Streams: makes the queue engine's streams what their resources say.

It stands here and not in ``queues`` because an engine knows no resources.
"""

from __future__ import annotations

import contextlib
from functools import partial
from typing import Never

import msgspec
import trio

from platformd.conductor.conductor import Conductor
from platformd.conductor.reconcile import run_controller
from platformd.conductor.schemas import format_of
from platformd.core.clock import rfc3339
from platformd.core.errors import Conflict, FieldError, NotFound, PlatformError, Unprocessable
from platformd.core.quantities import seconds, size_bytes
from platformd.model.kind import subject_of
from platformd.model.resource import DEFAULT_TENANT, AnyResource
from platformd.model.stream import STREAM, Purged, PurgeParameters, StreamSpec, StreamStatus
from platformd.model.subjects import subject_error
from platformd.queues.contract import RecordFormat, StreamConfig, StreamInfo, Streams

FINALIZER = "queues"
"""What this controller takes off when a stream's records are gone."""

STATUS_INTERVAL = 1.0
"""Seconds between measurements of a stream."""


async def run(
    conductor: Conductor, streams: Streams, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> Never:
    """Keep streams and their status as they should be. Started when all are known."""
    conductor.actions.register(STREAM, "purge", partial(purge, streams))
    controller = _Controller(conductor, streams)
    await run_controller(conductor, STREAM, controller.reconcile, task_status=task_status)


async def purge(streams: Streams, resource: AnyResource, which: PurgeParameters) -> Purged:
    """The action ``purge``.

    Raises:
        Unprocessable: the subject is no pattern.
    """
    wrong = subject_error(which.subject, pattern=True)
    if wrong:
        error = FieldError(path="subject", message=f"{which.subject!r} {wrong}")
        raise Unprocessable("cannot purge like that", subject=subject_of(resource), errors=(error,))
    name = engine_name(resource.name, resource.tenant)
    return Purged(removed=await streams.purge(name, subject=which.subject, before=which.before, keep=which.keep))


def config_of(spec: StreamSpec, form: RecordFormat) -> StreamConfig:
    """What the engine is told."""
    return StreamConfig(
        subjects=spec.subjects,
        max_age=seconds(spec.max_age),
        max_bytes=size_bytes(spec.max_bytes),
        max_records=spec.max_records,
        max_records_per_subject=spec.max_records_per_subject,
        max_record_bytes=size_bytes(spec.max_record_bytes),
        discard=spec.discard,
        retention=spec.retention,
        compression=spec.compression,
        duplicate_window=seconds(spec.duplicate_window),
        duplicate_limit=spec.duplicate_limit,
        format=form,
    )


def compression_ratio(info: StreamInfo) -> float:
    """How many times larger its records would be without compression."""
    return round(info.uncompressed_bytes / info.bytes, 2) if info.bytes and info.uncompressed_bytes else 1.0


class _Controller:
    def __init__(self, conductor: Conductor, streams: Streams) -> None:
        self._conductor = conductor
        self._streams = streams
        self._measured: dict[str, tuple[float, StreamInfo]] = {}

    async def reconcile(self, resource: AnyResource) -> float | None:
        name = engine_name(resource.name, resource.tenant)
        if resource.deleting_at is not None:
            with contextlib.suppress(NotFound):
                await self._streams.delete_stream(name)
            self._measured.pop(name, None)
            await self._conductor.finalize(resource, FINALIZER)
            return None
        try:
            info = await self._ensure(name, config_of(resource.spec, await format_of(self._conductor, resource)))
        except Conflict as error:
            await self._refuse(resource, "SubjectsTaken", error)
            return STATUS_INTERVAL * 5
        except PlatformError as error:
            await self._refuse(resource, "EngineRefused", error)
            raise
        await self._conductor.set_status(resource, self._status(resource, name, info))
        return STATUS_INTERVAL

    async def _ensure(self, name: str, config: StreamConfig) -> StreamInfo:
        try:
            info = self._streams.stream(name)
        except NotFound:
            return await self._streams.put_stream(name, config)
        return info if info.config == config else await self._streams.put_stream(name, config)

    async def _refuse(self, resource: AnyResource, reason: str, error: PlatformError) -> None:
        status = msgspec.structs.replace(
            resource.status,
            state="error",
            reason=reason,
            message=str(error),
            observed_generation=resource.generation,
            messages_per_second=0.0,
            bytes_per_second=0.0,
        )
        await self._conductor.set_status(resource, status)

    def _status(self, resource: AnyResource, name: str, info: StreamInfo) -> StreamStatus:
        rates = self._rates(name, info, resource.status)
        return StreamStatus(
            state="active",
            observed_generation=resource.generation,
            messages=info.messages,
            bytes=info.bytes,
            compression_ratio=compression_ratio(info),
            first_sequence=info.first_sequence,
            last_sequence=info.last_sequence,
            first_record_at=rfc3339(info.first_time_ns) if info.first_time_ns else None,
            last_record_at=rfc3339(info.last_time_ns) if info.last_time_ns else None,
            consumers=info.consumers,
            messages_per_second=rates[0],
            bytes_per_second=rates[1],
        )

    def _rates(self, name: str, info: StreamInfo, status: StreamStatus) -> tuple[float, float]:
        """Records and bytes per second since the last measurement, which is at least an interval ago."""
        now = trio.current_time()
        since, before = self._measured.get(name, (now, info))
        span = now - since
        if name in self._measured and span < STATUS_INTERVAL * 0.9:
            return status.messages_per_second, status.bytes_per_second
        self._measured[name] = (now, info)
        if span <= 0:
            return 0.0, 0.0
        records = max(0, info.last_sequence - before.last_sequence)
        # Retention may have dropped more than came.
        grown = max(0, info.uncompressed_bytes - before.uncompressed_bytes)
        return round(records / span, 1), round(grown / span, 1)


def engine_name(name: str, tenant: str) -> str:
    """What the engine, which knows no tenants, calls a tenant's stream. Two dots cannot be in a name, so no two
    streams share one.
    """
    return name if tenant == DEFAULT_TENANT else f"{tenant}..{name}"
