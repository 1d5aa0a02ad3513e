"""The clients' nng sockets in front of an engine that has none of its own.

Programs speak the same frames (``platformd.queues.codec``) to the same two sockets, whatever engine keeps the streams;
only the native one serves them from C. ``serving`` takes requests and sends replies, ``answering`` decides what they
are, ``holding`` knows which connection has which deliveries.
"""

from platformd.queues.gateway.serving import serve_gateway

__all__ = ["serve_gateway"]
