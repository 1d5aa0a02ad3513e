"""Keys as lines, tables and documents."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final

from platformd.cli.output import NONE, Table, as_yaml, echo, print_json, safe
from platformd.client import kv
from platformd.core.errors import InvalidInput
from platformd.core.quantities import format_bytes

PREVIEW: Final = 40
"""Characters of a value that a table shows."""


def key_of(word: str) -> bytes:
    """The key that a word of the command line is, byte for byte."""
    return os.fsencode(word)


def one_key(word: str) -> bytes:
    """The key that a word of the command line is, where it cannot be the prefix of all.

    Raises:
        InvalidInput: it is empty.
    """
    if not word:
        raise InvalidInput("the key is empty", subject="KEY", hint="`platformd kv ls` lists what there is")
    return key_of(word)


def shown(data: bytes) -> str:
    """A key for a line."""
    return safe(data.decode("utf-8", "replace"))


def write_raw(value: bytes) -> None:
    """A value as it is; a terminal gets a newline after it."""
    sys.stdout.flush()
    sys.stdout.buffer.write(value)
    if sys.stdout.isatty() and not value.endswith(b"\n"):
        sys.stdout.buffer.write(b"\n")
    sys.stdout.buffer.flush()


def preview(document: Mapping[str, Any]) -> str:
    """The beginning of a value, for a table."""
    value = kv.bytes_of(document, "value")
    if value is None:
        return NONE
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return f"<binary, {format_bytes(len(value))}>"
    return safe(text[:PREVIEW] + ("…" if len(text) > PREVIEW else ""))


def row(document: Mapping[str, Any]) -> list[str]:
    """A key as a row of ``TITLES``."""
    return [
        shown(kv.bytes_of(document, "key") or b""),
        str(document.get("mod_revision", NONE)),
        str(document.get("version", NONE)),
        str(document.get("lease") or NONE),
        preview(document),
    ]


TITLES: Final = ("KEY", "REVISION", "VERSION", "LEASE", "VALUE")
"""The columns of a table of keys."""


def print_keys(documents: Sequence[Mapping[str, Any]], output: str, *, single: bool = False) -> None:
    """Keys as ``output`` says."""
    if output == "json":
        print_json(documents[0] if single else {"items": list(documents)})
    elif output == "yaml":
        if documents:
            echo(as_yaml([dict(document) for document in documents]))
    elif output == "raw":
        for document in documents:
            write_raw(kv.bytes_of(document, "value") or b"")
    elif documents:
        valued = any("value" in document or "value_base64" in document for document in documents)
        columns = len(TITLES) if valued else len(TITLES) - 1
        for line in Table(TITLES[:columns]).lines([row(document)[:columns] for document in documents]):
            echo(line)


def print_result(document: Mapping[str, Any], output: str, line: str) -> None:
    """What a change did: a line for people, the answer for programs."""
    if output == "json":
        print_json(document)
    elif output == "yaml":
        echo(as_yaml([dict(document)]))
    else:
        echo(line)
