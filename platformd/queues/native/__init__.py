"""The embedded queue engine: a C log and broker on nng's sockets, and its trio shell.

``engine`` opens it, ``streams`` is the contract, ``library`` the boundary, ``completions`` carries what
finishes in C to the trio tasks that wait for it, ``catalogue`` keeps the configurations, ``checks`` refuses
what C should not see, ``sockets`` has the addresses.

Importing this package imports none of them: programs take the codec's checksum from the extension in
here and need neither trio nor the engine.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from platformd.queues.native.engine import NativeStreams as NativeStreams
    from platformd.queues.native.engine import open_native as open_native


def __getattr__(name: str) -> Any:
    """``open_native`` and ``NativeStreams``, imported when they are asked for."""
    if name in ("NativeStreams", "open_native"):
        from platformd.queues.native import engine  # only the daemon pays for trio and the engine

        return getattr(engine, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
