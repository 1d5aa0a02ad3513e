"""The users' part of the coordination store: ``/v1/kv`` and ``/v1/txn``.

A key is a path below ``/v1/kv/``, its value the body. Its ETag is its ``mod_revision``, and If-Match and
If-None-Match are compares of one transaction with what they guard.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal, cast, get_args

from quart import Response, request
from quart_trio import QuartTrio
from werkzeug.routing import PathConverter

from platformd.access.guarded import check_readable
from platformd.api.access import allowed_store, needs
from platformd.api.context import ApiContext
from platformd.api.kv_forms import bytes_in_query, key_in_path, kv_document, lease_number, lease_text, range_of
from platformd.api.kv_pages import DEFAULT_PAGE, MAX_PAGE, KeyPage, page_of_directory, page_of_keys, read_cursor
from platformd.api.kv_txn import read_txn, txn_document
from platformd.api.kv_watch import PARAMETERS, followed_keys
from platformd.api.openapi import Answer, Body, Parameter, operation
from platformd.api.openapi.parameters import (
    ANYTHING,
    BODY_PROBLEMS,
    BYTES,
    CURSOR,
    ENCODING,
    EVENTS,
    IF_MATCH,
    IF_NONE_MATCH,
    IF_NONE_MATCH_ANY,
    NOT_MODIFIED,
    REVISION,
    WATCHING,
    WRITE_PROBLEMS,
    limit,
)
from platformd.api.openapi.shapes import (
    KEYS_OR_COUNT,
    TXN_REQUEST,
    KeyDocument,
    KeysDeleted,
    KeyWritten,
    TxnAnswer,
)
from platformd.api.replies import (
    JSON,
    Query,
    etag,
    expected_revision,
    json_body,
    known_revision,
    must_be_absent,
    reply,
)
from platformd.api.watch import MAX_REVISION, Followed, Watches, check_watch
from platformd.api.watch_events import events_response
from platformd.api.watch_socket import serve_socket
from platformd.coordination.contract import (
    Compare,
    Delete,
    DeleteResult,
    FutureRevision,
    Get,
    GetResult,
    KeyValue,
    Order,
    Put,
    PutResult,
    Store,
    TxnResult,
    prefix_end,
)
from platformd.coordination.recipes import user_keys
from platformd.core.errors import (
    DeadlineExceeded,
    Gone,
    InvalidInput,
    NotFound,
    OutcomeUnknown,
    PlatformError,
    PreconditionFailed,
    TooLarge,
)
from platformd.core.quantities import Duration, seconds

TAG = "Keys"
PREFIX = Parameter(name="prefix", description="Only keys that begin with this.")
PREVIOUS_EVENTS = Parameter(
    name="previous", description="With `watch`: also tell what was there before.", schema=bool, flag=True
)
ONLY = Parameter(name="only", description="With `watch`: only events of this type.", schema=Literal["put", "delete"])


class AnyPath(PathConverter):
    """The rest of a path, whatever it is: a key may begin with a slash."""

    regex = r"[\s\S]+?"
    part_isolating = False


class Keys:
    """The routes of keys."""

    def __init__(self, context: ApiContext, watches: Watches) -> None:
        self._all_keys = user_keys(context.store)
        self._watches = watches

    @property
    def _store(self) -> Store:
        return allowed_store(self._all_keys)

    def add_to(self, app: QuartTrio) -> None:
        """Route requests here."""
        app.url_map.converters["anything"] = AnyPath
        app.add_url_rule("/v1/kv", "kv_list", self.list, methods=["GET"])
        app.add_websocket("/v1/kv", "kv_follow_prefix", self.follow_prefix)
        app.add_url_rule("/v1/kv", "kv_delete_prefix", self.delete_prefix, methods=["DELETE"])
        app.add_url_rule("/v1/kv/<anything:key>", "kv_get", self.get, methods=["GET"])
        app.add_websocket("/v1/kv/<anything:key>", "kv_follow", self.follow)
        app.add_url_rule("/v1/kv/<anything:key>", "kv_put", self.put, methods=["PUT"])
        app.add_url_rule("/v1/kv/<anything:key>", "kv_delete", self.delete, methods=["DELETE"])
        app.add_url_rule("/v1/txn", "kv_txn", self.txn, methods=["POST"])

    @needs("kv.read")
    async def follow(self, key: str) -> None:
        """WebSocket /v1/kv/KEY?watch: the changes of one key."""
        del key  # as werkzeug read it; what counts are the bytes that were sent
        await serve_socket(self._watches, self._followed_key(check_watch(Query(*PARAMETERS))))

    @needs("kv.read")
    async def follow_prefix(self) -> None:
        """WebSocket /v1/kv?prefix=P&watch: the changes of keys with a prefix."""
        await serve_socket(self._watches, self._followed_prefix(check_watch(Query("prefix", *PARAMETERS))))

    def _followed_key(self, query: Query) -> Followed:
        wanted = _key(query)
        return self._followed(wanted, wanted + b"\x00", query)

    def _followed_prefix(self, query: Query) -> Followed:
        prefix = bytes_in_query("prefix", query.text("encoding", "utf-8"))
        return self._followed(prefix, prefix_end(prefix), query)

    def _followed(self, start: bytes, end: bytes | None, query: Query) -> Followed:
        store = self._store
        check_readable(store, start, end)  # while there can still be an answer that says so
        return followed_keys(store, start, end, query)

    @needs("kv.read")
    @operation(
        "getKey",
        TAG,
        parameters=(
            REVISION,
            ENCODING,
            *WATCHING,
            PREVIOUS_EVENTS,
            ONLY,
            IF_NONE_MATCH,
        ),
        answers={
            200: Answer(
                "The value, or with `Accept: application/json` the key with all its facts.",
                bytes,
                (BYTES,),
                also={JSON: KeyDocument, **EVENTS},
                headers=("ETag", "Platformd-Create-Revision", "Platformd-Version", "Platformd-Lease"),
            ),
            304: NOT_MODIFIED,
        },
        problems=(NotFound, Gone, FutureRevision),
    )
    async def get(self, key: str) -> Response:
        """GET /v1/kv/KEY: the value as it is, or with ``Accept: application/json`` all that is known of the key."""
        del key
        if "watch" in request.args and (query := Query(*PARAMETERS)).flag("watch"):
            return events_response(self._watches, self._followed_key(query))
        query = Query("revision", "encoding", "watch")
        wanted = _key(query)
        kv = await self._store.get(wanted, revision=query.number("revision", 0, 0, MAX_REVISION))
        if kv is None:
            raise _missing(wanted)
        tag = {"ETag": etag(kv.mod_revision), "Vary": "Accept"}  # one name, two forms
        if known_revision() == kv.mod_revision:
            return Response(b"", 304, tag)
        if request.accept_mimetypes.best_match([BYTES, JSON], BYTES) == JSON:
            return reply(kv_document(kv), 200, **tag)
        facts = {
            "Platformd-Create-Revision": str(kv.create_revision),
            "Platformd-Version": str(kv.version),
            "X-Content-Type-Options": "nosniff",
        }
        if kv.lease:
            facts["Platformd-Lease"] = lease_text(kv.lease) or ""
        return Response(kv.value, 200, tag | facts, content_type=BYTES)

    @needs("kv.write")
    @operation(
        "putKey",
        TAG,
        parameters=(
            Parameter(name="ttl", description="Let it go after this time.", schema=Duration),
            Parameter(name="lease", description="Let it go with this lease."),
            ENCODING,
            IF_MATCH,
            IF_NONE_MATCH_ANY,
        ),
        body=Body(bytes, (ANYTHING,), required=False),
        answers={
            200: Answer("It was written.", KeyWritten, headers=("ETag",)),
            201: Answer("It was made.", KeyWritten, headers=("ETag",)),
        },
        problems=(NotFound, PreconditionFailed, TooLarge, DeadlineExceeded, *WRITE_PROBLEMS),
    )
    async def put(self, key: str) -> Response:
        """PUT /v1/kv/KEY: the body becomes the value; ``?ttl`` or ``?lease`` says when it goes by itself."""
        del key
        query = Query("ttl", "lease", "encoding")
        wanted, conditions = _key(query), _conditions(_key(query))
        lease, granted = 0, 0
        ttl = seconds(query.text("ttl")) if query.text("ttl") else 0.0
        if query.text("lease"):
            lease = lease_number(query.text("lease"))
        if ttl and lease:
            raise InvalidInput("ttl and lease exclude each other", subject=request.path)
        value: bytes = await request.get_data(cache=False, as_text=False, parse_form_data=False)
        if ttl:
            lease = granted = (await self._store.leases.grant(ttl)).id
        try:
            result = await self._store.txn(conditions, [Put(wanted, value, lease)], [Get(wanted)])
            if not result.succeeded:
                raise _changed(wanted, result)
        except PlatformError as error:
            if granted and not isinstance(error, OutcomeUnknown):
                await self._store.leases.revoke(granted)
            raise
        made = _made(wanted, lease, result)
        document = kv_document(made, value=False) | {"revision": result.revision}
        return reply(document, 201 if made.version == 1 else 200, ETag=etag(made.mod_revision))

    @needs("kv.write")
    @operation(
        "deleteKey",
        TAG,
        parameters=(ENCODING, IF_MATCH, IF_NONE_MATCH_ANY),
        answers={200: Answer("It is gone.", KeysDeleted)},
        problems=(NotFound, PreconditionFailed, *WRITE_PROBLEMS),
    )
    async def delete(self, key: str) -> Response:
        """DELETE /v1/kv/KEY: remove the key."""
        del key
        query = Query("encoding")
        wanted = _key(query)
        conditions = _conditions(wanted)
        there = Compare(wanted, "create_revision", ">", 0)
        result = await self._store.txn([there, *conditions], [Delete(wanted)], [Get(wanted)])
        if not result.succeeded:
            raise _changed(wanted, result) if conditions else _missing(wanted)
        return reply({"deleted": 1, "revision": result.revision})

    @needs("kv.read")
    @operation(
        "listKeys",
        TAG,
        parameters=(
            PREFIX,
            ENCODING,
            limit(DEFAULT_PAGE, MAX_PAGE),
            CURSOR,
            REVISION,
            Parameter(name="keys_only", description="Leave the values out.", schema=bool, flag=True),
            Parameter(name="count", description="Only how many there are.", schema=bool, flag=True),
            Parameter(
                name="delimiter",
                description="Fold keys that go on after this into what they begin with, as directories.",
            ),
            Parameter(name="order", description="`key` when it does not say.", schema=Order),
            *WATCHING,
            PREVIOUS_EVENTS,
            ONLY,
        ),
        answers={200: Answer("The page, or the number.", KEYS_OR_COUNT, also=EVENTS)},
        problems=(Gone, FutureRevision),
    )
    async def list(self) -> Response:
        """GET /v1/kv?prefix=P: a page of keys, their number, or with ``?watch`` their changes."""
        if "watch" in request.args and (query := Query("prefix", *PARAMETERS)).flag("watch"):
            return events_response(self._watches, self._followed_prefix(query))
        query = Query(
            "prefix", "encoding", "limit", "cursor", "keys_only", "count", "revision", "delimiter", "order", "watch"
        )
        prefix = bytes_in_query("prefix", query.text("encoding", "utf-8"))
        revision = query.number("revision", 0, 0, MAX_REVISION)
        if query.flag("count"):
            found = await self._store.list(prefix, prefix_end(prefix), revision=revision, count_only=True)
            return reply({"count": found.count, "revision": found.revision})
        keys_only = query.flag("keys_only")
        delimiter = bytes_in_query("delimiter", "utf-8")
        page = await self._page(query, prefix, revision, delimiter, keys_only=keys_only)
        document: dict[str, Any] = {
            "items": [kv_document(kv, value=not (keys_only or delimiter)) for kv in page.items],
            "revision": page.revision,
            "cursor": page.cursor,
        }
        if delimiter:
            document["prefixes"] = [one.decode(errors="replace") for one in page.prefixes]
        return reply(document)

    async def _page(self, query: Query, prefix: bytes, revision: int, delimiter: bytes, *, keys_only: bool) -> KeyPage:
        most = query.number("limit", DEFAULT_PAGE, 1, MAX_PAGE)
        order, start = query.text("order", "key"), prefix
        if order not in get_args(Order):
            raise InvalidInput(f"{order!r} is no order", subject="order", hint=f"one of {', '.join(get_args(Order))}")
        if order != "key":
            if delimiter or query.text("cursor") or not keys_only:
                raise InvalidInput(
                    "only keys_only, without cursor and delimiter, is ordered otherwise", subject="order"
                )
            found = await self._store.list(
                prefix, prefix_end(prefix), revision=revision, limit=most, keys_only=True, order=cast("Order", order)
            )
            return KeyPage(items=list(found.items), revision=found.revision)
        if query.text("cursor"):
            revision, start = read_cursor(query.text("cursor"), prefix)
        if delimiter:
            return await page_of_directory(self._store, prefix, delimiter, revision=revision, start=start, limit=most)
        return await page_of_keys(self._store, prefix, revision=revision, start=start, limit=most, keys_only=keys_only)

    @needs("kv.write")
    @operation(
        "deleteKeys",
        TAG,
        parameters=(replace(PREFIX, required=True, schema={"type": "string", "minLength": 1}), ENCODING),
        answers={200: Answer("How many.", KeysDeleted)},
        problems=WRITE_PROBLEMS,
    )
    async def delete_prefix(self) -> Response:
        """DELETE /v1/kv?prefix=P: remove all keys with a prefix, in one revision."""
        query = Query("prefix", "encoding")
        prefix = bytes_in_query("prefix", query.text("encoding", "utf-8"))
        result = await self._store.txn([], [Delete(*range_of(prefix, "prefix"))])
        deleted = result.results[0]
        assert isinstance(deleted, DeleteResult)
        return reply({"deleted": deleted.deleted, "revision": result.revision})

    @needs("kv.read")
    @operation(
        "runTransaction",
        TAG,
        parameters=(Parameter(name="previous", description="Also tell what was there.", schema=bool, flag=True),),
        body=Body(
            TXN_REQUEST,
            example={
                "compares": [{"key": "leader", "target": "create_revision", "operator": "==", "operand": 0}],
                "then": [{"op": "put", "key": "leader", "value": "a"}],
                "else": [{"op": "get", "key": "leader"}],
            },
        ),
        answers={200: Answer("What it did.", TxnAnswer)},
        problems=(NotFound, *BODY_PROBLEMS, *WRITE_PROBLEMS),
    )
    async def txn(self) -> Response:
        """POST /v1/txn: compare, then do all or nothing; ``?previous`` also tells what was there before."""
        previous = Query("previous").flag("previous")
        compares, then, otherwise = read_txn(await json_body(JSON))
        return reply(txn_document(await self._store.txn(compares, then, otherwise), previous=previous))


def _key(query: Query) -> bytes:
    return key_in_path("/v1/kv/", query.text("encoding", "utf-8"))


def _conditions(key: bytes) -> list[Compare]:
    """If-Match and If-None-Match as compares."""
    revision, must_exist = expected_revision()
    conditions = []
    if revision is not None:
        conditions.append(Compare(key, "mod_revision", "==", revision))
    elif must_exist:
        conditions.append(Compare(key, "create_revision", ">", 0))
    if must_be_absent():
        conditions.append(Compare(key, "create_revision", "==", 0))
    return conditions


def _made(key: bytes, lease: int, result: TxnResult) -> KeyValue:
    put = result.results[0]
    assert isinstance(put, PutResult)
    before = put.previous
    return KeyValue(
        key=key,
        value=b"",
        create_revision=result.revision if before is None else before.create_revision,
        mod_revision=result.revision,
        version=1 if before is None else before.version + 1,
        lease=lease,
    )


def _missing(key: bytes) -> NotFound:
    return NotFound("there is no such key", subject=key.decode(errors="replace"))


def _changed(key: bytes, result: TxnResult) -> PreconditionFailed:
    found = result.results[0]
    current = found.items[0] if isinstance(found, GetResult) and found.items else None
    message = "it is not there" if current is None else f"its revision is {current.mod_revision}"
    return PreconditionFailed(
        f"{message}; nothing was done",
        subject=key.decode(errors="replace"),
        hint="read it again, and decide again",
        details={"current": None if current is None else kv_document(current, value=False)},
    )
