"""Validation that says everything that is wrong at once, each thing with its path.

msgspec stops at the first error, which makes a person fix a document one line at a time. Here the
document is walked along the types: structs, unions by tag, sequences and maps are taken apart, and
only the leaves are given to msgspec. Its verdict on the whole document stays the one that counts.
"""

from __future__ import annotations

import types
import typing
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import msgspec

from platformd.core.errors import FieldError, nearest


def validate(value: Any, wanted: Any, path: str) -> tuple[Any, list[FieldError]]:
    """``value`` converted to the type ``wanted``, or ``None`` and everything that is wrong with it.

    Args:
        value: builtin types, as JSON or YAML gives them.
        wanted: a type that msgspec can convert to.
        path: the path of ``value`` in its document, for the errors.
    """
    errors: list[FieldError] = []
    _walk(value, wanted, path, errors)
    if errors:
        return None, errors
    try:
        return msgspec.convert(value, wanted), []
    except msgspec.ValidationError as error:
        return None, [FieldError(path=path, message=_plain(error))]


def _under(path: str, member: str) -> str:
    return f"{path}.{member}" if path else member


def _plain(error: msgspec.ValidationError) -> str:
    return str(error).split(" - at `")[0]


def _walk(value: Any, wanted: Any, path: str, errors: list[FieldError]) -> None:
    bare = get_args(wanted)[0] if get_origin(wanted) is Annotated else wanted
    origin, arguments = get_origin(bare), get_args(bare)
    if origin in (Union, types.UnionType):
        _walk_union(value, bare, path, errors)
    elif isinstance(bare, type) and issubclass(bare, msgspec.Struct):
        _walk_struct(value, bare, path, errors)
    elif origin in (tuple, list) and isinstance(value, list):
        _leaf([], wanted, path, errors, only_if_length_is=len(value))
        for i, item in enumerate(value):
            _walk(item, arguments[0], f"{path}[{i}]", errors)
    elif origin is dict and isinstance(value, dict):
        for key, item in value.items():
            _leaf(key, arguments[0], _under(path, str(key)), errors)
            _walk(item, arguments[1], _under(path, str(key)), errors)
    else:
        _leaf(value, wanted, path, errors)


def _leaf(value: Any, wanted: Any, path: str, errors: list[FieldError], only_if_length_is: int | None = None) -> None:
    """Let msgspec judge ``value``. With ``only_if_length_is`` just the length of a sequence is judged."""
    if only_if_length_is is not None:
        meta = [m for m in get_args(wanted)[1:] if isinstance(m, msgspec.Meta)] if get_origin(wanted) else []
        for m in meta:
            if m.min_length is not None and only_if_length_is < m.min_length:
                errors.append(FieldError(path=path, message=f"has {only_if_length_is} items; at least {m.min_length}"))
            if m.max_length is not None and only_if_length_is > m.max_length:
                errors.append(FieldError(path=path, message=f"has {only_if_length_is} items; at most {m.max_length}"))
        return
    try:
        msgspec.convert(value, wanted)
    except msgspec.ValidationError as error:
        errors.append(FieldError(path=path, message=_plain(error)))


def _walk_union(value: Any, wanted: Any, path: str, errors: list[FieldError]) -> None:
    members = get_args(wanted)
    structs = {
        m.__struct_config__.tag: m
        for m in members
        if isinstance(m, type) and issubclass(m, msgspec.Struct) and m.__struct_config__.tag is not None
    }
    plain_structs = [m for m in members if isinstance(m, type) and issubclass(m, msgspec.Struct)]
    if not isinstance(value, dict) or not plain_structs:
        _leaf(value, wanted, path, errors)
    elif not structs:
        _walk_struct(value, plain_structs[0], path, errors)
    else:
        tag_field = next(iter(structs.values())).__struct_config__.tag_field or "type"
        tag = value.get(tag_field)
        if isinstance(tag, str) and tag in structs:
            _walk_struct(value, structs[tag], path, errors)
        else:
            known = ", ".join(str(t) for t in sorted(structs, key=str))
            found = "is missing" if tag is None else f"{tag!r} is not known"
            errors.append(FieldError(path=_under(path, tag_field), message=found, hint=f"one of: {known}"))


def _walk_struct(value: Any, wanted: type[msgspec.Struct], path: str, errors: list[FieldError]) -> None:
    if not isinstance(value, dict):
        errors.append(FieldError(path=path, message=f"Expected `object`, got `{_json_name(value)}`"))
        return
    hints = get_type_hints(wanted, include_extras=True)
    fields = {f.encode_name: f for f in msgspec.structs.fields(wanted)}
    tag_field = wanted.__struct_config__.tag_field
    for key, item in value.items():
        if key in fields:
            _walk(item, typing.cast("Any", hints[fields[key].name]), _under(path, str(key)), errors)
        elif key != tag_field:
            near = nearest(str(key), list(fields))
            hint = f"did you mean {near}?" if near else f"known: {', '.join(fields)}"
            errors.append(FieldError(path=_under(path, str(key)), message="is not a known field", hint=hint))
    for name, info in fields.items():
        if info.required and name not in value:
            errors.append(FieldError(path=_under(path, name), message="is required and missing"))


def _json_name(value: Any) -> str:
    if value is None:
        return "null"
    names = {bool: "bool", int: "int", float: "float", str: "str", list: "array", dict: "object"}
    return names.get(type(value), type(value).__name__)
