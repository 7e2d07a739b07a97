"""A service on the loopback that answers by its contract, except for the requests that a test spoils."""

import base64
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from typing import Any

import pytest
from PIL import Image, UnidentifiedImageError

from critic.client.schemas import Batch, Comparison, Rating

Spoil = Callable[["Handler"], None]


class Service(ThreadingHTTPServer):
    """Scores an edit by the red of the edited picture's first pixel: 1 + red / 60, from 1 to 5.

    An edit whose first pixel is black has no score and the status "no_answer". A request with an invalid picture
    is refused as a whole.

    Attributes:
        spoilt: what to do with the next requests instead, in order.
        seen: path, headers and body of each POST so far.
        most: requests at a time, at most.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self) -> None:
        self.spoilt: list[Spoil] = []
        self.seen: list[tuple[str, dict[str, str], dict[str, Any]]] = []
        self.at_a_time = self.most = 0
        self.over, self.lock = threading.Event(), threading.Lock()
        self.is_ready = True
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def bodies(self) -> list[dict[str, Any]]:
        return [body for _, _, body in self.seen]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A disconnected client isn't an error of the server."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Service

    def do_GET(self) -> None:
        self.send(json.dumps({"ready": self.server.is_ready}), 200 if self.server.is_ready else 503)

    def do_POST(self) -> None:
        self.body = self.rfile.read(int(self.headers["Content-Length"]))
        server = self.server
        with server.lock:
            server.seen.append((self.path, {k.lower(): v for k, v in self.headers.items()}, json.loads(self.body)))
            spoil = server.spoilt.pop(0) if server.spoilt else Handler.answer
            server.at_a_time += 1
            server.most = max(server.most, server.at_a_time)
        try:
            with suppress(OSError):
                spoil(self)
        finally:
            with server.lock:
                server.at_a_time -= 1

    def answer(self, change: Callable[[Any], Any] = lambda reply: reply) -> None:
        """As the service does, with a change."""
        routes = {"/score_batch": _score, "/compare": _rank, "/feedback": _keep}
        try:
            reply = routes[self.path](self.body)
        except (UnidentifiedImageError, ValueError):
            self.refuse(415, "not_a_picture")
        else:
            self.send(json.dumps(change(reply)), 201 if self.path == "/feedback" else 200)

    def send(self, body: str, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body.encode())), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body.encode())

    def refuse(self, status: int, code: str, **headers: str) -> None:
        problem = {"code": code, "message": "as you like it", "request_id": "r-7"}
        self.send(json.dumps({"error": problem}), status, **headers)

    def log_message(self, *_: Any) -> None:
        pass


def _score(body: bytes) -> dict[str, Any]:
    batch = Batch.model_validate_json(body)
    verdicts = [
        _verdict(pair.id or str(place), pair.source, pair.edited, batch.mode)
        for place, pair in enumerate(batch.pairs)
    ]
    return {"request_id": "r-1", "verdicts": verdicts}


def _rank(body: bytes) -> dict[str, Any]:
    asked = Comparison.model_validate_json(body)
    verdicts = [_verdict(str(edit.id), asked.source, edit.edited, asked.mode) for edit in asked.edits]
    verdicts.sort(key=lambda verdict: -(verdict["score"] or 0))
    ranks = [None if verdict["score"] is None else place for place, verdict in enumerate(verdicts, 1)]
    ranking = [{**verdict, "rank": rank} for verdict, rank in zip(verdicts, ranks, strict=True)]
    return {"request_id": "r-3", "ranking": ranking}


def _keep(body: bytes) -> dict[str, Any]:
    Rating.model_validate_json(body)
    return {"id": 1}


def _verdict(id: str, source: str, edited: str, mode: str) -> dict[str, Any]:
    decode(source)
    pixel = decode(edited).getpixel((0, 0))
    score = round(1 + min(pixel[0], 240) / 60, 4)
    failed = pixel == (0, 0, 0)
    return {
        "id": id,
        "score": None if failed else score,
        "status": "no_answer" if failed else "ok",
        "detail": "it is black" if failed else "",
        "mode": mode,
        "latency": 0.1,
        "model": "sha256:5eed",
        "contract": "c0de",
        "version": "tiny:1",
        "notice": "This critic has seen drawn shapes alone.",
        "request_id": "r-1",
        "receipt": f"receipt of {id}",
    }


def decode(picture: str) -> Image.Image:
    """The RGB picture that was sent; a red one for an https:// URL."""
    if picture.startswith("https://"):
        return Image.new("RGB", (8, 8), (240, 0, 0))
    return Image.open(BytesIO(base64.b64decode(picture.split(",")[-1]))).convert("RGB")


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    """A running service, and short pauses for its client."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("CRITIC_API_KEY", raising=False)
    monkeypatch.setattr("critic.client.http._PAUSE", 0.01)
    service = Service()
    thread = threading.Thread(target=service.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield service
    service.over.set()
    service.shutdown()
    service.server_close()
    thread.join()
