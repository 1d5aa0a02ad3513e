"""Users' predicates over packets, in CEL (https://cel.dev), compiled once and never given to ``eval``.

What can be known before a packet comes is checked when a pipeline is applied: the syntax, with the place;
functions that do not exist; an expression without variables that fails or is no bool. Which fields a packet
has is only known from the packet, so a field that is not there is a failure of that packet alone.

``reads`` tells which fields an expression can touch, for decoding no others. It reads tokens and not the
syntax tree (the library gives none): every chain ``name.name.name`` is a path, and wherever a chain goes on
in another way (an index, a method, a comprehension) the whole value before that is taken. So it can say too
much and never too little; names bound by macros are taken as fields that no packet has.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from platformd.core.errors import FieldError, InvalidInput, nearest

FUNCTIONS = frozenset({
    "bytes", "contains", "double", "duration", "dyn", "endsWith", "getDate", "getDayOfMonth", "getDayOfWeek",
    "getDayOfYear", "getFullYear", "getHours", "getMilliseconds", "getMinutes", "getMonth", "getSeconds", "hasValue",
    "int", "matches", "none", "of", "ofNonZeroValue", "or", "orValue", "size", "startsWith", "string", "timestamp",
    "type", "uint", "value",
})  # fmt: skip
"""What the library implements of CEL's standard functions; macros (``has``, ``all``, ``exists``,
``exists_one``, ``filter``, ``map``) are not functions. A test calls each."""

_TOKEN = re.compile(
    r"""
    (?P<space>\s+|//[^\n]*)
  | (?P<string>[bB]?[rR][bB]?(?:\"\"\".*?\"\"\"|'''.*?'''|"[^"\n]*"|'[^'\n]*')
      |[bB]?(?:\"\"\"(?:\\.|.)*?\"\"\"|'''(?:\\.|.)*?'''|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'))
  | (?P<number>0[xX][0-9a-fA-F]+[uU]?|(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?[uU]?)
  | (?P<name>[A-Za-z_][A-Za-z0-9_]*)
  | (?P<other>.)
    """,
    re.VERBOSE | re.DOTALL,
)
_NO_FIELDS = frozenset({"true", "false", "null", "in"})
_PLACE = re.compile(r"ERROR: <input>:(\d+):(\d+): (.*)")
_OPERATOR_FREE = re.compile(r"^[A-Za-z]\w*$")


class ExpressionError(InvalidInput):
    """An expression that cannot be compiled; ``problems`` has each place.

    Args:
        source: the expression.
        problems: what is wrong, in order.
    """

    def __init__(self, source: str, problems: tuple[Problem, ...]) -> None:
        super().__init__("; ".join(p.describe(source) for p in problems), subject=source)
        self.source = source
        self.problems = problems


class EvaluationError(InvalidInput):
    """An expression that compiled fails on a packet; the message says at what."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with an expression; ``line`` and ``column`` count from 1, 0 is nowhere."""

    line: int
    column: int
    message: str
    hint: str | None = None

    def describe(self, source: str) -> str:
        """For a person: the place, what is wrong, and the line with a caret under the place."""
        if not self.line:
            return self.message
        lines = source.split("\n")
        text = lines[self.line - 1] if self.line <= len(lines) else ""
        caret = "".join("\t" if c == "\t" else " " for c in text[: self.column - 1]).ljust(self.column - 1)
        return f"line {self.line}, column {self.column}: {self.message}\n    {text}\n    {caret}^"


class Expression:
    """A compiled predicate. Call it with a packet and its annotations.

    Args:
        source: what the user wrote.

    Raises:
        ExpressionError: it cannot be compiled, or calls a function that is not there.
    """

    def __init__(self, source: str) -> None:
        self.source = source
        self._program = _compile(source)
        self.variables = frozenset(self._program.variables())
        self.reads = _reads(source, self.variables)
        unknown = [f for f in self._program.functions() if _OPERATOR_FREE.match(f) and f not in FUNCTIONS]
        if unknown:
            raise ExpressionError(source, tuple(_unknown_function(source, name) for name in unknown))

    def __call__(self, packet: Mapping[str, Any], annotations: Mapping[str, Any]) -> bool:
        """Whether the predicate holds.

        Raises:
            EvaluationError: it fails on this packet, or its result is not a bool.
        """
        context = {name: packet[name] for name in self.variables if name in packet}
        if "annotations" in self.variables:
            context["annotations"] = annotations
        result = self.value(context)
        if result is True or result is False:
            return result
        raise EvaluationError(f"gives {_type_name(result)}, not a bool", subject=self.source)

    def value(self, context: Mapping[str, Any]) -> Any:
        """What it gives, whatever that is, with these variables.

        Raises:
            EvaluationError: it fails on them.
        """
        try:
            return self._program.execute(dict(context))
        except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
            raise EvaluationError(self._explain(error, context), subject=self.source) from error
        except BaseException as error:
            raise _not_a_panic(error) from error

    def _explain(self, error: Exception, context: Mapping[str, Any]) -> str:
        missing: set[str] = set()
        null: set[str] = set()
        for path in self.reads or ():
            value: Any = context
            names = path.split(".")
            for i, name in enumerate(names):
                if not isinstance(value, Mapping) or value.get(name) is None:
                    there = isinstance(value, Mapping) and name in value
                    (null if there else missing).add(".".join(names[: i + 1]))
                    break
                value = value[name]
        about = [
            f"{', '.join(sorted(paths))} {'is' if len(paths) == 1 else 'are'} {what}"
            for paths, what in ((missing, "missing"), (null, "null"))
            if paths
        ]
        text = str(error).split(". ")[0].rstrip(".")
        if isinstance(error, KeyError):
            text = f"there is no field {error.args[0]}" if error.args else "a field is missing"
        return text + (f" ({'; '.join(about)})" if about else "")


def expression_errors(source: str, path: str) -> list[FieldError]:
    """What can be seen to be wrong with an expression before any packet comes.

    Args:
        source: the expression.
        path: where it stands in its document.
    """
    try:
        expression = Expression(source)
    except ExpressionError as error:
        return [FieldError(path=path, message=p.describe(source), hint=p.hint) for p in error.problems]
    if expression.variables:
        return []
    # Without variables there is no comprehension either (it binds one), so this takes linear time.
    try:
        expression({}, {})
    except EvaluationError as error:
        return [FieldError(path=path, message=error.message, hint="compare a field of the packet with something")]
    return []


def _compile(source: str) -> Any:
    import cel  # slow to import: it brings its own command line with it

    try:
        return cel.compile(source)
    except ValueError as error:
        raise ExpressionError(source, _problems(str(error))) from error
    except BaseException as error:
        raise ExpressionError(source, (Problem(0, 0, str(_not_a_panic(error))),)) from error


def _not_a_panic(error: BaseException) -> Exception:
    """The error for a panic of the library, which PyO3 raises past ``Exception``; others are raised again."""
    if type(error).__name__ != "PanicException":
        raise error
    return EvaluationError(f"the CEL library failed on it: {error}")


def _problems(text: str) -> tuple[Problem, ...]:
    """The places in the library's message. One mistake makes it report several; the first place counts."""
    found = [Problem(int(line), int(column), _plain(message)) for line, column, message in _PLACE.findall(text)]
    if not found:
        return (Problem(0, 0, text.split("\n", 1)[0]),)
    return (min(found, key=lambda p: (p.line, p.column)),)


def _plain(message: str) -> str:
    message = message.removeprefix("Syntax error: ")
    limit = re.search(r"Recursion limit of (\d+) exceeded", message)
    if limit:
        return f"is nested deeper than {limit[1]} levels"
    unexpected = re.match(r"(?:mismatched|extraneous) input '(.*?)' expecting", message)
    if unexpected:
        return "the expression ends too early" if unexpected[1] == "<EOF>" else f"unexpected {unexpected[1]!r}"
    token = re.match(r"token recognition error at: '(.*)'", message)
    return f"cannot read {token[1]!r}" if token else message


def _unknown_function(source: str, name: str) -> Problem:
    line, column = next(
        (_position(source, at) for kind, text, at in _tokens(source) if kind == "name" and text == name), (0, 0)
    )
    near = nearest(name, sorted(FUNCTIONS))
    return Problem(
        line,
        column,
        f"there is no function {name!r}",
        f"did you mean {near}?" if near else "CEL has no mathematical functions; |x| < 3 is written x < 3 && x > -3",
    )


def _position(source: str, offset: int) -> tuple[int, int]:
    before = source[:offset]
    return before.count("\n") + 1, offset - (before.rfind("\n") + 1) + 1


def _tokens(source: str) -> Iterable[tuple[str, str, int]]:
    for match in _TOKEN.finditer(source):
        if match.lastgroup != "space":
            yield match.lastgroup or "other", match.group(), match.start()


def _reads(source: str, variables: frozenset[str]) -> frozenset[str] | None:
    """The dotted paths that an expression can read; ``None`` for everything."""
    tokens = [(kind, text) for kind, text, _ in _tokens(source)]
    tokens.append(("other", ""))
    paths: set[str] = set()
    i = 0
    while i < len(tokens):
        kind, text = tokens[i]
        after_value = i >= 2 and tokens[i - 1][1] == "." and _ends_value(tokens[i - 2])
        if kind != "name" or text in _NO_FIELDS or after_value:
            i += 1
            continue
        chain, i = [text], i + 1
        while tokens[i][1] == "." and tokens[i + 1][0] == "name":
            chain.append(tokens[i + 1][1])
            i += 2
        if tokens[i][1] == "(":
            chain.pop()  # a function's or method's name
        if chain:
            paths.add(".".join(chain))
    if not variables <= {p.split(".")[0] for p in paths}:
        return None  # a way to name a variable that this reading does not know
    return frozenset(paths)


def _ends_value(token: tuple[str, str]) -> bool:
    kind, text = token
    return kind in ("name", "string", "number") or text in (")", "]", "}")


def _type_name(value: Any) -> str:
    names = {int: "an int", float: "a double", str: "a string", type(None): "null", list: "a list", dict: "a map"}
    return names.get(type(value), f"a {type(value).__name__}")
