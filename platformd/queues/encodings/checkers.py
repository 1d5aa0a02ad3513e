"""Having payloads and schemas looked at, in processes that may be ended.

A ``Checkers`` has up to ``MAX_PROCESSES`` of them, each started when it is needed and ended when nobody asked for a
while. A stream always asks the same one, and is answered in the order in which it asked. A question that takes longer
than the deadline costs its process: it is killed, the question refused, and the next one starts another. So the worst
that a schema can do is to slow down the streams that share its process, and never the daemon.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable, Sequence
from subprocess import PIPE

import msgspec
import trio

from platformd.core.errors import FieldError, InvalidInput, LimitReached, PlatformError, Unavailable
from platformd.core.processes import own_environment, own_module
from platformd.model.schema import Compatibility, SchemaType
from platformd.queues.checks import named
from platformd.queues.contract import RecordFormat
from platformd.queues.encodings.judging import LENGTH, MAX_FORMATS, Answer, CheckBatch, Examine, Prepare, Question

DEADLINE = 2.0
"""Seconds that one question may take once it is looked at."""
START_DEADLINE = 30.0
"""Seconds that a process may take to start, on a machine that does other things too."""
MAX_WAIT = 20.0
"""Seconds that a question may wait for its turn."""
MAX_WAITING = 1024
"""Questions that may wait for one process."""
MAX_PROCESSES = 2
IDLE = 60.0
"""Seconds without a question after which a process ends."""
MAX_ANSWER = 1 << 20
"""Bytes of an answer."""

Done = Callable[[PlatformError | None], None]
"""Called once, from the trio thread, with what the question was refused for; it may not raise."""

log = logging.getLogger("platformd.queues")


class _Asked(msgspec.Struct):
    question: Examine | bytes
    form: RecordFormat | None
    subject: str
    until: float
    done: Done
    apart: bool = False


class Checkers:
    """Looks into payloads and schemas. Used from the trio thread; to be closed with ``stop``.

    Args:
        deadline: seconds that one question may take.
        idle: seconds without a question after which a process ends.
    """

    def __init__(self, *, deadline: float = DEADLINE, idle: float = IDLE) -> None:
        self._processes = [_Process(deadline, idle) for _ in range(MAX_PROCESSES)]
        self._homes: dict[str, _Process] = {}
        self._stopped = False

    def submit(self, stream: str, form: RecordFormat, batch: bytes, done: Done, *, apart: bool = False) -> None:
        """Ask whether the payloads of ``batch`` (whose form was checked) fit, and go on. ``done`` may be called at
        once. Those of one stream are called in the order of the questions. With ``apart`` the refusal's ``details``
        have ``positions``: of all records that do not fit."""
        asked = _Asked(batch, form, named(stream), trio.current_time() + MAX_WAIT, done, apart)
        self._ask(self._home(stream), asked)

    async def check(self, stream: str, form: RecordFormat, batch: bytes) -> None:
        """Wait until that is known.

        Raises:
            InvalidInput: a payload does not fit; ``errors`` has positions, paths and what is wrong.
            LimitReached: it took too long, or too many wait; nothing is wrong with the payloads as far as is known.
            Unavailable: the checkers are stopped, or no process can be started.
        """
        waiter = _Waiter()
        self.submit(stream, form, batch, waiter.tell)
        await waiter.wait()

    async def examine(
        self, kind: SchemaType, text: str, mode: Compatibility = "none", older: Sequence[tuple[int, str]] = ()
    ) -> tuple[FieldError, ...]:
        """What is wrong with a schema, also beside the ``older`` ones that it may follow; paths are in the schema.

        Raises: as ``check``, but for InvalidInput.
        """
        waiter = _Waiter()
        question = Examine(kind, text, mode, tuple(older))
        asked = _Asked(question, None, "schema", trio.current_time() + MAX_WAIT, waiter.tell)
        self._ask(self._home("schema"), asked)
        try:
            await waiter.wait()
        except InvalidInput as error:
            return error.errors
        return ()

    def forget(self, stream: str) -> None:
        """The stream is gone."""
        self._homes.pop(stream, None)

    async def stop(self) -> None:
        """Refuse what waits and end the processes."""
        self._stopped = True
        for process in self._processes:
            await process.stop()

    def _home(self, stream: str) -> _Process:
        home = self._homes.get(stream)
        if home is None:
            homes = list(self._homes.values())
            home = self._homes[stream] = min(self._processes, key=homes.count)
        return home

    def _ask(self, process: _Process, asked: _Asked) -> None:
        if self._stopped:
            asked.done(_stopping())
        else:
            process.ask(asked)


class _Waiter:
    """One task that waits for one answer."""

    def __init__(self) -> None:
        self._event = trio.Event()
        self._refused: PlatformError | None = None

    def tell(self, refused: PlatformError | None) -> None:
        self._refused = refused
        self._event.set()

    async def wait(self) -> None:
        await self._event.wait()
        if self._refused is not None:
            raise self._refused


class _Process:
    """One process and the questions that wait for it."""

    def __init__(self, deadline: float, idle: float) -> None:
        self._deadline = deadline
        self._idle = idle
        self._waiting: deque[_Asked] = deque()
        self._something = trio.Event()
        self._running = False
        self._ended = trio.Event()
        self._scope = trio.CancelScope()
        self._link: _Link | None = None

    def ask(self, asked: _Asked) -> None:
        if len(self._waiting) >= MAX_WAITING:
            asked.done(
                LimitReached(f"{MAX_WAITING} batches wait to be checked, which is the limit", subject=asked.subject)
            )
            return
        self._waiting.append(asked)
        self._something.set()
        if not self._running:
            self._running = True
            # A system task: tasks that are being cancelled with everything around them are still owed their answers.
            trio.lowlevel.spawn_system_task(self._run)

    async def stop(self) -> None:
        self._scope.cancel()
        if self._running:
            await self._ended.wait()

    async def _run(self) -> None:
        try:
            with self._scope:
                while True:
                    await self._wait_for_one()
                    await self._answer(self._waiting[0])
        finally:
            with trio.CancelScope(shield=True):
                await self._end()
            while self._waiting:
                self._waiting.popleft().done(_stopping())
            self._running = False
            self._ended.set()

    async def _wait_for_one(self) -> None:
        """Wait for a question; when none comes for a while, without a process."""
        while not self._waiting:
            self._something = trio.Event()
            with trio.move_on_after(math.inf if self._link is None else self._idle) as scope:
                await self._something.wait()
            if scope.cancelled_caught:
                await self._end()

    async def _answer(self, asked: _Asked) -> None:
        refused: PlatformError | None
        try:
            refused = _refusal(asked, await self._put(asked))
        except PlatformError as error:
            refused = error
        self._waiting.popleft()
        asked.done(refused)

    async def _put(self, asked: _Asked) -> Answer:
        if trio.current_time() > asked.until:
            raise LimitReached(f"waited {MAX_WAIT:g} s to be checked", subject=asked.subject)
        limit = START_DEADLINE
        try:
            if self._link is None:
                self._link = await _start(self._deadline)
                with trio.fail_after(limit):
                    await self._link.wait_until_ready()
            limit = self._deadline
            with trio.fail_after(limit):
                return await self._link.put(asked)
        except trio.TooSlowError:
            await self._end()
            raise LimitReached(
                f"checking it took longer than {limit:g} s",
                subject=asked.subject,
                hint="simplify the schema, or publish smaller batches",
            ) from None
        except (trio.BrokenResourceError, trio.ClosedResourceError, EOFError, msgspec.DecodeError) as error:
            await self._end()
            raise LimitReached(
                "the process that checked it died: it took too long, or too much memory",
                subject=asked.subject,
                hint="simplify the schema, or publish smaller batches",
            ) from error

    async def _end(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            await link.close()


class _Link:
    """A started process."""

    def __init__(self, process: trio.Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._process = process
        self._stdin, self._stdout = process.stdin, process.stdout
        self._numbers: dict[RecordFormat, int] = {}
        self._last_number = 0
        self._read = bytearray()

    async def wait_until_ready(self) -> None:
        """Wait until it has started and answered something easy."""
        await self._exchange(Examine("json", "{}"))

    async def put(self, asked: _Asked) -> Answer:
        if isinstance(asked.question, Examine):
            return await self._exchange(asked.question)
        assert asked.form is not None
        number = self._numbers.get(asked.form)
        if number is None:
            self._last_number += 1
            number = self._last_number
            if len(self._numbers) >= MAX_FORMATS:
                del self._numbers[next(iter(self._numbers))]
            await self._exchange(Prepare(number, asked.form))
            self._numbers[asked.form] = number
        return await self._exchange(CheckBatch(number, asked.question, asked.apart))

    async def _exchange(self, question: Question) -> Answer:
        frame = msgspec.msgpack.encode(question)
        await self._stdin.send_all(LENGTH.pack(len(frame)) + frame)
        length = LENGTH.unpack(await self._receive(LENGTH.size))[0]
        if length > MAX_ANSWER:
            raise EOFError
        return msgspec.msgpack.decode(await self._receive(length), type=Answer)

    async def _receive(self, count: int) -> bytes:
        while len(self._read) < count:
            more = await self._stdout.receive_some()
            if not more:
                raise EOFError
            self._read += more
        taken = bytes(self._read[:count])
        del self._read[:count]
        return taken

    async def close(self) -> None:
        self._process.kill()
        await self._stdin.aclose()
        await self._stdout.aclose()
        await self._process.wait()


async def _start(deadline: float) -> _Link:
    seconds = math.ceil(max(deadline, START_DEADLINE)) + 1  # ours comes first, while we live
    try:
        process = await trio.lowlevel.open_process(
            own_module("platformd.queues.encodings.judging", str(seconds)),
            stdin=PIPE,
            stdout=PIPE,
            env=own_environment(),
            start_new_session=True,
        )
    except OSError as error:
        raise Unavailable(f"no process can be started to check it: {error}", subject="queues") from error
    return _Link(process)


def _refusal(asked: _Asked, answer: Answer) -> InvalidInput | None:
    if not answer.errors:
        return None
    if asked.form is None:
        return InvalidInput("is not a schema that can be taken", subject=asked.subject, errors=answer.errors)
    what = asked.form.encoding + (" with the stream's schema" if asked.form.schema else "")
    if asked.apart:
        return InvalidInput(
            f"payloads do not fit {what}",
            subject=asked.subject,
            errors=answer.errors,
            details={"positions": answer.positions},
        )
    return InvalidInput(
        f"the batch does not fit {what}; nothing of it was stored", subject=asked.subject, errors=answer.errors
    )


def _stopping() -> Unavailable:
    return Unavailable("the queues are stopping", subject="queues", hint="try again when the daemon is back")
