"""The distributed engine of the coordination store: a real etcd, spoken to in its own protocol (gRPC) from trio.

A tour, in the order of a request: ``engine`` is the contract's face; ``messages`` and ``wire`` turn what it asks into
etcd's messages, with ``keyspace`` putting the prefix on; ``channel`` picks a member that is well, logs in, and decides
what is asked again; ``connection`` carries everything over one HTTP/2 connection, with ``frames`` as its grammar
and ``stream`` as one exchange on it; ``errors`` translates what comes back. Beside it: ``reader`` pages large
ranges, ``watch`` goes on after every interruption, ``feeds`` lets many watches share one exchange, ``lease`` keeps
leases, ``versions`` knows what older versions get wrong, ``dial`` does TLS, ``lifetime`` puts it all together and ends
it.
"""

from platformd.coordination.etcd.engine import EtcdStore
from platformd.coordination.etcd.lifetime import open_etcd
from platformd.core.settings_engines import EtcdSettings

__all__ = ["EtcdSettings", "EtcdStore", "open_etcd"]
