"""What is wrong with a request whatever the store holds: limits, types, a key that is changed twice. No I/O.

Every engine asks here before it does anything, so that all of them refuse the same requests with the same words.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, get_args

from platformd.coordination.contract import Compare, CompareOperator, CompareTarget, Delete, Get, Operation, Put
from platformd.core.errors import FieldError, InvalidInput, TooLarge

_OPERATORS = frozenset(get_args(CompareOperator))
_TARGETS = frozenset(get_args(CompareTarget))


class Limits(NamedTuple):
    """What a request may hold at most."""

    key_bytes: int
    value_bytes: int
    operations: int


def check_key(key: bytes, limits: Limits, what: str = "key") -> None:
    """Refuse a key that is empty or too large.

    Raises:
        InvalidInput: it is not bytes, or empty.
        TooLarge: it is over the limit.
    """
    if not isinstance(key, bytes):
        raise InvalidInput(f"the {what} is not bytes but {type(key).__name__}", subject="store")
    if not key:
        raise InvalidInput(f"the {what} is empty", subject="store", hint="a key has at least one byte")
    if len(key) > limits.key_bytes:
        raise TooLarge(f"the {what} has {len(key)} bytes; max_key is {limits.key_bytes}", subject=shown(key))


def check_range(key: bytes, end: bytes | None, limits: Limits) -> None:
    """Refuse the bounds of a range that no key can have. An empty ``key`` is the lowest bound.

    Raises: as ``check_key``.
    """
    if key:
        check_key(key, limits)
    if end is not None and len(end) > limits.key_bytes + 1:  # one more: a key's successor is key + b"\0"
        raise TooLarge(f"the range's end has {len(end)} bytes; max_key is {limits.key_bytes}", subject=shown(end))


def check(
    compares: Sequence[Compare], then: Sequence[Operation], otherwise: Sequence[Operation], limits: Limits
) -> int:
    """Refuse what is wrong with a transaction whatever the store holds; its size in bytes if nothing is.

    Raises:
        TooLarge: too many operations, or a key or a value is over its limit.
        InvalidInput: a compare of the wrong type, or a branch that puts a key twice or puts and deletes it.
    """
    count = len(compares) + len(then) + len(otherwise)
    if count > limits.operations:
        raise TooLarge(f"{count} operations; max_txn_operations is {limits.operations}", subject="transaction")
    size = sum(_check_compare(compare, limits) for compare in compares)
    for branch in (then, otherwise):
        size += sum(_check_operation(operation, limits) for operation in branch)
        if len(branch) > 1:
            _check_overlap(branch)
    return size


def _check_compare(compare: Compare, limits: Limits) -> int:
    check_key(compare.key, limits)
    wanted = bytes if compare.target == "value" else int
    if type(compare.operand) is not wanted or compare.operator not in _OPERATORS or compare.target not in _TARGETS:
        raise InvalidInput(
            f"cannot compare {compare.target} {compare.operator} {compare.operand!r:.80}",
            subject=shown(compare.key),
            hint="value is compared with bytes; version, create_revision, mod_revision and lease with an integer",
        )
    return len(compare.key) + (len(compare.operand) if isinstance(compare.operand, bytes) else 8)


def _check_operation(operation: Operation, limits: Limits) -> int:
    if isinstance(operation, Put):
        check_key(operation.key, limits)
        if not isinstance(operation.value, bytes):
            raise InvalidInput(
                f"the value is not bytes but {type(operation.value).__name__}", subject=shown(operation.key)
            )
        if len(operation.value) > limits.value_bytes:
            raise TooLarge(
                f"the value has {len(operation.value)} bytes; max_value is {limits.value_bytes}",
                subject=shown(operation.key),
            )
        return len(operation.key) + len(operation.value)
    if operation.end is None:
        check_key(operation.key, limits)
        return len(operation.key)
    check_range(operation.key, operation.end, limits)
    return len(operation.key) + len(operation.end)


def _check_overlap(branch: Sequence[Operation]) -> None:
    """As in etcd: within one branch a key is changed by one put, or by deletes, never by two of these."""
    put: set[bytes] = set()
    wrong: list[FieldError] = []
    for index, operation in enumerate(branch):
        if isinstance(operation, Put):
            if operation.key in put:
                wrong.append(FieldError(path=f"[{index}]", message=f"puts {shown(operation.key)} a second time"))
            put.add(operation.key)
    for index, operation in enumerate(branch):
        if isinstance(operation, Delete):
            hit = next((key for key in put if covers(operation, key)), None)
            if hit is not None:
                wrong.append(FieldError(path=f"[{index}]", message=f"deletes {shown(hit)}, which the branch also puts"))
    if wrong:
        raise InvalidInput(
            "a key is changed twice in one transaction",
            subject="transaction",
            hint="put a key once, and do not delete what you put",
            errors=tuple(wrong),
        )


def covers(operation: Delete | Get, key: bytes) -> bool:
    """Whether ``key`` is what ``operation`` names, or within its range."""
    return key == operation.key if operation.end is None else operation.key <= key < operation.end


def shown(key: bytes) -> str:
    """A key for a message: text where it is text, short."""
    return repr(key)[2:-1] if len(key) <= 80 else repr(key[:80])[2:-1] + "…"
