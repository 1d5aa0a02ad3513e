"""Reading documents: YAML by the rules of 1.2, with lines, within bounds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from platformd.cli import documents, yaml12
from platformd.cli.documents import Document, read_documents
from platformd.core.errors import InvalidInput


@pytest.fixture
def read(tmp_path: Path) -> Any:
    """Writes a text to a file and reads its documents."""

    def reader(text: str, name: str = "f.yaml") -> list[Document]:
        (tmp_path / name).write_text(text)
        return read_documents([str(tmp_path / name)])

    return reader


def complaint(read: Any, text: str, name: str = "f.yaml") -> str:
    """The first thing that is wrong with ``text``, after its path."""
    with pytest.raises(InvalidInput) as caught:
        read(text, name)
    error = caught.value.errors[0]
    return f"{error.path.rpartition('/')[2]} {error.message}"


HEAD = "kind: Stream\nname: a\n"


def test_scalars_are_those_of_yaml_1_2(read: Any) -> None:
    """Only what looks like a number, a boolean or null becomes one; the traps of YAML 1.1 stay strings."""
    text = HEAD + (
        "spec: {a: on, b: no, c: 12:30, d: 2026-01-31, e: 010, f: 0x1F, g: 0o17, h: 1e3, i: .5, j: -.inf, k: ~, l: ,\n"
        " m: 'true', n: TRUE, o: -7, p: 1_000, q: =, r: 1.2.3, s: .nan, t: y}\n"
    )
    spec = read(text)[0].value["spec"]
    assert spec.pop("s") != spec.get("s")
    assert spec == {
        "a": "on", "b": "no", "c": "12:30", "d": "2026-01-31", "e": 10, "f": 31, "g": 15, "h": 1000.0, "i": 0.5,
        "j": float("-inf"), "k": None, "l": None, "m": "true", "n": True, "o": -7, "p": "1_000", "q": "=", "r": "1.2.3",
        "t": "y",
    }  # fmt: skip


LOOKALIKES = [
    "0E0",
    "1e3",
    "0o17",
    "0x1F",
    "1_0",
    "12:30",
    "on",
    "y",
    "2026-01-31",
    "~",
    "NULL",
    ".inf",
    "=",
    "-",
    "? a",
]
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.text(st.characters(codec="utf-8", exclude_categories=["Cc"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc.:-# ", max_size=5), inner, max_size=3),
    max_leaves=12,
)


@example({"a": "0E0", "b": "0o17", "c": "12:30", "d": "", "e": "null", "f": "é\n- x\n", "g": 1e300})
@settings(deadline=None)
@given(st.dictionaries(st.text("abc", min_size=1, max_size=3), JSON, max_size=3))
def test_what_we_print_as_yaml_we_read_as_it_was(spec: dict[str, Any]) -> None:
    """``get -o yaml`` and ``apply -f`` agree on every value."""
    from platformd.cli.output import as_yaml

    document = {"kind": "Stream", "name": "a", "spec": spec}
    [(value, _)] = documents._yaml("f", as_yaml([document]).encode())
    assert value == document


def test_each_part_knows_its_line(read: Any) -> None:
    """Paths as the server writes them lead to lines, and unknown ones to the nearest thing around."""
    text = "---\n" + HEAD + "spec:\n  stages:\n  - name: f\n  - name: r\n    routes:\n      - {when: x}\n---\n" + HEAD
    first, second = read(text)
    places = {
        "": 2, "spec": 4, "spec.stages[1]": 7, "spec.stages[1].name": 7, "spec.stages[1].routes[0].when": 9,
        "spec.stages[1].routes[0].subject": 9, "spec.stages[5].name": 5, "nowhere": 2,
    }  # fmt: skip
    assert {path: int(first.place(path).rpartition(":")[2]) for path in places} == places
    assert second.place().endswith(":11")


def test_lists_of_resources_are_taken_apart(read: Any) -> None:
    """What ``get -o json`` prints for several counts as several, and lines lead into the list."""
    found = read('{"items": [{"kind": "Stream", "name": "a"}, {"kind": "Node", "name": "b"}]}', "f.json")
    assert [d.subject for d in found] == ["stream/a", "node/b"]
    listed = read("items:\n- kind: Stream\n  name: a\n- kind: Node\n  name: b\n  spec:\n    zone: 1\n")
    assert [d.place("spec.zone").rpartition(":")[2] for d in listed] == ["2", "7"]


def test_braces_may_begin_yaml_too(read: Any) -> None:
    """A flow mapping is not JSON but is read; in a .json file it is an error."""
    assert read("{kind: Stream, name: a}")[0].subject == "stream/a"
    assert complaint(read, "{kind: Stream, name: a}", "f.json").startswith("f.json is not JSON: ")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (HEAD + "spec: {a: 1,\n  b: [}\n", "f.yaml:4:7 is not YAML: "),
        (HEAD + "---\n" + HEAD + "\tspec: 1\n", "f.yaml:6:1 is not YAML: "),
        (HEAD + "name: b\n", "f.yaml:3:1 the key 'name' stands twice"),
        (HEAD + "spec: {[a]: 1}\n", "f.yaml:3:8 a key is not a string"),
        (HEAD + "spec: !!python/object/apply:os.system [id]\n", "f.yaml:3:7 the tag"),
        (HEAD + "spec: !secret x\n", "f.yaml:3:7 the tag '!secret' is not known here"),
        (HEAD + "spec: *nowhere\n", "f.yaml:3:7 is not YAML: "),
        (HEAD + "spec: &a [*a]\n", "f.yaml:3:7 is nested deeper than 64"),
        (HEAD + "spec: " + "[" * 70 + "]" * 70, "f.yaml:3:71 is nested deeper than 64"),
        ("a: \x00", "f.yaml is not YAML: "),
        ("just text", "f.yaml:1 is not a resource"),
        ("spec: {}", "f.yaml:1 has no kind and no name"),
        ("\n\nkind: Strim\nname: a", "f.yaml:3 there is no kind 'Strim'"),
        ("kind: Stream\nname: 5", "f.yaml:1 has no name"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(read: Any, text: str, expected: str) -> None:
    """Syntax, duplicate keys, foreign tags, endless nesting and what is no resource: file, line and cause."""
    assert complaint(read, text).startswith(expected)


def test_tags_that_only_say_what_is_so_are_read(read: Any) -> None:
    """An explicit tag of the core schema is no stranger."""
    assert read(HEAD + "spec: {a: !!str 5, b: !!map {c: !!seq [1]}}\n")[0].value["spec"] == {"a": "5", "b": {"c": [1]}}


def test_a_tag_that_does_not_fit_is_refused(read: Any) -> None:
    """A value that is not what its tag says is an error with its place."""
    assert complaint(read, HEAD + "spec: !!int five\n") == "f.yaml:3:7 is not a value of the type int: 'five'"
    assert complaint(read, HEAD + f"spec: {'9' * 5000}\n") == "f.yaml:3:7 is not a number of reasonable length"


def test_aliases_cannot_make_much_of_little(read: Any) -> None:
    """A few lines that stand for millions of values are refused, at once."""
    lines = ["a0: &a0 [x]"] + [f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    assert "has more than 200000 values" in complaint(read, HEAD + "\n".join(lines))


def test_a_file_over_the_limit_is_refused(read: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit of a file is quoted."""
    monkeypatch.setattr(documents, "MAX_FILE_BYTES", 10)
    assert complaint(read, HEAD) == "f.yaml is larger than 10 bytes"


def test_the_python_loader_reads_the_same(read: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where PyYAML has no C loader the rules are the same."""
    loader = type("Loader", (yaml.SafeLoader,), {"yaml_implicit_resolvers": yaml12.Loader.yaml_implicit_resolvers})
    monkeypatch.setattr(yaml12, "Loader", loader)
    assert read(HEAD + "spec: {a: on, b: 1e3, c: 0o17}")[0].value["spec"] == {"a": "on", "b": 1000.0, "c": 15}
    assert complaint(read, HEAD + "spec: [}\n").startswith("f.yaml:3:8 is not YAML: ")
