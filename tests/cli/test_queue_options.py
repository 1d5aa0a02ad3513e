"""``publish`` and ``consume`` over TLS, and which of the daemon's addresses they take."""

from __future__ import annotations

import queue
import threading
from contextlib import contextmanager
from types import SimpleNamespace

import click
import pytest
import trio

from platformd.cli.queue_options import KEY, queue_place
from platformd.client.queues import ClientTls
from platformd.client.target import Credentials, Target
from platformd.core.clock import SystemClock
from platformd.core.errors import InvalidInput, Unavailable
from platformd.core.settings import QueueSettings
from platformd.queues.contract import StreamConfig
from platformd.queues.native.engine import open_native
from tests.client.certificates import Site

ALL = {
    "ingest": "ipc:///i",
    "ingest-tcp": "tcp://127.0.0.1:1",
    "ingest-tls": "tls+tcp://0.0.0.0:2",
    "fetch": "ipc:///f",
    "live": "ipc:///l",
    "live-tcp": "tcp://10.0.0.1:3",
}


@pytest.mark.parametrize(
    ("target", "socket", "said", "expected"),
    [
        (Target(unix="/s"), "ingest", {}, "ipc:///i"),
        (Target(host="localhost", port=1), "fetch", {}, "ipc:///f"),
        (Target(host="site.example", port=1), "ingest", {}, "tls+tcp://site.example:2"),
        (Target(host="fd00::1", port=1), "ingest", {}, "tls+tcp://[fd00::1]:2"),
        (Target(host="site.example", port=1), "live", {}, "tcp://10.0.0.1:3"),
        (Target(unix="/s"), "ingest", {"ca_file": "ca.pem"}, "tls+tcp://0.0.0.0:2"),
        (Target(unix="/s"), "ingest", {"url": "tcp://there:9"}, "tcp://there:9"),
        (Target(host="site.example", port=1), "fetch", {}, Unavailable),
        (Target(unix="/s"), "fetch", {"ca_file": "ca.pem"}, InvalidInput),
    ],
)
def test_which_address_is_taken(target, socket, said, expected):
    """On the same machine the Unix socket; from elsewhere TLS before TCP, at the control API's host where it is all."""
    session = SimpleNamespace(
        target=lambda: target, client=SimpleNamespace(status=lambda: {"queues": {"sockets": ALL}}), environ={}
    )
    with click.Context(click.Command("x")) as context:
        context.meta[KEY] = dict(said)
        if isinstance(expected, str):
            assert queue_place(session, socket)[0] == expected
        else:
            with pytest.raises(expected, match=socket):
                queue_place(session, socket)


def test_files_of_the_control_api_are_good_for_the_queues():
    """What the control API is asked with is good for a queue socket with TLS, unless options name others."""
    own = Credentials(ca_file="ca", cert_file="cert", key_file="key")
    target = Target(host="site.example", port=1, tls=True, credentials=own)
    session = SimpleNamespace(
        target=lambda: target, client=SimpleNamespace(status=lambda: {"queues": {"sockets": ALL}}), environ={}
    )
    for said, expected in (
        ({}, ClientTls(ca_file="ca", cert_file="cert", key_file="key")),
        ({"cert_file": "other"}, ClientTls(ca_file="ca", cert_file="other")),
        (
            {"ca_file": "mine", "server_name": "x"},
            ClientTls(ca_file="mine", cert_file="cert", key_file="key", server_name="x"),
        ),
        ({"url": "tls+tcp://there:9"}, ClientTls(ca_file="ca", cert_file="cert", key_file="key")),
        ({"url": "tcp://there:9"}, None),
    ):
        with click.Context(click.Command("x")) as context:
            context.meta[KEY] = dict(said)
            assert queue_place(session, "ingest")[1] == expected


@contextmanager
def daemon(directory, settings):
    """The native engine with the stream ``s``, in a thread of its own; its addresses."""
    found, over = queue.Queue(), threading.Event()

    async def run():
        async with open_native(directory / "s", directory / "q", settings, SystemClock()) as streams:
            await streams.put_stream("s", StreamConfig(subjects=("s.>",)))
            found.put(streams.addresses)
            await trio.to_thread.run_sync(over.wait)

    thread = threading.Thread(target=trio.run, args=(run,))
    thread.start()
    try:
        yield found.get(timeout=30)
    finally:
        over.set()
        thread.join()


def test_records_go_over_tls(tmp_path, cli):
    """Nothing but the queue sockets is asked when the URL is given, here with files from the environment."""
    site = Site(tmp_path / "site")
    cli.env(PLATFORMD_QUEUE_CA_FILE=str(site.file("ca")), PLATFORMD_QUEUE_CERT_FILE=str(site.file("client")))
    with daemon(tmp_path, QueueSettings(listen_ingest=("tls+tcp://127.0.0.1:0",), **site.settings())) as addresses:
        there = ("--queue-url", addresses["ingest-tls"])
        assert cli("publish", "s.a", "hello", *there).out == "stream/s 1 published (sequence 1)\n"
        wrong = cli("publish", "s.a", "hello", *there, "--queue-server-name", "else.example")
        assert wrong.code != 0
        assert "not valid for 'else.example'" in wrong.err
        assert "server_name" in wrong.err
