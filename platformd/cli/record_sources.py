"""Where ``platformd publish`` takes records from: an argument, files, standard input, a template again and again."""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

from platformd.cli.templates import Template, plain, published
from platformd.core.errors import InvalidInput, TooLarge

if TYPE_CHECKING:
    from io import BufferedReader

    from platformd.client.queues import Record

MAX_PAYLOAD_BYTES: Final = 64 << 20
"""The largest payload that is read into memory; the daemon's own limit (queues.max_record) is lower."""
READ_BYTES: Final = 256 << 10
"""How much of standard input is read at once with ``--lines``: the lines in it go as one batch, so that a
slow input is published as it comes and a fast one in large batches."""
BATCH_RECORDS: Final = 1024
BATCH_BYTES: Final = 256 << 10
"""What ``--count`` puts into one batch."""
BATCHES_A_SECOND: Final = 20
"""With ``--rate``: so many batches, or fewer."""


@dataclass(frozen=True)
class Form:
    """What all records of one invocation have in common."""

    subject: Template[int]
    msg_id: Template[int]
    headers: tuple[tuple[str, Template[int]], ...]

    def record(self, number: int, payload: bytes) -> Record:
        """The record of a number (from 1 on)."""
        from platformd.client.queues import Record
        from platformd.model.subjects import subject_error

        subject = self.subject.fill(number)
        wrong = subject_error(subject, pattern=False) if self.subject.varies else None
        if wrong:
            raise InvalidInput(f"{subject!r} {wrong}", subject="SUBJECT")
        headers = {key: value.fill(number) for key, value in self.headers}
        return Record(subject=subject, payload=payload, msg_id=self.msg_id.fill(number), headers=headers)


@dataclass(frozen=True)
class Asked:
    """What the options say."""

    subject: str
    payload: str | None
    files: Sequence[Path]
    surplus: Sequence[Path]
    """Arguments behind PAYLOAD that no option explains."""
    lines: bool
    count: int | None
    template: bool
    msg_id: str
    headers: Sequence[str]


def batches_of(asked: Asked) -> Iterator[list[Record]]:
    """The records to publish, in batches. What cannot be meant is refused before the first.

    Raises:
        InvalidInput: the options contradict each other, or a template is wrong.
    """
    form = _form(asked)
    _check(asked, form)
    if asked.lines:
        return _of_lines(form, template=asked.template)
    if asked.files:
        return ([form.record(number, _content(path))] for number, path in enumerate(asked.files, 1))
    inline = asked.payload is not None and asked.payload != "-"
    content = asked.payload.encode() if inline and asked.payload else b""
    if not inline:
        content = _bounded(sys.stdin.buffer.read, "-")
    payload = _payload(content, template=asked.template and (inline or asked.count is not None))
    if asked.count is None:
        return iter([[form.record(1, payload(1))]])
    return _repeated(form, payload, asked.count)


def _form(asked: Asked) -> Form:
    make: Callable[[str, str], Template[int]] = published if asked.template else lambda text, _origin: plain(text)
    headers = []
    for pair in asked.headers:
        key, equals, value = pair.partition("=")
        if not (key and equals):
            raise InvalidInput("is not KEY=VALUE", subject=f"--header {pair}")
        headers.append((key, make(value, f"--header {key}")))
    return Form(make(asked.subject, "SUBJECT"), make(asked.msg_id, "--msg-id"), tuple(headers))


def _check(asked: Asked, form: Form) -> None:
    if asked.surplus:
        raise InvalidInput("is one payload too many", subject=str(asked.surplus[0]), hint="quote a payload with spaces")
    if asked.lines and (asked.payload is not None or asked.files):
        raise InvalidInput("reads standard input; leave PAYLOAD and --file out", subject="--lines")
    if asked.count is not None and (asked.lines or asked.files):
        raise InvalidInput("repeats PAYLOAD; leave --lines and --file out", subject="--count")
    many = asked.lines or len(asked.files) > 1 or (asked.count or 1) > 1
    if asked.msg_id and many and not form.msg_id.varies:
        hint = "make ids with a template: --template --msg-id 'run7-{{n}}'"
        raise InvalidInput("names one record, and several would have it", subject="--msg-id", hint=hint)
    if asked.payload is None and not asked.files and sys.stdin.isatty():
        raise InvalidInput("nothing to publish", subject=asked.subject, hint="give PAYLOAD, --file, or pipe it in")


def _payload(content: bytes, *, template: bool) -> Callable[[int], bytes]:
    if not template or b"{{" not in content:
        return lambda _number: content
    text = published(content.decode("utf-8", "surrogateescape"), "PAYLOAD")
    return lambda number: text.fill(number).encode("utf-8", "surrogateescape")


def _repeated(form: Form, payload: Callable[[int], bytes], count: int) -> Iterator[list[Record]]:
    batch: list[Record] = []
    size = 0
    for number in range(1, count + 1):
        batch.append(form.record(number, payload(number)))
        size += len(batch[-1].payload)
        if len(batch) >= BATCH_RECORDS or size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _of_lines(form: Form, *, template: bool) -> Iterator[list[Record]]:
    numbers = itertools.count(1)
    for chunk in _lines():
        batch = []
        for number, line in zip(numbers, chunk, strict=False):
            batch.append(form.record(number, _payload(line, template=template)(number)))
        yield batch


def _content(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return _bounded(file.read, str(path))
    except OSError as error:
        raise InvalidInput(f"cannot be read: {error.strerror}", subject=str(path)) from error


def _bounded(read: Callable[[int], bytes], origin: str) -> bytes:
    data = read(MAX_PAYLOAD_BYTES + 1)
    if len(data) > MAX_PAYLOAD_BYTES:
        raise _too_large(origin)
    return data


def _too_large(origin: str) -> Exception:
    return TooLarge(f"is larger than {MAX_PAYLOAD_BYTES} bytes", subject=origin)


def _lines() -> Iterator[list[bytes]]:
    """Standard input's lines, in chunks as they come."""
    rest = bytearray()
    source = cast("BufferedReader", sys.stdin.buffer)
    while chunk := source.read1(READ_BYTES):
        if b"\n" not in chunk:
            rest += chunk
            if len(rest) > MAX_PAYLOAD_BYTES:
                raise _too_large("a line of standard input")
            continue
        *whole, last = (bytes(rest) + chunk).split(b"\n")
        rest = bytearray(last)
        yield whole
    if rest:
        yield [bytes(rest)]


def paced(
    batches: Iterable[list[Record]],
    rate: float,
    *,
    now: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[list[Record]]:
    """The same records, in batches so small and so late that they are ``rate`` a second.

    A source that is slower than that is not made up for: no burst follows a pause.
    """
    size = max(1, int(rate / BATCHES_A_SECOND))
    due = now()
    for batch in batches:
        for first in range(0, len(batch), size):
            part = batch[first : first + size]
            late = now()
            if due > late:
                sleep(due - late)
            due = max(due, late) + len(part) / rate
            yield part
