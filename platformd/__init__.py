"""platformd: one daemon that gives a small facility its platform services.

The rooms, from the bottom: ``core``, ``model``, ``coordination`` and ``queues``, ``conductor``, the
six service rooms, the faces (``api``, ``cli``, ``dns``) and ``daemon``, which knows everything.
The README has the picture and a reading tour.
"""

__version__ = "0.1.0"
