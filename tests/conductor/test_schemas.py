"""The register of schemas: what may be written, what may go, and what streams are told."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio

from platformd.conductor import Conductor
from platformd.conductor import schemas as controller
from platformd.conductor.schemas import SchemaRules, format_of
from platformd.core.errors import Conflict, NotFound, Unprocessable
from platformd.model.kind import Kind
from platformd.model.resource import AnyResource
from platformd.model.schema import SCHEMA
from platformd.model.stream import STREAM
from platformd.queues.encodings.checkers import Checkers

ONE = {"type": "object", "required": ["id"], "properties": {"id": {"type": "integer"}}, "additionalProperties": False}
TWO = {**ONE, "properties": {"id": {"type": "integer"}, "text": {"type": "string"}}}
STRICTER = {**TWO, "required": ["id", "text"]}
AVRO = {"type": "record", "name": "r", "fields": [{"name": "id", "type": "int"}]}


@pytest.fixture
async def register(conductor: Conductor) -> AsyncIterator[Conductor]:
    """A conductor with the rules, as the daemon has it."""
    checkers = Checkers()
    SchemaRules(conductor, checkers).stand_guard()
    yield conductor
    await checkers.stop()


async def put(conductor: Conductor, kind: Kind, name: str, spec: dict[str, Any], **more: Any) -> AnyResource:
    written, _ = await conductor.replace(conductor.decode(kind, {"name": name, "spec": spec}), **more)
    return written


def versions(*schemas: object, kind: str = "json", first: int = 1, **more: Any) -> dict[str, Any]:
    entries = [{"version": first + i, "schema": schema} for i, schema in enumerate(schemas)]
    return {"type": kind, "versions": entries} | more


async def refusal(conductor: Conductor, kind: Kind, name: str, spec: dict[str, Any], **more: Any) -> str:
    with pytest.raises(Unprocessable) as refused:
        await put(conductor, kind, name, spec, **more)
    return "\n".join(f"{e.path}: {e.message}" for e in refused.value.errors)


async def test_versions_are_added_and_never_changed(register: Conductor) -> None:
    """A compatible version is added; a registered one cannot be changed, nor can its type or a number be used again."""
    await put(register, SCHEMA, "note", versions(ONE))
    await put(register, SCHEMA, "note", versions(ONE, TWO))
    assert "spec.versions[0].schema: version 1 is registered" in await refusal(
        register, SCHEMA, "note", versions(TWO, TWO)
    )
    assert "spec.type" in await refusal(register, SCHEMA, "note", versions(ONE, TWO, kind="avro"))
    said = await refusal(register, SCHEMA, "note", versions(ONE))
    assert "spec.versions: version 2 is the newest" in said
    await put(register, SCHEMA, "note", versions(TWO, first=2))  # an old one may go
    assert "spec.versions[0].version: 1 does not come after 2" in await refusal(
        register, SCHEMA, "note", versions(ONE, TWO)
    )


async def test_incompatible_versions_are_refused(register: Conductor) -> None:
    """A new version is compared with every one that is kept, by the mode that the subject says."""
    await put(register, SCHEMA, "note", versions(ONE, TWO))
    said = await refusal(register, SCHEMA, "note", versions(ONE, TWO, STRICTER))
    assert "spec.versions[2].schema" in said
    assert "backward, with version 1" in said
    assert "backward, with version 2" in said
    assert "forward" in await refusal(register, SCHEMA, "other", versions(ONE, TWO, compatibility="forward"))
    assert "forward" in await refusal(register, SCHEMA, "other", versions(ONE, TWO, compatibility="full"))
    await put(register, SCHEMA, "note", versions(ONE, TWO, STRICTER, compatibility="none"))
    more = {**AVRO, "fields": [*AVRO["fields"], {"name": "b", "type": "int"}]}
    await put(register, SCHEMA, "avro", versions(AVRO, kind="avro"))
    said = await refusal(register, SCHEMA, "avro", versions(AVRO, more, kind="avro"))
    assert "b: is not compatible" in said.replace("spec.versions[1].schema: ", "")
    assert "no default" in said


async def test_what_is_no_schema_is_refused(register: Conductor) -> None:
    """In the register and in a stream, also for a dry run."""
    assert "spec.versions[0].schema" in await refusal(register, SCHEMA, "a", versions({"type": "strin"}))
    assert "not an Avro schema" in await refusal(
        register, SCHEMA, "a", versions({"type": "x"}, kind="avro"), dry_run=True
    )
    stream = {"subjects": ["a"], "encoding": "avro", "schema": {"type": "x"}}
    assert "spec.schema: is not an Avro schema" in await refusal(register, STREAM, "a", stream)
    stream = {"subjects": ["a"], "encoding": "json", "schema": {"pattern": "(?=x)"}}
    assert "look-around" in await refusal(register, STREAM, "a", stream)


async def test_streams_refer_to_what_is_there(register: Conductor) -> None:
    """A reference must name a version that is registered, of the type that the encoding needs, in the same tenant."""
    await put(register, SCHEMA, "note", versions(ONE, TWO))
    for schema, encoding, says in (
        ("gone@1", "json", "schema/gone: is not there"),
        ("note@3", "json", "there is no version 3"),
        ("note@1", "avro", "is of type json, and avro needs avro"),
    ):
        spec = {"subjects": ["a"], "encoding": encoding, "schema": schema}
        assert says in await refusal(register, STREAM, "a", spec)
    document = {"name": "a", "spec": {"subjects": ["a"], "encoding": "json", "schema": "note@1"}}
    elsewhere = register.decode(STREAM, document, tenant="t2")
    with pytest.raises(Unprocessable):
        await register.replace(elsewhere)
    made = await put(
        register, STREAM, "a", {"subjects": ["a"], "encoding": "json", "schema": "note@2", "validate": True}
    )
    form = await format_of(register, made)
    assert (form.encoding, form.validate) == ("json", True)
    assert '"text"' in form.schema


async def test_what_a_stream_uses_stays(register: Conductor) -> None:
    """Neither the version nor the subject goes while a stream refers to it; afterwards both may."""
    await put(register, SCHEMA, "note", versions(ONE, TWO))
    stream = {"subjects": ["a"], "encoding": "json", "schema": "note@1"}
    await put(register, STREAM, "a", stream)
    for attempt in (
        put(register, SCHEMA, "note", versions(TWO, first=2)),
        register.delete(SCHEMA, "note"),
        register.delete(SCHEMA, "note", dry_run=True),
    ):
        with pytest.raises(Conflict, match="a@1") as refused:
            await attempt
        assert refused.value.subject == "schema/note"
    await put(register, STREAM, "a", stream | {"schema": "note@2"})
    await put(register, SCHEMA, "note", versions(TWO, first=2))
    await put(register, STREAM, "a", {"subjects": ["a"]})
    await register.delete(SCHEMA, "note")
    with pytest.raises(NotFound):
        await register.get(SCHEMA, "note")


async def test_a_stream_and_a_deletion_at_once(register: Conductor) -> None:
    """Of a stream that takes a version up and a deletion of it, one is refused; never do both succeed."""
    for _ in range(5):
        await put(register, SCHEMA, "note", versions(ONE))
        done: list[str] = []

        async def take_up(done: list[str] = done) -> None:
            try:
                await put(register, STREAM, "a", {"subjects": ["a"], "encoding": "json", "schema": "note@1"})
                done.append("stream")
            except Unprocessable:
                pass

        async def take_out(done: list[str] = done) -> None:
            try:
                await register.delete(SCHEMA, "note")
                done.append("deletion")
            except Conflict:
                pass

        async with trio.open_nursery() as nursery:
            nursery.start_soon(take_up)
            nursery.start_soon(take_out)
        assert len(done) == 1
        if done == ["stream"]:
            await put(register, STREAM, "a", {"subjects": ["a"]})
            await register.delete(SCHEMA, "note")


async def test_status_says_who_uses_what(register: Conductor, nursery: trio.Nursery) -> None:
    """The status has the newest version and the streams that refer to the schema, as they come and go."""
    await nursery.start(controller.run, register)
    await put(register, SCHEMA, "note", versions(ONE, TWO))

    async def until(streams: tuple[str, ...]) -> None:
        with trio.fail_after(10):
            while True:
                status = (await register.get(SCHEMA, "note")).status
                if status.state == "registered" and status.streams == streams:
                    assert (status.latest, status.versions) == (2, 2)
                    return
                await trio.sleep(0.01)

    await until(())
    await put(register, STREAM, "a", {"subjects": ["a"], "encoding": "json", "schema": "note@1"})
    await until(("a@1",))
    await put(register, STREAM, "a", {"subjects": ["a"], "encoding": "json", "schema": "note@2"})
    await until(("a@2",))
    await put(register, STREAM, "a", {"subjects": ["a"]})
    await until(())
