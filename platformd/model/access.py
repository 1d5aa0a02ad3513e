"""Who may do what: roles, operations, and the one table that every face of the platform asks.

A *principal* is whoever asks, as the kernel, a token or a certificate says. It has one role, and may be bound to one
tenant. An *operation* is named once, here; what it is done to belongs to the principal's own tenant, to another tenant,
or to none (the whole facility): its *scope*. ``TABLE`` says for each role and operation in which scopes it is allowed,
and what is not in it is refused.

A principal that is bound to a tenant may do what both its role and the role ``tenant`` may do: binding only takes away.

What belongs to a tenant
    - resources that name it; of kinds that are the facility's (``Kind.facility``) none do, and of what it is given or
      told (``Kind.granted``: quotas, events, bridges) it only reads
    - streams that it has, and what is published to them and consumed
    - keys below ``tenants/NAME/`` of the users' part of the store, and the locks, elections and barriers whose names
      begin so; every other key is nobody's
    - leases that hold no other keys than these
    - subjects that begin with its name: ``NAME.>``. They bind what a principal of the tenant may write into streams,
      pipelines and dead letters, since subjects are the whole facility's
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, Protocol, get_args

import msgspec

from platformd.core.errors import Forbidden, PlatformError, Unauthorized
from platformd.model.resource import DEFAULT_TENANT

Role = Literal["admin", "operator", "tenant", "reader"]
"""``admin``: everything. ``operator``: runs the facility, without handing out access or copies of all that is stored.
``tenant``: everything within one tenant. ``reader``: looks, and changes nothing."""

ROLES: Final[tuple[Role, ...]] = get_args(Role)

Scope = Literal["own", "other", "global"]
"""Whose a thing is: the principal's tenant's, another tenant's, nobody's. To a principal without a tenant every tenant
is another."""

SCOPES: Final[tuple[Scope, ...]] = get_args(Scope)

How = Literal["peer", "token", "certificate", "anonymous"]
"""How it is known who asks."""


class Principal(msgspec.Struct, frozen=True, kw_only=True):
    """Whoever asks."""

    name: str
    """As it stands in history and in the audit: ``user:alice``, ``token:nightly``, ``certificate:planner``."""
    role: Role | None
    """``None``: it may do nothing."""
    how: How
    tenant: str | None = None
    """The only tenant that it may touch; ``None``: all that its role may."""


NOBODY: Final = Principal(name="anonymous", role=None, how="anonymous")
"""Whoever says nothing and is granted nothing."""


class Authenticator(Protocol):
    """What a door asks that was shown a token."""

    def token(self, secret: str, address: str) -> Principal:
        """Who shows it.

        Args:
            secret: what was shown.
            address: where it came from, for the audit and the limit on failures.

        Raises:
            Unauthorized: it is unknown, expired or revoked; the message says which.
            LimitReached: too many wrong ones came from there; ``details`` has ``retry_after``, seconds.
        """
        ...

    def refused(self, principal: Principal, operation: str, address: str, error: PlatformError) -> None:
        """Put down that ``principal`` was refused something."""
        ...


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the table."""

    operation: str
    summary: str
    """What it is, for people."""
    allowed: Mapping[Role, frozenset[Scope]]
    """In which scopes each role may do it."""


_WORDS: Final[dict[str, frozenset[Scope]]] = {
    "all": frozenset(SCOPES),
    "own": frozenset({"own"}),
    "own+global": frozenset({"own", "global"}),
    "-": frozenset(),
}


def _rule(operation: str, admin: str, operator: str, tenant: str, reader: str, summary: str) -> Rule:
    words: dict[Role, str] = {"admin": admin, "operator": operator, "tenant": tenant, "reader": reader}
    allowed = {role: _WORDS[word] for role, word in words.items()}
    return Rule(operation=operation, summary=summary, allowed=allowed)


