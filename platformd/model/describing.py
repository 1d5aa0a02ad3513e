"""What a kind is, as a document: made from its declaration, for faces that explain, generate or check.

Types come from msgspec, descriptions from the docstrings of structs and fields, units from the fields' types and
names. So what a field means is said once, beside the field. Docstrings of fields are nowhere at run time: they are read
from the source, once, when somebody asks.

A field's ``x-unit`` is what its value is counted in: ``bytes``, ``bytes/s``, ``1/s``, ``%``, ``s``, ``duration`` (a
string with its unit), ``size`` (a string with a binary unit) or ``time`` (RFC 3339 UTC).
"""

from __future__ import annotations

import ast
import functools
import inspect
import sys
import typing
from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec

from platformd.core.errors import InvalidInput, NotFound, nearest
from platformd.model.kind import Action, Kind
from platformd.model.resource import SERVER_OWNED, Resource

DEFS: Final = "#/$defs/{name}"
"""Where the schemas of one document refer to each other."""

_UNITS: Final = (
    ("bytes_per_second", "bytes/s"),
    ("_per_second", "1/s"),
    ("bytes", "bytes"),
    ("_percent", "%"),
    ("_seconds", "s"),
    ("_at", "time"),
    ("_time", "time"),
    ("since", "time"),
)
"""How a field's name ends, and what it is counted in; the first that fits. Types that say their unit come first."""


def describe_kind(kind: Kind) -> dict[str, Any]:
    """Everything that there is to know of a kind, as builtin types.

    ``schema`` is a JSON Schema (2020-12) of the whole resource; ``states`` has a row for each state with those that
    may follow, and is empty when states are free.
    """
    return {
        "name": kind.name,
        "plural": kind.plural,
        "singular": kind.singular,
        "summary": kind.summary,
        "aliases": list(kind.aliases),
        "columns": [{"title": c.title, "path": c.path, "format": c.format, "wide": c.wide} for c in kind.columns],
        "schema": resource_schema(kind),
        "example": {"kind": kind.name, "name": f"my-{kind.singular}", "spec": dict(kind.example)},
        "actions": [_describe_action(action) for action in kind.actions],
        "states": [
            {"state": state, "initial": state == kind.status().state, "next": sorted(following)}
            for state, following in kind.transitions.items()
        ],
        "rules": [" ".join((inspect.getdoc(check) or "").split()) for check in kind.checks],
        "finalizer": kind.finalizer,
    }


def _describe_action(action: Action) -> dict[str, Any]:
    return {
        "name": action.name,
        "summary": action.summary,
        "destructive": action.destructive,
        "parameters": struct_schema(action.parameters),
        "result": struct_schema(action.result) if action.result is not None else None,
    }


def explain_path(kind: Kind, path: str) -> dict[str, Any]:
    """The schema of one field, by its dotted path (``spec.stages.name``); lists and alternatives are walked through.

    Raises:
        NotFound: there is no such field; the hint has the nearest, or those that there are.
    """
    schema = resource_schema(kind)
    found: dict[str, Any] = {"$ref": schema["$ref"]}
    for word in [w for w in path.split(".") if w]:
        properties = _properties(found, schema["$defs"])
        if word not in properties:
            near = nearest(word, list(properties))
            known = f"there are: {', '.join(properties)}" if properties else "it has no fields"
            hint = f"did you mean {near}?" if near else known
            raise NotFound(f"there is no field {word!r}", subject=f"{kind.singular}.{path}", hint=hint)
        found = properties[word]
    return found | {"$defs": schema["$defs"]}


