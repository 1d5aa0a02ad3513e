"""The process that looks into payloads and schemas for a daemon: ``python -m platformd.queues.encodings.judging``.

It is a process because schemas are programs of strangers: one may run for ever, take all memory, or crash the
interpreter, and the validators hold its lock meanwhile. This process may be ended at any time; what it was asked is
then refused. It limits itself too, so that nothing is left when its daemon was killed: an alarm ends a question that
takes too long, and memory is bounded.

Questions come on standard input and answers go to standard output, one by one, each a u32 length (little-endian) and
MessagePack. It ends with its input.
"""

from __future__ import annotations

import contextlib
import math
import resource
import signal
import struct
import sys
from collections.abc import Callable
from typing import BinaryIO

import msgspec

from platformd.core.errors import FieldError, InvalidInput
from platformd.model.schema import Compatibility, SchemaType
from platformd.queues.codec import decode_batch
from platformd.queues.contract import RecordFormat
from platformd.queues.encodings.forms import Check
from platformd.queues.encodings.schemas import incompatibilities, schema_problem

LENGTH = struct.Struct("<I")
MAX_FRAME = 1 << 30
"""Bytes of a question: more than a batch can have."""
MAX_ERRORS = 8
"""How much is said of one batch."""
MAX_MEMORY = 1 << 30
"""Bytes of address space that one process gets."""
MAX_FORMATS = 64
"""Formats that a process keeps ready; the oldest goes when there are more."""


class Prepare(msgspec.Struct, frozen=True, tag="prepare", array_like=True):
    """From now on ``number`` means this format."""

    number: int
    form: RecordFormat


class CheckBatch(msgspec.Struct, frozen=True, tag="batch", array_like=True):
    """Do the payloads of this batch fit the format? A batch as the queues' codec has it, which was checked."""

    number: int
    batch: bytes
    apart: bool = False
    """Look at all records: the answer's positions are wanted."""


class Examine(msgspec.Struct, frozen=True, tag="examine", array_like=True):
    """Is this a schema, and may it follow the others?"""

    kind: SchemaType
    text: str
    mode: Compatibility = "none"
    older: tuple[tuple[int, str], ...] = ()


Question = Prepare | CheckBatch | Examine


class Answer(msgspec.Struct, frozen=True, array_like=True):
    """What is wrong; empty: nothing. A batch's paths begin with ``records[i]``."""

    errors: tuple[FieldError, ...] = ()
    positions: tuple[int, ...] = ()
    """Of the records that do not fit, when they are to be taken apart."""


class Judge:
    """Answers questions."""

    def __init__(self) -> None:
        self._checks: dict[int, Check | str] = {}

    def answer(self, question: Question) -> Answer:
        """The answer to one question."""
        if isinstance(question, Prepare):
            return self._prepare(question)
        if isinstance(question, CheckBatch):
            return self._check(question)
        wrong = schema_problem(question.kind, question.text)
        if wrong is not None:
            return Answer((FieldError(path="", message=wrong),))
        try:
            found = incompatibilities(question.kind, question.mode, question.older, question.text)
        except InvalidInput as error:
            found = [FieldError(path="", message=error.message)]
        return Answer(tuple(found[:MAX_ERRORS]))

    def _prepare(self, question: Prepare) -> Answer:
        if len(self._checks) >= MAX_FORMATS:
            del self._checks[next(iter(self._checks))]
        try:
            self._checks[question.number] = Check(question.form)
        except InvalidInput as error:
            self._checks[question.number] = f"cannot be checked: the stream's schema {error.message}"
        return Answer()

    def _check(self, question: CheckBatch) -> Answer:
        check = self._checks[question.number]
        _, records = decode_batch(question.batch)
        if isinstance(check, str):
            return Answer((FieldError(path="records", message=check),), tuple(range(len(records))))
        found: list[FieldError] = []
        positions: list[int] = []
        for position, record in enumerate(records):
            errors = list(check.errors(record.payload, max(MAX_ERRORS - len(found), 1)))
            if errors:
                positions.append(position)
                found += [FieldError(path=_place(position, e.path), message=e.message) for e in errors]
            if len(found) >= MAX_ERRORS and not question.apart:
                break
        return Answer(tuple(found[:MAX_ERRORS]), tuple(positions) if question.apart else ())


def _place(position: int, path: str) -> str:
    between = "" if not path or path.startswith("[") else "."
    return f"records[{position}]{between}{path}"


def serve(source: BinaryIO, sink: BinaryIO, alarm: Callable[[int], object], seconds: int) -> None:
    """Answer until the input ends.

    Args:
        alarm: called with ``seconds`` before a question is looked at, and with 0 when it is answered.
        seconds: how long one question may take.
    """
    judge = Judge()
    questions = msgspec.msgpack.Decoder(Question)
    encode = msgspec.msgpack.Encoder().encode
    while (length := source.read(LENGTH.size)) and len(length) == LENGTH.size:
        question = questions.decode(source.read(LENGTH.unpack(length)[0]))
        alarm(seconds)
        answer = encode(judge.answer(question))
        alarm(0)
        sink.write(LENGTH.pack(len(answer)) + answer)
        sink.flush()


def main() -> None:
    """Serve on standard input and output; the first argument is the seconds that a question may take."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the daemon's to obey, which then closes our input
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY, MAX_MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(BrokenPipeError):
        serve(sys.stdin.buffer, sys.stdout.buffer, signal.alarm, math.ceil(float(sys.argv[1])))


if __name__ == "__main__":
    main()
