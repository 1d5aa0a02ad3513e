"""Whether data written with one Avro schema can be read with another: the specification's schema resolution.

The schemas are walked together, writer beside reader. A pair of named types that is met again on the way down is taken
to fit there: if it does not, the walk that is under way finds out.
"""

from __future__ import annotations

from typing import Any

from platformd.core.errors import FieldError, InvalidInput
from platformd.queues.encodings.avro import parse_schema

_PROMOTIONS = {
    "int": ("long", "float", "double"),
    "long": ("float", "double"),
    "float": ("double",),
    "string": ("bytes",),
    "bytes": ("string",),
}
"""What a writer's primitive type may be read as, besides itself."""
MAX_STEPS = 100_000
"""Pairs of types that one comparison looks at."""
MAX_PROBLEMS = 16


def unreadable(reader: str, writer: str) -> list[FieldError]:
    """Why data of ``writer`` cannot be read with ``reader``, each reason with its path in the reader; empty: it can.

    Args:
        reader: a schema as JSON.
        writer: likewise.

    Raises:
        InvalidInput: one of them is not a schema, or comparing them takes more than ``MAX_STEPS`` steps.
    """
    walk = _Walk(parse_schema(reader), parse_schema(writer))
    return walk.problems


class _Walk:
    def __init__(self, reader: Any, writer: Any) -> None:
        self._reader_names: dict[str, Any] = {}
        self._writer_names: dict[str, Any] = {}
        _collect(reader, self._reader_names)
        _collect(writer, self._writer_names)
        self._seen: set[tuple[str, str]] = set()
        self._steps = 0
        self.problems = self._compare(reader, writer, "")

    def _compare(self, reader: Any, writer: Any, path: str) -> list[FieldError]:
        self._steps += 1
        if self._steps > MAX_STEPS:
            raise InvalidInput(f"comparing the schemas takes more than {MAX_STEPS} steps", subject="schema")
        reader, writer = _resolved(reader, self._reader_names), _resolved(writer, self._writer_names)
        if isinstance(writer, list):
            found = [p for branch in writer for p in self._compare(reader, branch, path)]
            return found[:MAX_PROBLEMS]
        if isinstance(reader, list):
            if any(not self._attempt(branch, writer, path) for branch in reader):
                return []
            return [_problem(path, f"no branch of the union reads {_kind(writer)}")]
        return self._compare_types(reader, writer, path)[:MAX_PROBLEMS]

    def _attempt(self, reader: Any, writer: Any, path: str) -> list[FieldError]:
        """``_compare`` whose failure takes back what was assumed on its way."""
        assumed = set(self._seen)
        found = self._compare(reader, writer, path)
        if found:
            self._seen = assumed
        return found

    def _compare_types(self, reader: Any, writer: Any, path: str) -> list[FieldError]:
        read, written = _kind(reader), _kind(writer)
        if read != written:
            fits = read in _PROMOTIONS.get(written, ())
            return [] if fits else [_problem(path, f"is {read} and was written as {written}")]
        if read in ("record", "error", "enum", "fixed"):
            return self._compare_named(reader, writer, read, path)
        if read == "array":
            return self._compare(reader["items"], writer["items"], f"{path}[]")
        if read == "map":
            return self._compare(reader["values"], writer["values"], f"{path}{{}}")
        return []

    def _compare_named(self, reader: Any, writer: Any, kind: str, path: str) -> list[FieldError]:
        names = {_bare(reader["name"]), *(_bare(alias) for alias in reader.get("aliases", ()))}
        if _bare(writer["name"]) not in names:
            return [_problem(path, f"is called {reader['name']} and was written as {writer['name']}")]
        pair = (reader["name"], writer["name"])
        if pair in self._seen:
            return []
        self._seen.add(pair)
        if kind == "fixed":
            same = reader["size"] == writer["size"]
            return [] if same else [_problem(path, f"has {reader['size']} bytes and was written with {writer['size']}")]
        if kind == "enum":
            return _compare_enums(reader, writer, path)
        return self._compare_records(reader, writer, path)

    def _compare_records(self, reader: Any, writer: Any, path: str) -> list[FieldError]:
        written = {field["name"]: field for field in writer["fields"]}
        problems: list[FieldError] = []
        for field in reader["fields"]:
            place = f"{path}.{field['name']}" if path else field["name"]
            names = (field["name"], *field.get("aliases", ()))
            source = next((written[name] for name in names if name in written), None)
            if source is not None:
                problems += self._compare(field["type"], source["type"], place)
            elif "default" not in field:
                problems.append(_problem(place, "is not in what was written, and has no default"))
        return problems


def _compare_enums(reader: Any, writer: Any, path: str) -> list[FieldError]:
    lost = [symbol for symbol in writer["symbols"] if symbol not in reader["symbols"]]
    if not lost or "default" in reader:
        return []
    return [_problem(path, f"lacks the symbols {', '.join(lost[:5])}, and has no default")]


def _collect(schema: Any, names: dict[str, Any]) -> None:
    """Put every named type into ``names``."""
    if isinstance(schema, list):
        for branch in schema:
            _collect(branch, names)
    elif isinstance(schema, dict):
        if "name" in schema and isinstance(schema.get("type"), str):
            names[schema["name"]] = schema
        for member in ("items", "values"):
            _collect(schema.get(member), names)
        if isinstance(schema.get("type"), dict | list):
            _collect(schema["type"], names)
        for field in schema.get("fields", ()):
            _collect(field["type"], names)


def _resolved(schema: Any, names: dict[str, Any]) -> Any:
    """The type itself: a name's definition, and no wrapping ``{"type": …}`` around another type."""
    while True:
        if isinstance(schema, str) and schema in names:
            return names[schema]
        if isinstance(schema, dict) and isinstance(schema["type"], dict | list):
            schema = schema["type"]
        elif isinstance(schema, dict) and schema["type"] in names:
            schema = names[schema["type"]]
        else:
            return schema


def _kind(schema: Any) -> str:
    if isinstance(schema, list):
        return "a union"
    kind = schema if isinstance(schema, str) else schema["type"]
    return str(kind)


def _bare(name: str) -> str:
    return name.rpartition(".")[2]


def _problem(path: str, message: str) -> FieldError:
    return FieldError(path=path, message=message)
