"""The conductor: the one door to state.

Every resource is one key of the Store, ``/resources/KIND/TENANT/NAME``, so that a listing is a range,
a watch is a watch, and optimistic concurrency is a compare of the key's ``mod_revision``, which is
the resource's ``revision`` and its ETag.

Users write specs, controllers write statuses; neither can touch the other's part. Deleting an object
that has finalizers only marks it; it goes when the last finalizer is taken off.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any

import msgspec

from platformd.conductor import documents
from platformd.conductor.actions import Actions
from platformd.conductor.facts import ChangeBatch, Outcome, Page
from platformd.conductor.selector import parse_selector
from platformd.conductor.watching import watch_resources
from platformd.coordination.contract import Compare, Delete, KeyValue, Put, Store, TxnResult, prefix_end
from platformd.core.clock import Clock, rfc3339
from platformd.core.errors import Conflict, InvalidInput, NotFound, PreconditionFailed, Unprocessable
from platformd.core.ids import NewId
from platformd.model.kind import Check, Kind, subject_of
from platformd.model.resource import DEFAULT_TENANT, SERVER_OWNED, AnyResource, Status

ROOT = b"/resources/"
"""Where resources are in the Store."""

MAX_CONTENTION = 64
"""How often a write is tried again when others change the object in between."""


def key_of(kind: str, tenant: str, name: str) -> bytes:
    """The Store key of a resource."""
    return ROOT + f"{kind}/{tenant}/{name}".encode()


Guard = Callable[[AnyResource | None, AnyResource | None], AbstractAsyncContextManager[None]]
"""Rules that compare what is there (``None``: nothing) with what is wanted (``None``: to delete it) or with other
resources. Entered before a write of spec, labels or annotations, and left after it; raises to refuse. It is entered for
a dry run too, and again when a write is tried again."""


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
        self._clock = clock
        self._new_id = new_id
        self._admission = dict(admission or {})
        self._guards: dict[str, Guard] = {}
        self.kinds = tuple(kinds)
        self.actions = Actions(self.get)
        """What resources can be told to do; the rooms register here."""

    def guard(self, kind: Kind, guard: Guard) -> None:
        """From now on ``guard`` is entered around every write of a user to ``kind``."""
        self._guards[kind.name] = guard

    # -- reading ------------------------------------------------------------------------------------

    async def get(self, kind: Kind, name: str, tenant: str = DEFAULT_TENANT) -> AnyResource:
        """The resource.

        Raises:
            NotFound: it is not there.
        """
        found = await self._find(kind, name, tenant)
        if found is None:
            raise _missing(kind, name, tenant)
        return found

    async def list(
        self,
        kind: Kind,
        tenant: str | None = DEFAULT_TENANT,
        *,
        selector: str = "",
        limit: int = 0,
        cursor: str | None = None,
    ) -> Page:
        """The resources of a kind, a page at a time.

        Args:
            tenant: whose; ``None`` for everybody's.
            selector: only those whose labels match (``a=b,c!=d,e,!f``).
            limit: at most this many on the page; 0 for all.
            cursor: go on where the page that gave it ended, at that page's revision.

        Raises:
            InvalidInput: the selector or the cursor cannot be read.
            Compacted: the cursor's revision is no longer there; list again from the start.
        """
        selected = parse_selector(selector)
        prefix = ROOT + f"{kind.name}/".encode() + (f"{tenant}/".encode() if tenant is not None else b"")
        start, revision = _read_cursor(cursor, prefix) if cursor else (prefix, 0)
        items: list[AnyResource] = []
        while True:
            wanted = limit - len(items) if limit else 0
            listing = await self._store.list(start, prefix_end(prefix), revision=revision, limit=wanted)
            revision = listing.revision
            resources = [documents.from_stored(kind, kv.value, kv.mod_revision) for kv in listing.items]
            items += [r for r in resources if selected(r.labels)]
            if listing.items:
                start = listing.items[-1].key + b"\x00"
            if not listing.more or len(items) == limit:
                more = _write_cursor(start, revision) if listing.more else None
                return Page(items=tuple(items), revision=revision, cursor=more)

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
            created, _ = await self.replace(resource, expect_absent=True, dry_run=dry_run)
        except PreconditionFailed as error:
            raise Conflict(
                "exists already", subject=subject_of(resource), hint="change it with apply, or choose another name"
            ) from error
        return created

    async def replace(
        self,
        resource: AnyResource,
        *,
        expect_revision: int | None = None,
        create: bool = True,
        expect_absent: bool = False,
        dry_run: bool = False,
    ) -> tuple[AnyResource, Outcome]:
        """Make spec, labels, annotations and owner what ``resource`` says.

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
        """
        kind = self._kind(resource)
        self._check(kind, resource)
        for _ in range(MAX_CONTENTION):
            current = await self._find(kind, resource.name, resource.tenant)
            self._expect(resource, current, expect_revision, expect_absent=expect_absent)
            if current is None and not create:
                raise _missing(kind, resource.name, resource.tenant)
            wanted = await self._with_owner(resource, current)
            written, outcome = self._next(kind, wanted, current)
            if outcome == "unchanged":
                return written, outcome
            async with self._guarded(kind, current, written):
                done = written if dry_run else await self._write(written, current)
            if done is not None:
                return done, outcome
        raise _contended(resource)

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

        Raises: as ``replace``.
        """
        users = {key: value for key, value in patch.items() if key not in SERVER_OWNED}
        for _ in range(MAX_CONTENTION):
            current = await self.get(kind, name, tenant)
            merged = documents.merge_patch(documents.to_document(current), users)
            wanted = self.decode(kind, merged, name=name, tenant=tenant)
            try:
                return await self.replace(
                    wanted,
                    expect_revision=current.revision if expect_revision is None else expect_revision,
                    create=False,
                    dry_run=dry_run,
                )
            except PreconditionFailed:
                if expect_revision is not None:
                    raise
        raise _contended(current)

    async def delete(
        self,
        kind: Kind,
        name: str,
        tenant: str = DEFAULT_TENANT,
        *,
        expect_revision: int | None = None,
        dry_run: bool = False,
    ) -> tuple[AnyResource, bool]:
        """Delete a resource: at once, or when its finalizers are done.

        Returns:
            Its last state, and whether it is gone already.

        Raises:
            NotFound: it is not there.
            PreconditionFailed: ``expect_revision`` does not hold.
        """
        for _ in range(MAX_CONTENTION):
            current = await self.get(kind, name, tenant)
            self._expect(current, current, expect_revision, expect_absent=False)
            async with self._guarded(kind, current, None):
                if not current.finalizers:
                    if dry_run or await self._remove(current):
                        return current, True
                elif current.deleting_at is not None or dry_run:
                    return current, False
                else:
                    marked = msgspec.structs.replace(current, deleting_at=self._now(), updated_at=self._now())
                    done = await self._write(marked, current)
                    if done is not None:
                        return done, False
        raise _contended(current)

    # -- for controllers ----------------------------------------------------------------------------

    async def set_status(self, resource: AnyResource, status: Status) -> AnyResource:
        """Write what is so. Writes nothing if it is what the status says already.

        ``since`` is filled in here; ``observed_generation`` is the controller's to set.

        Raises:
            NotFound: the resource is gone (or another one has its name now).
            Conflict: its state table does not allow the transition; the hint names the legal ones.
        """
        kind = self._kind(resource)
        for _ in range(MAX_CONTENTION):
            current = await self.get(kind, resource.name, resource.tenant)
            if current.uid != resource.uid:
                raise _missing(kind, resource.name, resource.tenant)
            _check_transition(kind, current, status)
            same_state = current.status.state == status.state and current.status.since is not None
            dated = msgspec.structs.replace(status, since=current.status.since if same_state else self._now())
            if dated == current.status:
                return current
            done = await self._write(msgspec.structs.replace(current, status=dated), current)
            if done is not None:
                return done
        raise _contended(resource)

    async def finalize(self, resource: AnyResource, finalizer: str) -> None:
        """Say that ``finalizer`` has cleaned up; with the last one a deleted resource goes."""
        kind = self._kind(resource)
        for _ in range(MAX_CONTENTION):
            current = await self._find(kind, resource.name, resource.tenant)
            if current is None or current.uid != resource.uid or finalizer not in current.finalizers:
                return
            left = tuple(f for f in current.finalizers if f != finalizer)
            if not left and current.deleting_at is not None:
                if await self._remove(current):
                    return
            elif await self._write(msgspec.structs.replace(current, finalizers=left), current) is not None:
                return
        raise _contended(resource)

    # -- inside -------------------------------------------------------------------------------------

    def _kind(self, resource: AnyResource) -> Kind:
        for kind in self.kinds:
            if kind.name == resource.kind:
                return kind
        raise InvalidInput("there is no such kind", subject=resource.kind)

    def _guarded(
        self, kind: Kind, current: AnyResource | None, wanted: AnyResource | None
    ) -> AbstractAsyncContextManager[None]:
        guard = self._guards.get(kind.name)
        return nullcontext() if guard is None else guard(current, wanted)

    def _check(self, kind: Kind, resource: AnyResource) -> None:
        checks = (*kind.checks, *self._admission.get(kind.name, ()))
        errors = tuple(e for check in checks for e in check(resource.spec))
        if errors:
            raise Unprocessable(f"is not a valid {kind.name}", subject=subject_of(resource), errors=errors)

    async def _find(self, kind: Kind, name: str, tenant: str) -> AnyResource | None:
        kv: KeyValue | None = await self._store.get(key_of(kind.name, tenant, name))
        return None if kv is None else documents.from_stored(kind, kv.value, kv.mod_revision)

    async def _with_owner(self, resource: AnyResource, current: AnyResource | None) -> AnyResource:
        """The resource with its owner's uid filled in, so that a later owner of that name is another."""
        owner = resource.owner
        if owner is None or (current is not None and current.owner == owner):
            return resource
        kind = next((k for k in self.kinds if k.name == owner.kind), None)
        found = None if kind is None else await self._find(kind, owner.name, resource.tenant)
        if found is None or (owner.uid and owner.uid != found.uid):
            raise NotFound("its owner is not there", subject=f"{owner.kind.lower()}/{owner.name}")
        return msgspec.structs.replace(resource, owner=msgspec.structs.replace(owner, uid=found.uid))

    def _next(self, kind: Kind, wanted: AnyResource, current: AnyResource | None) -> tuple[AnyResource, Outcome]:
        now = self._now()
        if current is None:
            new = msgspec.structs.replace(
                wanted,
                uid=self._new_id(),
                generation=1,
                revision=0,
                created_at=now,
                updated_at=now,
                deleting_at=None,
                finalizers=(kind.finalizer,) if kind.finalizer else (),
                status=kind.status(),
            )
            return new, "created"
        theirs = {m: getattr(wanted, m) for m in ("labels", "annotations", "owner", "spec")}
        if all(getattr(current, member) == value for member, value in theirs.items()):
            return current, "unchanged"
        if current.deleting_at is not None:
            raise Conflict(
                "is being deleted", subject=subject_of(current), hint="wait until it is gone, then create it anew"
            )
        generation = current.generation + (current.spec != wanted.spec)
        return msgspec.structs.replace(current, **theirs, generation=generation, updated_at=now), "configured"

    def _expect(
        self, resource: AnyResource, current: AnyResource | None, revision: int | None, *, expect_absent: bool
    ) -> None:
        if expect_absent and current is not None:
            raise PreconditionFailed("is there already", subject=subject_of(resource))
        if revision is not None and (current is None or current.revision != revision):
            found = "is not there" if current is None else f"has revision {current.revision}"
            raise PreconditionFailed(
                f"revision {revision} was expected, but it {found}",
                subject=subject_of(resource),
                hint="read it again, make your change, and send it with the new revision",
            )

    async def _write(self, resource: AnyResource, current: AnyResource | None) -> AnyResource | None:
        """Store ``resource`` if ``current`` is still what is there; ``None`` if it is not."""
        key = key_of(resource.kind, resource.tenant, resource.name)
        unchanged = Compare(key, "mod_revision", "==", 0 if current is None else current.revision)
        result: TxnResult = await self._store.txn([unchanged], [Put(key, documents.to_stored(resource))])
        return msgspec.structs.replace(resource, revision=result.revision) if result.succeeded else None

    async def _remove(self, current: AnyResource) -> bool:
        key = key_of(current.kind, current.tenant, current.name)
        unchanged = Compare(key, "mod_revision", "==", current.revision)
        return (await self._store.txn([unchanged], [Delete(key)])).succeeded

    def _now(self) -> str:
        return rfc3339(self._clock.time_ns())


