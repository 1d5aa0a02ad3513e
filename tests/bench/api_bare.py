"""The least that hypercorn serves on trio: ``python -m tests.bench.api_bare SOCKET < BODY`` prints its TCP port."""

from __future__ import annotations

import sys
from functools import partial
from typing import Any

import trio
from hypercorn.config import Config
from hypercorn.trio import serve


async def main(path: str, body: bytes) -> None:
    """Serve until killed."""
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body, "more_body": False})

    config = Config()
    config.bind = [f"unix:{path}", "127.0.0.1:0"]
    config.errorlog = None
    config.keep_alive_max_requests = 1 << 30
    async with trio.open_nursery() as nursery:
        bound = await nursery.start(partial(serve, app, config, mode="asgi"))
        port = next(address.rpartition(":")[2] for address in bound if "127.0.0.1:" in address)
        print(port, flush=True)
        await trio.sleep_forever()


if __name__ == "__main__":
    trio.run(main, sys.argv[1], sys.stdin.buffer.read())
