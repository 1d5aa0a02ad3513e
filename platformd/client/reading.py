"""Reading what a server sends, also one that is newer than this client.

The facts of the model refuse unknown fields, which is right for what a user writes and wrong for what a
server answers: a newer one may have added a field to a status. So a document that does not fit is read
again without the members that this version does not know. The declared types stay the only ones (no
lenient twins of them), and a document that fits costs nothing extra.

What cannot be dropped (a new type of stage, a new form of a value) is an error that says so. Whoever wants
to show a resource exactly as it was sent, new fields included, uses the document itself, as the command
line does.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import msgspec

from platformd.core.errors import Unsupported
from platformd.model.kind import Kind
from platformd.model.kinds import find_kind
from platformd.model.resource import AnyResource

if TYPE_CHECKING:
    from msgspec import inspect


def as_kind(kind: Kind | str) -> Kind:
    """``kind``, also by its name, plural or alias.

    Raises:
        NotFound: no kind is called that.
    """
    return find_kind(kind) if isinstance(kind, str) else kind


def read_resource(kind: Kind, document: Any) -> AnyResource:
    """The resource in ``document``, as a server sent it (decoded JSON).

    Raises:
        Unsupported: it cannot be read as this version's ``kind``.
    """
    resource_type = _resource_type(kind.name)
    try:
        return msgspec.convert(document, resource_type)  # type: ignore[no-any-return]
    except msgspec.ValidationError:
        pass
    try:
        return msgspec.convert(_known(document, _inspected(kind.name)), resource_type)  # type: ignore[no-any-return]
    except msgspec.ValidationError as error:
        name = document.get("name", "?") if isinstance(document, dict) else "?"
        raise Unsupported(
            f"this version cannot read what the server sent: {error}",
            subject=f"{kind.singular}/{name}",
            hint="the server may be newer than this client: compare `platformd version` and `platformd status`",
        ) from error


@functools.cache
def _resource_type(kind_name: str) -> Any:
    return find_kind(kind_name).resource_type


@functools.cache
def _inspected(kind_name: str) -> inspect.Type:
    from msgspec import inspect  # only wanted when the server is of another version

    return inspect.type_info(_resource_type(kind_name))


def _known(value: Any, declared: inspect.Type) -> Any:
    """``value`` without the members of objects that ``declared`` does not have."""
    from msgspec import inspect

    if isinstance(declared, inspect.Metadata):
        return _known(value, declared.type)
    if isinstance(declared, inspect.UnionType):
        return _known(value, _variant(value, declared))
    if isinstance(declared, inspect.StructType) and isinstance(value, dict):
        fields: dict[Any, inspect.Type] = {field.encode_name: field.type for field in declared.fields}
        kept = {name: _known(member, fields[name]) for name, member in value.items() if name in fields}
        return kept | ({declared.tag_field: declared.tag} if declared.tag_field is not None else {})
    if isinstance(declared, inspect.VarTupleType | inspect.ListType) and isinstance(value, list):
        return [_known(item, declared.item_type) for item in value]
    if isinstance(declared, inspect.DictType) and isinstance(value, dict):
        return {name: _known(member, declared.value_type) for name, member in value.items()}
    return value


def _variant(value: Any, union: inspect.UnionType) -> inspect.Type:
    """The member of ``union`` that ``value`` is meant to be; decoding judges a value that is none."""
    from msgspec import inspect

    structs = [variant for variant in union.types if isinstance(variant, inspect.StructType)]
    for variant in structs:
        if isinstance(value, dict) and variant.tag_field is not None and value.get(variant.tag_field) == variant.tag:
            return variant
    if isinstance(value, dict) and len(structs) == 1 and structs[0].tag_field is None:
        return structs[0]
    others = [variant for variant in union.types if not isinstance(variant, inspect.StructType | inspect.NoneType)]
    return others[0] if len(others) == 1 else inspect.AnyType()