def _properties(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of what ``schema`` describes, those of all alternatives together."""
    if "$ref" in schema:
        return _properties(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    fields: dict[str, Any] = dict(schema.get("properties", {}))
    for inner in (*schema.get("anyOf", ()), schema.get("items"), schema.get("additionalProperties")):
        if isinstance(inner, dict):
            fields = {**_properties(inner, definitions), **fields}
    return fields


def resource_schema(kind: Kind) -> dict[str, Any]:
    """The JSON Schema of a kind's resources, in one document."""
    return {"$ref": DEFS.format(name=kind.name), "$defs": component_schemas([kind])}


def struct_schema(struct: type[msgspec.Struct]) -> dict[str, Any]:
    """The JSON Schema of any struct, in one document."""
    return {"$ref": DEFS.format(name=struct.__name__), "$defs": component_schemas(structs=[struct])}


def component_schemas(
    kinds: Iterable[Kind] = (), structs: Iterable[type[msgspec.Struct]] = (), ref_template: str = DEFS
) -> dict[str, dict[str, Any]]:
    """The schemas of kinds, of other structs and of everything in them, by name; every field has a description.

    Args:
        kinds: each becomes a schema of its own name, beside those of its spec and its status.
        structs: more types, such as what actions take.
        ref_template: how schemas refer to each other; OpenAPI has ``#/components/schemas/{name}``.

    Raises:
        InvalidInput: two types have one name.
    """
    kinds, structs = list(kinds), list(structs)
    types = [*(kind.resource_type for kind in kinds), *structs]
    references, found = msgspec.json.schema_components(types, ref_template=ref_template)
    known: dict[str, type[msgspec.Struct]] = {}
    for root in (Resource, *(part for kind in kinds for part in (kind.spec, kind.status)), *structs):
        _collect(root, known)
    made: dict[str, dict[str, Any]] = {}
    for kind, reference in zip(kinds, references, strict=False):
        schema = found.pop(reference["$ref"].rpartition("/")[2])
        _describe_fields(schema, Resource)
        made[kind.name] = schema | {"title": kind.name, "description": kind.summary}
        schema["properties"]["kind"] |= {"const": kind.name}
        for name in SERVER_OWNED:
            schema["properties"][name]["readOnly"] = True
    for name, schema in found.items():
        if name in made:
            raise InvalidInput("is the name of a kind and of a struct in it", subject=name)
        if name in known:
            _describe_fields(schema, known[name])
        made[name] = schema
    plain: dict[str, dict[str, Any]] = msgspec.json.decode(msgspec.json.encode(made))  # defaults may be tuples
    return plain


def _describe_fields(schema: dict[str, Any], struct: type[msgspec.Struct]) -> None:
    """Give each property what its field's docstring says, and its unit."""
    if "description" in schema:
        schema["description"] = inspect.cleandoc(schema["description"])
    docs = field_docs(struct)
    tag = struct.__struct_config__.tag_field
    for name, described in schema.get("properties", {}).items():
        if name == tag:
            described.setdefault("description", "Which of the alternatives this is.")
            continue
        parts = [docs.get(name, ""), described.get("description", "")]
        text = " ".join(part for part in parts if part)
        if text:
            described["description"] = text
        unit = _unit(name, described)
        if unit is not None:
            described["x-unit"] = unit


def _unit(name: str, described: Mapping[str, Any]) -> str | None:
    own: str | None = described.get("x-unit")
    alternatives = [described, *described.get("anyOf", ())]
    if own is not None:
        return own
    countable = {"integer", "number", "string"} & {str(one.get("type")) for one in alternatives}
    fitting = (unit for ending, unit in _UNITS if name.endswith(ending))
    return next(fitting, None) if countable else None


def _collect(wanted: Any, known: dict[str, type[msgspec.Struct]]) -> None:
    """All structs that the type ``wanted`` is made of, by name."""
    if isinstance(wanted, type) and issubclass(wanted, msgspec.Struct):
        if known.get(wanted.__name__, wanted) is not wanted:
            raise InvalidInput("two types of one document have this name", subject=wanted.__name__)
        if wanted.__name__ not in known:
            known[wanted.__name__] = wanted
            for hint in typing.get_type_hints(wanted, include_extras=True).values():
                _collect(hint, known)
        return
    for argument in typing.get_args(wanted):
        _collect(argument, known)


def field_docs(struct: type[msgspec.Struct]) -> dict[str, str]:
    """What the docstrings below the fields of ``struct`` (and of what it is derived from) say, on one line each."""
    docs: dict[str, str] = {}
    for base in reversed(struct.__mro__):
        if issubclass(base, msgspec.Struct) and base is not msgspec.Struct:
            docs |= _documented(base.__module__).get(base.__name__, {})
    return docs


@functools.cache
def _documented(module: str) -> dict[str, dict[str, str]]:
    """The docstrings of fields in a module, by the class's name and the field's; empty when there is no source."""
    try:
        tree = ast.parse(inspect.getsource(sys.modules[module]))
    except (OSError, KeyError, TypeError):
        return {}
    classes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    return {node.name: dict(_fields_of(node)) for node in classes}


def _fields_of(node: ast.ClassDef) -> Iterable[tuple[str, str]]:
    for field, text in zip(node.body, node.body[1:], strict=False):
        match field, text:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(doc))):
                yield name, " ".join(doc.split())
