"""The documents that ``-f`` names: YAML (several in a file) or JSON, each knowing the line of each of its parts.

YAML is read as ``platformd.cli.yaml12`` says, and a key that stands twice in a mapping is refused. A list of
resources (``{"items": […]}``, as ``platformd get`` prints one) counts as its items.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec
import yaml

from platformd.cli import yaml12
from platformd.core.errors import FieldError, InvalidInput, NotFound, PlatformError
from platformd.model.kind import Kind
from platformd.model.kinds import find_kind

MAX_FILE_BYTES: Final = 16 << 20
"""The largest file of documents that is read."""
MAX_DEPTH: Final = 64
"""How deep documents may be nested."""
MAX_NODES: Final = 200_000
"""How many values a file may have, those that aliases repeat included."""
SUFFIXES: Final = (".yaml", ".yml", ".json")
"""The files of a directory that count."""


@dataclass(frozen=True)
class Document:
    """One resource as it was written."""

    kind: Kind
    name: str
    value: dict[str, Any]
    origin: str
    """The file, as it was named."""
    lines: dict[str, int] = field(default_factory=dict)
    """The line of each dotted path; ``""`` is the document's own. Empty for JSON."""

    @property
    def subject(self) -> str:
        """How it is named: ``stream/alerts``."""
        return f"{self.kind.singular}/{self.name}"

    def place(self, path: str = "") -> str:
        """Where ``path`` stands, or the nearest thing around it: ``alerts.yaml:14``."""
        while path and path not in self.lines:
            path = path[: max(path.rfind("."), path.rfind("["), 0)]
        return f"{self.origin}:{self.lines[path]}" if path in self.lines else self.origin

    def explain(self, error: PlatformError) -> PlatformError:
        """``error`` about this document, with its places in the file."""
        fields = tuple(replace_path(e, f"{e.path} ({self.place(e.path)})") for e in error.errors)
        message = error.message if fields else f"{error.message} ({self.place()})"
        return type(error)(
            message, subject=error.subject or self.subject, hint=error.hint, errors=fields, details=error.details
        )


def replace_path(error: FieldError, path: str) -> FieldError:
    """``error`` at another ``path``."""
    return FieldError(path=path, message=error.message, hint=error.hint)


def read_documents(names: Sequence[str]) -> list[Document]:
    """All documents in the files and directories ``names``; ``-`` is standard input.

    Raises:
        InvalidInput: something cannot be read, or is not a resource; ``errors`` has every place.
    """
    documents: list[Document] = []
    errors: list[FieldError] = []
    for origin in _files(names):
        try:
            parsed = list(_parse(origin, _read(origin)))
        except InvalidInput as error:
            errors.append(_field_error(error, origin))
            continue
        for value, lines in parsed:
            try:
                documents.append(_document(value, lines, origin))
            except InvalidInput as error:
                errors.append(_field_error(error, origin))
    if errors:
        raise InvalidInput("not everything can be read; nothing was done", subject="-f", errors=tuple(errors))
    if not documents:
        raise InvalidInput("there is no document", subject=" ".join(names))
    return documents


def _field_error(error: InvalidInput, origin: str) -> FieldError:
    return FieldError(path=error.subject or origin, message=error.message, hint=error.hint)


def _files(names: Iterable[str]) -> Iterator[str]:
    for name in names:
        path = Path(name)
        if name != "-" and path.is_dir():
            yield from sorted(str(p) for p in path.iterdir() if p.suffix in SUFFIXES and p.is_file())
        else:
            yield name


def _read(origin: str) -> bytes:
    try:
        if origin == "-":
            data = sys.stdin.buffer.read(MAX_FILE_BYTES + 1)
        else:
            with Path(origin).open("rb") as file:
                data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise InvalidInput(f"cannot be read: {error.strerror}", subject=origin) from error
    if len(data) > MAX_FILE_BYTES:
        raise InvalidInput(f"is larger than {MAX_FILE_BYTES} bytes", subject=origin)
    return data


def _parse(origin: str, data: bytes) -> Iterator[tuple[Any, dict[str, int]]]:
    """The values in a file, with their lines; lists of resources are taken apart."""
    for value, lines in read_values(origin, data):
        if isinstance(value, dict) and "kind" not in value and isinstance(value.get("items"), list):
            for i, item in enumerate(value["items"]):
                prefix = f"items[{i}]"
                own = {
                    path.removeprefix(prefix).lstrip("."): at for path, at in lines.items() if path.startswith(prefix)
                }
                yield item, own
        else:
            yield value, lines


