"""Which connection has which deliveries, so that they are free at once when it ends."""

from __future__ import annotations

from collections.abc import Iterable

Place = tuple[str, str]
"""A stream and its consumer."""


class Holding:
    """Deliveries by consumer and by connection."""

    def __init__(self) -> None:
        self._holders: dict[Place, dict[int, int]] = {}
        self._alive: set[int] = set()

    def came(self, connection: int) -> None:
        """There is a connection."""
        self._alive.add(connection)

    def alive(self, connection: int) -> bool:
        """Whether it is there still."""
        return connection in self._alive

    def took(self, connection: int, place: Place, sequences: Iterable[int]) -> None:
        """Deliveries went to a connection; whoever had them before has them no more."""
        self._holders.setdefault(place, {}).update(dict.fromkeys(sequences, connection))

    def done(self, place: Place, sequences: Iterable[int]) -> None:
        """Somebody said what became of them."""
        holders = self._holders.get(place)
        if holders is not None:
            for sequence in sequences:
                holders.pop(sequence, None)
            if not holders:
                del self._holders[place]

    def went(self, connection: int) -> dict[Place, list[int]]:
        """A connection ended; what it had."""
        self._alive.discard(connection)
        had: dict[Place, list[int]] = {}
        for place, holders in list(self._holders.items()):
            mine = [sequence for sequence, holder in holders.items() if holder == connection]
            if mine:
                had[place] = mine
                self.done(place, mine)
        return had
