"""The page in a real browser, before a service that answers what the test tells it to."""

import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Annotated, Any

import pytest
import uvicorn
from fastapi import FastAPI, File, Form, Header, Response, UploadFile
from fastapi.responses import JSONResponse
from fastapi.testclient import TestClient
from PIL import Image, ImageChops
from playwright.sync_api import Browser, Page, expect, sync_playwright

from critic.service.examples import WANTED, make_examples
from critic.service.page import HEADERS, WEB, mount_page
from critic.service.schemas import Kept, Problem, Rating, Refusal, Scored

CHROMIUM = shutil.which("chromium")
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 360, "height": 740}
HOSTILE = '<img src=x onerror="document.title=1"><script>document.title=1</script>'


def scored(**changes: Any) -> dict[str, Any]:
    """A verdict as POST /score gives it."""
    fields = {
        "id": "0",
        "score": 3.42,
        "status": "ok",
        "mode": "greedy",
        "argmax": 3.42,
        "sub_scores": {"alignment": 2.9, "fidelity": 4.6, "quality": 3.8},
        "reasoning": "Half done, alignment 2.9. The rest is as it was, fidelity 4.6. Slightly damaged, quality 3.8.",
        "raw": "<think>Half done, alignment 2.9.</think>\n<answer>3.42</answer>",
        "prompt_tokens": 76,
        "tokens": 41,
        "latency": 0.84,
        "model": "sha256:5d1f0c",
        "contract": "9a41c7",
        "version": "critic:v1.2.0",
        "request_id": "r-1",
        "receipt": "signed",
    }
    return Scored(**(fields | changes)).model_dump()


def refused(code: str, message: str) -> dict[str, Any]:
    return Refusal(error=Problem(code=code, message=message, request_id="r-9")).model_dump()


@dataclass
class Service:
    """A stand-in for the engine: the real page, and the answers that a test wants.

    Attributes:
        answer: status, body and headers of the next POST /score; a `threading.Event` is waited for first.
        feedback: likewise of POST /feedback.
        asked, rated: what came.
    """

    url: str = ""
    answer: tuple[int, Any, dict[str, str]] = (200, None, {})
    feedback: tuple[int, Any, dict[str, str]] = (201, Kept(id=17).model_dump(), {})
    hold: threading.Event | None = None
    asked: list[dict[str, Any]] = field(default_factory=list)
    rated: list[Rating] = field(default_factory=list)


def application(service: Service) -> FastAPI:
    app = FastAPI()
    mount_page(app)

    @app.post("/score")
    def score(
        source: Annotated[UploadFile, File()],
        edited: Annotated[UploadFile, File()],
        instruction: Annotated[str, Form()],
        mode: Annotated[str, Form()],
        samples: Annotated[int | None, Form()] = None,
        seed: Annotated[int | None, Form()] = None,
        authorization: Annotated[str | None, Header()] = None,
    ) -> Response:
        sizes = [Image.open(file.file).size for file in (source, edited)]
        fields = {"instruction": instruction, "mode": mode, "samples": samples, "seed": seed, "key": authorization}
        service.asked.append(fields | {"sizes": sizes})
        if service.hold:
            service.hold.wait(10)
        return answer(*service.answer)

    @app.post("/feedback")
    def feedback(rating: Rating) -> Response:
        service.rated.append(rating)
        return answer(*service.feedback)

    return app


def answer(status: int, body: Any, headers: dict[str, str]) -> Response:
    if isinstance(body, str):
        return Response(body, status, headers, media_type="text/html")
    return JSONResponse(body, status, headers)


@pytest.fixture(scope="module")
def server() -> Iterator[Service]:
    service = Service()
    config = uvicorn.Config(application(service), port=0, log_level="warning")
    running = uvicorn.Server(config)
    thread = threading.Thread(target=running.run)
    thread.start()
    while not running.started:
        thread.join(0.01)
    service.url = f"http://127.0.0.1:{running.servers[0].sockets[0].getsockname()[1]}"
    yield service
    running.should_exit = True
    thread.join()


@pytest.fixture
def service(server: Service) -> Service:
    fresh = Service(url=server.url, answer=(200, scored(), {}))
    server.__dict__.update(fresh.__dict__)
    return server


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("there is no chromium to look at the page with: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: Browser, service: Service) -> Iterator[Callable[..., Page]]:
    """Opens the page in a browser without a past; fails the test if anything is said on its console."""
    said: list[str] = []
    contexts = []

    def open(**options: Any) -> Page:
        context = browser.new_context(**({"viewport": DESKTOP} | options))
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(10_000)
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("console", lambda message: message.type in ("error", "warning") and said.append(message.text))
        page.goto(service.url)
        expect(page.locator(".examples li")).to_have_count(len(WANTED))
        return page

    yield open
    for context in contexts:
        context.close()
    # Chromium itself says of each answer from 400 on that a resource couldn't be loaded.
    assert [text for text in said if not text.startswith("Failed to load resource")] == []


@pytest.fixture
def page(open_page: Callable[..., Page]) -> Page:
    return open_page()
