"""The wire format of the store's door: what programs and the daemon say to each other, byte by byte; no I/O.

A connection is a stream of *frames* in each direction. A frame is::

    offset  bytes  what
    0       4      n, the length of the message, unsigned, big-endian
    4       n      the message: one msgpack array, [kind, ...]

Arrays, not maps: the names would be half of a small message. A later version may append elements to any array; who
does not know them ignores them, and one that is missing has the default written behind ``=`` below.

The client speaks first: ``hello``, which the server answers with its own or with a problem. Then the client sends
requests, each with an ``id`` (1 … 2^63-1) that no other request of this connection has had. Answers come in any
order, each with the id of its request. Requests that are in flight together are not ordered.

From the client (keys and values are msgpack ``bin``, revisions and lease ids are integers of 63 bits)::

    [ 0, "platformd-store", version, name="", token=""]                     hello; name is the program's, for logs;
                                                                            without a token the peer asks
    [ 1, id, key, revision=0]                                               get
    [ 2, id, key, end, revision=0, limit=0, keys_only=false,
         count_only=false, order="key"]                                     list; may be answered in part
    [ 3, id, [compare…], [operation…], [operation…]=[]]                     txn
    [ 4, id, key, end, start_revision=0, previous=false, only=nil, credit]  watch
    [ 5, id, bytes]                                                         more credit for watch ``id``; no answer
    [ 6, id]                                                                cancel watch ``id``; no answer
    [ 7, id, ttl, lease_id=0]                                               grant a lease; ttl in seconds
    [ 8, id, lease_id]                                                      keep it alive
    [ 9, id, lease_id]                                                      revoke it
    [10, id, lease_id]                                                      how it is
    [11, id]                                                                all leases
    [12, id, revision]                                                      compact
    [13, id]                                                                status
    [14, id]                                                                ping

    compare:    [key, "value" | "version" | "create_revision" | "mod_revision" | "lease", "==" | "!=" | "<" | ">",
                 bin | integer]
    operation:  [1, key, value, lease=0]  put      [2, key, end=nil]  delete      [3, key, end=nil]  get
    end:        bin; nil is no upper bound in list and watch, a single key in an operation

From the server::

    [ 0, "platformd-store", version, name, max_frame, max_in_flight, max_credit]   hello; max_frame in bytes
    [ 1, id, kv | nil]                                      get
    [ 2, id, [kv…], revision, more, count]                  list; more: go on after the last key, at this revision
    [ 3, id, succeeded, revision, [result…]]                txn
    [ 4, id, revision]                                      the watch is in place; it begins after this revision
    [ 5, id, revision, [event…]]                            the watch's next batch; without events a bookmark
    [ 9, id, count]                                         revoke: keys deleted
    [10, id, lease]                                         grant, keep alive, how it is
    [11, id, [lease…]]                                      all leases
    [13, id, {…}]                                           status, with the names of ``contract.StoreStatus``
    [14, id]                                                ping, compact: done
    [16, id, {…}]                                           a problem (``PlatformError.to_problem``) instead of any of
                                                            these, or in the middle of a watch, which it ends;
                                                            id 0: the connection's, which is closed after it
    [17]                                                    goodbye: what has not been answered was not done

    kv:      [key, value, create_revision, mod_revision, version, lease]
    result:  [1, kv | nil]  put, with what was before      [2, count, [kv…]]  delete      [3, [kv…]]  get
    event:   [is_delete, kv, previous kv | nil]
    lease:   [lease_id, ttl, remaining, [key…]]

**Credit.** The server sends batches of a watch while its credit is above zero; each takes its frame's length off. The
client gives what its program has taken. So a program that does not take costs neither side memory: the server stops
reading the store's watch, which falls back to history. Credit over ``max_credit`` counts as ``max_credit``.

**Bounds.** A message over ``max_frame`` is refused and the connection closed. Over ``max_in_flight`` requests the
server stops reading, which in time stops the client's sending.

What comes is decoded straight into types (``msgspec`` unions of tagged arrays): what fits none of them is
``Malformed``, never a surprise further in. ``frames`` has the lengths and the numbers, ``requests`` what the client
says, ``replies`` what the server says.
"""

from platformd.coordination.codec.frames import MAGIC, MAX_REPLY, VERSION, FrameBuffer, append_frame
from platformd.coordination.codec.replies import Reply, decode_reply
from platformd.coordination.codec.requests import Malformed, Request, decode_request

__all__ = [
    "MAGIC",
    "MAX_REPLY",
    "VERSION",
    "FrameBuffer",
    "Malformed",
    "Reply",
    "Request",
    "append_frame",
    "decode_reply",
    "decode_request",
]
