"""The web page: the static files of web/, which browsers run without a build step.

    mount_page(app)      # GET /, /page/*, /examples, /examples/*

Its content security policy allows only this service and the pictures that a person chooses.
"""

import json
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Response
from fastapi.responses import FileResponse
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel, Field

WEB = Path(__file__).parent / "web"
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' blob: data:; connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",  # revalidated by ETag on each use: a new release shows at once
}


class Example(BaseModel):
    """An edit to try; `source` and `edited` are paths on this service."""

    id: str = Field(examples=["colour"])
    instruction: str = Field(examples=["make the red star blue"])
    source: str = Field(examples=["/examples/colour/source.png"])
    edited: str = Field(examples=["/examples/colour/edited.png"])


def mount_page(app: FastAPI) -> None:
    """Add GET / (the page), /page/* (its files), /examples (JSON) and /examples/* (their pictures) to an app."""

    def page() -> FileResponse:
        return FileResponse(WEB / "index.html", headers=HEADERS)

    def examples(response: Response) -> list[Example]:
        """List edits to try, made by minibench."""
        response.headers.update(HEADERS)
        return [Example(**example) for example in json.loads((WEB / "examples/examples.json").read_text())]

    app.add_api_route("/", page, methods=["GET", "HEAD"], include_in_schema=False)
    app.add_api_route("/examples", examples, methods=["GET"])
    app.mount("/page", _Files(directory=WEB))
    app.mount("/examples", _Files(directory=WEB / "examples"))


class _Files(StaticFiles):
    async def get_response(self, path: str, scope: MutableMapping[str, Any]) -> Response:
        response = await super().get_response(path, scope)
        response.headers.update(HEADERS)
        return response
