"""What widgets tell the application."""

from __future__ import annotations

from collections.abc import Hashable

from textual.message import Message


class Chosen(Message):
    """A row was chosen with enter or a second click."""

    def __init__(self, key: Hashable) -> None:
        self.key = key
        super().__init__()


class FilterChanged(Message):
    """Another filter is to be applied; empty shows all."""

    def __init__(self, text: str) -> None:
        self.text = text
        super().__init__()
