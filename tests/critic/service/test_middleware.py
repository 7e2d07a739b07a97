"""Each request has an id, needs a key, has a size limit, and is counted."""

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from prometheus_client import REGISTRY
from starlette.types import ASGIApp, Receive, Scope, Send

from critic.service.middleware import RequestMiddleware
from critic.service.settings import Settings

KEYS = "ann:ann-has-this-key-0,bob:bob-has-this-key-1:60"
ANN = {"Authorization": "Bearer ann-has-this-key-0"}


async def broken(scope: Scope, receive: Receive, send: Send) -> None:
    raise RuntimeError("of no concern to a caller")


def application() -> FastAPI:
    app = FastAPI()

    @app.post("/score")
    async def score(request: Request) -> dict[str, Any]:
        return {"bytes": len(await request.body()), "caller": request.state.caller.name}

    @app.get("/metrics")
    @app.get("/readyz")
    @app.get("/")
    async def show() -> dict[str, Any]:
        return {}

    return app


def ask(
    path: str,
    method: str = "GET",
    *,
    client: str = "127.0.0.1",
    host: str = "localhost:3000",
    settings: dict[str, Any] | None = None,
    app: ASGIApp | None = None,
    **options: Any,
) -> httpx.Response:
    """The response to a client at address `client` that calls the service `host`."""
    middleware = RequestMiddleware(app or application(), Settings(**(settings or {})))
    transport = httpx.ASGITransport(middleware, raise_app_exceptions=False, client=(client, 5000))

    async def once() -> httpx.Response:
        async with httpx.AsyncClient(transport=transport, base_url=f"http://{host}") as http:
            return await http.request(method, path, **options)

    return asyncio.run(once())


def code(answer: httpx.Response) -> str:
    return answer.json()["error"]["code"]


# --- ids


def test_an_id_comes_back_and_a_strange_one_is_replaced() -> None:
    assert ask("/", headers={"X-Request-ID": "my-own.7"}).headers["X-Request-ID"] == "my-own.7"
    for strange in ("", "a b", "x" * 65, "<script>"):
        given = ask("/", headers={"X-Request-ID": strange}).headers["X-Request-ID"]
        assert given != strange and len(given) == 32


def test_a_refusal_has_the_id_too() -> None:
    answer = ask("/score", "POST", settings={"keys": KEYS}, headers={"X-Request-ID": "mine"})
    assert (answer.status_code, answer.headers["X-Request-ID"]) == (401, "mine")
    assert answer.json()["error"]["request_id"] == "mine"


# --- callers


@pytest.mark.parametrize(
    ("client", "host", "keys", "headers", "expected"),
    [
        ("127.0.0.1", "localhost:3000", None, {}, 200),
        ("::1", "[::1]:3000", None, {}, 200),
        ("10.0.0.7", "localhost:3000", None, {}, "no_keys"),
        ("127.0.0.1", "critic.example", None, {}, "other_name"),  # a name that was rebound to this machine
        ("10.0.0.7", "critic.example", KEYS, ANN, 200),
        ("127.0.0.1", "localhost:3000", KEYS, {}, "no_key"),
        ("10.0.0.7", "critic.example", KEYS, {"Authorization": "Bearer ann-has-this-key-1"}, "no_key"),
        ("10.0.0.7", "critic.example", KEYS, {**ANN, "Origin": "http://critic.example"}, 200),
        ("10.0.0.7", "critic.example", KEYS, {**ANN, "Origin": "http://evil.example"}, "cross_origin"),
        ("127.0.0.1", "localhost:3000", None, {"Origin": "http://evil.example"}, "cross_origin"),
        ("127.0.0.1", "localhost:3000", None, {"Origin": "null"}, "cross_origin"),
        ("127.0.0.1", "localhost:3000", None, {"Origin": "http://[x"}, "bad_host"),
    ],
)
def test_which_callers_are_served(
    client: str, host: str, keys: str | None, headers: dict[str, str], expected: int | str
) -> None:
    answer = ask("/score", "POST", client=client, host=host, settings={"keys": keys}, headers=headers)
    assert (answer.status_code if answer.is_success else code(answer)) == expected


def test_without_a_key_only_the_page_and_the_health_checks_are_served() -> None:
    for path, status in (("/", 200), ("/readyz", 200), ("/metrics", 401), ("/score", 401), ("/readyz/x", 401)):
        assert ask(path, client="10.0.0.7", settings={"keys": KEYS}).status_code == status, path
    assert ask("/metrics", settings={"keys": KEYS}).headers["WWW-Authenticate"] == "Bearer"
    assert ask("/metrics", settings={"keys": KEYS}, headers=ANN).status_code == 200


# --- sizes


def test_a_body_over_the_limit_is_refused_by_its_header_or_its_bytes() -> None:
    settings = {"max_body_bytes": 1000}
    assert ask("/score", "POST", settings=settings, content=b"x" * 1000).json()["bytes"] == 1000

    async def chunks(count: int) -> AsyncIterator[bytes]:
        for _ in range(count):
            yield b"x" * 100

    assert ask("/score", "POST", settings=settings, content=chunks(10)).json()["bytes"] == 1000
    assert code(ask("/score", "POST", settings=settings, content=b"x" * 1001)) == "too_big"
    assert ask("/score", "POST", settings=settings, content=chunks(11)).status_code == 413


def test_the_bytes_in_memory_are_limited() -> None:
    done = asyncio.Event()

    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        assert len((await receive())["body"]) == 1000
        await done.wait()
        await JSONResponse({})(scope, receive, send)

    async def scenario() -> list[int]:
        transport = httpx.ASGITransport(
            RequestMiddleware(slow, Settings(max_body_bytes=1000)), client=("127.0.0.1", 5000)
        )
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost:3000") as http:

            async def one() -> int:
                return (await http.post("/score", content=b"x" * 1000)).status_code

            held = [asyncio.create_task(one()) for _ in range(8)]
            await asyncio.sleep(0.1)
            refused = await http.post("/score", content=b"x" * 1000)
            assert (code(refused), refused.headers["Retry-After"]) == ("busy", "5")
            done.set()
            return [*await asyncio.gather(*held), await one()]

    assert asyncio.run(scenario()) == [200] * 9


# --- logs and metrics


def test_the_reason_of_a_failure_is_in_the_log_and_not_in_the_response(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        answer = ask("/", app=broken, headers={"X-Request-ID": "seven"})
    assert (answer.status_code, code(answer)) == (500, "internal")
    assert "of no concern" not in answer.text
    assert "request seven failed" in caplog.text and "of no concern" in caplog.text


def test_requests_are_counted_by_route_status_and_caller() -> None:
    def counted(**labels: str) -> float:
        return REGISTRY.get_sample_value("critic_requests_total", labels) or 0.0

    scored = {"route": "/score", "code": "200", "caller": "ann"}
    refused = {"route": "/score", "code": "401", "caller": "anybody"}
    unknown = {"route": "other", "code": "404", "caller": "ann"}
    before = [counted(**labels) for labels in (scored, refused, unknown)]
    ask("/score", "POST", settings={"keys": KEYS}, headers=ANN)
    ask("/score", "POST", settings={"keys": KEYS})
    ask("/any/path/of/a/stranger", settings={"keys": KEYS}, headers=ANN)
    assert [counted(**labels) for labels in (scored, refused, unknown)] == [count + 1 for count in before]