RULES: Final = (
    #     operation             admin  operator  tenant        reader
    _rule("status.read",        "all", "all",    "own+global", "all", "how the daemon is, what it offers and knows"),
    _rule("metrics.read",       "all", "all",    "-",          "all", "counts of everything, for Prometheus"),
    _rule("resources.read",     "all", "all",    "own+global", "all", "get, list and watch resources; their history"),
    _rule("resources.write",    "all", "all",    "own",        "-",   "create and change what is wanted of resources"),
    _rule("resources.delete",   "all", "all",    "own",        "-",   "delete resources"),
    _rule("resources.act",      "all", "all",    "own",        "-",   "do what kinds offer as actions"),
    _rule("resources.status",   "all", "all",    "own",        "-",   "say how resources are, as a controller"),
    _rule("kv.read",            "all", "all",    "own",        "all", "read and watch keys"),
    _rule("kv.write",           "all", "all",    "own",        "-",   "put and delete keys"),
    _rule("leases.read",        "all", "all",    "own",        "all", "see leases and their keys"),
    _rule("leases.write",       "all", "all",    "own",        "-",   "grant, keep alive and revoke leases"),
    _rule("locks.read",         "all", "all",    "own",        "all", "see who has locks and who waits"),
    _rule("locks.write",        "all", "all",    "own",        "-",   "acquire and release locks"),
    _rule("streams.read",       "all", "all",    "own",        "all", "look at records and consumers; no cursor moves"),
    _rule("streams.publish",    "all", "all",    "own",        "-",   "append records"),
    _rule("streams.consume",    "all", "all",    "own",        "-",   "make consumers, fetch, acknowledge, seek"),
    _rule("streams.manage",     "all", "all",    "own",        "-",   "remove records for good"),
    _rule("jobs.read",          "all", "all",    "own",        "all", "see the component's jobs"),
    _rule("jobs.write",         "all", "all",    "own",        "-",   "start and stop jobs"),
    _rule("store.read",         "all", "all",    "-",          "all", "how the store is"),
    _rule("store.manage",       "all", "all",    "-",          "-",   "compact the store's history"),
    _rule("config.read",        "all", "all",    "-",          "-",   "see the daemon's settings"),
    _rule("daemon.control",     "all", "all",    "-",          "-",   "change settings; pause, resume, drain and stop"),
    _rule("access.read",        "all", "all",    "-",          "-",   "see tokens (never their secrets) and the audit"),
    _rule("access.manage",      "all", "-",      "-",          "-",   "create and revoke tokens"),
    _rule("backup",             "all", "-",      "-",          "-",   "copy the whole store, with every secret in it"),
)  # fmt: skip
"""Every operation of the platform, and who may do it."""

TABLE: Final[dict[str, Rule]] = {rule.operation: rule for rule in RULES}


def scope_of(principal: Principal, tenant: str | None) -> Scope:
    """The scope of what belongs to ``tenant`` (``None``: to nobody) for ``principal``."""
    if tenant is None:
        return "global"
    return "own" if tenant == principal.tenant else "other"


def allowed(principal: Principal, operation: str, scope: Scope) -> bool:
    """Whether ``principal`` may do ``operation`` in ``scope``. An operation that is not in the table nobody may do."""
    rule = TABLE.get(operation)
    if rule is None or principal.role is None:
        return False
    if scope not in rule.allowed[principal.role]:
        return False
    if principal.tenant is None:
        # The role is about one tenant; without one nothing is its own.
        return principal.role != "tenant"
    return scope in rule.allowed["tenant"]


def check(principal: Principal, operation: str, tenant: str | None, subject: str) -> None:
    """See that ``principal`` may do ``operation`` to what belongs to ``tenant`` (``None``: to nobody).

    Args:
        principal: who asks.
        operation: what, by its name in ``TABLE``.
        tenant: whose the thing is.
        subject: how the thing is named in the refusal.

    Raises:
        Unauthorized: it may not, and nobody knows who asks.
        Forbidden: it may not.
    """
    scope = scope_of(principal, tenant)
    if not allowed(principal, operation, scope):
        raise refusal(principal, operation, scope, subject)


