"""The processes that look into payloads and schemas: their answers, their order, and their end."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
import trio.testing

from platformd.core.errors import InvalidInput, LimitReached, PlatformError, Unavailable
from platformd.queues.codec import encode_batch
from platformd.queues.contract import Record, RecordFormat
from platformd.queues.encodings import checkers as module
from platformd.queues.encodings.checkers import Checkers

INTEGERS = RecordFormat(encoding="json", schema='{"type": "integer"}', validate=True)


def hostile(depth: int = 40) -> RecordFormat:
    """A schema whose work doubles with every definition."""
    names = {f"d{i}": {"anyOf": [{"$ref": f"#/$defs/d{i + 1}"}] * 2} for i in range(depth)}
    schema = {"$defs": {**names, f"d{depth}": {"type": "string"}}, "$ref": "#/$defs/d0"}
    return RecordFormat(encoding="json", schema=json.dumps(schema), validate=True)


def batch(*payloads: str) -> bytes:
    return encode_batch([Record(subject="a", payload=p.encode()) for p in payloads], 1)


@pytest.fixture
async def checkers() -> AsyncIterator[Checkers]:
    made = Checkers(deadline=0.3)
    yield made
    await made.stop()


async def test_a_batch_that_fits_and_one_that_does_not(checkers: Checkers) -> None:
    """What fits passes; what does not is refused with the positions, paths and reasons."""
    await checkers.check("s", INTEGERS, batch("1", "2"))
    with pytest.raises(InvalidInput) as refused:
        await checkers.check("s", INTEGERS, batch("1", '"x"', "2", "}"))
    assert refused.value.subject == "stream/s"
    assert [e.path for e in refused.value.errors] == ["records[1]", "records[3]"]
    assert "integer" in refused.value.errors[0].message


async def test_little_is_said_of_much(checkers: Checkers) -> None:
    """A batch of a thousand bad records has a few errors, not a thousand."""
    with pytest.raises(InvalidInput) as refused:
        await checkers.check("s", INTEGERS, batch(*['"x"'] * 1000))
    assert len(refused.value.errors) == 8


async def test_answers_come_in_the_order_of_the_questions(checkers: Checkers) -> None:
    """Those of one stream are answered one after the other, whatever each takes."""
    answered: list[int] = []
    last = trio.Event()

    def note(number: int, refused: PlatformError | None) -> None:
        answered.append(number)
        if number == 19:
            last.set()

    for number in range(20):
        payloads = ["1"] * (2000 if number % 2 else 1)
        checkers.submit("s", INTEGERS, batch(*payloads), lambda refused, n=number: note(n, refused))
    with trio.fail_after(30):
        await last.wait()
    assert answered == list(range(20))


async def test_a_schema_that_takes_for_ever_stops_nobody(checkers: Checkers) -> None:
    """Its batch is refused at the deadline, the daemon's own loop goes on meanwhile, and so does the next stream."""
    await checkers.check("bad", INTEGERS, batch("1"))  # its process has started
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            await trio.sleep(0.01)
            turns += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(count)
        with pytest.raises(LimitReached, match=r"longer than 0\.3 s"):
            await checkers.check("bad", hostile(), batch("1"))
        nursery.cancel_scope.cancel()
    assert turns > 10
    await checkers.check("bad", INTEGERS, batch("1"))
    await checkers.check("good", INTEGERS, batch("1"))


async def test_a_payload_that_takes_all_memory_stops_nobody(checkers: Checkers) -> None:
    """An array of 2^40 nulls in six bytes costs at most the process that looks at it."""
    form = RecordFormat(encoding="avro", framing="raw", schema='{"type": "array", "items": "null"}', validate=True)
    payload = bytes([0x80] * 5 + [0x40])
    await checkers.check("s", INTEGERS, batch("1"))
    with pytest.raises(PlatformError):
        await checkers.check("s", form, encode_batch([Record(subject="a", payload=payload)], 1))
    await checkers.check("s", INTEGERS, batch("1"))


async def test_schemas_are_examined(checkers: Checkers) -> None:
    """A good schema has no errors; a bad and an incompatible one say why."""
    assert await checkers.examine("json", '{"type": "integer"}') == ()
    [bad] = await checkers.examine("avro", '{"type": "nothing"}')
    assert "is not an Avro schema" in bad.message
    older = [(1, '{"type": "string"}')]
    [incompatible] = await checkers.examine("json", '{"type": "integer"}', "backward", older)
    assert "backward, with version 1" in incompatible.message


async def test_a_stream_whose_schema_is_none(checkers: Checkers) -> None:
    """A format that cannot be used refuses every batch by name, and is no accident."""
    form = RecordFormat(encoding="json", schema='{"type": "strin"}', validate=True)
    with pytest.raises(InvalidInput, match="cannot be checked"):
        await checkers.check("s", form, batch("1"))


async def test_many_formats(checkers: Checkers) -> None:
    """More formats than a process keeps are all right, in any order."""
    forms = [RecordFormat(encoding="json", schema=f'{{"const": {i}}}', validate=True) for i in range(70)]
    for i in (*range(70), 0, 69, 3):
        await checkers.check("s", forms[i], batch(str(i)))


async def test_too_many_questions(checkers: Checkers, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over the bound a question is refused at once; the others are answered."""
    monkeypatch.setattr(module, "MAX_WAITING", 3)
    answers: list[PlatformError | None] = []
    all_answered = trio.Event()

    def note(refused: PlatformError | None) -> None:
        answers.append(refused)
        if len(answers) == 4:
            all_answered.set()

    for _ in range(4):
        checkers.submit("s", INTEGERS, batch("1"), note)
    assert [type(a) for a in answers] == [LimitReached]
    with trio.fail_after(30):
        await all_answered.wait()
    assert answers[1:] == [None] * 3


async def test_an_idle_process_ends_and_another_takes_over(tmp_path: Path) -> None:
    """A process that nobody asks goes; the next question starts another."""
    checkers = Checkers(idle=0.05)
    await checkers.check("s", INTEGERS, batch("1"))
    process = checkers._processes[0]
    assert process._link is not None
    first = process._link._process
    with trio.fail_after(10):
        await first.wait()
    await checkers.check("s", INTEGERS, batch("1"))
    await checkers.stop()


async def test_stopping_refuses_what_waits(checkers: Checkers) -> None:
    """Whoever waits when it stops is told so, and so is whoever comes later; no process is left."""
    refused: list[PlatformError | None] = []
    checkers.submit("s", hostile(), batch("1"), refused.append)
    checkers.submit("s", INTEGERS, batch("1"), refused.append)
    await trio.testing.wait_all_tasks_blocked()
    await checkers.stop()
    checkers.submit("s", INTEGERS, batch("1"), refused.append)
    assert [type(r) for r in refused] == [Unavailable] * 3
    assert all(p._link is None for p in checkers._processes)


async def test_a_process_that_was_killed_is_replaced(checkers: Checkers) -> None:
    """A process that dies is a refusal, and the next question is answered."""
    await checkers.check("s", INTEGERS, batch("1"))
    link = checkers._processes[0]._link
    assert link is not None
    link._process.kill()
    with pytest.raises(LimitReached, match="died"):
        await checkers.check("s", INTEGERS, batch("1"))
    await checkers.check("s", INTEGERS, batch("1"))
