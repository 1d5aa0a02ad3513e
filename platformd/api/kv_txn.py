"""Transactions as JSON: ``{"compares": […], "then": […], "else": […]}``.

A compare is ``{"key", "target", "operator", "operand"}``, an operation is ``{"op": "put", "key", "value"}``, ``{"op":
"delete", "key"}`` or ``{"op": "get", "key"}``; the last two also take a ``prefix``, or a ``key`` and an ``end``.
"""

from __future__ import annotations

from typing import Any, Final, Literal, TypeVar

import msgspec

from platformd.api.kv_forms import checked_key, from_base64, kv_document, lease_number, range_of
from platformd.coordination.contract import (
    Compare,
    CompareOperator,
    CompareTarget,
    Delete,
    DeleteResult,
    Get,
    GetResult,
    Operation,
    Put,
    PutResult,
    TxnResult,
)
from platformd.core.errors import FieldError, InvalidInput, PlatformError

MEMBERS: Final = ("compares", "then", "else")
"""The lists of a transaction."""

_Text = str | msgspec.UnsetType


class _Item(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    key: _Text = msgspec.UNSET
    key_base64: _Text = msgspec.UNSET


class _Compare(_Item, kw_only=True, forbid_unknown_fields=True):
    target: CompareTarget
    operator: CompareOperator
    operand: int | str | msgspec.UnsetType = msgspec.UNSET
    operand_base64: _Text = msgspec.UNSET


class _Put(_Item, kw_only=True, forbid_unknown_fields=True, tag_field="op", tag="put"):
    value: _Text = msgspec.UNSET
    value_base64: _Text = msgspec.UNSET
    lease: str | None = None


class _Range(_Item, kw_only=True, forbid_unknown_fields=True):
    prefix: _Text = msgspec.UNSET
    prefix_base64: _Text = msgspec.UNSET
    end: _Text = msgspec.UNSET
    end_base64: _Text = msgspec.UNSET


class _Delete(_Range, kw_only=True, forbid_unknown_fields=True, tag_field="op", tag="delete"):
    pass


class _Get(_Range, kw_only=True, forbid_unknown_fields=True, tag_field="op", tag="get"):
    pass


_OPERATIONS: Final = _Put | _Delete | _Get
T = TypeVar("T")


def read_txn(document: Any) -> tuple[list[Compare], list[Operation], list[Operation]]:
    """The transaction that ``document`` describes.

    Raises:
        InvalidInput: it describes none; ``errors`` has every place that is wrong.
    """
    if not isinstance(document, dict):
        raise InvalidInput("a transaction is an object", subject="txn", hint=f"its members: {', '.join(MEMBERS)}")
    errors = [
        FieldError(path=name, message="is not known here", hint=f"known: {', '.join(MEMBERS)}")
        for name in document
        if name not in MEMBERS
    ]
    lists: dict[str, list[Any]] = {}
    for name in MEMBERS:
        given = document.get(name, [])
        lists[name] = given if isinstance(given, list) else []
        if not isinstance(given, list):
            errors.append(FieldError(path=name, message="is not a list"))
    compares = _each(lists, "compares", _Compare, _compare, errors)
    then = _each(lists, "then", _OPERATIONS, _operation, errors)
    otherwise = _each(lists, "else", _OPERATIONS, _operation, errors)
    if errors:
        raise InvalidInput("the transaction is not valid; nothing was done", subject="txn", errors=tuple(errors))
    return compares, then, otherwise


def _each(lists: dict[str, list[Any]], name: str, form: Any, make: Any, errors: list[FieldError]) -> list[Any]:
    """Each item of a list, converted; what is wrong is put down with its place."""
    made = []
    for i, item in enumerate(lists[name]):
        path = f"{name}[{i}]"
        try:
            made.append(make(msgspec.convert(item, form)))
        except msgspec.ValidationError as error:
            message, _, inner = str(error).partition(" - at `$")
            errors.append(FieldError(path=path + inner.rstrip("`"), message=message))
        except PlatformError as error:
            errors.append(FieldError(path=path, message=error.message, hint=error.hint))
    return made


def _bytes(item: Any, name: str) -> bytes | None:
    """The member ``name`` in whichever form it is there; ``None`` if it is not."""
    plain, encoded = getattr(item, name), getattr(item, f"{name}_base64")
    if plain is not msgspec.UNSET and encoded is not msgspec.UNSET:
        raise InvalidInput(f"{name} and {name}_base64 exclude each other")
    if encoded is not msgspec.UNSET:
        return from_base64(encoded, name)
    return None if plain is msgspec.UNSET else str(plain).encode()


def _key(item: Any) -> bytes:
    key = _bytes(item, "key")
    if key is None:
        raise InvalidInput("has no key")
    return checked_key(key)


def _compare(item: _Compare) -> Compare:
    key = _key(item)
    if item.target == "value":
        if isinstance(item.operand, int):
            raise InvalidInput("a value is compared with text", hint='write the number in quotes, as it is stored: "1"')
        operand = _bytes(item, "operand")
        if operand is None:
            raise InvalidInput("has no operand")
        return Compare(key, item.target, item.operator, operand)
    if item.target == "lease" and isinstance(item.operand, str):
        return Compare(key, item.target, item.operator, lease_number(item.operand))
    if not isinstance(item.operand, int):
        raise InvalidInput(f"{item.target} is compared with a whole number")
    return Compare(key, item.target, item.operator, item.operand)


def _operation(item: _Put | _Delete | _Get) -> Operation:
    if isinstance(item, _Put):
        value = _bytes(item, "value")
        if value is None:
            raise InvalidInput("has no value")
        return Put(_key(item), value, lease_number(item.lease) if item.lease else 0)
    operation = Delete if isinstance(item, _Delete) else Get
    prefix = _bytes(item, "prefix")
    if prefix is None:
        return operation(_key(item), _bytes(item, "end"))
    if _bytes(item, "key") is not None or _bytes(item, "end") is not None:
        raise InvalidInput("prefix stands alone", hint="or give key and end")
    return operation(*range_of(prefix, "prefix"))


def txn_document(result: TxnResult, *, previous: bool) -> dict[str, Any]:
    """The answer to a transaction as JSON types."""
    results = [_result(one, previous=previous) for one in result.results]
    return {"succeeded": result.succeeded, "revision": result.revision, "results": results}


def _result(result: PutResult | DeleteResult | GetResult, *, previous: bool) -> dict[str, Any]:
    op: Literal["put", "delete", "get"]
    if isinstance(result, GetResult):
        return {"op": "get", "items": [kv_document(kv) for kv in result.items]}
    if isinstance(result, DeleteResult):
        op, document, before = "delete", {"deleted": result.deleted}, [kv_document(kv) for kv in result.previous]
        return {"op": op} | document | ({"previous": before} if previous else {})
    was = None if result.previous is None else kv_document(result.previous)
    return {"op": "put"} | ({"previous": was} if previous else {})
