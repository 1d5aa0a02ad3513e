"""Label selectors: which resources are meant. The grammar of ``?label=`` and ``-l``.

Terms with commas between, all of which must hold: ``a=b`` (also ``a==b``), ``a!=b`` (holds without ``a`` too),
``a`` (is there), ``!a`` (is not). A listing is selected by the server; a watch is selected here, because a
resource that stops matching has to be told as ``deleted`` to whoever follows the selection.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from platformd.core.errors import InvalidInput

Matches = Callable[[Mapping[str, str]], bool]
"""Whether labels are selected."""


def parse_selector(selector: str) -> Matches:
    """The test that ``selector`` stands for; an empty one holds for everything.

    Raises:
        InvalidInput: a term is not of the grammar.
    """
    terms = [_term(text.strip(), selector) for text in selector.split(",")] if selector.strip() else []
    return lambda labels: all(term(labels) for term in terms)


def _term(text: str, selector: str) -> Matches:
    key, operator, value = text, "", ""
    for candidate in ("!=", "==", "="):
        if candidate in text:
            key, _, value = text.partition(candidate)
            operator = candidate
            break
    key, value = key.strip(), value.strip()
    absent = not operator and key.startswith("!")
    key = key.removeprefix("!").strip() if absent else key
    if not key or any(c in key + value for c in "!= "):
        raise InvalidInput(
            f"the term {text!r} is not a selector's",
            subject=selector,
            hint="write a=b, a!=b, a or !a, with commas between",
        )
    if not operator:
        return (lambda labels: key not in labels) if absent else (lambda labels: key in labels)
    if operator == "!=":
        return lambda labels: labels.get(key) != value
    return lambda labels: labels.get(key) == value
