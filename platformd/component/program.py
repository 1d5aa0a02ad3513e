"""A component as a program: its options on the command line, its end by SIGTERM or SIGINT."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import trio

from platformd.component.declaration import Component
from platformd.component.options import Options
from platformd.core.errors import PlatformError, Unavailable
from platformd.core.logs import configure_logging

TOKEN_VARIABLE = "PLATFORMD_COMPONENT_TOKEN"
"""The environment's way to give the token."""


def main(component: Component, arguments: Sequence[str] | None = None) -> None:
    """Run ``component`` until it is told to stop; then exit, with 0 when nothing went wrong."""
    wanted = _parser(component).parse_args(arguments)
    configure_logging(wanted.log_level, "text")
    try:
        options = Options(
            socket=wanted.socket,
            listen=wanted.listen,
            token=_token(wanted.token_file),
            max_running=wanted.max_running,
        )
        trio.run(_run, component, options)
    except* PlatformError as group:
        found: BaseException = group
        while isinstance(found, BaseExceptionGroup):
            found = found.exceptions[0]
        assert isinstance(found, PlatformError)
        sys.stderr.write(f"error: {found}\n")
        code = found.exit_code
    else:
        code = 0
    sys.exit(code)


def _parser(component: Component) -> argparse.ArgumentParser:
    offers = ", ".join(component.services) or "nothing"
    parser = argparse.ArgumentParser(
        description=f"{component.name} {component.version}, a component: serves {offers}.",
        epilog="example: --listen 127.0.0.1:7100; then `platformd component check http://127.0.0.1:7100`",
    )
    parser.add_argument("--socket", default="", metavar="PATH", help="its Unix socket")
    parser.add_argument("--listen", default="", metavar="HOST:PORT", help="a loopback address, beside the socket")
    parser.add_argument(
        "--token-file", metavar="FILE", help=f"has the token of those who change things over TCP (or {TOKEN_VARIABLE})"
    )
    parser.add_argument("--max-running", type=int, default=Options.max_running, metavar="N", help="jobs at once")
    parser.add_argument("--log-level", choices=("debug", "info", "warning", "error"), default="info")
    return parser


def _token(path: str | None) -> str:
    if path is None:
        return os.environ.get(TOKEN_VARIABLE, "")
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeError) as error:
        raise Unavailable(f"cannot be read: {error}", subject=path) from error


async def _run(component: Component, options: Options) -> None:
    stopping = trio.Event()
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with trio.open_nursery() as nursery:

            async def obey() -> None:
                async for _ in signals:
                    if stopping.is_set():
                        nursery.cancel_scope.cancel()
                    stopping.set()

            nursery.start_soon(obey)
            await component.serve(options, stopping=stopping)
            nursery.cancel_scope.cancel()
