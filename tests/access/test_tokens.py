"""Tokens: their form, their life in the store, what a wrong one is told, and what is put down."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.lowlevel
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from platformd.access.audit import MAX_ENTRIES, Audit
from platformd.access.failures import MAX_ADDRESSES, Failures
from platformd.access.gate import Gate, open_gate
from platformd.access.secrets import PATTERN, digest, matches, new_token, token_id
from platformd.access.tokens import KEPT_NS, PREFIX, SWEEP, USED_NS, Tokens, document
from platformd.core.clock import Clock
from platformd.core.errors import Conflict, Forbidden, InvalidInput, LimitReached, NotFound, Unauthorized
from platformd.core.settings import AccessSettings
from platformd.model.access import Principal
from tests.api.fakes import MemoryStore

ADMIN = Principal(name="user:root", role="admin", how="peer")


class Hand(Clock):
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 1_800_000_000 * 10**9

    def time_ns(self) -> int:
        return self.now

    def monotonic(self) -> float:
        return self.now / 1e9


@asynccontextmanager
async def opened(store: Any = None, **settings: Any) -> AsyncIterator[tuple[Gate, Hand, MemoryStore]]:
    store, clock = store or MemoryStore(), Hand()
    async with open_gate(AccessSettings(**settings), store, clock) as gate:
        yield gate, clock, store


@given(st.binary(min_size=40, max_size=40))
def test_tokens_have_a_form_that_scanners_know(noise: bytes) -> None:
    """A prefix, an id and a secret with a checksum; what is changed or cut is none, whatever was drawn."""
    parts: Iterator[bytes] = iter((noise[:8], noise[8:]))
    name, secret = new_token(lambda _: next(parts))
    assert PATTERN.fullmatch(secret)
    assert token_id(secret) == name
    assert matches(secret, digest(secret))
    for wrong in (
        secret[:-1],
        secret + "0",
        secret[:20] + ("a" if secret[20] != "a" else "b") + secret[21:],
        "",
        "pdt_",
    ):
        assert token_id(wrong) is None
        assert not matches(wrong, digest(secret))


async def test_a_token_is_who_it_says_until_it_is_revoked() -> None:
    """Its name, role and tenant come back; revoked it is refused by its name; the secret is nowhere in the store."""
    async with opened() as (gate, _, store):
        made, secret = await gate.tokens.create("nightly", "tenant", "survey", ADMIN)
        assert gate.token(secret, "10.0.0.1") == Principal(
            name="token:nightly", role="tenant", how="token", tenant="survey"
        )
        kept = await store.get(PREFIX + made.id.encode())
        assert kept is not None
        assert secret.rpartition("_")[2].encode() not in kept.value
        await gate.tokens.revoke("nightly")
        with pytest.raises(Unauthorized, match="token nightly was revoked"):
            gate.token(secret, "10.0.0.1")
        again, _ = await gate.tokens.create("nightly", "reader", None, ADMIN)
        assert (await gate.tokens.revoke(made.id)).id == made.id
        assert [token.id for token in gate.tokens.all() if token.revoked is None] == [again.id]


async def test_a_token_expires() -> None:
    """From its last moment on it is refused by its name."""
    async with opened() as (gate, clock, _):
        _, secret = await gate.tokens.create("short", "reader", None, ADMIN, expires=clock.now + 10)
        clock.now += 9
        gate.token(secret, "a")
        clock.now += 1
        with pytest.raises(Unauthorized, match="token short expired"):
            gate.token(secret, "a")
        with pytest.raises(InvalidInput):
            await gate.tokens.create("late", "reader", None, ADMIN, expires=clock.now)


async def test_what_cannot_be_created() -> None:
    """Names, roles and tenants that are none, a name that is taken, and one token too many."""
    async with opened(max_tokens=2) as (gate, _, _store):
        create = gate.tokens.create
        for name, role, tenant in (
            ("A b", "reader", None),
            ("a", "king", None),
            ("a", "tenant", None),
            ("a", "admin", "t"),
        ):
            with pytest.raises(InvalidInput):
                await create(name, role, tenant, ADMIN)
        await create("a", "reader", None, ADMIN)
        with pytest.raises(Conflict):
            await create("a", "reader", None, ADMIN)
        await create("b", "reader", "survey", ADMIN)
        with pytest.raises(LimitReached):
            await create("c", "reader", None, ADMIN)
        with pytest.raises(NotFound):
            await gate.tokens.revoke("z")


async def test_tokens_outlive_the_daemon_and_are_followed() -> None:
    """A daemon that opens the store knows them, and hears of what another one does to them."""
    async with opened() as (first, _, store):
        _, secret = await first.tokens.create("a", "reader", None, ADMIN)
        async with opened(store) as (second, _, _same):
            assert second.token(secret, "x").role == "reader"
            made, later = await first.tokens.create("b", "operator", None, ADMIN)
            with trio.fail_after(30):
                await trio.testing.wait_all_tasks_blocked()
                assert second.token(later, "x").role == "operator"
                await first.tokens.revoke("b")
                await second.tokens.wait_ended(made.id)
            with pytest.raises(Unauthorized, match="revoked"):
                second.token(later, "x")


async def test_uses_are_written_coarsely_and_old_tokens_are_forgotten(mock_clock: MockClock) -> None:
    """The first use is written at the next look, more of them after a while; what ended long ago goes."""
    async with opened() as (gate, clock, store):
        made, secret = await gate.tokens.create("a", "reader", None, ADMIN)
        gate.token(secret, "x")
        await gate.tokens.sweep()
        first = store.revision
        clock.now += USED_NS - 1
        gate.token(secret, "x")
        await gate.tokens.sweep()
        assert store.revision == first
        clock.now += 1
        gate.token(secret, "x")
        mock_clock.jump(SWEEP)
        with trio.fail_after(30):
            while store.revision == first:
                await trio.lowlevel.checkpoint()
        found = gate.tokens.get(made.id)
        assert found is not None
        assert found.used == clock.now
        await gate.tokens.revoke("a")
        clock.now += KEPT_NS + 1
        await gate.tokens.sweep()
        assert gate.tokens.all() == []
        assert await store.get(PREFIX + made.id.encode()) is None


@pytest.fixture
def mock_clock() -> MockClock:
    return MockClock(autojump_threshold=float("inf"))


async def test_what_is_shown_of_a_token_is_no_secret() -> None:
    """Neither the hash nor the secret is in what lists and answers have."""
    async with opened() as (gate, clock, _):
        made, secret = await gate.tokens.create("a", "reader", None, ADMIN)
        shown = str(document(made, clock.now))
        assert secret not in shown
        assert repr(made.hash) not in shown
        assert "'state': 'active'" in shown


async def test_wrong_tokens_are_told_to_wait_and_right_ones_are_not() -> None:
    """After so many failures a minute an address gets 429 with a time; another address, and a right token, do not."""
    async with opened(max_failures=3) as (gate, clock, _):
        _, secret = await gate.tokens.create("a", "reader", None, ADMIN)
        _, unknown = new_token(lambda n: b"\x01" * n)
        for _ in range(3):
            with pytest.raises(Unauthorized, match="not known"):
                gate.token(unknown, "10.0.0.1")
        with pytest.raises(LimitReached) as caught:
            gate.token("nonsense", "10.0.0.1")
        assert caught.value.details["retry_after"] == 20
        assert gate.token(secret, "10.0.0.1").role == "reader"
        with pytest.raises(Unauthorized, match="not a token"):
            gate.token("nonsense", "10.0.0.2")
        clock.now += 20 * 10**9
        with pytest.raises(Unauthorized):
            gate.token(unknown, "10.0.0.1")
        codes = {entry.code: entry.count for entry in gate.audit.entries() if entry.address == "10.0.0.1"}
        assert codes == {"unauthorized": 4, "limit_reached": 1}


def test_addresses_that_failed_are_bounded() -> None:
    """However many addresses fail, so many are remembered."""
    failures = Failures(1, lambda: 0.0)
    for number in range(MAX_ADDRESSES * 2):
        failures.count(str(number))
    assert len(failures) == MAX_ADDRESSES


def test_the_audit_is_bounded_and_counts_what_comes_again(caplog: pytest.LogCaptureFixture) -> None:
    """The same refusal is one entry and one line a minute; of different ones the newest are kept."""
    clock = Hand()
    audit = Audit(clock)
    caplog.set_level(logging.WARNING)
    for _ in range(100):
        audit.refused(ADMIN, "backup", "unix:1", Forbidden("no", subject="x"))
    assert len(caplog.records) == 1
    clock.now += 60 * 10**9
    audit.refused(ADMIN, "backup", "unix:1", Forbidden("no", subject="x"))
    assert [r.getMessage() for r in caplog.records][1].endswith("(101 times)")
    caplog.set_level(logging.ERROR, "platformd.access.audit")
    for number in range(MAX_ENTRIES + 1):
        audit.refused(ADMIN, "backup", "unix:1", Forbidden("no", subject="s" * 5000 + str(number)[:1]))
        audit.refused(ADMIN, "backup", str(number), Forbidden("no"))
    entries = list(audit.entries())
    assert len(entries) == MAX_ENTRIES
    assert max(len(entry.subject) for entry in entries) <= 256
    assert audit.refusals == {"forbidden": 101 + 2 * (MAX_ENTRIES + 1)}


async def test_strangers_over_tcp_are_what_the_settings_say() -> None:
    """On loopback a reader unless said otherwise; elsewhere nobody."""
    for word, role in (("none", None), ("reader", "reader"), ("admin", "admin")):
        gate = Gate(AccessSettings(loopback=word), MemoryStore(), Hand())  # type: ignore[arg-type]
        assert gate.anonymous(loopback=True).role == role
        assert gate.anonymous(loopback=False).role is None


def test_a_token_book_is_empty_at_first() -> None:
    """Nothing is known before the store was read."""
    assert Tokens(MemoryStore(), Hand(), 1).all() == []  # type: ignore[arg-type]
