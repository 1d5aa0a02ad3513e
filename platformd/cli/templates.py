r"""A small template language, for what is published and how records are printed.

``{{name}}`` or ``{{name ARGUMENT…}}`` is replaced; names have no case and may begin with a dot, so templates made for
``nats pub`` (``{{.Count}}``, ``{{TimeStamp}}``, ``{{Random 8 16}}``) work. ``\{{`` is ``{{`` itself. There are no
conditions and no loops: a program can pipe lines in.
"""

from __future__ import annotations

import os
import re
import string
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Generic, TypeVar

from platformd.core.clock import rfc3339
from platformd.core.errors import InvalidInput, nearest

MAX_RANDOM: Final = 8 << 20
"""Characters of one ``{{random}}`` at most."""
_MARK = re.compile(r"\\\{\{|\{\{\s*\.?([A-Za-z_]\w*)\s*(.*?)\s*\}\}|\{\{")
_LETTERS: Final = (string.ascii_letters + string.digits + "-_").encode()
"""64 of them: a byte's low bits choose one without bias."""
_CHOOSE: Final = bytes(_LETTERS[i & 63] for i in range(256))

Subject = TypeVar("Subject")
Word = Callable[[Subject, Sequence[str]], str]
"""What a name stands for, of what the template is filled with, given its arguments."""


class Template(Generic[Subject]):
    r"""A text with names in it.

    Args:
        text: the template.
        words: what the names stand for.
        origin: how errors name it (``--format``).

    Raises:
        InvalidInput: a name is not known, or ``{{`` has no end.
    """

    def __init__(self, text: str, words: Mapping[str, Word[Subject]], origin: str) -> None:
        self._parts: list[str | tuple[Word[Subject], tuple[str, ...]]] = []
        end = 0
        for mark in _MARK.finditer(text):
            self._parts.append(text[end : mark.start()])
            end = mark.end()
            if mark[0] == r"\{{":
                self._parts.append("{{")
                continue
            if mark[1] is None:
                hint = r"write {{name}}; for the braces themselves write \{{"
                raise InvalidInput("'{{' has no end", subject=origin, hint=hint)
            name = mark[1].lower()
            if name not in words:
                near = nearest(name, list(words))
                hint = f"did you mean {near}?" if near else f"known: {', '.join(words)}"
                raise InvalidInput(f"{{{{{mark[1]}}}}} is not known", subject=origin, hint=hint)
            self._parts.append((words[name], tuple(mark[2].split())))
        self._parts.append(text[end:])
        self.varies = any(not isinstance(part, str) for part in self._parts)
        """Whether there is a name in it."""

    def fill(self, subject: Subject) -> str:
        """The text for ``subject``.

        Raises:
            InvalidInput: an argument is wrong.
        """
        return "".join(part if isinstance(part, str) else part[0](subject, part[1]) for part in self._parts)


def plain(text: str) -> Template[int]:
    """A template that is only ever ``text``."""
    return Template(text.replace("{{", r"\{{"), {}, "")


def published(text: str, origin: str) -> Template[int]:
    """A template of what is published, filled with a record's number."""
    return Template(text, _PUBLISHED, origin)


def _random(_number: int, arguments: Sequence[str]) -> str:
    if len(arguments) > 2 or not all(a.isascii() and a.isdigit() and int(a) <= MAX_RANDOM for a in arguments):
        hint = f"{{{{random}}}}, {{{{random SIZE}}}} or {{{{random FROM TO}}}}, at most {MAX_RANDOM}"
        raise InvalidInput(f"{' '.join(arguments)!r} are not sizes", subject="{{random}}", hint=hint)
    sizes = [int(argument) for argument in arguments] or [16]
    low, high = sizes[0], sizes[-1]
    size = low + int.from_bytes(os.urandom(4), "big") % (max(high - low, 0) + 1)
    return os.urandom(size).translate(_CHOOSE).decode()


def _number(number: int, _arguments: Sequence[str]) -> str:
    return str(number)


def _time(_number: int, _arguments: Sequence[str]) -> str:
    return rfc3339(time.time_ns())


_PUBLISHED: Final[dict[str, Word[int]]] = {
    "n": _number,
    "count": _number,
    "time": _time,
    "timestamp": _time,
    "unix": lambda _number, _arguments: str(time.time_ns() // 1_000_000_000),
    "unixnano": lambda _number, _arguments: str(time.time_ns()),
    "id": lambda _number, _arguments: os.urandom(16).hex(),
    "random": _random,
}
