"""What a version of etcd does right that older ones do not."""

from __future__ import annotations

import re

_ANSWERS_PROGRESS = ((3, 4, 31), (3, 5, 13), (3, 6, 0))
# Before, the answer to a progress request may run ahead of events (etcd issue 15220), or never come (17507).

_KEEPS_DELETIONS = ((3, 4, 36), (3, 5, 18), (3, 6, 0))
# Before, a watch from the very revision of a compaction may miss a deletion at it (etcd issues 18089, 19179). We begin
# none there; but one that still reads history when it is compacted so far may miss that deletion all the same, which
# nobody outside of etcd can prevent: who compacts often and watches history needs one of these.


def answers_progress(version: str) -> bool:
    """Whether the revision in the answer to a progress request can be relied on."""
    return _since(version, _ANSWERS_PROGRESS)


def keeps_deletions(version: str) -> bool:
    """Whether a watch from the compaction revision itself misses nothing."""
    return _since(version, _KEEPS_DELETIONS)


def _since(version: str, fixed: tuple[tuple[int, int, int], ...]) -> bool:
    """Whether it is one of these patch releases or a later one of the same line, or of a newer line than all."""
    found = re.match(r"(\d+)\.(\d+)\.(\d+)", version)
    if found is None:
        return False
    major, minor, patch = (int(part) for part in found.groups())
    return any((major, minor) == line[:2] and patch >= line[2] for line in fixed) or (major, minor) > fixed[-1][:2]
