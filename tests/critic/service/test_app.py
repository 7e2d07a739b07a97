"""The service over HTTP, before a stand-in for vLLM that answers what it is asked to: see fake_vllm.py."""

import asyncio
import base64
import io
import json
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI
from hostile import GOOD, chat
from PIL import Image

from critic.prompts import load_contract
from critic.service import app as module
from critic.service.app import create_app
from critic.service.feedback import Feedback
from critic.service.gate import Gate
from critic.service.settings import Settings

FAKE = Path(__file__).parent / "fake_vllm.py"
TINY = Path(__file__).parents[3] / "assets/tiny-base"
OTHER = io.BytesIO()
Image.new("RGB", (112, 84), "blue").save(OTHER, "PNG")


@dataclass
class Running:
    """The service, and a client of it."""

    app: FastAPI
    http: httpx.Client
    feedback_url: str

    def post(self, path: str, **options: Any) -> httpx.Response:
        return self.http.post(path, **options)

    def score(self, instruction: str, **fields: Any) -> httpx.Response:
        files = {"source": GOOD, "edited": OTHER.getvalue()}
        return self.post("/score", files=files, data={"instruction": instruction, **fields})

    def batch(self, *instructions: str, **fields: Any) -> httpx.Response:
        return self.post("/score_batch", json={"pairs": [*map(pair, instructions)], **fields})

    @property
    def pending(self) -> int:
        return self.app.state.judge.admission.pending

    def until(self, is_so: Callable[[], bool]) -> None:
        until = time.monotonic() + 10
        while not is_so():
            assert time.monotonic() < until
            time.sleep(0.01)

    def ready(self) -> bool:
        return self.app.state.judge.supervisor.state == "ready"


def pair(instruction: str, **changes: Any) -> dict[str, Any]:
    pictures = {"source": base64.b64encode(GOOD).decode(), "edited": base64.b64encode(OTHER.getvalue()).decode()}
    return {**pictures, "instruction": instruction, **changes}


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., AbstractContextManager[Running]]:
    """Starts a service with settings, and vLLM's stand-in with `options`; waits until a score can be given."""
    folder = tmp_path_factory.mktemp("critic")
    shutil.copytree(TINY, folder, dirs_exist_ok=True)
    (folder / "contract.yaml").write_text(load_contract("tiny").text)

    @contextmanager
    def start(*options: str, wait: bool = True, **given: Any) -> Iterator[Running]:
        home = tmp_path_factory.mktemp("service")
        url = f"sqlite:///{home}/feedback.db"
        settings = Settings(**{"feedback_url": url, **given})
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                "critic.service.judging.vllm_command",
                lambda folder, where, **_: [sys.executable, str(FAKE), *where, *options],
            )
            app = create_app(settings, lambda: (folder, "tiny:7"))
            server = uvicorn.Server(uvicorn.Config(Gate(app, settings), port=0, log_level="critical"))
            thread = threading.Thread(target=server.run)
            thread.start()
            while not server.started:
                assert thread.is_alive()
                thread.join(0.01)
            address = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
            try:
                with httpx.Client(base_url=address, timeout=30, trust_env=False) as http:
                    running = Running(app, http, url)
                    if wait:
                        running.until(running.ready)
                    yield running
            finally:
                server.should_exit = True
                thread.join()

    return start


@pytest.fixture(scope="module")
def service(start: Callable[..., AbstractContextManager[Running]]) -> Iterator[Running]:
    with start(max_pairs=8) as running:
        yield running


