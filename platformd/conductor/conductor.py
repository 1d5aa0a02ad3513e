"""The conductor: the one door to state.

Every resource is one key of the Store, ``/resources/KIND/TENANT/NAME``, so that a listing is a range,
a watch is a watch, and optimistic concurrency is a compare of the key's ``mod_revision``, which is
the resource's ``revision`` and its ETag.

Every change is one Store transaction with its record of history (``writing``, ``history``). Users write specs,
controllers write statuses; neither can touch the other's part. Deleting an object that has finalizers only marks it; it
goes when the last finalizer is taken off.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Any, Literal

import msgspec

from platformd.conductor import documents, history
from platformd.conductor.actions import Actions
from platformd.conductor.differences import differences
from platformd.conductor.events import Events
from platformd.conductor.facts import Applied, ChangeBatch, Dependent, Outcome, Page
from platformd.conductor.history import Records, told
from platformd.conductor.intentions import Decision, Intention, Wishes
from platformd.conductor.listing import Wanted, list_page
from platformd.conductor.owners import dependents_of, owned_by, with_owner
from platformd.conductor.refusals import MAX_CONTENTION, check_transition, contended, exists_already, missing
from platformd.conductor.selector import check_path, parse_field_selector, parse_selector
from platformd.conductor.watching import watch_resources
from platformd.conductor.writing import ROOT, Seen, Step, Writer, key_of
from platformd.coordination.contract import Compare, KeyValue, Store
from platformd.core.clock import Clock
from platformd.core.errors import InvalidInput, LimitReached, PreconditionFailed, Unprocessable
from platformd.core.ids import NewId
from platformd.model.kind import Check, Kind, subject_of
from platformd.model.resource import DEFAULT_TENANT, SERVER_OWNED, AnyResource, Status

MAX_STEPS = 40
"""Resources that one transaction changes: each takes up to three of the Store's 128 operations."""

Guard = Callable[[AnyResource | None, AnyResource | None], AbstractAsyncContextManager[None]]
"""Rules that compare what is there (``None``: nothing) with what is wanted (``None``: to delete it) or with other
resources. Entered before a write of spec, labels or annotations, and left after it; raises to refuse. It is entered for
a dry run too, and again when a write is tried again."""

Rule = Callable[[Sequence[Step]], Awaitable[Sequence[Compare]]]
"""A rule over everything that a write does. Raises to refuse; returns what must still hold when it is written."""

Cascade = Literal["background", "orphan"]
"""What becomes of those that belong to what is deleted: they are deleted too, soon after; or they stay, and belong to
nobody."""


