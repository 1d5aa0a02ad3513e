"""The template language of ``publish`` and ``--format``."""

from __future__ import annotations

import re

import pytest

from platformd.cli.templates import MAX_RANDOM, Template, plain, published
from platformd.core.errors import InvalidInput


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ""),
        ("nothing } } in { it }}", "nothing } } in { it }}"),
        ("{{n}}", "7"),
        ("a{{ .Count }}b{{N}}", "a7b7"),
        (r"\{{n}} {{n}}", "{{n}} 7"),
        ('{"a":{"n":{{n}}}}', '{"a":{"n":7}}'),
    ],
)
def test_names_are_replaced(text: str, expected: str) -> None:
    """Names in double braces, whatever their case and with or without a dot; nothing else is touched."""
    template = published(text, "PAYLOAD")
    assert template.fill(7) == expected
    assert template.varies is ("n}" in text.lower() or "count" in text.lower())


def test_what_changes_from_record_to_record() -> None:
    """Times are now, ids differ, and random letters have the size that was asked for."""
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", published("{{TimeStamp}}", "").fill(1))
    unix, nano = published("{{unix}} {{UnixNano}}", "").fill(1).split()
    assert abs(int(unix) - int(nano) // 10**9) <= 1
    ids = published("{{id}}", "")
    assert re.fullmatch("[0-9a-f]{32}", ids.fill(1))
    assert ids.fill(1) != ids.fill(2)
    assert re.fullmatch(r"[\w-]{16}", published("{{random}}", "").fill(1))
    sizes = {len(published("{{Random 3 5}}", "").fill(1)) for _ in range(200)}
    assert sizes == {3, 4, 5}
    assert published("{{random 0}}|{{random 9}}", "").fill(1).index("|") == 0


def test_plain_text_has_no_names() -> None:
    """Text that is not a template comes out as it went in."""
    for text in ("{{n}}", r"\{{n}}", "{{"):
        assert plain(text).fill(1) == text
        assert not plain(text).varies


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{{m}}", "{{m}} is not known"),
        ("{{counter}}", "did you mean count?"),
        ("{{n", "'{{' has no end"),
        ("{{}}", "'{{' has no end"),
        ("{{random x}}", "are not sizes"),
        ("{{random 1 2 3}}", "are not sizes"),
        (f"{{{{random {MAX_RANDOM + 1}}}}}", "are not sizes"),
    ],
)
def test_what_is_no_template(text: str, message: str) -> None:
    """A name that is not known, a brace without end and a wrong argument are refused, with what would be right."""
    with pytest.raises(InvalidInput, match=re.escape(message).replace(r"\ ", " ")):
        raise_whole(text)


def raise_whole(text: str) -> None:
    try:
        published(text, "PAYLOAD").fill(1)
    except InvalidInput as error:
        raise InvalidInput(str(error)) from error


def test_arguments_reach_the_word() -> None:
    """What stands behind a name is given to it."""
    template = Template("{{join a  b}}", {"join": lambda subject, arguments: subject + "+".join(arguments)}, "")
    assert template.fill(">") == ">a+b"
