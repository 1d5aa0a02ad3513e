r"""``-o jsonpath=…``: a part of what is printed, by RFC 9535, in kubectl's braces or without.

``name``, ``.name`` and ``$.name`` are one query, and each value that it finds is a line: strings as they are, anything
else as JSON. ``{.name}{"\t"}{.status.state}`` is a template: what stands outside of braces is printed as it stands,
``{"\n"}`` is text in which JSON's escapes count, and the values of a query stand beside each other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from platformd.core.errors import InvalidInput, NotFound

HINT = "for example .status.state, or '{.name} is {.status.state}', or '$.items[?@.status.state == \"error\"].name'"


def compile_output(text: str) -> Callable[[Any], str]:
    """What prints a document as ``text`` says, without the newline at the end.

    Raises:
        InvalidInput: it is not JSONPath.
    """
    if "{" not in text:
        query = Query(text)
        return lambda document: "\n".join(map(as_text, query.values(document)))
    pieces = [_piece(kind, piece) for kind, piece in _pieces(text)]
    return lambda document: "".join(piece(document) for piece in pieces).removesuffix("\n")


class Query:
    """One JSONPath query; a leading ``$`` or ``$.`` may be left out.

    Raises:
        InvalidInput: it is not one.
    """

    def __init__(self, text: str) -> None:
        # Only wanted with jsonpath: it takes as long to load as all of click.
        from jsonpath import JSONPathEnvironment
        from jsonpath.exceptions import JSONPathError

        self.text = text.strip()
        whole = self.text if self.text.startswith("$") else "$" + ("" if self.text[:1] in (".", "[") else ".") + text
        if not self.text:
            raise InvalidInput("the query is empty", subject="jsonpath", hint=HINT)
        try:
            self._path: Any = JSONPathEnvironment(strict=True).compile(whole)
        except (JSONPathError, ValueError) as error:  # ValueError: its message cannot be made at the end of the text
            raise InvalidInput(f"is not JSONPath (RFC 9535): {_first_line(error)}", subject=text, hint=HINT) from error

    def found(self, document: Any) -> list[Any]:
        """The values; there may be none."""
        values: list[Any] = self._path.findall(document)
        return values

    def values(self, document: Any) -> list[Any]:
        """The values.

        Raises:
            NotFound: it names one place, and nothing is there.
        """
        values = self.found(document)
        if not values and self._path.singular_query():
            raise NotFound("nothing is there", subject=f"jsonpath={self.text}", hint="look with -o json")
        return values


def as_text(value: Any) -> str:
    """A value as a script wants it: strings bare, everything else as JSON on one line."""
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _first_line(error: Exception) -> str:
    try:
        return str(error).partition("\n")[0]
    except ValueError:
        return "it ends too early"


def _pieces(text: str) -> list[tuple[str, str]]:
    """The template in pieces: (``text`` or ``query``, what stands there). Braces inside strings do not count."""
    pieces: list[tuple[str, str]] = []
    start, depth, quote = 0, 0, ""
    for i, character in enumerate(text):
        if quote:
            if character == quote and text[i - 1] != "\\":
                quote = ""
        elif depth and character in "'\"":
            quote = character
        elif character == "{":
            if depth:
                raise InvalidInput("has a brace within braces", subject=text, hint=HINT)
            pieces.append(("text", text[start:i]))
            start, depth = i + 1, 1
        elif character == "}" and depth:
            pieces.append(("query", text[start:i]))
            start, depth = i + 1, 0
    if depth:
        raise InvalidInput("has a brace that does not end", subject=text, hint=HINT)
    return [*pieces, ("text", text[start:])]


def _piece(kind: str, text: str) -> Callable[[Any], str]:
    if kind == "text":
        return lambda _document: text
    stripped = text.strip()
    if stripped.startswith('"'):
        try:
            literal = msgspec.json.decode(stripped, type=str)
        except msgspec.DecodeError as error:
            raise InvalidInput("is not text in double quotes", subject=text, hint=HINT) from error
        return lambda _document: literal
    if stripped.split(" ")[0] in ("range", "end"):
        hint = "a query without braces prints a line for each value; for more, pipe -o json into jq"
        raise InvalidInput("there are no loops here", subject=f"{{{text}}}", hint=hint)
    query = Query(stripped)
    return lambda document: " ".join(map(as_text, query.values(document)))
