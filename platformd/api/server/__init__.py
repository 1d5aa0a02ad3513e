"""The HTTP server of the control API: hypercorn's HTTP/1.1 on trio, hardened, and WebSocket on wsproto.

hypercorn 0.18 and quart-trio 0.12 carry no connection safely on their own. Four faults were reproduced,
each by one client without any rights:

1. An exception in one connection (a WebSocket upgrade with a frame in the same segment) leaves
   ``TCPServer.run`` and ends the whole server.
2. Between two requests quart-trio cancels the task in which hypercorn is still saying that the connection
   is idle now: the keep-alive timeout never fires, and idle connections hold up every stop.
3. The same race at the end of a connection: a request whose body comes in a second segment, answered
   without reading it, leaves the connection neither closed nor served.
4. A client that does not read its answer holds a write that nothing can cancel, and so the stop.

The cure is not a patch of ``hypercorn.trio.run.TCPServer``, which would change hypercorn for everybody in
the process who imports it. ``hypercorn.trio.serve`` is left out altogether: ``serve`` accepts, ``Connection``
stands where hypercorn has its ``TCPServer``, and hypercorn's HTTP/1.1 protocol objects (``ControlProtocol``
is a subclass) are used as they are meant to be, over the same small interface. Its WebSocket is not used at all
(no deadline for a closing handshake or a peer that is gone, compression whether wanted or not, and the first fault
above): a connection whose handshake the application accepts leaves HTTP for a ``WebSocket`` of ours. In reading order:

``sockets``           binds the Unix socket and the loopback port
``tls``               TLS on a connected socket, and the certificates that are read anew when they change
``protocol``          the HTTP/1.1 rules that hypercorn does not have
``connection``        one connection: its reads, its writes, its deadlines, its end
``handshake``         a request that offers to become a WebSocket
``websocket_stream``  what the application says to it
``websocket``         the WebSocket: its messages, its deadlines, its end, over
``frames``, ``outbox``  what comes in, without input and output, and what goes out, bounded
``serving``           all connections: their number, and the stop
"""

from platformd.api.server.serving import serve

__all__ = ["serve"]
