"""``platformd access``."""

from __future__ import annotations

import json

import pytest

from platformd.cli.main import main
from platformd.model.access import ROLES, TABLE


def test_the_matrix_needs_no_daemon(capsys: pytest.CaptureFixture[str]) -> None:
    """Every operation is a row, and every role a column."""
    assert main(["access", "matrix"]) == 0
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split() == ["OPERATION", *(role.upper() for role in ROLES), "WHAT"]
    assert [row.split()[0] for row in rows] == list(TABLE)


def test_the_matrix_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    """Programs get the same."""
    assert main(["access", "matrix", "-o", "json"]) == 0
    assert [row["operation"] for row in json.loads(capsys.readouterr().out)["items"]] == list(TABLE)
