"""``python -m platformd_tui [URL]``: attach to a daemon."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from platformd import __version__
from platformd.client.target import Target, credentials_of, default_target
from platformd.core.errors import PlatformError


def target_of(url: str | None, socket: str | None) -> Target:
    """Where to attach: what the flags name, else what the environment says.

    Raises:
        InvalidInput: a URL is not one of the control API.
    """
    if url:
        return Target.parse(url, credentials_of(os.environ))
    return Target(unix=socket, credentials=credentials_of(os.environ)) if socket else default_target(os.environ)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the terminal until its user quits; the exit code."""
    parser = argparse.ArgumentParser(
        prog="platformd tui",
        description="A live overview of a platformd daemon. It need not be running: the terminal waits for it.",
    )
    parser.add_argument("url", nargs="?", help="http://HOST:PORT or unix:///PATH (PLATFORMD_URL)")
    parser.add_argument("--socket", help="the daemon's Unix socket (PLATFORMD_SOCKET)")
    parser.add_argument("--version", action="version", version=__version__)
    flags = parser.parse_args(arguments)
    try:
        target = target_of(flags.url, flags.socket)
    except PlatformError as error:
        print(error, file=sys.stderr)  # noqa: T201 -- a command's error
        return error.exit_code
    from .app import OverviewApp  # textual takes 200 ms, which a wrong flag need not wait for

    app = OverviewApp(target)
    app.run()
    return app.return_code or 0


if __name__ == "__main__":
    sys.exit(main())
