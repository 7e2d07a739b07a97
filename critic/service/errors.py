"""A request that the service refuses or fails to serve, as an exception and as a response."""

from http import HTTPStatus
from typing import Any

from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from critic.client.schemas import Problem, Refusal

REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": Refusal, "description": HTTPStatus(status).phrase}
    for status in (400, 401, 403, 409, 413, 415, 422, 429, 502, 503, 504)
}
"""What the OpenAPI document says of them."""


class Refused(HTTPException):
    """A request that isn't served. FastAPI turns exceptions other than `HTTPException` into "invalid body" errors.

    `code` is the reason for programs, such as "too_many_pixels"; `message` that for people, and what to do;
    `retry_after` the seconds to wait before a retry, None if a retry can't help.
    """

    def __init__(self, status: int, code: str, message: str, *, retry_after: int | None = None):
        super().__init__(status, message)
        self.status, self.code, self.message, self.retry_after = status, code, message, retry_after

    def response(self, request_id: str) -> JSONResponse:
        body = Refusal(error=Problem(code=self.code, message=self.message, request_id=request_id))
        headers = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return JSONResponse(body.model_dump(), self.status, headers)


INTERNAL = Refused(500, "internal", "the service failed; its log has the reason")