class Conductor:
    """Create, read, change, delete and watch resources of every kind."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        new_id: NewId,
        kinds: Sequence[Kind],
        admission: Mapping[str, Sequence[Check]] | None = None,
    ) -> None:
        """
        Args:
            store: where resources are kept.
            clock: for created_at and the like.
            new_id: for uids.
            kinds: what there is.
            admission: further rules over specs by the kind's name, from rooms that know more than the
                model may (a pipeline's expressions are compiled by the pipelines room).
        """
        self._store = store
        self._admission = dict(admission or {})
        self._guards: dict[str, tuple[Guard, tuple[Kind, ...]]] = {}
        self._rules: list[Rule] = []
        self.kinds = tuple(kinds)
        self.writer = Writer(store, clock)
        """For rules: the marks of collections."""
        self.actions = Actions(self.get)
        """What resources can be told to do; the rooms register here."""
        self.controllers: dict[str, Any] = {}
        """The queues of those that run, by name: see ``reconcile.looks``."""
        self.events = Events(self.writer, new_id)
        """Where controllers tell what happened to resources."""
        self._wishes = Wishes(new_id, self.writer.now, self.decode, self._with_owner)

    def guard(self, kind: Kind, guard: Guard, reads: Sequence[Kind] = ()) -> None:
        """From now on ``guard`` is entered around every write of a user to ``kind``.

        Args:
            kind: whose writes it guards.
            guard: the rule.
            reads: kinds whose resources of the same tenant it looks at: the write is only done if none of them came,
                went or was configured since it was entered; else it is entered again.
        """
        self._guards[kind.name] = (guard, tuple(reads))

    def rule(self, rule: Rule) -> None:
        """From now on ``rule`` is asked about every write of a user, transactions as a whole."""
        self._rules.append(rule)

    # -- reading ------------------------------------------------------------------------------------

    async def get(self, kind: Kind, name: str, tenant: str = DEFAULT_TENANT) -> AnyResource:
        """The resource.

        Raises:
            NotFound: it is not there.
        """
        found = await self._find(kind, name, tenant)
        if found is None:
            raise missing(kind, name, tenant)
        return found

    async def list(
        self,
        kind: Kind,
        tenant: str | None = DEFAULT_TENANT,
        *,
        selector: str = "",
        fields: str = "",
        sort: str = "",
        limit: int = 0,
        cursor: str | None = None,
    ) -> Page:
        """The resources of a kind, a page at a time.

        Args:
            tenant: whose; ``None`` for everybody's.
            selector: only those whose labels match (``a=b,c!=d,e,!f``).
            fields: only those whose fields match (``status.state=failed,spec.zone!=north``).
            sort: a field's path (``status.messages``), with a minus in front for the other way round.
            limit: at most this many on the page; 0 for all.
            cursor: go on where the page that gave it ended, at that page's revision.

        Raises:
            InvalidInput: a selector, the path or the cursor cannot be read.
            Compacted: the cursor's revision is no longer there; list again from the start.
        """
        if sort:
            check_path(kind, sort.removeprefix("-"), "sort")
        selected = parse_selector(selector), parse_field_selector(kind, fields)
        wanted = Wanted(kind=kind, tenant=tenant, labels=selected[0], fields=selected[1], sort=sort)
        return await list_page(self._store, wanted, limit, cursor)

    def watch(
        self, kinds: Sequence[Kind], tenant: str | None = DEFAULT_TENANT, *, after: int | None = None
    ) -> AbstractAsyncContextManager[AsyncIterator[ChangeBatch]]:
        """The changes of resources of ``kinds``, until the block is left.

        Args:
            tenant: whose; ``None`` for everybody's.
            after: changes after this revision; ``None``: first everything that is there, as ``added``,
                then a bookmark, then changes.

        Raises:
            Compacted: ``after`` is older than history.
        """
        return watch_resources(self._store, ROOT, kinds, tenant, after)

    async def history(
        self, kind: Kind, name: str, tenant: str = DEFAULT_TENANT, *, limit: int = 100, cursor: str | None = None
    ) -> Records:
        """What happened to a resource and to those that had its name before, newest first, a page at a time.

        It can be read when the resource is gone, until its records are too old or too many.

        Raises:
            InvalidInput: the cursor cannot be read.
        """
        return await history.of_one(self._store, kind.name, tenant, name, limit=limit, cursor=cursor)

    async def recent(
        self,
        kind: Kind | None = None,
        tenant: str | None = DEFAULT_TENANT,
        *,
        actor: str = "",
        limit: int = 100,
        cursor: str | None = None,
    ) -> Records:
        """What happened to all resources (of a kind, of a tenant, by an actor), newest first, a page at a time.

        All changes of one transaction are on one page, which may so have more than ``limit``.

        Raises:
            InvalidInput: the cursor cannot be read.
        """
        name = "" if kind is None else kind.name
        return await history.of_all(self._store, name, tenant, actor=actor, limit=limit, cursor=cursor)

    # -- writing ------------------------------------------------------------------------------------

    def decode(
        self, kind: Kind, document: Any, *, name: str | None = None, tenant: str = DEFAULT_TENANT
    ) -> AnyResource:
        """A resource from what a client sent, completely validated; what the server owns is ignored.

        Raises:
            Unprocessable: ``errors`` has everything that is wrong, each with its path.
        """
        checks = (*kind.checks, *self._admission.get(kind.name, ()))
        return documents.decode_document(kind, document, name=name, tenant=tenant, checks=checks)

    async def create(self, resource: AnyResource, *, dry_run: bool = False) -> AnyResource:
        """Store a new resource.

        Raises:
            Conflict: it is there already.
            Unprocessable: it is not valid.
        """
        try:
            return (await self.apply(resource, expect_absent=True, dry_run=dry_run)).resource
        except PreconditionFailed as error:
            raise exists_already(resource) from error

    async def replace(
        self,
        resource: AnyResource,
        *,
        expect_revision: int | None = None,
        create: bool = True,
        expect_absent: bool = False,
        dry_run: bool = False,
    ) -> tuple[AnyResource, Outcome]:
        """As ``apply``, without the changes."""
        done = await self.apply(
            resource, expect_revision=expect_revision, create=create, expect_absent=expect_absent, dry_run=dry_run
        )
        return done.resource, done.outcome

    async def apply(
        self,
        resource: AnyResource,
        *,
        expect_revision: int | None = None,
        create: bool = True,
        expect_absent: bool = False,
        dry_run: bool = False,
    ) -> Applied:
        """Make spec, labels, annotations and owner what ``resource`` says; says which fields that changes.

        Args:
            expect_revision: only if this is its revision.
            create: whether it may be created if it is not there.
            expect_absent: only if it is not there.
            dry_run: validate and tell, but write nothing.

        Raises:
            PreconditionFailed: an expectation does not hold.
            NotFound: it is not there and may not be created, or its owner is not there.
            Conflict: it is being deleted, or others change it all the time.
            Unprocessable: it is not valid.
            LimitReached: a quota would be exceeded.
        """
        kind = self._kind(resource.kind)
        self._check(kind, resource)
        wish = self._wishes.put(kind, resource, revision=expect_revision, create=create, absent=expect_absent)
        return (await self.carry_out([wish], dry_run=dry_run))[0]

    async def patch(
        self,
        kind: Kind,
        name: str,
        tenant: str,
        patch: Mapping[str, Any],
        *,
        expect_revision: int | None = None,
        dry_run: bool = False,
    ) -> tuple[AnyResource, Outcome]:
        """Change parts of a resource by a JSON merge patch (RFC 7396); what the server owns is ignored.

        Raises: as ``apply``.
        """
        wish = self.patching(kind, name, tenant, patch, expect_revision)
        done = (await self.carry_out([wish], dry_run=dry_run))[0]
        return done.resource, done.outcome

    async def delete(
        self,
        kind: Kind,
        name: str,
        tenant: str = DEFAULT_TENANT,
        *,
        expect_revision: int | None = None,
        dry_run: bool = False,
    ) -> tuple[AnyResource, bool]:
        """As ``remove``; returns its last state, and whether it is gone already."""
        wish = self.deleting(kind, name, tenant, expect_revision)
        done = (await self.carry_out([wish], dry_run=dry_run))[0]
        return done.resource, done.outcome == "deleted"

    async def remove(
        self,
        kind: Kind,
        name: str,
        tenant: str = DEFAULT_TENANT,
        *,
        expect_revision: int | None = None,
        dry_run: bool = False,
        cascade: Cascade = "background",
        tell: bool = True,
    ) -> Applied:
        """Delete a resource, at once or when its finalizers are done, and say what goes with it.

        Args:
            expect_revision: only if this is its revision.
            dry_run: tell, but write nothing.
            cascade: what becomes of those that belong to it.
            tell: whether to look for what goes with it, which takes a look at everything that the tenant has.

        Raises:
            NotFound: it is not there.
            PreconditionFailed: ``expect_revision`` does not hold.
            LimitReached: too many belong to it to be set free at once.
        """
        current = await self.get(kind, name, tenant)
        wishes = [self.deleting(kind, name, tenant, expect_revision)]
        if cascade == "orphan":
            wishes += await self._disowning(current)
            going: tuple[Dependent, ...] = ()
        else:
            going = await dependents_of(self._store, self.kinds, current) if tell else ()
        done = (await self.carry_out(wishes, dry_run=dry_run))[0]
        return msgspec.structs.replace(done, dependents=going)

    async def _disowning(self, resource: AnyResource) -> Sequence[Intention]:
        children = await owned_by(self._store, self.kinds, resource)
        if len(children) >= MAX_STEPS:
            raise LimitReached(
                f"{len(children)} resources belong to it; at most {MAX_STEPS - 1} are set free at once",
                subject=subject_of(resource),
                hint="take their owner off some of them first",
            )
        return [
            self._wishes.disown(kind, child.name, child.tenant, child.owner)
            for kind, child in children
            if child.owner is not None
        ]

    def putting(
        self, resource: AnyResource, expect_revision: int | None = None, *, expect_absent: bool = False
    ) -> Intention:
        """The wish of ``apply``, for ``carry_out``.

        Raises:
            Unprocessable: it is not valid.
        """
        kind = self._kind(resource.kind)
        self._check(kind, resource)
        return self._wishes.put(kind, resource, revision=expect_revision, absent=expect_absent)

    def patching(
        self, kind: Kind, name: str, tenant: str, patch: Mapping[str, Any], expect_revision: int | None = None
    ) -> Intention:
        """The wish of ``patch``, for ``carry_out``."""
        users = {key: value for key, value in patch.items() if key not in SERVER_OWNED}
        return self._wishes.patch(kind, name, tenant, users, revision=expect_revision)

    def deleting(self, kind: Kind, name: str, tenant: str, expect_revision: int | None = None) -> Intention:
        """The wish of ``delete``, for ``carry_out``."""
        return self._wishes.delete(kind, name, tenant, revision=expect_revision)

    async def carry_out(
        self, wishes: Sequence[Intention], *, still: Rule | None = None, dry_run: bool = False
    ) -> Sequence[Applied]:
        """Do all that is wished in one transaction: everything or nothing, at one revision.

        Args:
            wishes: at most ``MAX_STEPS``, each about another resource.
            still: a further rule over what is done.
            dry_run: decide and tell, but write nothing.

        Raises: what ``apply`` and ``delete`` raise.
        """
        rules = [*self._rules, *([still] if still is not None else [])]
        for _ in range(MAX_CONTENTION):
            seen = [await self.writer.look(wish.kind, wish.name, wish.tenant) for wish in wishes]
            decided = [await wish.decide(there) for wish, there in zip(wishes, seen, strict=True)]
            steps = [step for step, _, _ in decided if step is not None]
            if not steps and still is None:
                return _told(decided, seen, 0)
            async with AsyncExitStack() as guards:
                compares: list[Compare] = []
                for step in steps:
                    compares += await self._enter(guards, step)
                for rule in rules:
                    compares += await rule(steps)
                if dry_run or not steps:
                    return _told(decided, seen, 0)
                revision = await self.writer.commit(steps, compares)
            if revision is not None:
                return _told(decided, seen, revision)
        raise contended(wishes[0].subject)

    async def _enter(self, guards: AsyncExitStack, step: Step) -> Sequence[Compare]:
        guard, reads = self._guards.get(step.kind.name, (None, ()))
        resource = step.wanted or step.seen.resource
        if guard is None or resource is None:
            return []
        compares = await self.writer.marks((kind.name, resource.tenant) for kind in reads)
        # A deletion that waits for finalizers is one.
        wanted = None if step.what in ("deleted", "deleting") else step.wanted
        await guards.enter_async_context(guard(step.seen.resource, wanted))
        return compares

    # -- for controllers ----------------------------------------------------------------------------

    async def set_status(self, resource: AnyResource, status: Status) -> AnyResource:
        """Write what is so. Writes nothing if it is what the status says already.

        ``since`` is filled in here; ``observed_generation`` is the controller's to set.

        Raises:
            NotFound: the resource is gone (or another one has its name now).
            Conflict: its state table does not allow the transition; the hint names the legal ones.
        """
        kind = self._kind(resource.kind)
        for _ in range(MAX_CONTENTION):
            current = await self.get(kind, resource.name, resource.tenant)
            if current.uid != resource.uid:
                raise missing(kind, resource.name, resource.tenant)
            check_transition(kind, current, status)
            same_state = current.status.state == status.state and current.status.since is not None
            dated = msgspec.structs.replace(status, since=current.status.since if same_state else self.writer.now())
            if dated == current.status:
                return current
            wanted = msgspec.structs.replace(current, status=dated)
            seen = Seen(resource=current, base=current.revision)
            revision = await self.writer.commit([Step(kind=kind, seen=seen, what="status", wanted=wanted)])
            if revision is not None:
                if not same_state:
                    self.events.tell_state(current, status)
                return msgspec.structs.replace(wanted, revision=revision)
        raise contended(subject_of(resource))

    async def finalize(self, resource: AnyResource, finalizer: str) -> None:
        """Say that ``finalizer`` has cleaned up; with the last one a deleted resource goes."""
        kind = self._kind(resource.kind)
        for _ in range(MAX_CONTENTION):
            seen = await self.writer.look(kind, resource.name, resource.tenant)
            current = seen.resource
            if current is None or current.uid != resource.uid or finalizer not in current.finalizers:
                return
            left = tuple(f for f in current.finalizers if f != finalizer)
            gone = not left and current.deleting_at is not None
            wanted = None if gone else msgspec.structs.replace(current, finalizers=left)
            step = Step(kind=kind, seen=seen, what="deleted" if gone else "finalized", wanted=wanted)
            if await self.writer.commit([step]) is not None:
                return
        raise contended(subject_of(resource))

    # -- inside -------------------------------------------------------------------------------------

    def kind_named(self, name: str) -> Kind | None:
        """The kind of that name, if there is one."""
        return next((kind for kind in self.kinds if kind.name == name), None)

    def _kind(self, name: str) -> Kind:
        kind = self.kind_named(name)
        if kind is None:
            raise InvalidInput("there is no such kind", subject=name)
        return kind

    def _check(self, kind: Kind, resource: AnyResource) -> None:
        checks = (*kind.checks, *self._admission.get(kind.name, ()))
        errors = tuple(e for check in checks for e in check(resource.spec))
        if errors:
            raise Unprocessable(f"is not a valid {kind.name}", subject=subject_of(resource), errors=errors)

    async def _find(self, kind: Kind, name: str, tenant: str) -> AnyResource | None:
        kv: KeyValue | None = await self._store.get(key_of(kind.name, tenant, name))
        return None if kv is None else documents.from_stored(kind, kv.value, kv.mod_revision)

    async def _with_owner(self, resource: AnyResource, current: AnyResource | None) -> AnyResource:
        async def find(kind: str, name: str) -> AnyResource | None:
            known = self.kind_named(kind)
            return None if known is None else await self._find(known, name, resource.tenant)

        return await with_owner(find, resource, current)


def _told(decided: Sequence[Decision], seen: Sequence[Seen], revision: int) -> list[Applied]:
    answers = []
    for (step, resource, outcome), there in zip(decided, seen, strict=True):
        changes, more = ((), 0) if step is None else differences(told(there.resource), told(step.wanted))
        written = step is not None and step.wanted is not None and revision
        answer = msgspec.structs.replace(resource, revision=revision) if written else resource
        at = revision if step is not None else 0
        answers.append(Applied(outcome=outcome, resource=answer, revision=at, changes=changes, more=more))
    return answers
