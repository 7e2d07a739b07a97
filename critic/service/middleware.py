"""Who comes in: each request gets an id, is known by its key, is held to its size, and is counted.

It stands before BentoML's own routes too, so that `/metrics` isn't for everybody.
"""

import logging
import re
from time import perf_counter
from urllib.parse import urlsplit
from uuid import uuid4

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from critic.service.errors import INTERNAL, Refused
from critic.service.keys import Caller, Keys, is_loopback
from critic.service.monitoring import REQUESTS, SECONDS
from critic.service.settings import Settings

log = logging.getLogger("critic.service")

_OPEN = re.compile(r"/|/(?:healthz|livez|readyz|page/.*|examples(?:/.*)?)")
"""Paths that need no key: the page itself, which holds nothing of anybody's, and what says how the service is."""
_ANYBODY = Caller("anybody")
_BODIES = 8
"""How many of the largest requests are held at a time: several smaller ones, or many small ones."""
_ID = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_ROUTES = ("/score", "/score_batch", "/compare", "/rewards", "/feedback", "/v1/chat/completions", "/v1/models")


class Gate:
    """ASGI middleware; what it lets in has `request_id`, `caller` and `keys` in its state."""

    def __init__(self, app: ASGIApp, settings: Settings):
        """Raises `KeysError` for keys that can't be."""
        self._app, self._most = app, settings.max_body_bytes
        self._held = 0
        self._keys = Keys.load(settings)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        request_id = given if _ID.fullmatch(given) else uuid4().hex
        route = scope["path"] if scope["path"] in _ROUTES else "other"
        begun, code, caller, started, got = perf_counter(), 500, _ANYBODY, False, 0

        async def measured() -> Message:
            nonlocal got
            message = await receive()
            size = len(message.get("body", b""))
            got += size
            self._held += size
            if got > self._most:
                raise self._too_big()
            if self._held > _BODIES * self._most:
                raise Refused(429, "busy", "many large requests are being served: come again later", retry_after=5)
            return message

        async def answer(message: Message) -> None:
            nonlocal code, started
            if message["type"] == "http.response.start":
                code, started = message["status"], True
                MutableHeaders(scope=message)["X-Request-ID"] = request_id
            await send(message)

        try:
            caller = self._caller(scope, headers)
            if (size := headers.get("content-length", "0")).isdecimal() and int(size) > self._most:
                raise self._too_big()
            scope.setdefault("state", {}).update(request_id=request_id, caller=caller, keys=self._keys)
            await self._app(scope, measured, answer)
        except Refused as refused:
            await refused.answer(request_id)(scope, receive, answer)
        except Exception:
            log.exception("request %s failed", request_id)
            if started:
                raise
            await INTERNAL.answer(request_id)(scope, receive, answer)
        finally:
            self._held -= got
            REQUESTS.labels(route, str(code), caller.name).inc()
            SECONDS.labels(route).observe(perf_counter() - begun)

    def _caller(self, scope: Scope, headers: Headers) -> Caller:
        host = scope["client"][0] if scope.get("client") else ""
        self._check_origin(headers)
        caller = self._keys.who(headers.get("authorization"), host)
        if caller is not None:
            return caller
        if _OPEN.fullmatch(scope["path"]):
            return _ANYBODY
        if self._keys.required:
            raise Refused(401, "no_key", "send your API key as `Authorization: Bearer KEY`")
        raise Refused(403, "no_keys", "without API keys only this machine is served: set CRITIC_KEYS")

    def _check_origin(self, headers: Headers) -> None:
        """No other site's page may have a browser ask, whatever that site calls this machine."""
        asked, origin = headers.get("host", ""), headers.get("origin")
        try:
            netloc, name = urlsplit(origin or f"//{asked}").netloc, urlsplit(f"//{asked}").hostname or ""
        except ValueError:
            raise Refused(400, "bad_host", "the header Host or Origin is no address") from None
        if netloc != asked:
            raise Refused(403, "cross_origin", f"pages of {origin} aren't served, only this service's own")
        if not self._keys.required and name != "localhost" and not is_loopback(name):
            raise Refused(403, "other_name", "without API keys this service is called localhost or 127.0.0.1 only")

    def _too_big(self) -> Refused:
        return Refused(413, "too_big", f"a request may have {self._most} bytes: send fewer or smaller pictures")
