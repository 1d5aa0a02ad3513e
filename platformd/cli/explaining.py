"""What ``platformd explain`` prints: a kind's declaration for people."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from typing import Any, Final

from platformd.cli.output import as_json, as_yaml, safe

WIDTH: Final = 96
"""Columns of running text."""
DEEP: Final = 12
"""How deep fields are shown with --recursive."""

LIMITS: Final = (
    ("default", "default"),
    ("enum", "one of"),
    ("minimum", "at least"),
    ("exclusiveMinimum", "more than"),
    ("maximum", "at most"),
    ("minLength", "characters, at least"),
    ("maxLength", "characters, at most"),
    ("minItems", "items, at least"),
    ("maxItems", "items, at most"),
    ("pattern", "pattern"),
    ("examples", "for example"),
)
"""What a schema may say of a value, and how that is called here."""


def kind_lines(document: Mapping[str, Any], *, recursive: bool) -> Iterator[str]:
    """A whole kind: what it is for, its fields, its states, its rules, what it can be told, and an example."""
    words = [document["plural"], document["singular"], *document["aliases"]]
    yield f"{document['name']} ({', '.join(words)})"
    yield from _paragraph(document["summary"], "  ")
    definitions = document["schema"]["$defs"]
    members = fields_of(document["schema"], definitions)
    for name in ("spec", "status") if recursive else ("spec",):
        yield from ("", f"{name.capitalize()}:")
        yield from field_lines({**members[name], "$defs": definitions}, recursive=recursive, readonly=True)
    for title, rows in (
        ("States", [(row["state"], "→ " + (", ".join(row["next"]) or "(ends)")) for row in document["states"]]),
        ("Actions", [(one["name"], one["summary"]) for one in document["actions"]]),
    ):
        if rows:
            width = max(len(name) for name, _ in rows)
            yield from ("", f"{title}:")
            for name, text in rows:
                yield from _paragraph(f"{name:<{width}}  {text}", "  ", " " * (width + 4))
    if document["rules"]:
        yield from ("", "Rules:")
        for rule in document["rules"]:
            yield from _paragraph(f"- {rule}", "  ", "    ")
    yield from ("", "Example:")
    yield from (f"  {line}" for line in as_yaml([document["example"]]).splitlines())


def path_lines(name: str, path: str, schema: Mapping[str, Any], *, recursive: bool) -> Iterator[str]:
    """One field, and what is below it."""
    definitions = schema["$defs"]
    yield f"{name}.{path}  <{type_of(schema, definitions)}>{_unit(schema)}"
    text = _description(schema, definitions)
    if text:
        yield from _paragraph(text, "  ")
    for member, called in LIMITS:
        value = _of(schema, definitions).get(member)
        if value is not None and value not in ({}, []):
            shown = ", ".join(map(_plain, value)) if isinstance(value, list) else _plain(value)
            yield from _paragraph(f"{called}: {shown}", "  ", "    ")
    below = list(field_lines(schema, recursive=recursive, readonly=True))
    if below:
        yield from ("", "Fields:")
        yield from below


def field_lines(
    schema: Mapping[str, Any], *, recursive: bool, readonly: bool, indent: str = "  ", depth: int = 0
) -> Iterator[str]:
    """The fields of what ``schema`` describes, each on a line with the beginning of what is said of it.

    Args:
        schema: with its ``$defs``.
        recursive: also the fields of fields, without what is said of them.
        readonly: also those that only the daemon writes.
        indent: before each line.
        depth: how deep it is.
    """
    definitions = schema.get("$defs", {})
    required = set(_of(schema, definitions).get("required", ()))
    for name, one in fields_of(schema, definitions).items():
        if one.get("readOnly") and not readonly:
            continue
        must = " (required)" if name in required else ""
        head = f"{indent}{name}  <{type_of(one, definitions)}>{_unit(one)}{must}"
        text = _description(one, definitions).partition(". ")[0].rstrip(".")
        if recursive:
            yield safe(head)
            if depth < DEEP:
                inner = {**one, "$defs": definitions}
                yield from field_lines(inner, recursive=True, readonly=readonly, indent=indent + "  ", depth=depth + 1)
        else:
            yield safe(head)
            if text:
                yield from _paragraph(text, indent + "    ")


def fields_of(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of an object, of the items of a list, and of all alternatives."""
    found = _of(schema, definitions)
    fields: dict[str, Any] = dict(found.get("properties", {}))
    for inner in (*found.get("anyOf", ()), found.get("items"), found.get("additionalProperties")):
        if isinstance(inner, Mapping):
            fields = {**fields_of(inner, definitions), **fields}
    return fields


def type_of(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> str:
    """A type in a word: ``string``, ``[]Stage``, ``map of string``."""
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    if "anyOf" in schema:
        return " | ".join(dict.fromkeys(type_of(one, definitions) for one in schema["anyOf"]))
    if schema.get("type") == "array":
        return "[]" + (type_of(schema["items"], definitions) if isinstance(schema.get("items"), Mapping) else "any")
    inner = schema.get("additionalProperties")
    if schema.get("type") == "object" and isinstance(inner, Mapping):
        return f"map of {type_of(inner, definitions)}"
    if "const" in schema:
        return _plain(schema["const"])
    return str(schema.get("type", "enum" if "enum" in schema else "any"))


def _of(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> Mapping[str, Any]:
    """``schema``, or what it refers to, with what is said beside the reference."""
    if "$ref" not in schema:
        return schema
    target = definitions.get(str(schema["$ref"]).rpartition("/")[2], {})
    return {**target, **{key: value for key, value in schema.items() if key != "$ref"}}


def _description(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> str:
    return " ".join(str(_of(schema, definitions).get("description", "")).split())


def _unit(schema: Mapping[str, Any]) -> str:
    return f" in {schema['x-unit']}" if schema.get("x-unit") not in (None, "duration", "size", "time") else ""


def _plain(value: Any) -> str:
    return value if isinstance(value, str) and value else as_json(value, indent=0)


def _paragraph(text: str, first: str, rest: str | None = None) -> list[str]:
    return textwrap.wrap(
        safe(text), WIDTH, initial_indent=first, subsequent_indent=first if rest is None else rest
    ) or [first]
