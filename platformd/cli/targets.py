"""Which resources the words after a verb name: ``streams``, ``streams a b``, ``stream/a pipeline/b``, ``all``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from platformd.core.errors import InvalidInput
from platformd.model.kind import Kind
from platformd.model.kinds import KINDS, find_kind


@dataclass(frozen=True)
class Wanted:
    """Resources of one kind."""

    kind: Kind
    names: tuple[str, ...] = ()
    """Empty: all of them."""


def parse_targets(words: Sequence[str], *, need_names: bool = False) -> list[Wanted]:
    """What ``words`` name, in their order.

    Args:
        words: ``KIND[,KIND…]``, ``KIND NAME…``, ``KIND/NAME…`` or ``all``.
        need_names: refuse words that name whole kinds.

    Raises:
        InvalidInput: the words are not of one of these forms.
        NotFound: there is no such kind.
    """
    if not words:
        raise InvalidInput("what? no kind was given", hint=f"known: {', '.join(k.plural for k in KINDS)}, or `all`")
    first, *names = words
    if any("/" in word for word in words):
        wanted = _pairs(words)
    elif first == "all":
        wanted = [Wanted(kind) for kind in KINDS]
    else:
        wanted = [Wanted(find_kind(word), tuple(names)) for word in first.split(",") if word]
    if names and "/" not in first and (first == "all" or len(wanted) != 1):
        raise InvalidInput("names need one kind", subject=first, hint="write KIND NAME…, or KIND/NAME for each")
    if need_names and not all(target.names for target in wanted):
        raise InvalidInput("no name was given", subject=first, hint=f"write {first} NAME…")
    if not wanted:
        raise InvalidInput("what? no kind was given", subject=first)
    return wanted


def _pairs(words: Sequence[str]) -> list[Wanted]:
    wanted = []
    for word in words:
        kind, slash, name = word.partition("/")
        if not (slash and kind and name) or "/" in name:
            raise InvalidInput("is not KIND/NAME, as the words beside it are", subject=word)
        wanted.append(Wanted(find_kind(kind), (name,)))
    return wanted
