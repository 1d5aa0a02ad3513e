"""The distributed engine of the queues: a real NATS JetStream (2.10 or newer), spoken to in its own protocol from trio.

A tour, in the order of a publish: ``engine`` is the contract's face; ``publishing`` makes a batch of messages of it,
with ``records`` and ``names`` as its words; ``client`` carries everything over one connection and makes that again
when it is lost, with ``wire`` as its grammar, ``dial`` and ``login`` as its beginning, and ``inbox`` as the place of
answers; ``errors`` translates what comes back. Beside it: ``api`` asks JetStream's JSON questions, ``inventory`` and
``state`` know what there is without asking, ``limits`` what may be asked for, ``taking``, ``acking`` and ``giving_up``
are consumers, ``reading`` looks at records, ``advisories`` tells who listens, ``lifetime`` puts it all together, with
the gateway for programs outside.

How the contract is kept, where JetStream is different:

======================= ===============================================================================================
durability ``fsync``    only with ``nats.sync = "always"``, which says that the servers have ``sync_interval: always``;
                        else Unsupported. ``os`` and ``memory`` are both JetStream's acknowledgement: the record is with
                        the operating systems of the servers (of a majority of them, with replicas).
a batch                 stored as one only with ``discard: new`` or an expectation, by servers of 2.12 and newer, up to
                        1,000 records without duplicates; see ``publishing``. Sequences of a batch follow each other
                        unless a program beside platformd publishes in between.
size of a record        also at most the servers' ``max_payload`` (1 MiB by default); 64 KiB of headers.
``duplicate_window``    at least 0.1 s, and not longer than ``max_age``; else Unsupported.
``duplicate_limit``     Unsupported: only the window bounds what is remembered.
``compression``         ``zstd`` is Unsupported.
``max_age``             at least 0.1 s; else Unsupported.
subjects                ``>`` alone needs a prefix: JetStream's own are under it.
expectations            come before de-duplication: a record that is there already is refused when what it expected
                        holds no more. A client that lost the answer may hear of its own record.
retention               cannot change; ``work_queue`` asks for ``ack_policy`` explicit and ``deliver_policy`` all.
purge                   with both ``before`` and ``keep``: Unsupported.
seek                    deletes the consumer and makes it anew: deliveries are counted from 1 again, and if the servers
                        are lost in between there is no consumer until it is put again. Unsupported on a stream with
                        retention ``interest``, whose records would go with it.
acknowledgements        a server that is killed may forget the newest of them: those records come again.
``exhausted``           and ``redelivered``, ``stalled``: since the daemon started.
dead letters            when thousands are given up in one call, the reasons of those beyond the first batch are
                        lost if the daemon is killed just then; the records come again. A letter that cannot be written
                        is kept in the consumer's metadata, up to about 100 kB of them.
information             what we do shows at once; what others do, within ``nats.status_interval``. The rate in bytes
                        takes all records to be of the mean size.
``live``, ``push``      there are none: NATS's own clients follow and feed subjects.
======================= ===============================================================================================

Servers that were tried with the conformance suite and the tests beside this room:

======= ===============================================================================================================
2.15.1  all of it.
2.11.11 all but that with ``discard: new`` a batch that has no room as a whole is stored as far as there is room.
2.10.26 as 2.11; moreover a consumer that begins at a sequence that is not there yet begins with the record before it,
        and acknowledging does not count as use for ``inactive_after``. Records are read one by one, as in a cluster.
======= ===============================================================================================================

Three servers of 2.15.1 with ``nats.replicas = 3``, one of them killed under load, are tried by ``test_cluster.py``.

Streams and consumers that other programs made are left alone: ours have our configuration in their metadata. One daemon
for each prefix: what is delivered is kept track of in its memory.
"""

from platformd.queues.jetstream.engine import JetStreamStreams
from platformd.queues.jetstream.lifetime import open_jetstream

__all__ = ["JetStreamStreams", "open_jetstream"]
