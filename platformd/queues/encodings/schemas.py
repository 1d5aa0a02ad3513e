"""What is asked of schemas themselves: whether one is valid, and whether a new version is compatible with others.

Pure, and as slow as the schemas make it: a daemon has it done by ``checkers``.
"""

from __future__ import annotations

from collections.abc import Sequence

from platformd.core.errors import FieldError, InvalidInput
from platformd.model.schema import Compatibility, SchemaType


def schema_problem(kind: SchemaType, text: str) -> str | None:
    """Why ``text`` is not a schema of that kind, or ``None``."""
    try:
        if kind == "avro":
            from platformd.queues.encodings.avro import parse_schema  # each is slow to import, and only one is wanted

            parse_schema(text)
        else:
            from platformd.queues.encodings.json_schema import JsonSchema

            JsonSchema(text)
    except InvalidInput as error:
        return error.message if error.hint is None else f"{error.message} ({error.hint})"
    return None


def incompatibilities(
    kind: SchemaType, mode: Compatibility, older: Sequence[tuple[int, str]], newer: str
) -> list[FieldError]:
    """Why ``newer`` may not follow the versions ``older``; empty: it may. ``SchemaSpec`` says what each mode means.

    Args:
        older: numbers and schemas of the versions that are kept.
        newer: the new version's schema.

    Raises:
        InvalidInput: one of them is not a schema.
    """
    found: list[FieldError] = []
    for number, text in older:
        if mode in ("backward", "full"):
            found += _named(_unreadable(kind, newer, text), f"backward, with version {number}")
        if mode in ("forward", "full"):
            found += _named(_unreadable(kind, text, newer), f"forward, with version {number}")
    return found


def _unreadable(kind: SchemaType, reader: str, writer: str) -> list[FieldError]:
    if kind == "avro":
        from platformd.queues.encodings.avro_compatibility import unreadable

        return unreadable(reader, writer)
    from platformd.queues.encodings.json_schema import covers

    why = covers(reader, writer)
    return [] if why is None else [FieldError(path="", message=why)]


def _named(problems: list[FieldError], what: str) -> list[FieldError]:
    return [
        FieldError(path=problem.path, message=f"is not compatible ({what}): {problem.message}") for problem in problems
    ]
