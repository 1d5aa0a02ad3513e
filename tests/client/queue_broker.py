"""A broker in the test, on nng's own REP socket: keeps records in a list and misbehaves as it is told."""

from __future__ import annotations

import threading
from collections import deque
from pathlib import Path
from typing import Any

import pynng

from platformd.queues.codec import (
    AckRequest,
    FetchRequest,
    PublishRequest,
    Reply,
    Status,
    decode_batch,
    decode_request,
    encode_block,
    encode_duplicates,
    encode_reply,
)
from platformd.queues.contract import Ack, Delivery, Record

HANG_UP = "hang up"


class FakeBroker:
    """Answers requests in a thread of its own.

    Each request takes the next word of ``script`` (when it is empty: ``answer``):
    ``answer``, ``lose_request`` (hang up at once), ``lose_reply`` (do it, then hang up), ``silence`` (do it,
    never answer), a ``Status`` to answer with, or bytes to answer with.
    """

    def __init__(self, directory: Path) -> None:
        self.address = f"ipc://{directory}/b.sock"
        self.stored: list[Record] = []
        self.acks: list[Ack] = []
        self.fetches: list[FetchRequest] = []
        self.script: deque[str | Status | bytes] = deque()
        self.requests = 0
        self._stopped: list[Any] = []

    def start(self) -> None:
        self._stopping = False
        socket = pynng.Rep0(listen=self.address, recv_max_size=0, recv_timeout=10)
        self._thread = threading.Thread(target=self._serve, args=(socket,))
        self._thread.start()

    def stop(self) -> None:
        self._stopping = True
        self._thread.join()

    def restart(self) -> None:
        self.stop()
        self.start()

    def __enter__(self) -> FakeBroker:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def _serve(self, socket: Any) -> None:
        # The thread closes what it uses: nng aborts when a socket is closed under a thread that sends.
        silent: list[Any] = []
        hung_up: list[Any] = []
        while not self._stopping:
            context = socket.new_context()
            try:
                message = context.recv_msg()
            except pynng.Timeout:
                context.close()
                continue
            if message.pipe in hung_up:  # what nng had read before the pipe was closed
                context.close()
                continue
            self.requests += 1
            if self._answer(context, message, silent) == HANG_UP:
                message.pipe.close()
                hung_up.append(message.pipe)
        for context in silent:
            context.close()
        socket.close()

    def _answer(self, context: Any, message: Any, silent: list[Any]) -> str:
        word = self.script.popleft() if self.script else "answer"
        if word is Status.STOPPING:
            self._stopped.append(message.pipe)
        if message.pipe in self._stopped:  # who stops takes nothing more
            word = Status.STOPPING
        request = decode_request(message.bytes)
        if isinstance(word, bytes):
            context.send(word)
        elif isinstance(word, Status):
            operation = {PublishRequest: 1, FetchRequest: 2, AckRequest: 3}[type(request)]
            context.send(encode_reply(Reply(operation=operation, status=word, detail=f"says {word.name}")))
        elif word != "lose_request":
            reply = self._do(request)
            if word == "answer":
                context.send(reply)
        if word == "silence":
            silent.append(context)
        else:
            context.close()
        return HANG_UP if word in ("lose_request", "lose_reply") else ""

    def _do(self, request: Any) -> bytes:
        if isinstance(request, PublishRequest):
            return self._publish(request)
        if isinstance(request, AckRequest):
            self.acks += request.acks
            return encode_reply(Reply(operation=3, result2=len(request.acks)))
        self.fetches.append(request)
        deliveries = [
            Delivery(
                sequence=i,
                subject=r.subject,
                payload=r.payload,
                msg_id=r.msg_id,
                headers=r.headers,
                time_ns=r.time_ns,
                append_time_ns=1,
                deliveries=1,
            )
            for i, r in enumerate(self.stored[: request.max_records], 1)
        ]
        lag = len(self.stored) - len(deliveries)
        body = encode_block(deliveries)
        return encode_reply(Reply(operation=2, result1=lag, result2=len(deliveries), result3=7, body=body))

    def _publish(self, request: PublishRequest) -> bytes:
        header, records = decode_batch(request.batch)
        known = {(r.subject, r.msg_id) for r in self.stored if r.msg_id}
        duplicates = [i for i, r in enumerate(records) if (r.subject, r.msg_id) in known]
        first = len(self.stored) + 1
        self.stored += [r for i, r in enumerate(records) if i not in duplicates]
        appended = len(records) - len(duplicates)
        return encode_reply(
            Reply(
                operation=1,
                detail=request.stream or "found",
                result1=first if appended else len(self.stored),
                result2=appended,
                result3=len(duplicates),
                body=encode_duplicates(duplicates, header.record_count) if duplicates else b"",
            )
        )
