"""The terminal face of platformd: one live overview of a node, its streams and its pipelines.

Installed as ``platformd_tui``; it is a process of its own that attaches to the daemon's control socket
and can do nothing that a user's own program could not. Reading order:

1. ``events``, ``state``: what is known, and how each event changes it (pure, no Textual, no I/O);
2. ``facts``, ``history``, ``format``: what a document says, how values go over time, how they are written;
3. ``table``, ``overview``: state to rows and lines of text (pure);
4. ``feed``: the connection, which never gives up;
5. ``widgets``, ``screens``, ``app``: the Textual part, which shows all that and holds nothing of its own.
"""
