"""The embedded queue engine: a C log and broker on nng's sockets, and its trio shell.

``engine`` opens it, ``library`` is the boundary to C, ``completions`` carries what finishes in C to the
trio tasks that wait for it, ``catalogue`` keeps the configurations. Nothing is imported here, because
the codec takes the checksum from the extension and must stay light.
"""
