"""The store itself: ``/v1/store``, how it is; compaction and copies of it."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, BinaryIO

import trio
from quart import Response
from quart_trio import QuartTrio

from platformd.api.access import needs
from platformd.api.context import ApiContext
from platformd.api.openapi import Answer, Parameter, operation
from platformd.api.openapi.parameters import BYTES, Revision
from platformd.api.replies import Query, reply
from platformd.api.watch import MAX_REVISION
from platformd.coordination.contract import FutureRevision, StoreStatus
from platformd.core.errors import Gone, LimitReached, StorageFull, Unsupported

TAG = "Store"

CHUNK_BYTES = 1024 * 1024
"""How much of a copy is read and sent at once."""

REVISION = "Platformd-Revision"
"""The header that says which revision a copy is of."""


class StoreRoutes:
    """The routes of the store."""

    def __init__(self, context: ApiContext) -> None:
        self._store = context.store
        self._directory = context.settings.state_path
        self._copying = False

    def add_to(self, app: QuartTrio) -> None:
        """Route requests here."""
        app.add_url_rule("/v1/store", "store", self.status, methods=["GET"])
        app.add_url_rule("/v1/store/compact", "store_compact", self.compact, methods=["POST"])
        app.add_url_rule("/v1/store/snapshot", "store_snapshot", self.snapshot, methods=["POST"])

    @needs("store.read")
    @operation("getStore", TAG, answers={200: Answer("The store.", StoreStatus)})
    async def status(self) -> Response:
        """GET /v1/store: how the store is."""
        Query()
        return reply(await self._store.status())

    @needs("store.manage")
    @operation(
        "compactStore",
        TAG,
        parameters=(Parameter(name="revision", description="The oldest that stays.", schema=Revision),),
        answers={200: Answer("The store as it is then.", StoreStatus)},
        problems=(FutureRevision, Gone),
    )
    async def compact(self) -> Response:
        """POST /v1/store/compact?revision=R: history before R goes; without R, all but what is so now."""
        wanted = Query("revision").number("revision", 0, 0, MAX_REVISION)
        await self._store.compact(wanted or (await self._store.status()).revision)
        return reply(await self._store.status())

    @needs("backup")
    @operation(
        "takeSnapshot",
        TAG,
        repeatable=False,
        answers={200: Answer("The copy.", bytes, (BYTES,), headers=("Platformd-Revision", "Repr-Digest"))},
        problems=(Unsupported, StorageFull),
    )
    async def snapshot(self) -> Response:
        """POST /v1/store/snapshot: a copy of the store as it is at one revision. POST, for it holds every secret.

        Its SHA-256 is in ``Repr-Digest`` (RFC 9530).
        """
        Query()
        if self._copying:
            raise LimitReached("a copy of the store is being made", subject="store", hint="try again when it is done")
        self._copying = True
        try:
            copy, headers = await self._copy()
        finally:
            self._copying = False
        return Response(_pieces(copy), 200, headers, content_type="application/octet-stream")

    async def _copy(self) -> tuple[BinaryIO, dict[str, str]]:
        """A copy that is gone when it is closed, and what is to be said of it."""
        path = self._directory / f"snapshot-{os.getpid()}.db"
        await trio.to_thread.run_sync(_forget_copies, self._directory)
        taken = await self._store.snapshot(path)
        copy, digest = await trio.to_thread.run_sync(_open_nameless, path)
        headers = {
            "Content-Length": str(taken.size_bytes),
            REVISION: str(taken.revision),
            "Repr-Digest": f"sha-256=:{base64.b64encode(digest).decode()}:",
            "Cache-Control": "no-store",
        }
        return copy, headers


def _forget_copies(directory: Path) -> None:
    """Remove what a daemon that was killed while it made a copy left behind."""
    directory.mkdir(parents=True, exist_ok=True)
    for pattern in ("snapshot-*.db", ".snapshot-*.part*"):
        for left in directory.glob(pattern):
            left.unlink(missing_ok=True)


def _open_nameless(path: Path) -> tuple[BinaryIO, bytes]:
    """The open file, without a name any more, and its SHA-256."""
    file = path.open("rb")
    try:
        path.unlink()
        digest = hashlib.file_digest(file, "sha256").digest()
        file.seek(0)
    except BaseException:
        file.close()
        raise
    return file, digest


async def _pieces(file: Any) -> AsyncIterator[bytes]:
    try:
        while piece := await trio.to_thread.run_sync(file.read, CHUNK_BYTES):
            yield piece
    finally:
        file.close()
