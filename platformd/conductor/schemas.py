"""The register of schemas: what may be registered and taken out, and what streams are told of it.

``SchemaRules`` stands in the way of writes: it compares with what is there, which a check of one document cannot. What
it looked at must still be so when the write is done, so that no stream can take up a version that is being taken out.
The controller only keeps the status.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Never, Protocol

import trio

from platformd.conductor.conductor import Conductor
from platformd.conductor.facts import Change
from platformd.conductor.reconcile import Key, key_of_resource, run_controller
from platformd.core.errors import Conflict, FieldError, NotFound, Unprocessable
from platformd.model.kind import subject_of
from platformd.model.resource import AnyResource
from platformd.model.schema import SCHEMA, Compatibility, SchemaSpec, SchemaStatus, SchemaType, reference
from platformd.model.stream import STREAM, StreamSpec
from platformd.queues.contract import RecordFormat
from platformd.queues.encodings.forms import schema_text


class Examiner(Protocol):
    """Looks into schemas; ``queues.encodings.checkers.Checkers`` is one."""

    async def examine(
        self, kind: SchemaType, text: str, mode: Compatibility = "none", older: Sequence[tuple[int, str]] = ()
    ) -> tuple[FieldError, ...]:
        """What is wrong with a schema, also beside the ``older`` ones."""
        ...


class SchemaRules:
    """Guards the kinds Schema and Stream; see ``Conductor.guard``."""

    def __init__(self, conductor: Conductor, examiner: Examiner) -> None:
        self._conductor = conductor
        self._examiner = examiner

    def stand_guard(self) -> None:
        """From now on, guard the conductor's writes."""
        self._conductor.guard(SCHEMA, self.writing_schema, reads=[STREAM])
        self._conductor.guard(STREAM, self.writing_stream, reads=[SCHEMA])

    @asynccontextmanager
    async def writing_schema(self, current: AnyResource | None, wanted: AnyResource | None) -> AsyncIterator[None]:
        """While a Schema is written, or deleted (``wanted`` is ``None``).

        Raises:
            Unprocessable: a version would change, is no schema, or is not compatible.
            Conflict: a stream uses a version that would go.
        """
        if wanted is None:
            assert current is not None
            await self._check_unused(current, {v.version for v in current.spec.versions})
        else:
            await self._check_versions(current, wanted)
        yield

    @asynccontextmanager
    async def writing_stream(self, current: AnyResource | None, wanted: AnyResource | None) -> AsyncIterator[None]:
        """While a Stream is written, or deleted.

        Raises:
            Unprocessable: its schema is none, or is not there.
        """
        schema = None if wanted is None else wanted.spec.schema
        if wanted is None or schema is None or _same_form(current, wanted):
            yield
            return
        kind = schema_type(wanted.spec)
        if isinstance(schema, str):
            errors = await self._reference_errors(wanted, schema, kind)
        else:
            errors = _under("spec.schema", await self._examiner.examine(kind, schema_text(schema)))
        if errors:
            raise Unprocessable("is not a valid Stream", subject=subject_of(wanted), errors=tuple(errors))
        yield

    async def _check_versions(self, current: AnyResource | None, wanted: AnyResource) -> None:
        spec: SchemaSpec = wanted.spec
        before = {} if current is None else {v.version: v for v in current.spec.versions}
        if current is not None and before:
            errors = _broken_promises(current.spec, spec)
            if errors:
                raise Unprocessable("is not a valid Schema", subject=subject_of(wanted), errors=tuple(errors))
            await self._check_unused(current, before.keys() - {v.version for v in spec.versions})
        for i, entry in enumerate(spec.versions):
            if entry.version in before:
                continue
            older = [(v.version, schema_text(v.schema)) for v in spec.versions[:i]]
            found = await self._examiner.examine(spec.type, schema_text(entry.schema), spec.compatibility, older)
            if found:
                errors = _under(f"spec.versions[{i}].schema", found)
                raise Unprocessable("is not a valid Schema", subject=subject_of(wanted), errors=tuple(errors))

    async def _check_unused(self, schema: AnyResource, versions: set[int]) -> None:
        users = await users_of(self._conductor, schema) if versions else ()
        held = [user for user in users if int(user.rpartition("@")[2]) in versions]
        if held:
            raise Conflict(
                f"is used by the streams {', '.join(held[:10])}" if len(held) > 1 else f"is used by stream {held[0]}",
                subject=subject_of(schema),
                hint="refer the streams to another version first; NAME@VERSION says who uses what",
            )

    async def _reference_errors(self, stream: AnyResource, schema: str, kind: SchemaType) -> list[FieldError]:
        try:
            found, _ = await _look_up(self._conductor, schema, stream.tenant)
        except NotFound as error:
            return [FieldError(path="spec.schema", message=f"{error.subject}: {error.message}", hint=error.hint)]
        if found.type != kind:
            message = f"{schema!r} is of type {found.type}, and {stream.spec.encoding} needs {kind}"
            return [FieldError(path="spec.schema", message=message)]
        return []