def read_values(origin: str, data: bytes) -> list[tuple[Any, dict[str, int]]]:
    """The values in ``data``, one JSON value or documents of YAML, each with the lines of its parts.

    Raises:
        InvalidInput: it is neither.
    """
    return _json(origin, data) or _yaml(origin, data)


def _json(origin: str, data: bytes) -> list[tuple[Any, dict[str, int]]]:
    if not origin.endswith(".json") and not data.lstrip().startswith((b"{", b"[")):
        return []
    try:
        return [(msgspec.json.decode(data), {})]
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        if origin.endswith(".json"):
            raise InvalidInput(f"is not JSON: {error}", subject=origin) from error
        return []  # YAML may begin with a brace too


def _yaml(origin: str, data: bytes) -> list[tuple[Any, dict[str, int]]]:
    values = []
    builder = _Builder(origin)
    try:
        for node in yaml.compose_all(data, Loader=yaml12.Loader):
            if node is not None and not (isinstance(node, yaml.ScalarNode) and node.value == ""):
                lines: dict[str, int] = {}
                values.append((builder.value(node, "", lines), lines))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{origin}:{mark.line + 1}:{mark.column + 1}" if mark is not None else origin
        raise InvalidInput(f"is not YAML: {error.problem or error.context}", subject=place) from error
    except yaml.YAMLError as error:
        raise InvalidInput(f"is not YAML: {str(error).splitlines()[0]}", subject=origin) from error
    return values


class _Builder:
    """Makes values of YAML nodes and notes where each stood."""

    def __init__(self, origin: str) -> None:
        self._origin = origin
        self._nodes = 0

    def value(self, node: yaml.Node, path: str, lines: dict[str, int], depth: int = 0) -> Any:
        self._nodes += 1
        if depth > MAX_DEPTH or self._nodes > MAX_NODES:
            limit = f"nested deeper than {MAX_DEPTH}" if depth > MAX_DEPTH else f"more than {MAX_NODES} values"
            raise self._refuse(node, f"is {limit}" if depth > MAX_DEPTH else f"has {limit}")
        lines.setdefault(path, node.start_mark.line + 1)
        if isinstance(node, yaml.CollectionNode) and node.tag not in yaml12.TAGS:
            raise self._refuse(node, f"the tag {node.tag!r} is not known here")
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item, f"{path}[{i}]", lines, depth + 1) for i, item in enumerate(node.value)]
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path, lines, depth)
        return self._scalar(node)

    def _mapping(self, node: yaml.MappingNode, path: str, lines: dict[str, int], depth: int) -> dict[str, Any]:
        built: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise self._refuse(key_node, "a key is not a string")
            key = str(key_node.value)
            if key in built:
                raise self._refuse(key_node, f"the key {key!r} stands twice")
            inner = f"{path}.{key}" if path else key
            lines[inner] = key_node.start_mark.line + 1
            built[key] = self.value(value_node, inner, lines, depth + 1)
        return built

    def _scalar(self, node: yaml.Node) -> Any:
        if node.tag not in yaml12.TAGS:
            raise self._refuse(node, f"the tag {node.tag!r} is not known here")
        try:
            return yaml12.scalar(node)
        except yaml12.NotOfItsTag as error:
            raise self._refuse(node, str(error)) from error

    def _refuse(self, node: yaml.Node, message: str) -> InvalidInput:
        mark = node.start_mark
        return InvalidInput(message, subject=f"{self._origin}:{mark.line + 1}:{mark.column + 1}")


def _document(value: Any, lines: dict[str, int], origin: str) -> Document:
    """``value`` as a resource; only what is needed to address it is looked at, the rest is the server's."""
    at = f"{origin}:{lines['']}" if "" in lines else origin
    if not isinstance(value, dict):
        raise InvalidInput("is not a resource: a mapping with kind, name and spec", subject=at)
    missing = [key for key in ("kind", "name") if not isinstance(value.get(key), str) or not value[key]]
    if missing:
        raise InvalidInput(f"has no {' and no '.join(missing)}", subject=at, hint="a resource has kind, name and spec")
    try:
        kind = find_kind(value["kind"])
    except NotFound as error:
        line = f"{origin}:{lines['kind']}" if "kind" in lines else origin
        raise InvalidInput(f"there is no kind {value['kind']!r}", subject=line, hint=error.hint) from error
    return Document(kind, value["name"], value, origin, lines)
