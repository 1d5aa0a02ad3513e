"""The store's own door: one multiplexed connection of framed msgpack on a Unix socket, for programs that use it hard.

An HTTP exchange for each put costs more than the put. Here a program keeps one connection and many requests in flight
on it; what has come is decoded in one sweep, what is ready is sent in one write. The wire format is described in
``platformd.coordination.codec``, the client's side in ``platformd.client.store``.

Nobody costs more memory than the bounds say. A client with too many requests in flight, or one that does not take its
answers, is not read from until that has changed. A watch is only read while its client has given credit for it and
takes what was sent: the store's watch then falls back to history, which is on disk.

In reading order:

``serving``     the socket, all connections, the stop
``connection``  one connection: what comes in, who may do it, what is in flight, its end
``answers``     each request's way through the store and back
``crew``        tasks that answer requests, kept instead of started for each
``watches``     a watch, with its credit
``outbox``      what goes out
"""

from platformd.api.door.serving import serve_door

__all__ = ["serve_door"]