def schema_type(spec: StreamSpec) -> SchemaType:
    """What a stream's schema is written in."""
    return "avro" if spec.encoding == "avro" else "json"


async def format_of(conductor: Conductor, stream: AnyResource) -> RecordFormat:
    """A stream's format, with the schema that it refers to.

    Raises:
        NotFound: the schema is not there.
    """
    spec: StreamSpec = stream.spec
    schema: Any = spec.schema
    if isinstance(schema, str):
        _, schema = await _look_up(conductor, schema, stream.tenant)
    return RecordFormat(
        encoding=spec.encoding,
        framing=spec.framing,
        schema="" if schema is None else schema_text(schema),
        validate=spec.validate,
    )


async def _look_up(conductor: Conductor, place: str, tenant: str) -> tuple[SchemaSpec, Any]:
    """The subject and the schema of ``subject@version``."""
    parts = reference(place)
    assert parts is not None, "the model has checked it"
    subject, version = parts
    spec: SchemaSpec = (await conductor.get(SCHEMA, subject, tenant)).spec
    for entry in spec.versions:
        if entry.version == version:
            return spec, entry.schema
    known = ", ".join(str(entry.version) for entry in spec.versions)
    raise NotFound(f"there is no version {version}", subject=f"schema/{subject}", hint=f"there are: {known}")


async def users_of(conductor: Conductor, schema: AnyResource) -> tuple[str, ...]:
    """The streams that refer to a schema, as ``NAME@VERSION``."""
    users = []
    for stream in (await conductor.list(STREAM, schema.tenant)).items:
        parts = reference(stream.spec.schema) if isinstance(stream.spec.schema, str) else None
        if parts is not None and parts[0] == schema.name:
            users.append(f"{stream.name}@{parts[1]}")
    return tuple(users)


def _same_form(current: AnyResource | None, wanted: AnyResource) -> bool:
    return current is not None and all(
        getattr(current.spec, field) == getattr(wanted.spec, field) for field in ("encoding", "framing", "schema")
    )


def _broken_promises(before: SchemaSpec, after: SchemaSpec) -> list[FieldError]:
    """What of a change would make a registered version mean something else."""
    old = {v.version: v.schema for v in before.versions}
    newest = before.versions[-1].version
    errors = []
    if before.type != after.type:
        errors.append(FieldError(path="spec.type", message=f"is {before.type} and cannot become {after.type}"))
    for i, entry in enumerate(after.versions):
        path = f"spec.versions[{i}]"
        if entry.version in old and entry.schema != old[entry.version]:
            message = f"version {entry.version} is registered and cannot change"
            errors.append(FieldError(path=f"{path}.schema", message=message, hint="add a version with a higher number"))
        elif entry.version not in old and entry.version <= newest:
            message = f"{entry.version} does not come after {newest}, the newest that is registered"
            errors.append(FieldError(path=f"{path}.version", message=message))
    if newest not in {v.version for v in after.versions}:
        message = f"version {newest} is the newest that is registered and can only go with the whole subject"
        errors.append(FieldError(path="spec.versions", message=message, hint="list it too"))
    return errors


def _under(path: str, errors: Sequence[FieldError]) -> list[FieldError]:
    """The errors of a schema, with its place in the document."""
    return [
        FieldError(
            path=path, message=f"{error.path}: {error.message}" if error.path else error.message, hint=error.hint
        )
        for error in errors
    ]


async def run(conductor: Conductor, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> Never:
    """Keep the status of schemas. Started when all are known."""

    async def reconcile(resource: AnyResource) -> float | None:
        spec: SchemaSpec = resource.spec
        status = SchemaStatus(
            state="registered",
            observed_generation=resource.generation,
            latest=spec.versions[-1].version,
            versions=len(spec.versions),
            streams=await users_of(conductor, resource),
        )
        await conductor.set_status(resource, status)
        return None

    used: dict[Key, str] = {}

    def of_stream(change: Change) -> list[Key]:
        """The schemas that a stream refers to now or did before, when that changed: streams change all the time."""
        stream = change.resource
        now = stream.spec.schema if isinstance(stream.spec.schema, str) and change.type != "deleted" else ""
        before = used.pop(key_of_resource(stream), "")
        if now:
            used[key_of_resource(stream)] = now
        if now == before:
            return []
        parts = [reference(text) for text in (before, now)]
        return [Key(SCHEMA.name, stream.tenant, part[0]) for part in parts if part is not None]

    await run_controller(conductor, SCHEMA, reconcile, related={STREAM.name: of_stream}, task_status=task_status)
