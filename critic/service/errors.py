"""Why the service doesn't serve a request, as an exception and as the answer to it."""

from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from critic.client.schemas import Problem, Refusal


class Refused(HTTPException):
    """A request that isn't served. FastAPI lets it through where it takes other errors for a bad body.

    Attributes:
        status: the HTTP status, 400 and more.
        code: for programs, as "too_many_pixels".
        message: for people; says what to do.
        retry_after: seconds after which it may be served, None if it won't.
    """

    def __init__(self, status: int, code: str, message: str, *, retry_after: int | None = None):
        super().__init__(status, message)
        self.status, self.code, self.message, self.retry_after = status, code, message, retry_after

    def answer(self, request_id: str) -> JSONResponse:
        """The response that says so."""
        body = Refusal(error=Problem(code=self.code, message=self.message, request_id=request_id))
        headers = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return JSONResponse(body.model_dump(), self.status, headers)


INTERNAL = Refused(500, "internal", "the service failed; its log says why")
