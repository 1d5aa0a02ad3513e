"""The whole document: every route of the application, each with what its handler declares."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from http import HTTPStatus
from typing import Any, Final

import msgspec
from quart import Quart
from werkzeug.routing import Rule

from platformd import __version__
from platformd.api.openapi.declared import COMMON, Answer, Body, Of, Operation, Parameter, declaration
from platformd.api.openapi.parameters import HEADERS, IDEMPOTENCY_KEY, PATH
from platformd.api.openapi.resources import kind_schemas, name_of, reference
from platformd.api.openapi.shapes import REFERRED
from platformd.api.problems import RETRY_SECONDS
from platformd.api.replies import PROBLEM
from platformd.core.errors import DeadlineExceeded, KeyInUse, KeyOutcomeUnknown, KeyReused, PlatformError
from platformd.model.kind import Kind

IMPLIED: Final = frozenset({"HEAD", "OPTIONS"})
"""Methods that every route with GET answers, and that no document mentions."""
ABOUT: Final = """\
One daemon that gives a small facility its platform services.

Errors are problem documents (RFC 9457) with a `code` for programs and a `hint` for people. ETags are revisions. A
listing has a `cursor` for the next page; all its pages are of one revision. What says `watch` can be followed, as
server-sent events or over a WebSocket, and goes on after a revision."""
_REF_TEMPLATE: Final = "#/components/schemas/{name}"
_VARIABLE: Final = re.compile(r"<(?:[a-z]+:)?([a-z_]+)>")


def openapi_document(app: Quart, kinds: Sequence[Kind]) -> dict[str, Any]:
    """The OpenAPI 3.1 document of ``app``.

    Raises:
        LookupError: a route's handler declares nothing; the message names it.
    """
    document: dict[str, Any] = msgspec.to_builtins(_Document(app, kinds).make())
    return document


def http_rules(app: Quart) -> Iterator[tuple[Rule, str, Operation]]:
    """Each route with each of its methods that a document mentions, and what it declares.

    Raises:
        LookupError: a handler declares nothing.
    """
    for rule in app.url_map.iter_rules():
        if rule.websocket:
            continue
        for method in sorted((rule.methods or set()) - IMPLIED):
            handler = app.view_functions[rule.endpoint]
            declared = declaration(handler)
            if declared is None:
                raise LookupError(f"{method} {rule.rule}: {handler} declares no operation")
            yield rule, method, repeatable(declared) if method == "POST" and declared.repeatable else declared


def repeatable(declared: Operation) -> Operation:
    """``declared`` with what an Idempotency-Key may come to."""
    return replace(
        declared,
        parameters=(*declared.parameters, IDEMPOTENCY_KEY),
        problems=(*declared.problems, KeyInUse, KeyOutcomeUnknown, KeyReused),
    )


class _Document:
    def __init__(self, app: Quart, kinds: Sequence[Kind]) -> None:
        self._app, self._kinds = app, kinds
        self._websockets = {rule.rule for rule in app.url_map.iter_rules() if rule.websocket}
        self._rules = list(http_rules(app))
        self._types: list[Any] = [*REFERRED]
        self._refusals: dict[str, Any] = {}
        self._places: dict[int, dict[str, Any]] = {}
        self._collect()
        self._components = self._schemas()

    def make(self) -> dict[str, Any]:
        paths: dict[str, dict[str, Any]] = {}
        tags: dict[str, str] = {}
        for rule, method, declared in self._rules:
            for kind in self._kinds if "<kind:plural>" in rule.rule else (None,):
                path = _VARIABLE.sub(r"{\1}", rule.rule)
                path = path.replace("{plural}", kind.plural) if kind else path
                made = self._operation(rule, declared, kind)
                tags.setdefault(made["tags"][0], kind.summary if kind else "")
                paths.setdefault(path, {})[method.lower()] = made
        return {
            "openapi": "3.1.0",
            "info": {
                "title": "platformd",
                "version": __version__,
                "summary": "The control API of platformd.",
                "description": ABOUT,
                "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
            },
            "servers": [{"url": "/"}],
            "tags": [{"name": name} | ({"description": text} if text else {}) for name, text in tags.items()],
            "paths": dict(sorted(paths.items())),
            "components": {
                "schemas": dict(sorted(self._components.items())),
                "responses": dict(sorted(self._refusals.items())),
                "headers": HEADERS,
            },
        }

    # -- schemas --------------------------------------------------------------------------------------------------

    def _collect(self) -> None:
        """Find all types, so that one call makes the schemas of them all."""
        for _, _, declared in self._rules:
            self._types += [p.schema for p in declared.parameters]
            self._types += [*declared.path.values()]
            forms: list[Answer | Body] = [*declared.answers.values()]
            forms += [declared.body] if declared.body else []
            self._types += [schema for form in forms for schema in (form.schema, *form.also.values())]
        self._types += [schema for schema, _ in PATH.values()]
        self._types += [kind.resource_type for kind in self._kinds]
        self._types = [wanted for wanted in self._types if not isinstance(wanted, dict | Of) and wanted is not None]

    def _schemas(self) -> dict[str, Any]:
        made, components = msgspec.json.schema_components(self._types, ref_template=_REF_TEMPLATE)
        self._places = {id(wanted): schema for wanted, schema in zip(self._types, made, strict=True)}
        for kind in self._kinds:
            name = self._places[id(self._type_of(kind))]["$ref"].rpartition("/")[2]
            components |= kind_schemas(kind, components.pop(name))
        return components

    def _type_of(self, kind: Kind) -> Any:
        name = kind.resource_type
        return next(wanted for wanted in self._types if wanted == name)

    def _schema(self, wanted: Any, kind: Kind | None) -> dict[str, Any]:
        if isinstance(wanted, Of):
            assert kind is not None
            return reference(name_of(kind, wanted))
        if isinstance(wanted, dict):
            return wanted
        return self._places[id(wanted)]

    # -- operations -----------------------------------------------------------------------------------------------

    def _operation(self, rule: Rule, declared: Operation, kind: Kind | None) -> dict[str, Any]:
        names = {"Kind": kind.name, "Kinds": _camel(kind.plural, kind.name)} if kind else {}
        in_tenant = "<tenant>" in rule.rule
        made: dict[str, Any] = {
            "operationId": declared.id.format(**names) + ("InTenant" if in_tenant else ""),
            "tags": [declared.tag.format(**names)],
            "summary": declared.summary,
        }
        if declared.description:
            made["description"] = declared.description
        if rule.rule in self._websockets and "GET" in (rule.methods or ()):
            made["x-websocket"] = True
        variables = [name for name in _VARIABLE.findall(rule.rule) if name != "plural"]
        made["parameters"] = [self._variable(name, declared) for name in variables]
        made["parameters"] += [self._parameter(parameter, kind) for parameter in declared.parameters]
        if kind is not None and any(answer.schema is Of.PAGE for answer in declared.answers.values()):
            made["parameters"] += [
                self._parameter(Parameter(name=name, description=f"Only those whose `{path}` is this."), kind)
                for name, path in kind.filters.items()
            ]
        if declared.body is not None:
            made["requestBody"] = self._body(declared.body, kind)
        made["responses"] = self._responses(declared, kind)
        return made

    def _variable(self, name: str, declared: Operation) -> dict[str, Any]:
        wanted, description = PATH.get(name, (str, ""))
        schema = self._schema(declared.path.get(name, wanted), None)
        return {
            "name": name,
            "in": "path",
            "required": True,
            "description": schema.get("description", description) if name in declared.path else description,
            "schema": schema,
        }

    def _parameter(self, parameter: Parameter, kind: Kind | None) -> dict[str, Any]:
        made = {
            "name": parameter.name,
            "in": parameter.where,
            "required": parameter.required,
            "description": parameter.description,
            "schema": self._schema(parameter.schema, kind),
        }
        return made | ({"allowEmptyValue": True} if parameter.flag else {})

    def _body(self, body: Body, kind: Kind | None) -> dict[str, Any]:
        content = self._content(body, kind)
        if body.example is not None:
            content[body.media_types[0]]["example"] = body.example
        return {"required": body.required, "content": content}

    def _content(self, form: Answer | Body, kind: Kind | None) -> dict[str, Any]:
        forms = {**dict.fromkeys(form.media_types, form.schema), **form.also}
        # In OpenAPI 3.1 bytes are what has no schema at all.
        return {
            name: {} if wanted is bytes else {"schema": self._schema(wanted, kind)} for name, wanted in forms.items()
        }

    def _responses(self, declared: Operation, kind: Kind | None) -> dict[str, Any]:
        made: dict[str, Any] = {}
        for status, answer in sorted(declared.answers.items()):
            response: dict[str, Any] = {"description": answer.description, "headers": _headers(*answer.headers)}
            if answer.schema is not None:
                response["content"] = self._content(answer, kind)
            made[str(status)] = response
        problems: dict[int, list[type[PlatformError]]] = {}
        errors_of: tuple[type[PlatformError], ...] = (*COMMON, *declared.problems)
        for error in dict.fromkeys(errors_of):
            status = HTTPStatus.REQUEST_TIMEOUT if error is DeadlineExceeded else error.status
            problems.setdefault(status, []).append(error)
        for status, errors in sorted(problems.items()):
            made[str(status)] = {"$ref": f"#/components/responses/{self._refusal(status, errors)}"}
        return made

    def _refusal(self, status: int, errors: Sequence[type[PlatformError]]) -> str:
        """The name of the response of these errors; many operations have the same."""
        name = f"{status}." + ".".join(error.code for error in errors)
        lines = [f"`{error.code}`: {inspect.getdoc(error) or ''}".splitlines()[0] for error in errors]
        codes = {"properties": {"code": {"enum": [error.code for error in errors]}}}
        again = ("Retry-After",) if status in RETRY_SECONDS else ()
        self._refusals[name] = {
            "description": "\n\n".join(lines),
            "headers": _headers(*again),
            "content": {PROBLEM: {"schema": {"allOf": [reference("Problem"), codes]}}},
        }
        return name


def _headers(*names: str) -> dict[str, Any]:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in ("X-Request-Id", *names)}


def _camel(plural: str, name: str) -> str:
    """The plural, written as the kind's name is: ``streams`` and ``Stream`` make ``Streams``."""
    same = len([1 for a, b in zip(plural, name.lower(), strict=False) if a == b])
    return name[:same] + plural[same:]
