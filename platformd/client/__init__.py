"""What other programs import to talk to the daemon.

The control API: ``http`` (requests, responses, targets), ``control`` (its operations), ``events`` (server-sent
events), ``problems``, ``reading`` and ``watching`` do no I/O; ``blocking.Client`` is their shell for plain
programs and the command line, ``aio`` the one for asyncio. Records travel on the queues' own sockets
(``queues``). Nothing is imported before it is used, so that each program pays only for what it uses.

``connect()`` and, for trio programs, ``connect_trio()`` give a client of the daemon that the environment and the
contexts say, which sits out restarts of the daemon::

    with platformd.client.connect() as daemon:
        print(daemon.get("stream", "alerts").status.messages)
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from platformd.client import blocking, control_trio

PATIENCE = 15.0
"""Seconds for which these clients send again what may be sent again."""


def connect(
    url: str | None = None, *, context: str | None = None, patience: float = PATIENCE, reason: str = ""
) -> blocking.Client:
    """A client for plain programs; a ``with``. Nothing is connected before the first request.

    Args:
        url: where the daemon is: ``https://HOST:PORT``, ``http://HOST:PORT`` or ``unix:///PATH``.
        context: the name of a context instead (``platformd context``).
        patience: seconds for which what may be sent again is; 0: one attempt.
        reason: why changes are made; it stands in their history.

    Raises:
        PlatformError: what says where the daemon is is not right.
    """
    from platformd.client.blocking import Client
    from platformd.client.contexts import find_target
    from platformd.client.retrying import Retry
    from platformd.client.target import Target, credentials_of

    target = Target.parse(url, credentials_of(os.environ)) if url else find_target(os.environ, context)
    return Client(target, retry=Retry(within=patience), reason=reason)


def connect_trio(
    url: str | None = None, *, context: str | None = None, patience: float = PATIENCE, reason: str = ""
) -> control_trio.Client:
    """A client for trio programs; an ``async with``. As ``connect``."""
    from platformd.client.contexts import find_target
    from platformd.client.control_trio import Client
    from platformd.client.retrying import Retry
    from platformd.client.target import Target, credentials_of

    target = Target.parse(url, credentials_of(os.environ)) if url else find_target(os.environ, context)
    return Client(target, retry=Retry(within=patience), reason=reason)