def refusal(principal: Principal, operation: str, scope: Scope, subject: str) -> Forbidden | Unauthorized:
    """The error that says what ``principal`` may not do, and who may; ``Unauthorized`` when nobody knows who asks."""
    roles = [role for role in ROLES if operation in TABLE and scope in TABLE[operation].allowed[role]]
    needed = " or ".join(roles[::-1]) or "nobody's"
    details = {"operation": operation, "scope": scope, "roles": roles}
    if principal.how == "anonymous":
        hint = "show a token: PLATFORMD_TOKEN, --token-file, or the header Authorization: Bearer"
        message = f"{operation} needs a token of role {needed}"
        return Unauthorized(message, subject=subject, hint=hint, details=details)
    whose = {"own": "", "other": " of another tenant", "global": " outside any tenant"}[scope]
    bound = f" of tenant {principal.tenant}" if principal.tenant is not None else ""
    message = f"{principal.name} is {principal.role or 'without a role'}{bound} and may not do {operation}{whose}"
    hint = f"the role that may: {needed}; `platformd access matrix` shows all"
    return Forbidden(message, subject=subject, hint=hint, details=details)


# --- what belongs to a tenant ---

_NAMED: Final = ("locks", "elections", "barriers", "double-barriers")
"""The recipes that keep keys below ``WORD/NAME/``, the name quoted."""


def key_spaces(tenant: str) -> tuple[bytes, ...]:
    """The prefixes of the keys that belong to ``tenant``."""
    return (f"tenants/{tenant}/".encode(), *(f"{word}/tenants%2F{tenant}%2F".encode() for word in _NAMED))


def may_touch(principal: Principal, operation: str, key: bytes, end: bytes | None) -> bool:
    r"""Whether ``principal`` may do ``operation`` to all keys in [key, end).

    Args:
        principal: who asks.
        operation: ``kv.read``, ``kv.write``, ``locks.read``…
        key: the first key.
        end: the first key beyond; ``None``: there is none. Of a single key it is ``key + b"\x00"``.
    """
    if all(allowed(principal, operation, scope) for scope in ("other", "global")):
        return True
    if principal.tenant is None or end is None or not allowed(principal, operation, "own"):
        return False
    return any(key.startswith(space) and end <= _after(space) for space in key_spaces(principal.tenant))


def _after(prefix: bytes) -> bytes:
    """The first key behind all that begin with ``prefix``, which ends in a byte below 255."""
    return prefix[:-1] + bytes([prefix[-1] + 1])


def stream_tenant(engine_name: str) -> str:
    """Whose a stream is, by the name that the queue engine knows it by: ``TENANT..NAME``, or ``NAME``."""
    tenant, dots, _ = engine_name.partition("..")
    return tenant if dots else DEFAULT_TENANT


def may_name(principal: Principal, subject: str) -> bool:
    """Whether ``principal`` may have ``subject`` (a subject or a pattern) written to or captured: those of its tenant
    begin with the tenant's name; to principals without a tenant all are open."""
    return principal.tenant is None or subject.startswith(f"{principal.tenant}.")


def subject_refusal(principal: Principal, subject: str) -> Forbidden:
    """The error for a subject that ``may_name`` refuses."""
    return Forbidden(
        f"subjects of tenant {principal.tenant} begin with its name, {subject!r} does not",
        subject=subject,
        hint=f"write {principal.tenant}.{subject}",
    )


def matrix() -> list[dict[str, object]]:
    """The table as builtin types, one entry an operation: what ``/v1/access/matrix`` serves."""
    return [
        {
            "operation": rule.operation,
            "summary": rule.summary,
            "roles": {role: [scope for scope in SCOPES if scope in rule.allowed[role]] for role in ROLES},
        }
        for rule in RULES
    ]


def as_role(word: str) -> Role | None:
    """The role that ``word`` names, or ``None``."""
    return word if word in ROLES else None
