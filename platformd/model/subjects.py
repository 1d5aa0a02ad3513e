"""Subjects: names of what a record is about, and patterns over them.

A subject is one or more tokens with dots between: ``alerts.ztf``. In a pattern ``*`` stands for one
token and a last ``>`` for one or more tokens. The native engine matches with a trie; these are the
plain rules, for validation and for few patterns.
"""

from __future__ import annotations

import re

MAX_SUBJECT_LENGTH = 255
"""In bytes; subjects are printable ASCII without space."""

_TOKEN = re.compile(r"[!-~]+")


def subject_error(subject: str, *, pattern: bool) -> str | None:
    """What is wrong with ``subject`` (a pattern if ``pattern``), or ``None``."""
    if not subject:
        return "is empty"
    if len(subject) > MAX_SUBJECT_LENGTH:
        return f"has {len(subject)} characters; the limit is {MAX_SUBJECT_LENGTH}"
    tokens = subject.split(".")
    for position, token in enumerate(tokens):
        if not token:
            return "has an empty token (two dots together, or one at an end)"
        if not _TOKEN.fullmatch(token):
            return f"token {token!r} has a character that is not printable ASCII, or a space"
        if token in ("*", ">"):
            if not pattern:
                return f"has the wildcard {token!r}, which only a pattern may have"
            if token == ">" and position != len(tokens) - 1:
                return "has '>' before the end; it stands for the rest, so it comes last"
        elif "*" in token or ">" in token:
            return f"token {token!r} mixes a wildcard with other characters"
    return None


def subject_matches(pattern: str, subject: str) -> bool:
    """Whether ``pattern`` covers ``subject``. Both must be valid."""
    wanted, tokens = pattern.split("."), subject.split(".")
    for position, token in enumerate(wanted):
        if token == ">":
            return len(tokens) > position
        if position >= len(tokens) or token not in ("*", tokens[position]):
            return False
    return len(wanted) == len(tokens)


def patterns_overlap(first: str, second: str) -> bool:
    """Whether some subject is covered by both patterns."""
    left, right = first.split("."), second.split(".")
    for position in range(max(len(left), len(right))):
        if position >= len(left) or position >= len(right):
            return False
        if left[position] == ">" or right[position] == ">":
            return True
        if left[position] != right[position] and "*" not in (left[position], right[position]):
            return False
    return True
