"""The first layer for each request: its id, its caller, its size limit and its metrics.

It wraps BentoML's own routes too, so that `/metrics` needs a key.
"""

import logging
import re
from time import perf_counter
from urllib.parse import urlsplit
from uuid import uuid4

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from critic.results import MODES
from critic.service.errors import INTERNAL, Refused
from critic.service.keys import Caller, Keys, is_loopback
from critic.service.monitoring import REQUESTS, SECONDS
from critic.service.settings import Settings

log = logging.getLogger("critic.service")

_PUBLIC = re.compile(r"/|/(?:pairs|healthz|livez|readyz|page/.*|examples(?:/.*)?)")
"""Paths that need no key: the web pages, which have no user's data, and the health checks."""
_ANONYMOUS = Caller("anybody")
_MAX_BODIES = 8
"""Requests of the largest size that may be in memory at a time, or smaller ones of the same total size."""
_ID = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_ROUTES = (
    *("/score", "/score_batch", "/compare", "/rewards", "/feedback", "/v1/chat/completions", "/v1/models"),
    *("/v1/pairs/next", "/v1/pairs/vote"),
    *(f"/compat/unirl/{mode}/score" for mode in MODES),
    *(f"/compat/flow-factory/{mode}/compute" for mode in MODES),
)


class RequestMiddleware:
    """ASGI middleware that sets `request_id`, `caller` and `keys` in the state of each accepted request."""

    def __init__(self, app: ASGIApp, settings: Settings):
        """Raises `KeysError` for invalid keys."""
        self._app, self._max_bytes = app, settings.max_body_bytes
        self._bytes_held = 0
        self._keys = Keys.load(settings)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        request_id = given if _ID.fullmatch(given) else uuid4().hex
        route = scope["path"] if scope["path"] in _ROUTES else "other"
        begun, code, caller, started, received = perf_counter(), 500, _ANONYMOUS, False, 0

        async def receive_limited() -> Message:
            nonlocal received
            message = await receive()
            size = len(message.get("body", b""))
            received += size
            self._bytes_held += size
            if received > self._max_bytes:
                raise self._too_big()
            if self._bytes_held > _MAX_BODIES * self._max_bytes:
                raise Refused(429, "busy", "too many large requests at a time: try again later", retry_after=5)
            return message

        async def send_with_id(message: Message) -> None:
            nonlocal code, started
            if message["type"] == "http.response.start":
                code, started = message["status"], True
                MutableHeaders(scope=message)["X-Request-ID"] = request_id
            await send(message)

        try:
            caller = self._caller(scope, headers)
            if (size := headers.get("content-length", "0")).isdecimal() and int(size) > self._max_bytes:
                raise self._too_big()
            scope.setdefault("state", {}).update(request_id=request_id, caller=caller, keys=self._keys)
            await self._app(scope, receive_limited, send_with_id)
        except Refused as refused:
            await refused.response(request_id)(scope, receive, send_with_id)
        except Exception:
            log.exception("request %s failed", request_id)
            if started:
                raise
            await INTERNAL.response(request_id)(scope, receive, send_with_id)
        finally:
            self._bytes_held -= received
            REQUESTS.labels(route, str(code), caller.name).inc()
            SECONDS.labels(route).observe(perf_counter() - begun)

    def _caller(self, scope: Scope, headers: Headers) -> Caller:
        self._check_origin(headers)
        host = scope["client"][0] if scope.get("client") else ""
        caller = self._keys.authenticate(headers.get("authorization"), host)
        if caller is not None:
            return caller
        if _PUBLIC.fullmatch(scope["path"]):
            return _ANONYMOUS
        if self._keys.required:
            raise Refused(401, "no_key", "no valid API key: send one as `Authorization: Bearer KEY`")
        raise Refused(403, "no_keys", "without API keys only this machine is served: set CRITIC_KEYS")

    def _check_origin(self, headers: Headers) -> None:
        """Refuse what a browser sends for a page of another site, whatever name that site has for this host."""
        host, origin = headers.get("host", ""), headers.get("origin")
        try:
            netloc, name = urlsplit(origin or f"//{host}").netloc, urlsplit(f"//{host}").hostname or ""
        except ValueError:
            raise Refused(400, "bad_host", "the header Host or Origin isn't a valid address") from None
        if netloc != host:
            raise Refused(403, "cross_origin", f"pages of {origin} may not use this service: use its own page")
        if not self._keys.required and name != "localhost" and not is_loopback(name):
            raise Refused(403, "other_name", "without API keys the service's name must be localhost or 127.0.0.1")

    def _too_big(self) -> Refused:
        message = f"a request may have {self._max_bytes} bytes: send fewer or smaller pictures"
        return Refused(413, "too_big", message)
