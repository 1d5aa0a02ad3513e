"""Who asks, and what is kept of it: peers, tokens, the limit on failures, the audit.

What anybody may do stands in ``platformd.model.access``; here is how it is found out who asks. In reading order:

``peers``     the users and groups of this machine, and the names in certificates, as roles
``secrets``   what a token looks like
``tokens``    the tokens that there are, in the store
``failures``  how often wrong ones may be shown
``audit``     what was refused, bounded
``gate``      the one object that every door asks
``guarded``   a store through which one principal touches only what it may
"""

from platformd.access.gate import Gate, open_gate
from platformd.access.guarded import guarded

__all__ = ["Gate", "guarded", "open_gate"]
