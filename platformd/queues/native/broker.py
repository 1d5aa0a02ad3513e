"""The broker's sockets from Python's side: starting them, what they did, and saying it when something goes wrong."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import trio

from platformd.core.clock import Clock
from platformd.core.errors import InvalidInput
from platformd.core.quantities import seconds, size_bytes
from platformd.core.settings import QueueSettings
from platformd.queues.checks import whole
from platformd.queues.codec.frames import durability_code
from platformd.queues.contract import Advisory
from platformd.queues.native import library, sockets
from platformd.queues.native._native import ffi, lib
from platformd.queues.native.completions import Completions
from platformd.queues.native.library import U32, call
from platformd.queues.native.sockets import ROLES
from platformd.queues.statistics import SocketStatistics

REPORT_SECONDS = 10.0
"""The least time between two lines in the log about the same sockets."""
LEAST_BUFFER = 4096
LIVE_POLICIES = ("drop_oldest", "block", "disconnect")
"""In the order of ``enum pd_live_policy``, from 1 on."""

log = logging.getLogger("platformd.queues")


def options(settings: QueueSettings) -> Any:
    """The settings as ``pd_broker_options``.

    Raises:
        InvalidInput: a size, a number or a time is not one.
    """
    timeout = seconds(settings.live_timeout)
    if not 0.001 <= timeout <= 86400:
        raise InvalidInput(f"{settings.live_timeout} is not between 1ms and 24h", subject="queues.live_timeout")
    return ffi.new(
        "pd_broker_options *",
        {
            "push_buffer": max(size_bytes(settings.push_buffer), LEAST_BUFFER),
            "push_durability": durability_code(settings.push_durability),
            "live_subscribers": whole("queues.live_subscribers", settings.live_subscribers, U32),
            "live_buffer": max(size_bytes(settings.live_buffer), LEAST_BUFFER),
            "live_timeout_ms": round(timeout * 1000),
            "live_policy": LIVE_POLICIES.index(settings.live_policy) + 1,
        },
    )


def start(engine: Any, paths: dict[str, Path], settings: QueueSettings) -> dict[str, str]:
    """Open the sockets; what to add to ``Streams.addresses``. Blocks.

    Raises:
        InvalidInput: a setting is not valid.
        PlatformError: an address cannot be had.
    """
    functions = library.nng_functions()
    made = options(settings)
    tcp = sockets.tcp_listens(settings)
    config = sockets.tls_config(settings)
    urls = [ffi.new("char[]", f"ipc://{path}".encode()) for path in paths.values()]
    urls += [ffi.new("char[]", listen.url.encode()) for listen in tcp]
    listens = ffi.new("pd_listen[]", len(urls))
    for i, role in enumerate([*paths, *(listen.role for listen in tcp)]):
        listens[i].socket, listens[i].url = ROLES.index(role), urls[i]
    for i, listen in enumerate(tcp, len(paths)):
        if listen.scheme == "tls+tcp" and config is not None:  # nng keeps it for as long as it needs it
            listens[i].tls = library.pynng_address(config._tls_config)  # noqa: SLF001
    call("queues", lib.pd_broker_start, engine, functions, listens, len(urls), made)
    return sockets.tcp_addresses(tcp, [listens[i].port for i in range(len(paths), len(urls))])


def statistics(engine: Any) -> SocketStatistics:
    """What the sockets did so far."""
    raw = ffi.new("pd_socket_statistics *")
    lib.pd_broker_statistics(engine, raw)
    counts = {name: getattr(raw, name) for name in SocketStatistics.__struct_fields__ if name != "push_refusal"}
    return SocketStatistics(**counts, push_refusal=ffi.string(raw.push_refusal).decode(errors="replace"))


class LossReporter:
    """Writes a line into the log when records get lost at the sockets, at most every ``REPORT_SECONDS``.

    A system task, as ``Completions`` is: what happens while everything around is being cancelled is told, too.
    """

    def __init__(self, engine: Any, completions: Completions, clock: Clock) -> None:
        self._engine = engine
        self._completions = completions
        self._clock = clock
        self._scope = trio.CancelScope()
        self._ended: trio.Event | None = None

    def start(self, tell: Callable[[Advisory], None]) -> None:
        """Begin, and ``tell`` of what live dropped; the broker was started."""
        self._ended = trio.Event()
        trio.lowlevel.spawn_system_task(self._run, self._ended, tell)

    async def stop(self) -> None:
        """End; the engine is still there."""
        self._scope.cancel()
        if self._ended is not None:
            await self._ended.wait()

    async def _run(self, ended: trio.Event, tell: Callable[[Advisory], None]) -> None:
        before = statistics(self._engine)
        try:
            with self._scope:
                while True:
                    token = self._completions.token()
                    call("queues", lib.pd_broker_watch, self._engine, token)
                    await self._completions.wait(token)
                    now = statistics(self._engine)
                    for socket, line in losses(before, now).items():
                        log.warning("%s: %s", socket, line)
                        if socket == "live":
                            time_ns = self._clock.time_ns()
                            tell(Advisory(kind="live_dropped", stream="", time_ns=time_ns, detail=line))
                    before = now
                    await trio.sleep(REPORT_SECONDS)
        finally:
            ended.set()


def losses(before: SocketStatistics, now: SocketStatistics) -> dict[str, str]:
    """What got lost between two times: a sentence for each socket where something did."""
    lines: dict[str, str] = {}
    refused = now.push_refused - before.push_refused
    if refused:
        earlier = before.refusals()
        counts = {reason: count - earlier[reason] for reason, count in now.refusals().items()}
        why = ", ".join(f"{count} {reason.replace('_', ' ')}" for reason, count in counts.items() if count)
        lines["push"] = f"records that were sent there were not stored ({why}); the last because {now.push_refusal}"
    dropped, timeouts = now.live_dropped - before.live_dropped, now.live_timeouts - before.live_timeouts
    asked = now.live_disconnected - before.live_disconnected
    if dropped or timeouts:
        gone = f"; {timeouts} that took nothing were disconnected" if timeouts else ""
        gone += f"; {asked} were disconnected for it, as they had asked" if asked else ""
        lines["live"] = f"{dropped} records did not reach subscribers that were too slow{gone}"
    return lines