def _missing(kind: Kind, name: str, tenant: str) -> NotFound:
    where = "" if tenant == DEFAULT_TENANT else f" in tenant {tenant!r}"
    return NotFound(f"is not there{where}", subject=f"{kind.singular}/{name}")


def _contended(resource: AnyResource) -> Conflict:
    return Conflict(
        f"others changed it {MAX_CONTENTION} times while this write was tried",
        subject=subject_of(resource),
        hint="try again",
    )


def _check_transition(kind: Kind, current: AnyResource, status: Status) -> None:
    before, after = current.status.state, status.state
    if before == after or not kind.transitions:
        return
    legal = kind.transitions.get(before, frozenset())
    if after not in legal:
        raise Conflict(
            f"cannot go from {before!r} to {after!r}",
            subject=subject_of(current),
            hint=f"from {before!r} it may go to: {', '.join(sorted(legal)) or 'nothing'}",
        )


def _write_cursor(start: bytes, revision: int) -> str:
    return base64.urlsafe_b64encode(msgspec.msgpack.encode((start, revision))).decode()


def _read_cursor(cursor: str, prefix: bytes) -> tuple[bytes, int]:
    try:
        start, revision = msgspec.msgpack.decode(base64.urlsafe_b64decode(cursor), type=tuple[bytes, int])
    except (msgspec.DecodeError, binascii.Error, ValueError) as error:
        raise InvalidInput("is not a cursor of this listing", subject="cursor") from error
    if not start.startswith(prefix) or revision < 1:
        raise InvalidInput("is not a cursor of this listing", subject="cursor")
    return start, revision
