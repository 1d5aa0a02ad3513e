"""Recipes: what people build on an ordered keyspace, written against the Store contract alone, for any engine.

In reading order:

``lease``           a lease that is kept alive beside a block, and its loss
``places``          queues of keys; who is first has what the queue is for
``lock``            one holder at a time, with a fencing revision
``election``        a lock whose holder has something to say, and its observers
``barrier``         a gate
``double_barrier``  a number of parties that begin together and end together, round after round
``claim``           an owner key that says who owns something
``namespace``       a part of a store as a store of its own

What ends a holder's right is always the same: its lease ended, its key was removed, or no keep-alive came through
for a whole time to live. Then the block is cancelled and ``Lost`` is raised, or, if asked so, only an event is set.
"""

from platformd.coordination.recipes.barrier import Barrier
from platformd.coordination.recipes.claim import Collision, Owner, claim, owner_of
from platformd.coordination.recipes.double_barrier import Member, Party, TooFew, double_barrier
from platformd.coordination.recipes.election import Leader, Leaders, Leadership, elected, leader, observe
from platformd.coordination.recipes.lease import KeptLease, Lost, kept_lease
from platformd.coordination.recipes.lock import Held, LockHeld, Place, acquire, lock
from platformd.coordination.recipes.namespace import USER_KEYS, Namespace, user_keys

__all__ = [
    "USER_KEYS",
    "Barrier",
    "Collision",
    "Held",
    "KeptLease",
    "Leader",
    "Leaders",
    "Leadership",
    "LockHeld",
    "Lost",
    "Member",
    "Namespace",
    "Owner",
    "Party",
    "Place",
    "TooFew",
    "acquire",
    "claim",
    "double_barrier",
    "elected",
    "kept_lease",
    "leader",
    "lock",
    "observe",
    "owner_of",
    "user_keys",
]
