"""The schemas of a kind's resources: as they are, as they are sent, and a page of them."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from platformd.api.openapi.declared import Of
from platformd.conductor.facts import Applied
from platformd.model.kind import Kind
from platformd.model.resource import SERVER_OWNED

USERS: Final = ("labels", "annotations", "owner", "spec")
"""What a merge patch can change."""
_REF: Final = "#/components/schemas/"
_NAMES: Final = {
    Of.RESOURCE: "",
    Of.WRITTEN: "Written",
    Of.PAGE: "Page",
    Of.NEW: "New",
    Of.WANTED: "Wanted",
    Of.PATCH: "Patch",
}


def reference(name: str) -> dict[str, Any]:
    """A reference to the component ``name``."""
    return {"$ref": _REF + name}


def name_of(kind: Kind, part: Of) -> str:
    """The component's name of a part of a kind."""
    return kind.name + _NAMES[part]


def kind_schemas(kind: Kind, resource: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The components of ``kind``, by name.

    Args:
        kind: the kind.
        resource: the schema of its envelope, as msgspec makes it.
    """
    properties = resource["properties"]
    exact = {"kind": {"const": kind.name}}
    described = resource | {"title": kind.name, "description": kind.summary, "properties": properties | exact}
    sent = {name: schema for name, schema in properties.items() if name not in SERVER_OWNED} | exact
    for name in ("name", "tenant"):
        sent[name] = {"anyOf": [sent[name], {"type": "null"}], "description": "Not another than the path says."}
    ignored = {
        name: {"description": "The server's; what is sent is ignored.", "readOnly": True} for name in SERVER_OWNED
    }
    needs_spec = any(field.required for field in msgspec.structs.fields(kind.spec))
    required = ["spec"] if needs_spec else []
    wanted = {
        "title": name_of(kind, Of.WANTED),
        "description": f"What a client says of {_a(kind.singular)}.",
        "type": "object",
        "properties": sent | ignored,
        "required": required,
        "additionalProperties": False,
    }
    patch = {
        "title": name_of(kind, Of.PATCH),
        "description": "A merge patch (RFC 7396): members replace, objects merge, `null` removes.",
        "type": "object",
        "properties": {name: {"type": ["object", "null"]} for name in USERS} | ignored,
        "additionalProperties": False,
    }
    page = {
        "title": name_of(kind, Of.PAGE),
        "description": f"A page of {kind.plural}; all pages of one listing are of one revision.",
        "type": "object",
        "properties": {
            "items": {"type": "array", "items": reference(kind.name)},
            "revision": {"type": "integer", "description": "Watch from it to miss nothing."},
            "cursor": {"type": ["string", "null"], "description": "For the next page; `null` when this was the last."},
        },
        "required": ["items", "revision", "cursor"],
        "additionalProperties": False,
    }
    named = sent | {"name": properties["name"]} | ignored
    new = wanted | {"title": name_of(kind, Of.NEW), "properties": named, "required": ["name", *required]}
    written = {
        "title": name_of(kind, Of.WRITTEN),
        "description": "The resource as it is then; with `report`, what was done.",
        "anyOf": [reference(kind.name), _report(kind)],
    }
    made = {Of.RESOURCE: described, Of.WRITTEN: written, Of.WANTED: wanted, Of.NEW: new, Of.PATCH: patch, Of.PAGE: page}
    return {name_of(kind, part): schema for part, schema in made.items()}


def _report(kind: Kind) -> dict[str, Any]:
    properties = msgspec.json.schema_components([Applied], ref_template=_REF + "{name}")[1]["Applied"]["properties"]
    return {
        "type": "object",
        "properties": properties | {"resource": reference(kind.name)},
        "required": list(properties),
        "additionalProperties": False,
    }


def _a(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"
