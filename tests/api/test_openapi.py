"""The OpenAPI document: it is valid, it has every route and no other, and it says what is so."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from openapi_spec_validator import validate
from quart_trio import QuartTrio

from platformd.api.app import create_app
from platformd.api.openapi.document import http_rules, openapi_document
from platformd.core.errors import PlatformError
from platformd.model.kinds import KINDS
from tests.api.fakes import make_context, make_settings
from tests.api.wire import Client

VARIABLES = {
    "tenant": "default",
    "lease_id": "1",
    "key": "a/b",
    "file": "LICENSE",
    "word": "stream",
    "action": "purge",
}


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> QuartTrio:
    directory: Path = tmp_path_factory.mktemp("openapi")
    return create_app(make_context(make_settings(directory)))


@pytest.fixture(scope="module")
def document(app: QuartTrio) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(openapi_document(app, KINDS)))
    return found


def operations(document: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    return [(path, method, made) for path, item in document["paths"].items() for method, made in item.items()]


def subclasses(root: type[PlatformError]) -> Iterator[type[PlatformError]]:
    yield root
    for one in root.__subclasses__():
        yield from subclasses(one)


def as_template(rule: str) -> str:
    return rule.replace("<anything:", "<").replace("<", "{").replace(">", "}")


def test_the_document_is_valid(document: dict[str, Any]) -> None:
    """A validator of OpenAPI 3.1 finds nothing wrong with it."""
    assert document["openapi"] == "3.1.0"
    validate(document)


def test_every_route_is_in_it(app: QuartTrio, document: dict[str, Any]) -> None:
    """Each URL rule and method is an operation, for every kind where it is about kinds; WebSockets are marked."""
    for rule, method, _ in http_rules(app):
        plurals = [kind.plural for kind in KINDS] if "<kind:plural>" in rule.rule else [""]
        for plural in plurals:
            path = (
                rule.rule.replace("<kind:plural>", plural)
                .replace("<anything:", "<")
                .replace("<", "{")
                .replace(">", "}")
            )
            assert method.lower() in document["paths"][path], (method, path)
    for rule in app.url_map.iter_rules():
        if rule.websocket:
            path = as_template(rule.rule.replace("<kind:plural>", "streams"))
            assert document["paths"][path]["get"]["x-websocket"], rule


def test_everything_in_it_is_a_route(app: QuartTrio, document: dict[str, Any]) -> None:
    """Each operation is answered by a handler that declares it."""
    router = app.url_map.bind("localhost")
    for path, method, made in operations(document):
        url = path
        for parameter in made["parameters"]:
            if parameter["in"] == "path":
                url = url.replace(f"{{{parameter['name']}}}", VARIABLES.get(parameter["name"], "x"))
        endpoint, _ = router.match(url, method=method.upper())
        declared = app.view_functions[endpoint].operation  # type: ignore[attr-defined]
        assert declared.summary == made["summary"], (path, method)


def test_a_route_that_declares_nothing_is_refused(tmp_path: Path) -> None:
    """Without a declaration no document is made, and the error names the route."""
    app = create_app(make_context(make_settings(tmp_path)))

    async def forgotten() -> str:
        return ""

    app.add_url_rule("/v1/forgotten", "forgotten", forgotten)
    with pytest.raises(LookupError, match="GET /v1/forgotten"):
        openapi_document(app, KINDS)


def test_operation_ids_are_verbs_and_nouns(document: dict[str, Any]) -> None:
    """Ids are unique words of a program; those of kinds are made of the kind's name in the right number."""
    ids = [made["operationId"] for _, _, made in operations(document)]
    assert len(set(ids)) == len(ids)
    assert all(word.isalnum() and word[0].islower() for word in ids)
    assert {"listStreams", "applyPipeline", "getKey", "createServiceInTenant", "runTransaction"} <= set(ids)


def test_problems_have_their_codes(document: dict[str, Any]) -> None:
    """Each refusal has the problem schema, with codes that exist and belong to the status."""
    known = {error.code: error.status for error in subclasses(PlatformError)}
    for name, response in document["components"]["responses"].items():
        status, _, _ = name.partition(".")
        (schema,) = [content["schema"] for content in response["content"].values()]
        assert list(response["content"]) == ["application/problem+json"]
        for code in schema["allOf"][1]["properties"]["code"]["enum"]:
            assert str(known[code]) == status or code == "deadline_exceeded"


def test_conditions_are_said(document: dict[str, Any]) -> None:
    """What has a revision says its ETag, and what changes it takes If-Match."""
    one = document["paths"]["/v1/streams/{name}"]
    assert "ETag" in one["get"]["responses"]["200"]["headers"]
    assert "304" in one["get"]["responses"]
    for method in ("put", "patch", "delete"):
        assert "If-Match" in [parameter["name"] for parameter in one[method]["parameters"]], method
        assert "412" in one[method]["responses"], method


async def test_it_is_served_with_a_tag(client: Client) -> None:
    """The document is at its path; who has it already is told so."""
    answer = await client.request("GET", "/v1/openapi.json")
    assert answer.status == 200
    assert answer.json["info"]["title"] == "platformd"
    again = await client.request("GET", "/v1/openapi.json", headers={"If-None-Match": answer.headers["etag"]})
    assert (again.status, again.body) == (304, b"")


async def test_the_page_needs_nothing_from_elsewhere(client: Client) -> None:
    """The page and its files are served here, and its policy allows no other place; its licence lies beside it."""
    page = await client.request("GET", "/v1/docs")
    assert (page.status, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert "script-src 'self';" in page.headers["content-security-policy"]
    wanted = re.findall(r'(?:src|href|spec-url)="(.*?)"', page.body.decode())
    assert all(url.startswith(("/v1/", "data:")) for url in wanted)
    for url in [url for url in wanted if url.startswith("/")] + ["/v1/docs/LICENSE"]:
        found = await client.request("GET", url)
        assert found.status == 200, url
        again = await client.request("GET", url, headers={"If-None-Match": found.headers["etag"]})
        assert (again.status, again.body) == (304, b""), url
    assert (await client.request("GET", "/v1/docs/nothing.js")).status == 404


async def test_parameters_are_those_that_are_taken(client: Client, document: dict[str, Any]) -> None:
    """No operation declares a parameter of the query that its path does not have."""
    for path, method, made in operations(document):
        names = {p["name"] for p in made["parameters"] if p["in"] == "query"}
        url = path.format(**VARIABLES, name="x", consumer="c", job_id="j")
        if "watch" in names or "kinds" in names:
            names -= {"watch", "after", "previous", "only", "on_slow", "max_waiting"}  # taken beside ``watch``
        wrong = "&".join(f"{name}=%00" for name in sorted(names))
        body = b"{}" if method in {"put", "post", "patch"} else None
        answer = await client.request(
            method.upper(), f"{url}?zzz=1&{wrong}", body, {"content-type": "application/json"} if body else None
        )
        assert answer.status == 400, (method, url, answer)
        unknown = [error["path"] for error in answer.json["errors"] if "is not a parameter" in error["message"]]
        assert unknown == ["zzz"], (method, url, answer.json)
