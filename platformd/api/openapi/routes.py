"""Where the document is served, and the page on which people read it and try it.

The page is made of files that lie beside this code (``platformd/api/static/explorer``): nothing comes from elsewhere,
and the page's policy lets nothing in. Its styles are inline, as the component writes them; its scripts may not be.
"""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.resources import files
from typing import Final, Literal

from quart import Response, current_app, request
from quart_trio import QuartTrio

from platformd.api.access import needs
from platformd.api.context import ApiContext
from platformd.api.openapi.declared import Answer, operation
from platformd.api.openapi.document import openapi_document
from platformd.api.openapi.parameters import IF_NONE_MATCH_TEXT, NOT_MODIFIED
from platformd.api.replies import JSON, Query, encode
from platformd.core.errors import NotFound

TAG = "Component"
POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""The page's Content-Security-Policy."""
PAGE: Final = "index.html"
FILES: Final = {
    PAGE: "text/html; charset=utf-8",
    "page.css": "text/css; charset=utf-8",
    "openapi-explorer.min.js": "text/javascript; charset=utf-8",
    "LICENSE": "text/plain; charset=utf-8",
}
"""What the page is made of."""


class Description:
    """The routes of what describes the API."""

    def __init__(self, context: ApiContext) -> None:
        self._kinds = context.conductor.kinds
        self._document: bytes = b""
        self._tag = ""

    def add_to(self, app: QuartTrio) -> None:
        """Route requests here."""
        app.add_url_rule("/v1/openapi.json", "openapi", self.openapi, methods=["GET"])
        app.add_url_rule("/v1/docs", "docs", self.docs, methods=["GET"])
        app.add_url_rule("/v1/docs/<file>", "docs_file", self.docs_file, methods=["GET"])

    @needs("status.read")
    @operation(
        "getOpenapi",
        TAG,
        parameters=(IF_NONE_MATCH_TEXT,),
        answers={
            200: Answer("The document.", {"type": "object", "required": ["openapi"]}, headers=("ETag",)),
            304: NOT_MODIFIED,
        },
    )
    async def openapi(self) -> Response:
        """GET /v1/openapi.json: this document, OpenAPI 3.1."""
        Query()
        if not self._document:
            # All routes are there when the first request comes; none is added later.
            self._document = encode(openapi_document(current_app, self._kinds))
            self._tag = _tag(self._document)
        return _tagged(self._document, self._tag, JSON)

    @needs("status.read")
    @operation("getDocs", TAG, answers={200: Answer("The page.", str, ("text/html",), headers=("ETag",))})
    async def docs(self) -> Response:
        """GET /v1/docs: this document as a page on which operations can be tried."""
        Query()
        return self._file(PAGE)

    @needs("status.read")
    @operation(
        "getDocsFile",
        TAG,
        path={"file": Literal["page.css", "openapi-explorer.min.js", "LICENSE"]},
        parameters=(IF_NONE_MATCH_TEXT,),
        answers={
            200: Answer(
                "The file.", str, ("text/css",), {"text/javascript": str, "text/plain": str}, headers=("ETag",)
            ),
            304: NOT_MODIFIED,
        },
        problems=(NotFound,),
    )
    async def docs_file(self, file: str) -> Response:
        """GET /v1/docs/FILE: what the page is made of."""
        Query()
        if file not in FILES:
            raise NotFound("there is no such file", subject=file, hint=f"there are {', '.join(FILES)}")
        return self._file(file)

    @staticmethod
    def _file(name: str) -> Response:
        data, tag = _read(name)
        response = _tagged(data, tag, FILES[name])
        response.headers["Content-Security-Policy"] = POLICY
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Referrer-Policy"] = "no-referrer"
        response.headers["Cache-Control"] = "no-cache"
        return response


@cache
def _read(name: str) -> tuple[bytes, str]:
    data = files("platformd.api").joinpath("static", "explorer", name).read_bytes()
    return data, _tag(data)


def _tag(data: bytes) -> str:
    return f'"{hashlib.sha256(data).hexdigest()[:16]}"'


def _tagged(data: bytes, tag: str, content_type: str) -> Response:
    if request.headers.get("If-None-Match", "").strip() == tag:
        return Response(b"", 304, {"ETag": tag})
    return Response(data, 200, {"ETag": tag}, content_type=content_type)
