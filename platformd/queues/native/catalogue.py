"""The configurations of streams and consumers on disk, beside their logs.

    DIRECTORY/STREAM/config.json               the stream is there
    DIRECTORY/STREAM/deleted.json              it is being deleted; opening finishes that
    DIRECTORY/STREAM/log/                      the engine's
    DIRECTORY/STREAM/consumers/NAME.json       the consumer is there
    DIRECTORY/STREAM/consumers/NAME.state      the engine's

A file is replaced as a whole (written beside, synced, renamed, folder synced), so that a crash leaves the
old one or the new one. What makes a stream or a consumer exist is its JSON file: written before the
engine makes its files, removed before the engine removes them.

All functions block, and raise ``OSError`` for what the file system refuses.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TypeVar

import msgspec

from platformd.core.errors import Corrupted
from platformd.queues.contract import ConsumerConfig, StreamConfig

FORMAT = 1
"""Of the JSON files."""


class StoredStream(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``config.json``."""

    format: int = FORMAT
    config: StreamConfig


class StoredConsumer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``consumers/NAME.json``."""

    format: int = FORMAT
    config: ConsumerConfig
    first_sequence: int = 1
    """Where it began: what ``deliver_policy`` meant when it was made or sought."""


Stored = TypeVar("Stored", StoredStream, StoredConsumer)


class Catalogue:
    """The configurations under ``directory``."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def streams(self) -> list[str]:
        """Names of all streams, those that are half there included; what was being deleted is finished."""
        self.directory.mkdir(mode=0o750, parents=True, exist_ok=True)
        names = []
        for path in sorted(self.directory.iterdir()):
            if not path.is_dir() or path.name.startswith("."):
                continue
            if self._config(path.name).exists() or not (path / "deleted.json").exists():
                if self._config(path.name).exists() or (path / "log").exists():
                    names.append(path.name)
            else:
                self.finish_delete(path.name)
        return names

    def has_folder(self, stream: str) -> bool:
        """Whether there is anything of ``stream``."""
        return (self.directory / stream).exists()

    def stream(self, name: str) -> StreamConfig:
        """The configuration of a stream.

        Raises:
            Corrupted: it is missing or cannot be read.
        """
        return _read(self._config(name), StoredStream).config

    def save_stream(self, name: str, config: StreamConfig) -> None:
        """Write the configuration of a stream, making its folder."""
        (self.directory / name / "consumers").mkdir(mode=0o750, parents=True, exist_ok=True)
        _sync_folder(self.directory)
        _write(self._config(name), StoredStream(config=config))

    def begin_delete(self, name: str) -> None:
        """From here on the stream is not there, also after a crash."""
        config = self._config(name)
        config.replace(config.with_name("deleted.json"))
        _sync_folder(config.parent)

    def undo_delete(self, name: str) -> None:
        """The stream is there after all."""
        config = self._config(name)
        config.with_name("deleted.json").replace(config)
        _sync_folder(config.parent)

    def finish_delete(self, name: str) -> None:
        """Remove all that is left of a stream whose deletion has begun."""
        folder = self.directory / name
        for path in folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != "deleted.json":  # the last to go: a crash before it goes on from here
                path.unlink()
        shutil.rmtree(folder)
        _sync_folder(self.directory)

    def consumers(self, stream: str) -> list[str]:
        """Names of the consumers of a stream; journals that a crash left without a consumer are removed."""
        folder = self.directory / stream / "consumers"
        folder.mkdir(mode=0o750, exist_ok=True)
        names = sorted(p.stem for p in folder.glob("*.json") if not p.name.startswith("."))
        for journal in folder.glob("*.state"):
            if journal.stem not in names:
                journal.unlink()
        return names

    def consumer(self, stream: str, name: str) -> StoredConsumer:
        """The configuration of a consumer.

        Raises:
            Corrupted: it cannot be read.
        """
        return _read(self._consumer(stream, name), StoredConsumer)

    def has_journal(self, stream: str, name: str) -> bool:
        """Whether the engine has files of a consumer."""
        return self._consumer(stream, name).with_suffix(".state").exists()

    def save_consumer(self, stream: str, name: str, stored: StoredConsumer) -> None:
        """Write the configuration of a consumer."""
        _write(self._consumer(stream, name), stored)

    def remove_consumer(self, stream: str, name: str) -> None:
        """From here on the consumer is not there."""
        path = self._consumer(stream, name)
        path.unlink(missing_ok=True)
        _sync_folder(path.parent)

    def _config(self, stream: str) -> Path:
        return self.directory / stream / "config.json"

    def _consumer(self, stream: str, name: str) -> Path:
        return self.directory / stream / "consumers" / f"{name}.json"


def _read(path: Path, kind: type[Stored]) -> Stored:
    try:
        stored = msgspec.json.decode(path.read_bytes(), type=kind)
    except FileNotFoundError as error:
        raise Corrupted(
            "is missing, but there are records",
            subject=str(path),
            hint="restore it from a backup, or remove the folder if the records are not wanted",
        ) from error
    except (OSError, msgspec.MsgspecError) as error:
        raise Corrupted(f"cannot be read: {error}", subject=str(path), hint="restore it from a backup") from error
    if stored.format != FORMAT:
        raise Corrupted(f"is of format {stored.format}; this version knows {FORMAT}", subject=str(path))
    return stored


def _write(path: Path, stored: StoredStream | StoredConsumer) -> None:
    beside = path.with_name(f".{path.name}.new")
    with beside.open("wb") as file:
        file.write(msgspec.json.format(msgspec.json.encode(stored)) + b"\n")
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
    _sync_folder(path.parent)


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
