"""JSON Schema 2020-12, with bounds.

Everything here runs in a process of its own when a stream's daemon asks (``checkers``): the validator holds the
interpreter's lock while it works, and a schema can make it work for as long as it likes (``anyOf`` over ``anyOf``).
Regular expressions are those that match in time linear in the text: no look-around, no back-references. ``$ref`` stays
within the document. ``format`` says something and asserts nothing, as 2020-12 has it by default.
"""

from __future__ import annotations

from itertools import islice
from typing import Any

import jsonschema_rs
import msgspec

from platformd.core.errors import FieldError, InvalidInput

DIALECT = "https://json-schema.org/draft/2020-12/schema"
MAX_MESSAGE = 300
"""Characters of what is said of one place in a document; a message quotes the value, which may be long."""
_PATTERN_BYTES = 1 << 20
"""Of one compiled regular expression."""


def _options() -> dict[str, Any]:
    patterns = jsonschema_rs.RegexOptions(size_limit=_PATTERN_BYTES, dfa_size_limit=_PATTERN_BYTES)
    return {"pattern_options": patterns, "offline": True, "validate_formats": False}


class JsonSchema:
    """A schema, ready to judge documents.

    Args:
        text: the schema as JSON.

    Raises:
        InvalidInput: it is not a JSON Schema of 2020-12; the message has the path of what is wrong.
    """

    def __init__(self, text: str) -> None:
        schema = _decoded(text)
        try:
            self._validator = jsonschema_rs.Draft202012Validator(schema, **_options())
        except (jsonschema_rs.ValidationError, ValueError) as error:
            raise _refused(error) from error

    def errors(self, document: Any, most: int) -> list[FieldError]:
        """What is wrong with a document, at most ``most`` things, each with its path in it."""
        try:
            if self._validator.is_valid(document):
                return []
            return [
                FieldError(path=_path(error.instance_path), message=shortened(error.message))
                for error in islice(self._validator.iter_errors(document), most)
            ]
        except ValueError as error:  # bytes, dates and keys that are no texts, and more levels than it walks
            return [FieldError(path="", message=f"is not what a JSON Schema can describe: {shortened(str(error))}")]


def _decoded(text: str) -> dict[str, Any]:
    schema = msgspec.json.decode(text)
    if not isinstance(schema, dict):
        raise InvalidInput("a JSON Schema is an object", subject="schema")
    dialect = schema.get("$schema", DIALECT)
    if not isinstance(dialect, str) or dialect.rstrip("#") != DIALECT:
        raise InvalidInput(
            f"$schema is {shortened(str(dialect))!r}", subject="schema", hint=f"write it for {DIALECT}, or leave it out"
        )
    return schema


def _refused(error: ValueError) -> InvalidInput:
    if not isinstance(error, jsonschema_rs.ValidationError):
        return InvalidInput(f"is not a JSON Schema: {shortened(str(error))}", subject="schema")
    where = _path(error.instance_path)
    hint = None
    if "regex" in error.message:
        hint = "look-around and back-references are not supported, and a pattern compiles to at most 1 MiB"
    return InvalidInput(f"is not a JSON Schema: {where}: {shortened(error.message)}", subject="schema", hint=hint)


def covers(wider: str, narrower: str) -> str | None:
    """Whether every document that fits ``narrower`` fits ``wider``: ``None`` if so, else why it is refused.

    Raises:
        InvalidInput: one of them is not a JSON Schema.
    """
    options = {"pattern_options": _options()["pattern_options"], "offline": True}
    try:
        wide = jsonschema_rs.canonicalize(_decoded(wider), **options)
        narrow = jsonschema_rs.canonicalize(_decoded(narrower), **options)
        answer = str(wide.covers(narrow))
    except (ValueError, jsonschema_rs.ReferencingError) as error:
        return f"it cannot be proved that every document still fits: {shortened(str(error))}"
    if answer == "yes":
        return None
    if answer == "unknown":
        return "it cannot be proved that every document still fits"
    return f"not every document still fits{_example(wide, narrow)}"


def _example(wide: Any, narrow: Any) -> str:
    """A description of the documents that only the narrower schema takes, when it is short."""
    try:
        schema = narrow.subtract(wide).to_json_schema()
        lost = msgspec.json.encode({key: schema[key] for key in schema if key != "$schema"}).decode()
    except (ValueError, TypeError, AttributeError, msgspec.EncodeError):
        return ""
    return f", such as those of {lost}" if len(lost) <= MAX_MESSAGE else ""


def _path(parts: list[str | int]) -> str:
    path = ""
    for part in parts:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else part
    return shortened(path)


def shortened(message: str) -> str:
    """``message`` on one line, cut where it is too long."""
    message = " ".join(message.split())
    return message if len(message) <= MAX_MESSAGE else message[: MAX_MESSAGE - 1] + "…"
