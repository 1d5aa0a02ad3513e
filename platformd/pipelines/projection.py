"""Which part of an Avro schema is decoded.

A packet carries the schema it was written with. The reader's schema is made from it: the same schema
without the fields that no stage uses, so that fastavro skips them (image stamps are most of a packet).

Not every schema is read, since what a packet becomes in memory must be bounded by its size. Refused are:

- a type that contains itself: the nesting of a value, and so the stack, would be the writer's choice;
- types that make many values of few bytes: an array of nulls in which ten bytes claim 10^18 items, or
  records in records whose number doubles with each level. What is bounded is the *excess* of a type: how
  many values it can be beyond ``VALUES_PER_BYTE`` for each byte that it takes. It adds up over the fields of
  a record, is the worst member's for a union, and may not be positive for the items of an array or a map,
  of which there can be any number. So a packet of n bytes has at most n * VALUES_PER_BYTE + MAX_EXCESS values.

Of the logical types only timestamps are converted (to datetimes); values of the others come as they are
stored, so that every value can be given to CEL and MessagePack.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import fastavro.schema

from platformd.core.errors import InvalidInput

MAX_DEPTH = 32
"""The deepest nesting of types in a schema."""
VALUES_PER_BYTE = 8
"""How many values (records, items, fields) a byte of a packet may become."""
MAX_EXCESS = 100_000
"""How many values a packet may have beyond that."""

_KEPT_LOGICAL = frozenset({"timestamp-millis", "timestamp-micros"})
_SIZES = {"null": 0, "float": 4, "double": 8}
"""The fewest bytes of the primitive types; one for all others."""

Needs = dict[str, "Needs"] | None
"""Which fields of a record are wanted, by name, and of those again; ``None`` for all."""

FOREIGN_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    RecursionError,
    TypeError,
    ValueError,
    fastavro.schema.SchemaParseException,
    fastavro.schema.UnknownType,
)
"""What fastavro and json raise on input that is not what it should be."""


class PacketError(InvalidInput):
    """A packet that cannot be read; the message says what is wrong with it, and where."""


def needs_of(paths: Iterable[str] | None) -> Needs:
    """The tree of dotted paths; ``None`` stands for everything.

    A path means the value there with all that is in it; through arrays it goes into the items.
    """
    if paths is None:
        return None
    tree: dict[str, Needs] = {}
    for path in sorted(paths, key=lambda p: -p.count(".")):  # the shorter path, which takes more, wins
        node: dict[str, Needs] | None = tree
        *parents, last = path.split(".")
        for name in parents:
            below = node.setdefault(name, {}) if node is not None else None
            node = below
        if node is not None:
            node[last] = None
    return tree


def schemas(text: bytes, needs: Needs) -> tuple[Any, Any | None]:
    """The writer's schema in ``text``, parsed, and the reader's schema for ``needs``.

    Returns:
        The second is ``None`` where all is to be decoded, or where the projection cannot be expressed.

    Raises:
        PacketError: it is no schema of a record, or one that cannot be bounded.
    """
    try:
        writer = fastavro.schema.parse_schema(_without_logical(json.loads(text), 0))
    except FOREIGN_ERRORS as error:
        raise PacketError(f"its schema cannot be read: {_first_line(error)}") from error
    if not isinstance(writer, dict) or writer.get("type") != "record":
        raise PacketError("its schema is not that of a record")
    judge = _Judge()
    judge.judge(writer)
    definitions = judge.definitions
    if needs is None:
        return writer, None
    wanted: dict[str, Needs] = {}
    _spread(writer, needs, definitions, wanted)
    try:
        reader = fastavro.schema.parse_schema(_prune(writer, definitions, wanted, set()))
    except FOREIGN_ERRORS:
        return writer, None
    return writer, reader


def _first_line(error: BaseException) -> str:
    text = str(error).split("\n")[0][:200]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _without_logical(schema: Any, depth: int) -> Any:
    if depth > 4 * MAX_DEPTH:  # a record takes three levels of JSON
        raise PacketError(f"its schema is nested deeper than {MAX_DEPTH} types")
    if isinstance(schema, list):
        return [_without_logical(s, depth + 1) for s in schema]
    if isinstance(schema, dict):
        drop = schema.get("logicalType") not in _KEPT_LOGICAL
        # A default is not looked into: it is data, and no field is ever filled in from it here.
        return {
            k: v if k == "default" else _without_logical(v, depth + 1)
            for k, v in schema.items()
            if not (k == "logicalType" and drop)
        }
    return schema


class _Judge:
    """Works out the excess and the depth of types; each named type once."""

    def __init__(self) -> None:
        self.definitions: dict[str, Any] = {}
        self._known: dict[str, tuple[int, int]] = {}

    def judge(self, schema: Any) -> tuple[int, int]:
        """The excess (see the head of the file) and the depth of a type."""
        if isinstance(schema, str):
            if schema not in self.definitions:
                return 1 - VALUES_PER_BYTE * _SIZES.get(schema, 1), 0
            if schema not in self._known:
                raise PacketError(f"its type {schema} contains itself, which is not supported")
            return self._known[schema]
        if isinstance(schema, list):
            found = [self.judge(member) for member in schema]
            return max((e for e, _ in found), default=1) - VALUES_PER_BYTE, max((d for _, d in found), default=0)
        kind = schema["type"]
        if kind in ("array", "map"):
            excess, depth = self.judge(schema["items" if kind == "array" else "values"])
            if excess > (0 if kind == "array" else VALUES_PER_BYTE):
                raise PacketError(f"it has an {kind} whose items are many values in few bytes, which is not supported")
            return 1 - VALUES_PER_BYTE, self._deeper(depth)
        if kind in ("fixed", "enum", "record"):
            return self._named(schema, kind)
        return self.judge(kind)

    def _named(self, schema: Any, kind: str) -> tuple[int, int]:
        name = schema["name"]
        self.definitions[name] = schema
        if kind == "record":
            found = [self.judge(field["type"]) for field in schema["fields"]]
            verdict = 1 + sum(e for e, _ in found), self._deeper(max((d for _, d in found), default=0))
        else:
            verdict = 1 - VALUES_PER_BYTE * (int(schema["size"]) if kind == "fixed" else 1), 0
        if verdict[0] > MAX_EXCESS:
            raise PacketError(f"its type {name} has more than {MAX_EXCESS} values in few bytes, which is not supported")
        self._known[name] = verdict
        return verdict

    def _deeper(self, depth: int) -> int:
        if depth >= MAX_DEPTH:
            raise PacketError(f"its schema is nested deeper than {MAX_DEPTH} types")
        return depth + 1


def _spread(schema: Any, needs: Needs, definitions: Mapping[str, Any], wanted: dict[str, Needs]) -> None:
    """Collect in ``wanted`` what is needed of each record: all its uses together, since a type has one form."""
    if isinstance(schema, str):
        schema = definitions.get(schema, {"type": ""})
    if isinstance(schema, list):
        for member in schema:
            _spread(member, needs, definitions, wanted)
        return
    match schema["type"]:
        case "record":
            _spread_record(schema, needs, definitions, wanted)
        case "array":
            _spread(schema["items"], needs, definitions, wanted)
        case "map":
            _spread(schema["values"], None, definitions, wanted)  # its keys are data: all values are wanted whole
        case dict() | list() as inner:
            _spread(inner, needs, definitions, wanted)


def _spread_record(schema: Any, needs: Needs, definitions: Mapping[str, Any], wanted: dict[str, Needs]) -> None:
    name = schema["name"]
    united = _united(wanted[name], needs) if name in wanted else needs
    if name in wanted and wanted[name] == united:
        return
    wanted[name] = united
    for field in schema["fields"]:
        if needs is None or field["name"] in needs:
            _spread(field["type"], None if needs is None else needs[field["name"]], definitions, wanted)


def _united(first: Needs, second: Needs) -> Needs:
    if first is None or second is None:
        return None
    both = dict(first)
    for name, needs in second.items():
        both[name] = _united(both[name], needs) if name in both else needs
    return both


def _prune(schema: Any, definitions: Mapping[str, Any], wanted: Mapping[str, Needs], defined: set[str]) -> Any:
    """A copy without the fields that nobody wants; a named type is defined where it is kept first."""
    if isinstance(schema, str):
        if schema not in definitions or schema in defined:
            return schema
        schema = definitions[schema]
    if isinstance(schema, list):
        return [_prune(member, definitions, wanted, defined) for member in schema]
    copy = {k: v for k, v in schema.items() if not k.startswith("__")}
    kind = schema["type"]
    if kind in ("record", "fixed", "enum"):
        if schema["name"] in defined:
            return schema["name"]
        defined.add(schema["name"])
    if kind == "record":
        needs = wanted.get(schema["name"])
        copy["fields"] = [
            {**f, "type": _prune(f["type"], definitions, wanted, defined)}
            for f in schema["fields"]
            if needs is None or f["name"] in needs
        ]
    elif kind == "array":
        copy["items"] = _prune(schema["items"], definitions, wanted, defined)
    elif kind == "map":
        copy["values"] = _prune(schema["values"], definitions, wanted, defined)
    return copy
