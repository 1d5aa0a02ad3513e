"""The table of who may do what, and what belongs to a tenant."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from platformd.conductor.streams import engine_name
from platformd.coordination.recipes.barrier import BARRIERS
from platformd.coordination.recipes.double_barrier import DOUBLE_BARRIERS
from platformd.coordination.recipes.election import ELECTIONS
from platformd.coordination.recipes.lock import LOCKS
from platformd.coordination.recipes.places import queue_prefix
from platformd.core.errors import Forbidden, Unauthorized
from platformd.model.access import (
    NOBODY,
    ROLES,
    RULES,
    SCOPES,
    TABLE,
    Principal,
    Role,
    allowed,
    check,
    key_spaces,
    matrix,
    may_name,
    may_touch,
    scope_of,
    stream_tenant,
)
from platformd.model.kinds import KINDS

OPERATIONS = [rule.operation for rule in RULES]
roles, operations, scopes = st.sampled_from(ROLES), st.sampled_from(OPERATIONS), st.sampled_from(SCOPES)
tenants = st.sampled_from(["survey", "survey-2", "surve", "default"])


def who(role: Role | None, tenant: str | None = None) -> Principal:
    return Principal(name="token:x", role=role, how="token", tenant=tenant)


def test_every_operation_is_named_once_and_only_admins_hand_out_access() -> None:
    """No name stands twice; admins may do everything, and they alone what would make more admins."""
    assert len(TABLE) == len(RULES)
    for rule in RULES:
        assert rule.allowed["admin"] == frozenset(SCOPES)
        assert rule.allowed["tenant"] <= {"own", "global"}
    for operation in ("access.manage", "backup"):
        assert not any(TABLE[operation].allowed[role] for role in ROLES if role != "admin")


def test_a_reader_changes_nothing() -> None:
    """Each operation of a reader is named as reading."""
    assert {rule.operation.rpartition(".")[2] for rule in RULES if rule.allowed["reader"]} == {"read"}


def test_what_nobody_declared_nobody_may_do() -> None:
    """An operation that is not in the table is refused to everybody, and everything to one without a role."""
    assert not any(allowed(who(role), "kv.raed", scope) for role in ROLES for scope in SCOPES)
    assert not any(allowed(who(None), operation, scope) for operation in OPERATIONS for scope in SCOPES)
    assert not any(allowed(who("tenant"), operation, scope) for operation in OPERATIONS for scope in SCOPES)


@given(role=roles, tenant=tenants, operation=operations, scope=scopes)
def test_binding_to_a_tenant_only_takes_away(role: Role, tenant: str, operation: str, scope: str) -> None:
    """Bound to a tenant, nobody may do more than its role's row says, nor more than the row of tenants."""
    if allowed(who(role, tenant), operation, scope):  # type: ignore[arg-type]
        assert scope in TABLE[operation].allowed[role]
        assert scope in TABLE[operation].allowed["tenant"]
        assert scope != "other"


@given(role=roles, tenant=tenants, operation=operations, whose=st.none() | tenants)
def test_check_agrees_with_the_table(role: Role, tenant: str, operation: str, whose: str | None) -> None:
    """``check`` raises exactly where ``allowed`` says no, and then names the roles that may."""
    principal = who(role, None if role != "tenant" else tenant)
    scope = scope_of(principal, whose)
    if allowed(principal, operation, scope):
        check(principal, operation, whose, "x")
    else:
        with pytest.raises(Forbidden) as caught:
            check(principal, operation, whose, "x")
        assert caught.value.details["roles"] == [r for r in ROLES if scope in TABLE[operation].allowed[r]]


def test_strangers_are_asked_for_a_token() -> None:
    """Who shows nothing is told to show a token, not that it is forbidden."""
    with pytest.raises(Unauthorized, match=r"kv\.write needs a token of role operator or admin"):
        check(NOBODY, "kv.write", None, "key")


keys = st.one_of(
    st.binary(max_size=24),
    st.builds(lambda t, rest: f"tenants/{t}/".encode() + rest, tenants, st.binary(max_size=4)),
    st.builds(lambda t, rest: f"locks/tenants%2F{t}%2F".encode() + rest, tenants, st.binary(max_size=4)),
)


@given(key=keys, end=keys | st.none(), tenant=tenants, probe=keys)
def test_a_tenant_touches_no_key_of_others(key: bytes, end: bytes | None, tenant: str, probe: bytes) -> None:
    """Every key of a range that a tenant may touch is below one of its own prefixes."""
    principal = who("tenant", tenant)
    inside = key <= probe and (end is None or probe < end)
    if may_touch(principal, "kv.write", key, end) and inside:
        assert any(probe.startswith(space) for space in key_spaces(tenant))
    assert not may_touch(who("reader", tenant), "kv.write", key, end)


def test_a_tenant_may_touch_its_whole_space_and_operators_all() -> None:
    """The range of a tenant's prefix is its own up to the last key; who has no tenant needs no such thing."""
    space = key_spaces("survey")[0]
    assert may_touch(who("tenant", "survey"), "kv.write", space, b"tenants/survey0")
    assert not may_touch(who("tenant", "survey"), "kv.write", space, b"tenants/survey0\x00")
    assert not may_touch(who("tenant", "survey"), "kv.write", space, None)
    assert may_touch(who("operator"), "kv.write", b"", None)
    assert may_touch(who("reader"), "kv.read", b"", None)
    assert not may_touch(who("reader"), "kv.write", space, space + b"\x00")


@pytest.mark.parametrize("recipe", [LOCKS, ELECTIONS, BARRIERS, DOUBLE_BARRIERS])
def test_locks_and_the_like_of_a_tenant_are_in_its_space(recipe: str) -> None:
    """The keys of a lock whose name begins as its keys do belong to the tenant."""
    mine, other = queue_prefix(recipe, "tenants/survey/mount"), queue_prefix(recipe, "tenants/surveyor/mount")
    assert may_touch(who("tenant", "survey"), "locks.write", mine, mine + b"\x00")
    assert not may_touch(who("tenant", "survey"), "locks.write", other, other + b"\x00")


def test_streams_say_whose_they_are() -> None:
    """The engine's name of a stream tells its tenant."""
    assert stream_tenant(engine_name("alerts", "survey")) == "survey"
    assert stream_tenant(engine_name("alerts.ztf", "default")) == "default"


def test_subjects_of_a_tenant_begin_with_its_name() -> None:
    """A tenant's principal names only subjects below its own; others name any."""
    bound = who("tenant", "survey")
    assert may_name(bound, "survey.alerts.>")
    assert not any(may_name(bound, subject) for subject in ("survey", "surveyor.x", ">", "*.alerts", "alerts"))
    assert may_name(who("operator"), ">")


def test_kinds_say_which_subjects_a_spec_names() -> None:
    """Every kind whose spec speaks of subjects declares where."""
    declared = {kind.name for kind in KINDS if list(kind.subjects.__code__.co_varnames) != ["_"]}
    assert declared == {"Stream", "Pipeline", "Bridge"}


def test_the_matrix_is_the_table() -> None:
    """What is served has a row for each operation with the scopes of each role."""
    rows = {row["operation"]: row for row in matrix()}
    assert rows.keys() == TABLE.keys()
    assert rows["kv.write"]["roles"] == {
        "admin": list(SCOPES),
        "operator": list(SCOPES),
        "tenant": ["own"],
        "reader": [],
    }