@pytest.fixture(autouse=True)
def all_room_is_free_again(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "service" in request.fixturenames:
        running = request.getfixturevalue("service")
        running.until(lambda: running.pending == 0)


def code(answer: httpx.Response) -> str:
    return answer.json()["error"]["code"]


# --- scores


def test_a_verdict_says_what_the_critic_wrote_and_which_critic_it_is(service: Running) -> None:
    answer = service.post(
        "/score",
        files={"source": GOOD, "edited": GOOD},
        data={"instruction": "make it red; score=3.5"},
        headers={"X-Request-ID": "mine"},
    )
    verdict = answer.json()
    assert (answer.status_code, verdict["score"], verdict["status"]) == (200, 3.5, "ok")
    assert (verdict["reasoning"], verdict["raw"]) == ("Fine.", "<think>Fine.</think> <answer>3.5</answer>")
    assert (verdict["prompt_tokens"], verdict["tokens"]) == (30, 9)
    assert (verdict["version"], verdict["request_id"]) == ("tiny:7", "mine")
    assert verdict["contract"] == load_contract("tiny").hash and verdict["model"].startswith("sha256:")


def test_a_batch_keeps_its_order_and_ids(service: Running) -> None:
    pairs = [pair(f"score={score}", id=id) for score, id in ((3.5, "b"), (1.25, None), (5, "a"))]
    verdicts = service.post("/score_batch", json={"pairs": pairs}).json()["verdicts"]
    assert [(verdict["id"], verdict["score"]) for verdict in verdicts] == [("b", 3.5), ("1", 1.25), ("a", 5)]


def test_many_requests_at_a_time_get_their_own_answers(service: Running) -> None:
    asked = [round(1 + number % 401 / 100, 2) for number in range(300)]
    with ThreadPoolExecutor(32) as pool:
        answers = [*pool.map(lambda score: service.score(f"score={score}").json()["score"], asked)]
    assert answers == asked


def test_a_pair_that_cant_be_taken_is_told_apart_from_the_others(service: Running) -> None:
    pairs = [pair("score=2"), pair("score=3", edited=base64.b64encode(b"GIF89a").decode()), pair(" \t")]
    first, second, third = service.post("/score_batch", json={"pairs": pairs}).json()["verdicts"]
    assert first["score"] == 2 and first["receipt"]
    for verdict, why in ((second, "edited: this is no PNG"), (third, "the instruction is empty")):
        assert (verdict["score"], verdict["status"], verdict["receipt"]) == (None, "bad_input", "")
        assert verdict["detail"].startswith(why)


def test_a_request_of_which_nothing_can_be_taken_is_refused(service: Running) -> None:
    answer = service.post("/score_batch", json={"pairs": [pair("x", edited="R0lGODlh")] * 2})
    assert (answer.status_code, code(answer)) == (415, "not_a_picture")


@pytest.mark.parametrize(("written", "status"), [("many", "not_a_number"), ("9", "out_of_range")])
def test_an_answer_that_cant_be_read_is_no_score(service: Running, written: str, status: str) -> None:
    answer = service.score(f"answer={written}")
    verdict = answer.json()
    assert (answer.status_code, verdict["score"], verdict["status"]) == (200, None, status)
    assert written in verdict["detail"] and verdict["receipt"]


def test_samples_are_as_many_as_are_asked_for(service: Running) -> None:
    verdict = service.score("score=2.5", mode="average", samples=5, seed=3).json()
    assert (verdict["mode"], verdict["samples"], verdict["spread"]) == ("average", [2.5] * 5, 0)


def test_edits_are_ranked_and_equal_ones_share_a_rank(service: Running) -> None:
    """The stand-in goes by the text, which all edits of a comparison share."""
    edits = [{"edited": base64.b64encode(GOOD).decode(), "id": name} for name in ("a", "b")]
    asked = pair("score=4", edits=[*edits, {"edited": "R0lGODlh"}])
    del asked["edited"]
    ranking = service.post("/compare", json=asked).json()["ranking"]
    assert [(one["id"], one["rank"], one["score"]) for one in ranking] == [
        ("a", 1, 4),
        ("b", 1, 4),
        ("2", None, None),
    ]


def test_better_edits_come_first(service: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = module._score

    async def by_id(request: Any, submissions: Any, options: Any) -> Any:
        verdicts = await whole(request, submissions, options)
        return [verdict.model_copy(update={"score": float(verdict.id)}) for verdict in verdicts]

    monkeypatch.setattr(module, "_score", by_id)
    edits = [{"edited": base64.b64encode(GOOD).decode(), "id": score} for score in ("2", "5", "3", "5")]
    asked = pair("x", edits=edits)
    del asked["edited"]
    ranking = service.post("/compare", json=asked).json()["ranking"]
    assert [(one["id"], one["rank"]) for one in ranking] == [("5", 1), ("5", 1), ("3", 3), ("2", 4)]


def test_rewards_are_on_the_scale_that_is_asked_for_and_null_where_there_is_no_score(service: Running) -> None:
    pairs = [pair("score=2"), pair("answer=many"), pair("score=5")]
    for scale, expected in (("mos", [2, None, 5]), ("unit", [0.25, None, 1])):
        rewarded = service.post("/rewards", json={"pairs": pairs, "scale": scale}).json()
        assert rewarded["rewards"] == expected
        assert rewarded["statuses"] == ["ok", "not_a_number", "ok"]
        assert [bool(detail) for detail in rewarded["details"]] == [False, True, False]
        assert rewarded["version"] == "tiny:7"


# --- what goes wrong


@pytest.mark.parametrize(
    ("instruction", "status", "name"),
    [
        ("status=500", 503, "server_error"),
        ("status=400", 422, "refused"),
        ("garbled", 502, "garbled"),
    ],
)
def test_vllms_failures_are_no_scores(service: Running, instruction: str, status: int, name: str) -> None:
    answer = service.score(instruction)
    assert (answer.status_code, code(answer)) == (status, name)
    assert ("Retry-After" in answer.headers) == (status == 503)


def test_a_failure_among_scores_is_that_pairs_own(service: Running) -> None:
    first, second = service.batch("status=500", "score=4").json()["verdicts"]
    assert (first["score"], first["status"], second["score"]) == (None, "server_error", 4)


def test_vllms_death_is_a_503_and_it_comes_back(
    start: Callable[..., AbstractContextManager[Running]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("critic.service.supervisor._PAUSES", (0.2,))
    with start() as service:
        answer = service.score("dies")
        assert (answer.status_code, code(answer)) == (503, "unreachable") and answer.headers["Retry-After"]
        service.until(lambda: not service.ready())
        assert code(service.score("score=2")) in ("engine_lost", "engine_starting")
        service.until(service.ready)
        assert service.score("score=2").json()["score"] == 2
        with (
            pytest.raises(httpx.TransportError),
            service.http.stream(
                "POST", "/v1/chat/completions", json=chat({"type": "text", "text": "dies"}, stream=True)
            ) as stream,
        ):
            assert [*stream.iter_text()] == "never: an answer that breaks off must not look whole"
        service.until(lambda: service.pending == 0)


def test_an_answer_that_takes_too_long_is_a_504(
    start: Callable[..., AbstractContextManager[Running]], tmp_path: Path
) -> None:
    with start(timeout=0.5) as service:
        answer = service.score(f"wait={tmp_path}/never")
        assert (answer.status_code, code(answer)) == (504, "timed_out")
        chatted = service.post(
            "/v1/chat/completions", json=chat({"type": "text", "text": f"wait={tmp_path}/never"})
        )
        assert (chatted.status_code, code(chatted)) == (504, "timed_out")


def test_nothing_is_answered_before_a_score_can_be_given(
    start: Callable[..., AbstractContextManager[Running]],
) -> None:
    with start("--slow", "60", wait=False) as service:
        for answer in (service.score("x"), service.http.get("/v1/models"), service.post("/v1/chat/completions")):
            assert (answer.status_code, code(answer)) == (503, "engine_starting")
            assert int(answer.headers["Retry-After"]) > 0
        assert service.http.get("/").status_code == 200


def test_what_the_service_itself_does_wrong_is_a_500_that_tells_nothing(
    service: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    def break_down(*_: Any) -> None:
        raise RuntimeError("a secret")

    monkeypatch.setattr(module, "_acknowledge", break_down)
    files = {"source": GOOD, "edited": GOOD}
    answer = httpx.post(
        service.http.base_url.join("/score"), files=files, data={"instruction": "x"}, trust_env=False
    )
    assert (answer.status_code, code(answer)) == (500, "internal")
    assert "secret" not in answer.text


@pytest.mark.parametrize(
    ("path", "body", "said"),
    [
        ("/score_batch", {"pairs": []}, "body.pairs: List should have at least 1 item"),
        ("/score_batch", {"pairs": [pair("x")], "mod": "greedy"}, "body.mod: Extra inputs are not permitted"),
        ("/rewards", {"pairs": [pair("x")], "scale": "percent"}, "body.scale: Input should be 'mos' or 'unit'"),
        ("/compare", {"source": "x", "instruction": "x", "edits": []}, "body.edits: List should have at least 2"),
    ],
)
def test_what_is_wrong_with_a_request_is_named(service: Running, path: str, body: Any, said: str) -> None:
    answer = service.post(path, json=body)
    assert (answer.status_code, code(answer)) == (422, "invalid")
    assert answer.json()["error"]["message"].startswith(said)


def test_more_pairs_than_a_request_may_have_are_refused(service: Running) -> None:
    answer = service.batch(*["x"] * 9)
    assert (answer.status_code, code(answer)) == (413, "too_many_pairs")


@pytest.mark.parametrize("id", ["\ud800", "\0", "a\nb", "\N{SNOWMAN}", ""])
def test_odd_ids_do_no_harm(service: Running, id: str) -> None:
    body = json.dumps({"pairs": [pair("score=2", id=id)]})
    answer = service.post("/score_batch", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == (422 if id == "\ud800" else 200)
    if answer.is_success:
        assert answer.json()["verdicts"][0]["id"] == id


# --- how much at a time


def test_room_is_held_while_an_answer_is_written_and_no_longer(
    start: Callable[..., AbstractContextManager[Running]], tmp_path: Path
) -> None:
    with start(concurrency=1, queue=1) as service, ThreadPoolExecutor(2) as pool:
        now = tmp_path / "now"
        waiting = [pool.submit(service.score, f"wait={now} score=2") for _ in range(2)]
        service.until(lambda: service.pending == 2)
        answer = service.score("score=3")
        assert (answer.status_code, code(answer)) == (429, "busy") and int(answer.headers["Retry-After"]) >= 1
        chatted = service.post("/v1/chat/completions", json=chat())
        assert (chatted.status_code, code(chatted)) == (429, "busy")
        assert service.http.get("/v1/models").status_code == 200
        now.touch()
        assert [asked.result().json()["score"] for asked in waiting] == [2, 2]
        assert code(service.score("x", mode="average", samples=3)) == "too_many_answers"
        assert code(service.post("/v1/chat/completions", json=chat(n=3))) == "too_many_answers"
        for instruction in ("score=3", "status=500", "garbled", " "):
            service.score(instruction)
            assert service.pending == 0, instruction


def test_a_client_that_goes_away_leaves_its_room(service: Running, tmp_path: Path) -> None:
    body = chat({"type": "text", "text": f"wait={tmp_path}/never"}, stream=True)
    with service.http.stream("POST", "/v1/chat/completions", json=body) as stream:
        words = stream.iter_text()
        assert next(words).startswith("data: Fine.")
        assert service.pending == 1
    service.until(lambda: service.pending == 0)


def test_a_client_that_is_gone_before_its_stream_begins_leaves_its_room() -> None:
    class Room:
        free = False

        async def __aenter__(self) -> None:
            pass

        async def __aexit__(self, *error: object) -> None:
            self.free = True

    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        raise OSError("gone")

    room = Room()
    response = module._PassedOn(httpx.Response(200, content=b"x"), room)  # type: ignore[arg-type]
    scope = {"type": "http", "asgi": {"spec_version": "2.4"}}
    with pytest.raises(Exception):  # noqa: B017, PT011
        asyncio.run(response(scope, receive, send))  # type: ignore[arg-type]
    assert room.free


def test_a_key_has_so_many_answers_a_minute(start: Callable[..., AbstractContextManager[Running]]) -> None:
    with start(keys="ann:ann-has-this-key-0:3") as service:
        service.http.headers["Authorization"] = "Bearer ann-has-this-key-0"
        assert service.batch("score=1", "score=2").status_code == 200
        answer = service.batch("score=1", "score=2")
        assert (answer.status_code, code(answer)) == (429, "rate_limited")
        assert 1 <= int(answer.headers["Retry-After"]) <= 60
        assert service.score("score=1").status_code == 200
        assert code(service.score("x", mode="average", samples=4)) == "too_many_answers"


# --- chats


def test_a_chat_is_vllms_own_as_it_comes(service: Running, tmp_path: Path) -> None:
    now = tmp_path / "now"
    body = chat({"type": "text", "text": f"score=4.5 wait={now}"}, stream=True)
    with service.http.stream("POST", "/v1/chat/completions", json=body) as stream:
        words = stream.iter_text()
        assert next(words).startswith("data: Fine.")
        assert stream.headers["content-type"].startswith("text/event-stream")
        now.touch()
        assert "".join(words).endswith("data: <answer>4.5</answer>\n\ndata: [DONE]\n\n")
    whole = service.post("/v1/chat/completions", json=chat({"type": "text", "text": "score=4.5"}, n=2))
    assert len(whole.json()["choices"]) == 2
    assert service.http.get("/v1/models").json()["data"][0]["id"] == "critic"
    refused = service.post("/v1/chat/completions", json=chat({"type": "text", "text": "status=418"}))
    assert (refused.status_code, refused.json()["error"]["message"]) == (418, "as you like it")


# --- ratings and pictures


def test_a_rating_is_of_what_was_scored(service: Running) -> None:
    verdict = service.score("score=3.5").json()
    rating = {"receipt": verdict["receipt"], "rater": "ann", "score": 2, "comment": "no"}
    kept = service.post("/feedback", json=rating)
    assert kept.status_code == 201
    (row,) = [row for row in Feedback(service.feedback_url).rows() if row.id == kept.json()["id"]]
    assert (row.rater, row.score, row.critic_score, row.comment) == ("ann", 2, 3.5, "no")
    assert (row.request_id, row.version, row.instruction) == (verdict["request_id"], "tiny:7", "score=3.5")
    assert (row.source_sha256, row.edited_sha256) == (
        sha256(GOOD).hexdigest(),
        sha256(OTHER.getvalue()).hexdigest(),
    )
    for wrong, status in (({"receipt": "x"}, 422), ({"score": 6}, 422), ({"rater": ""}, 422)):
        assert service.post("/feedback", json=rating | wrong).status_code == status


def test_pictures_are_kept_where_that_is_wanted_and_only_of_what_was_taken(
    start: Callable[..., AbstractContextManager[Running]], tmp_path: Path
) -> None:
    with start(keep_images=tmp_path / "kept") as service:
        service.score("score=2")
        service.post("/score_batch", json={"pairs": [pair("score=2"), pair("x", edited="R0lGODlh")]})
    kept = {file.stem: file.read_bytes() for file in (tmp_path / "kept").rglob("*.png")}
    assert kept == {sha256(file).hexdigest(): file for file in (GOOD, OTHER.getvalue())}


# --- pictures from elsewhere


def test_nothing_is_fetched_unless_the_operator_allows_it(service: Running) -> None:
    answer = service.post("/score_batch", json={"pairs": [pair("x", source="https://pictures.example/a.png")]})
    assert (answer.status_code, code(answer)) == (403, "urls_off")


def test_what_is_fetched_for_a_request_is_limited(
    start: Callable[..., AbstractContextManager[Running]], monkeypatch: pytest.MonkeyPatch
) -> None:
    at_a_time: list[int] = [0]
    most = [0]

    async def fetch(url: str, settings: Settings) -> bytes:
        at_a_time[0] += 1
        most[0] = max(most[0], at_a_time[0])
        await asyncio.sleep(0.01)
        at_a_time[0] -= 1
        return GOOD

    monkeypatch.setattr(module, "fetch", fetch)
    with start(url_hosts="pictures.example", max_body_bytes=40 * len(GOOD)) as service:
        pairs = [pair("score=2", source="https://pictures.example/a.png", edited="https://pictures.example/b.png")]
        answer = service.post("/score_batch", json={"pairs": pairs * 10})
        assert [verdict["score"] for verdict in answer.json()["verdicts"]] == [2] * 10
        assert most == [8]
        verdicts = service.post("/score_batch", json={"pairs": pairs * 40}).json()["verdicts"]
        refused = [verdict for verdict in verdicts if verdict["status"] == "bad_input"]
        assert 10 <= len(refused) <= 20
        assert "too many bytes" in refused[0]["detail"]


# --- the document


def test_the_document_has_the_routes_and_their_refusals(service: Running) -> None:
    document = service.http.get("/openapi.json").json()
    routes = {"/score", "/score_batch", "/compare", "/rewards", "/feedback", "/v1/chat/completions", "/v1/models"}
    assert routes < set(document["paths"])
    for route in routes:
        (operation,) = document["paths"][route].values()
        assert {"401", "413", "422", "429", "503"} <= set(operation["responses"])
        refusal = operation["responses"]["429"]["content"]["application/json"]["schema"]
        assert refusal == {"$ref": "#/components/schemas/Refusal"}
