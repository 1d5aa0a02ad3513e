"""``explain``: a kind's declaration for people and programs."""

from __future__ import annotations

import pytest

from platformd.cli.main import root
from platformd.model.kinds import KINDS

from .conftest import Cli


def test_all_kinds_in_a_line_each(cli: Cli) -> None:
    """With their short names; no daemon is needed."""
    ran = cli("explain")
    assert [line.split()[0] for line in ran.out.splitlines()[1:]] == [kind.plural for kind in KINDS]
    assert [item["name"] for item in cli("explain", "-o", "json").json()["items"]] == [kind.name for kind in KINDS]


@pytest.mark.parametrize("kind", [kind.plural for kind in KINDS])
def test_a_kind_is_explained_whole(cli: Cli, kind: str) -> None:
    """What it is for, its fields, states and example; each line fits a terminal."""
    ran = cli("explain", kind)
    assert ran.code == 0
    assert "Spec:" in ran.out
    assert "Example:" in ran.out
    assert cli("explain", kind, "-r").out.count("\n") > 5
    assert cli("explain", kind, "-o", "yaml").out.startswith("name: ")


def test_a_field_says_its_type_meaning_and_limits(cli: Cli) -> None:
    """By its path, through lists and alternatives; a typing error names the nearest."""
    age = cli("explain", "stream.spec.max_age")
    assert age.out.startswith("stream.spec.max_age  <string>")
    assert "for example: 500ms" in age.out
    stages = cli("explain", "pipelines.spec.stages")
    assert "FilterStage" in stages.out
    assert "Fields:" in stages.out
    wrong = cli("explain", "stream.spec.max_agee")
    assert (wrong.code, "max_age" in wrong.err) == (3, True)
    assert cli("explain", "strem").code == 3


def complete(line: str) -> list[str]:
    """What click would offer for the last word of ``line``."""
    from click.shell_completion import ShellComplete

    *words, incomplete = line.split(" ")
    completer = ShellComplete(root, {}, "platformd", "_X")
    return [item.value for item in completer.get_completions(words, incomplete)]


def test_fields_are_completed_dot_by_dot() -> None:
    """Kinds first, then what is below them."""
    assert "streams" in complete("explain str")
    assert complete("explain stream.spec.max_a") == ["stream.spec.max_age"]
    assert "pipeline.spec.stages.workers" in complete("explain pipeline.spec.stages.")
    assert complete("explain nothing.") == []
    assert complete("explain stream.nothing.") == []
