"""Where the document is served."""

from __future__ import annotations

import hashlib

from quart import Response, current_app, request
from quart_trio import QuartTrio

from platformd.api.context import ApiContext
from platformd.api.openapi.declared import Answer, operation
from platformd.api.openapi.document import openapi_document
from platformd.api.openapi.parameters import IF_NONE_MATCH_TEXT, NOT_MODIFIED
from platformd.api.replies import JSON, Query, encode

TAG = "Component"


class Description:
    """The routes of what describes the API."""

    def __init__(self, context: ApiContext) -> None:
        self._kinds = context.conductor.kinds
        self._document: bytes = b""
        self._tag = ""

    def add_to(self, app: QuartTrio) -> None:
        """Route requests here."""
        app.add_url_rule("/v1/openapi.json", "openapi", self.openapi, methods=["GET"])

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
            self._tag = f'"{hashlib.sha256(self._document).hexdigest()[:16]}"'
        headers = {"ETag": self._tag}
        if request.headers.get("If-None-Match", "").strip() == self._tag:
            return Response(b"", 304, headers)
        return Response(self._document, 200, headers, content_type=JSON)
