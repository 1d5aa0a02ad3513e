"""Keys to a file and back: one document for each key, as JSON lines or YAML."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from platformd.cli.kv_output import shown
from platformd.cli.options import Session
from platformd.cli.output import as_yaml, echo, json_text
from platformd.client import kv
from platformd.core.errors import FieldError, InvalidInput, PlatformError

PROGRESS_FROM: Final = 1000
"""Keys from which on a terminal is shown how far it is."""
TXN_BYTES: Final = 1 << 20
"""About how many bytes of values one transaction of an import carries."""
_KNOWN: Final = {"key", "key_base64", "value", "value_base64"}


@contextmanager
def progress(total: int, what: str) -> Iterator[Any]:
    """Something to tell how many more are done; it draws a bar on a terminal when there is much to do."""
    if total < PROGRESS_FROM or not sys.stderr.isatty():
        yield lambda _count: None
        return
    import click

    with click.progressbar(length=total, label=what, file=sys.stderr) as bar:
        yield bar.update


def pages(session: Session, prefix: bytes, *, keys_only: bool = False) -> Iterator[list[dict[str, Any]]]:
    """All keys with a prefix, of one revision, page by page."""
    cursor = None
    while True:
        page = kv.read_document(session.client.send(kv.list_page(prefix, cursor=cursor, keys_only=keys_only)))
        yield page["items"]
        cursor = page.get("cursor")
        if cursor is None:
            return


def export(session: Session, prefix: bytes, output: str) -> int:
    """Print each key with its value; how many there were."""
    total = int(kv.read_document(session.client.send(kv.count(prefix)))["count"])
    exported = 0
    with progress(total, "exporting") as advance:
        for items in pages(session, prefix):
            documents = [{name: item[name] for name in item if name in _KNOWN} for item in items]
            for document in documents:
                echo(json_text(document, indent=0) if output == "json" else "---\n" + as_yaml([document]))
            exported += len(documents)
            advance(len(documents))
    return exported


@dataclass
class Imported:
    """What an import did."""

    put: int = 0
    deleted: int = 0


def import_(session: Session, data: bytes, origin: str, *, sync: bytes | None, dry_run: bool) -> Imported:
    """Put every key in ``data``; with ``sync`` also delete the keys with that prefix that are not in it.

    Each transaction is whole; all of them together are not: what failed half way is finished by importing again.

    Raises:
        InvalidInput: ``data`` is not what ``export`` writes, or has a key outside of ``sync``; nothing was done.
    """
    wanted = _read(data, origin)
    if sync is not None:
        outside = [key for key in wanted if not key.startswith(sync)]
        if outside:
            raise InvalidInput(
                f"{len(outside)} keys are outside of {shown(sync)}, such as {shown(outside[0])}; nothing was done",
                subject=f"--sync {shown(sync)}",
            )
    extra: list[bytes] = []
    for items in pages(session, sync, keys_only=True) if sync is not None else ():
        extra += [key for item in items if (key := kv.bytes_of(item, "key") or b"") not in wanted]
    done = Imported(len(wanted), len(extra))
    if dry_run:
        return done
    operations: list[dict[str, Any]] = [
        {"op": "put"} | kv.members_of("key", key) | kv.members_of("value", value) for key, value in wanted.items()
    ]
    operations += [{"op": "delete"} | kv.members_of("key", key) for key in extra]
    with progress(len(operations), "importing") as advance:
        for batch in _batches(operations):
            session.client.send(kv.txn({"then": batch})).check()
            advance(len(batch))
    return done


def _batches(operations: list[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    batch: list[dict[str, Any]] = []
    size = 0
    for operation in operations:
        length = sum(len(text) for text in operation.values())
        if batch and (len(batch) >= kv.TXN_OPERATIONS or size + length > TXN_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(operation)
        size += length
    if batch:
        yield batch


def _read(data: bytes, origin: str) -> dict[bytes, bytes]:
    wanted: dict[bytes, bytes] = {}
    errors: list[FieldError] = []
    for place, document in _documents(data, origin):
        try:
            key, value = _entry(document)
        except PlatformError as error:
            errors.append(FieldError(path=place, message=error.message))
            continue
        if key in wanted:
            errors.append(FieldError(path=place, message=f"{shown(key)} is there twice"))
        wanted[key] = value
    if errors:
        raise InvalidInput("not everything can be read; nothing was done", subject=origin, errors=tuple(errors[:20]))
    return wanted


def _entry(document: Any) -> tuple[bytes, bytes]:
    if not isinstance(document, dict):
        raise InvalidInput("is not an object with a key and a value")
    unknown = document.keys() - _KNOWN
    if unknown:
        raise InvalidInput(f"has {', '.join(sorted(map(str, unknown)))}, which means nothing here")
    key, value = kv.bytes_of(document, "key"), kv.bytes_of(document, "value")
    if not key or value is None:
        raise InvalidInput("has no key" if not key else "has no value")
    return key, value


def _documents(data: bytes, origin: str) -> Iterator[tuple[str, Any]]:
    """The documents in ``data``, each with its place. Lines of JSON are read line by line, all else as YAML."""
    if data.lstrip().startswith(b"{"):
        for number, line in enumerate(data.splitlines(), 1):
            if line.strip():
                try:
                    yield f"line {number}", msgspec.json.decode(line)
                except (msgspec.DecodeError, UnicodeDecodeError) as error:
                    raise InvalidInput(f"is not JSON: {error}", subject=f"{origin}:{number}") from error
        return
    from platformd.cli.documents import read_values

    for number, (document, _) in enumerate(read_values(origin, data), 1):
        yield f"document {number}", document
