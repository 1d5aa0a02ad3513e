"""PyYAML by the rules of YAML 1.2's core schema, in both directions.

PyYAML follows YAML 1.1, where ``on`` is true, ``12:30`` is 750, ``2026-01-31`` a date and ``1e3`` a string. Here only
what looks like a number, a boolean or null to a person is one. What is written is quoted wherever either
version would take it for something else than the string that it is.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

import yaml

PREFIX: Final = "tag:yaml.org,2002:"

SCALARS: Final = {
    "null": (r"^(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    "bool": (r"^(?:true|True|TRUE|false|False|FALSE)$", list("tTfF")),
    "int": (r"^(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)$", list("-+0123456789")),
    "float": (
        r"^(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$",
        list("-+.0123456789"),
    ),
}
"""The types of plain scalars that are not strings: how they look and how they begin."""

TAGS: Final = {PREFIX + name for name in (*SCALARS, "str", "map", "seq")}
"""Every tag of the core schema."""

Loader: Any = type("Loader", (getattr(yaml, "CSafeLoader", yaml.SafeLoader),), {"yaml_implicit_resolvers": {}})
"""Composes nodes with the tags of the core schema."""

_DUMPER: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
Dumper: Any = type(
    "Dumper",
    (_DUMPER,),
    {"yaml_implicit_resolvers": {first: list(found) for first, found in _DUMPER.yaml_implicit_resolvers.items()}},
)
"""Writes what both versions read as it was."""

for _name, (_pattern, _first) in SCALARS.items():
    for _class in (Loader, Dumper):
        _class.add_implicit_resolver(PREFIX + _name, re.compile(_pattern), _first)


class NotOfItsTag(ValueError):
    """A scalar is not what its tag says."""


def scalar(node: yaml.Node) -> Any:
    """The value of a scalar whose tag is of the core schema.

    Raises:
        NotOfItsTag: it is not what the tag says.
    """
    text, kind = str(node.value), node.tag.removeprefix(PREFIX)
    if kind == "str":
        return text
    if kind not in SCALARS or re.match(SCALARS[kind][0], text) is None:  # only an explicit tag can be wrong
        raise NotOfItsTag(f"is not a value of the type {kind}: {text!r}")
    if kind == "null":
        return None
    if kind == "bool":
        return text.lower() == "true"
    if kind == "float":
        return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
    try:
        return int(text, 8 if text.startswith("0o") else 16 if text.startswith("0x") else 10)
    except ValueError as error:  # Python refuses thousands of digits
        raise NotOfItsTag("is not a number of reasonable length") from error


def dump(documents: Sequence[Any]) -> str:
    """``documents`` as YAML, with ``---`` between them, members in their order, no newline at the end."""
    text = yaml.dump_all(documents, Dumper=Dumper, sort_keys=False, allow_unicode=True, default_flow_style=False)
    return str(text).rstrip("\n")
