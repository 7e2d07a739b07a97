"""The whole service over HTTP, with a stand-in for vLLM that obeys the instruction (fake_vllm.py)."""

import asyncio
import base64
import json
import logging
import shutil
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from hashlib import sha256
from io import BytesIO
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from hostile import GOOD, HOSTILE, JPEG, WEBP, Hostile, base64_of, body, chat, encode
from hypothesis import given
from hypothesis import settings as checks
from hypothesis import strategies as st
from PIL import Image
from prometheus_client import REGISTRY

from critic.client.schemas import Ranking, Refusal, Rewarded, Scored, ScoredBatch
from critic.pictures import decode
from critic.prompts import load_contract
from critic.ratings.store import Feedback, FeedbackError
from critic.service import app as module
from critic.service import scoring_queue
from critic.service.app import create_app
from critic.service.errors import Refused
from critic.service.middleware import RequestMiddleware
from critic.service.settings import Settings

FAKE = Path(__file__).parent / "fake_vllm.py"
TINY = load_contract("tiny")
ANN, BOB = ({"Authorization": f"Bearer {name}-has-this-key"} for name in ("ann", "bob"))
JSON = {"Content-Type": "application/json"}
SOURCE, EDITED = (encode(Image.new("RGB", (84, 84), colour)) for colour in ("red", "blue"))


@dataclass
class Service:
    """A running service.

    Attributes:
        log: the file of vLLM's requests.
        ratings: the database of ratings.
    """

    url: str
    log: Path
    ratings: str

    def client(self, **options: Any) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=30, trust_env=False, **options)

    def asked(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def until_ready(self, **headers: str) -> None:
        with self.client() as client:
            until(lambda: client.get("/v1/models", headers=headers).status_code != 503)


@contextmanager
def serve(folder: Path, *options: str, **settings: Any) -> Iterator[Service]:
    """The service as BentoML runs it, with these settings, and the stand-in with these options."""
    critic, log = folder / "critic", folder / "asked.jsonl"
    critic.mkdir()
    shutil.copy(Path(module.__file__).parents[1] / "contracts/tiny.yaml", critic / "contract.yaml")
    (critic / "model.safetensors").write_text("{}")
    (critic / "config.json").write_text('{"model_type": "qwen2_5_vl"}')
    ratings = f"sqlite:///{folder}/feedback.db"
    given = Settings(**{"feedback_url": ratings} | settings)

    def command(model: str, where: list[str], **_: Any) -> list[str]:
        return [sys.executable, str(FAKE), *where, "--asked", str(log), *options]

    app = RequestMiddleware(create_app(given, lambda: (critic, "tiny:1")), given)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, lifespan="on"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("critic.service.scoring_queue.vllm_command", command)
        patch.setattr("critic.service.supervisor._PAUSES", (0.1,))
        thread = threading.Thread(target=server.run)
        thread.start()
        try:
            while not server.started:
                thread.join(0.01)
                assert thread.is_alive(), "the service hasn't started, see its log"
            yield Service(f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}", log, ratings)
        finally:
            server.should_exit = True
            thread.join()


def test_a_critic_that_gives_the_example_no_score_serves_other_edits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    first = scoring_queue.example()
    monkeypatch.setattr(scoring_queue, "example", lambda: replace(first, instruction="answer=none"))
    with serve(tmp_path) as service:
        service.until_ready()
    assert "The answer to the example has no score: not_a_number: " in caplog.text


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with serve(tmp_path_factory.mktemp("service")) as service:
        yield service


@pytest.fixture
def service(running: Service) -> Service:
    running.until_ready()
    return running


@pytest.fixture
def client(service: Service) -> Iterator[httpx.Client]:
    with service.client() as client:
        yield client


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with room for two answers, and for requests of 200 kB."""
    with serve(tmp_path_factory.mktemp("narrow"), concurrency=1, queue=1, max_body_bytes=200_000) as service:
        yield service


@pytest.fixture
def small(narrow: Service) -> Iterator[httpx.Client]:
    narrow.until_ready()
    with narrow.client() as client:
        yield client
        until(lambda: not pending())


def until(come: Callable[[], Any]) -> None:
    begun = time.monotonic()
    while not come():
        assert time.monotonic() - begun < 20
        time.sleep(0.02)


def pending() -> float:
    return REGISTRY.get_sample_value("critic_pending") or 0.0


def upload(instruction: str, source: bytes = GOOD, edited: bytes = GOOD, **fields: Any) -> dict[str, Any]:
    """A request to /score."""
    return {"files": {"source": source, "edited": edited}, "data": {"instruction": instruction, **fields}}


def pair(instruction: str, **changes: Any) -> dict[str, Any]:
    """A pair of /score_batch."""
    return {"source": base64_of(GOOD), "edited": base64_of(GOOD), "instruction": instruction, **changes}


def ask(text: str, **fields: Any) -> dict[str, Any]:
    """A request to /v1/chat/completions."""
    return {"model": "critic", "messages": [{"role": "user", "content": text}], **fields}


def refusal(reply: httpx.Response) -> tuple[int, str]:
    """Status and code of a refusal, whose other fields are checked."""
    error = Refusal.model_validate_json(reply.content).error
    assert error.message and error.request_id == reply.headers["X-Request-ID"]
    return reply.status_code, error.code


# --- scores


def test_an_edit_is_scored(client: httpx.Client) -> None:
    reply = client.post("/score", **upload("make it blue; score=3.5"), headers={"X-Request-ID": "my-own"})
    result = Scored(**reply.json())
    assert (result.score, result.status, result.reasoning) == (3.5, "ok", "Fine.")
    assert (result.id, result.request_id, reply.headers["X-Request-ID"]) == ("0", "my-own", "my-own")
    assert (result.prompt_tokens, result.tokens) == (30, 9)
    assert (result.version, result.contract) == ("tiny:1", TINY.hash)
    assert result.model.startswith("sha256:") and result.latency > 0


def test_vllm_sees_the_source_and_then_the_edit_as_the_contract_has_them(
    service: Service, client: httpx.Client
) -> None:
    assert client.post("/score", **upload("a <|im_end|> b", SOURCE, EDITED)).is_success
    *pictures, text = service.asked()[-1]["messages"][0]["content"]
    files = [base64.b64decode(picture["image_url"]["url"].partition(",")[2]) for picture in pictures]
    seen = [Image.open(BytesIO(file)).getpixel((0, 0)) for file in files]
    assert seen == [(255, 0, 0), (0, 0, 255)]
    assert text["text"].startswith("Edit: a ") and "<|im_end|>" not in text["text"]
    assert TINY.resize(decode(SOURCE)).size == Image.open(BytesIO(files[0])).size


@pytest.mark.parametrize(("side", "kept"), [(84, True), (90, False)])
def test_a_jpeg_that_the_contract_doesnt_resize_reaches_vllm_as_it_came(
    service: Service, client: httpx.Client, side: int, kept: bool
) -> None:
    file = encode(Image.effect_noise((side, side), 50).convert("RGB"), "JPEG")
    assert client.post("/score", **upload("score=3", file, EDITED)).is_success
    url = service.asked()[-1]["messages"][0]["content"][0]["image_url"]["url"]
    sent = base64.b64decode(url.partition(",")[2])
    assert (sent == file) is kept
    assert Image.open(BytesIO(sent)).tobytes() == TINY.resize(decode(file)).tobytes()


def test_verdicts_are_in_the_order_of_their_pairs_and_fail_alone(client: httpx.Client) -> None:
    pairs = [
        pair("score=2", id="b"),
        pair("score=2.5", edited="!!!!"),
        pair("answer=none"),
        pair("status=500"),
        pair("garbled"),
        pair(" "),
        pair("score=4", id="a"),
    ]
    reply = client.post("/score_batch", json={"pairs": pairs})
    assert reply.status_code == 200
    batch = ScoredBatch(**reply.json())
    assert [(verdict.id, verdict.score, verdict.status) for verdict in batch.verdicts] == [
        ("b", 2.0, "ok"),
        ("1", None, "bad_input"),
        ("2", None, "not_a_number"),
        ("3", None, "server_error"),
        ("4", None, "garbled"),
        ("5", None, "bad_input"),
        ("a", 4.0, "ok"),
    ]
    assert batch.verdicts[1].detail.startswith("edited: the picture isn't base64")
    assert {verdict.request_id for verdict in batch.verdicts} == {batch.request_id, reply.headers["X-Request-ID"]}
    assert {(verdict.model, verdict.contract, verdict.version) for verdict in batch.verdicts} == {
        (batch.verdicts[0].model, TINY.hash, "tiny:1")
    }
    assert {verdict.notice for verdict in batch.verdicts} == {TINY.notice} != {""}


def test_an_answer_that_cant_be_read_is_no_error_and_no_score(client: httpx.Client) -> None:
    reply = client.post("/score", **upload("answer=seven"))
    assert (reply.status_code, reply.json()["score"], reply.json()["status"]) == (200, None, "not_a_number")
    assert "seven" in reply.json()["raw"]


def test_the_ways_to_score_reach_vllm(service: Service, client: httpx.Client) -> None:
    def asked(mode: str, **options: Any) -> tuple[Any, list[dict[str, Any]]]:
        before = len(service.asked())
        reply = client.post("/score_batch", json={"pairs": [pair("score=3.5")], "mode": mode, **options})
        return reply.json()["verdicts"][0], service.asked()[before:]

    verdict, (greedy,) = asked("greedy")
    assert (verdict["mode"], greedy["temperature"], greedy["max_tokens"]) == ("greedy", 0.0, 1024)
    verdict, (direct,) = asked("direct")
    assert verdict["mode"] == "direct" and direct["messages"][0]["content"][-1]["text"].endswith(". Score.")
    verdict, expected = asked("expected")
    assert verdict["mode"] == "expected" and expected[-1]["top_logprobs"] == 20

    options = {"samples": 3, "temperature": 0.5, "seed": 7}
    verdict, samples = asked("average", **options)
    assert (verdict["samples"], verdict["score"], verdict["spread"]) == ([3.5] * 3, 3.5, 0.0)
    assert {sample["temperature"] for sample in samples} == {0.5}
    seeds = {sample["seed"] for sample in samples}
    assert len(seeds) == 3
    assert {sample["seed"] for sample in asked("average", **options)[1]} == seeds
    assert {sample["seed"] for sample in asked("average", **options | {"seed": 8})[1]} & seeds == set()


def test_the_ways_to_score_are_those_of_the_form_too(client: httpx.Client) -> None:
    verdict = client.post("/score", **upload("score=2", mode="average", samples="2", temperature="0.5")).json()
    assert (verdict["mode"], verdict["samples"]) == ("average", [2.0, 2.0])


def test_many_at_a_time_are_never_mixed_up(service: Service) -> None:
    async def all_at_once() -> list[httpx.Response]:
        async with httpx.AsyncClient(base_url=service.url, timeout=60, trust_env=False) as client:
            asked = (client.post("/score", **upload(f"score={score}", SOURCE, EDITED)) for score in scores)
            return await asyncio.gather(*asked)

    scores = [1 + number / 16 for number in range(64)]
    assert [reply.json()["score"] for reply in asyncio.run(all_at_once())] == scores


# --- rankings and rewards


def test_edits_are_ranked_and_those_without_a_score_are_last(client: httpx.Client) -> None:
    """All edits share the instruction, so the stand-in's answers can't differ."""
    edits = [{"edited": base64_of(GOOD), "id": "a"}, {"edited": "!!!!"}, {"edited": base64_of(JPEG), "id": "c"}]
    comparison = {"source": base64_of(GOOD), "instruction": "score=3.5", "edits": edits}
    reply = client.post("/compare", json=comparison)
    ranking = Ranking(**reply.json()).ranking
    assert [(edit.id, edit.rank, edit.score) for edit in ranking] == [
        ("a", 1, 3.5),
        ("c", 1, 3.5),
        ("1", None, None),
    ]
    assert ranking[-1].status == "bad_input"


def test_the_best_edit_has_rank_1_and_equal_ones_share_theirs(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = module.Submission

    def told(id: str, source: bytes, edited: bytes, instruction: str) -> Any:
        return read(id, source, edited, f"{instruction}; {id}")

    monkeypatch.setattr(module, "Submission", told)
    ids = ["score=2", "answer=none", "score=4.5", "score=2.0", "score=1"]
    edits = [{"edited": base64_of(GOOD), "id": id} for id in ids]
    reply = client.post("/compare", json={"source": base64_of(GOOD), "instruction": "x", "edits": edits})
    assert [(edit["id"], edit["rank"]) for edit in reply.json()["ranking"]] == [
        ("score=4.5", 1),
        ("score=2", 2),
        ("score=2.0", 2),
        ("score=1", 4),
        ("answer=none", None),
    ]


@pytest.mark.parametrize(
    ("scale", "rewards"), [("mos", [1.0, None, 4.0, None]), ("unit", [0.0, None, 0.75, None])]
)
def test_rewards_are_in_order_and_a_failure_is_no_number(
    client: httpx.Client, scale: str, rewards: list[float | None]
) -> None:
    pairs = [pair("score=1"), pair("answer=none"), pair("score=4"), pair("score=4", source="AAAA")]
    reply = client.post("/rewards", json={"pairs": pairs, "scale": scale})
    rewarded = Rewarded(**reply.json())
    assert rewarded.rewards == rewards
    assert rewarded.statuses == ["ok", "not_a_number", "ok", "bad_input"]
    assert [bool(detail) for detail in rewarded.details] == [False, True, False, True]
    assert (rewarded.version, rewarded.contract) == ("tiny:1", TINY.hash)


# --- ratings


def test_a_rating_is_kept_with_what_was_rated(service: Service, client: httpx.Client) -> None:
    verdict = client.post("/score", **upload("score=2", SOURCE, EDITED)).json()
    rating = {"receipt": verdict["receipt"], "rater": "ann", "score": 4.5, "comment": "better than that"}
    reply = client.post("/feedback", json=rating)
    assert reply.status_code == 201
    *_, kept = Feedback(service.ratings).rows()
    assert (kept.id, kept.rater, kept.score, kept.comment) == (reply.json()["id"], "ann", 4.5, "better than that")
    assert (kept.critic_score, kept.critic_status, kept.instruction) == (2.0, "ok", "score=2")
    assert kept.source_sha256 == sha256(SOURCE).hexdigest()
    assert kept.edited_sha256 == sha256(EDITED).hexdigest()
    assert (kept.request_id, kept.version, kept.model) == (
        verdict["request_id"],
        verdict["version"],
        verdict["model"],
    )


def test_what_has_no_score_can_be_rated_and_what_was_never_shown_cant(
    service: Service, client: httpx.Client
) -> None:
    pairs = [pair("answer=none"), pair("score=2", source="AAAA")]
    unread, untaken = client.post("/score_batch", json={"pairs": pairs}).json()["verdicts"]
    assert untaken["receipt"] == ""
    reply = client.post("/feedback", json={"receipt": unread["receipt"], "rater": "ann", "score": 1})
    assert reply.status_code == 201
    *_, kept = Feedback(service.ratings).rows()
    assert (kept.critic_score, kept.critic_status) == (None, "not_a_number")


def test_a_receipt_of_another_service_is_refused(client: httpx.Client) -> None:
    receipt = client.post("/score", **upload("score=2")).json()["receipt"]
    reply = client.post("/feedback", json={"receipt": receipt[:-2], "rater": "ann", "score": 4.5})
    assert refusal(reply) == (422, "forged_receipt")


def test_a_rating_that_cant_be_kept_is_to_be_sent_again(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise FeedbackError("the disk is full")

    receipt = client.post("/score", **upload("score=2")).json()["receipt"]
    monkeypatch.setattr(Feedback, "add", full)
    reply = client.post("/feedback", json={"receipt": receipt, "rater": "ann", "score": 4.5})
    assert refusal(reply) == (503, "no_feedback")
    assert reply.headers["Retry-After"] == "60" and "disk" not in reply.text


def test_pictures_are_kept_where_that_is_wanted(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    with serve(tmp_path, keep_images=kept) as service, service.client() as client:
        service.until_ready()
        pairs = [pair("score=2", edited=base64_of(WEBP)), pair("score=2", source=base64_of(JPEG), edited="AAAA")]
        assert client.post("/score_batch", json={"pairs": pairs}).status_code == 200
    files = sorted(path for path in kept.rglob("*") if path.is_file())
    assert sorted(path.read_bytes() for path in files) == sorted([GOOD, WEBP])
    assert {path.name for path in files} == {
        f"{sha256(GOOD).hexdigest()}.png",
        f"{sha256(WEBP).hexdigest()}.webp",
    }


# --- OpenAI's interface


def test_a_chat_is_vllms_own(service: Service, client: httpx.Client) -> None:
    reply = client.post("/v1/chat/completions", json=ask("score=3.5", temperature=0.25))
    assert reply.json()["choices"][0]["message"]["content"] == "Fine.</think> <answer>3.5</answer>"
    asked = service.asked()[-1]
    assert (asked["model"], asked["temperature"], asked["max_completion_tokens"]) == ("critic", 0.25, 1024)
    assert asked["messages"] == [{"role": "user", "content": "score=3.5"}]


def test_the_model_has_a_name(client: httpx.Client) -> None:
    assert [model["id"] for model in client.get("/v1/models").json()["data"]] == ["critic"]
    nameless = {"messages": ask("score=3.5")["messages"]}
    assert client.post("/v1/chat/completions", json=nameless).is_success
    other = client.post("/v1/chat/completions", json=ask("score=3.5", model="gpt-4o"))
    assert refusal(other) == (404, "no_such_model")


def test_a_streamed_chat_comes_a_word_at_a_time(client: httpx.Client, tmp_path: Path) -> None:
    asked = ask(f"score=3.5 wait={tmp_path}/go", stream=True)
    with client.stream("POST", "/v1/chat/completions", json=asked) as reply:
        assert reply.headers["content-type"].startswith("text/event-stream") and reply.headers["X-Request-ID"]
        words = reply.iter_lines()
        assert next(words) == "data: Fine.</think>"
        (tmp_path / "go").touch()
        assert [word for word in words if word] == ["data: <answer>3.5</answer>", "data: [DONE]"]


def test_vllms_own_errors_reach_the_client_of_the_chat(client: httpx.Client) -> None:
    reply = client.post("/v1/chat/completions", json=ask("status=400"))
    assert (reply.status_code, reply.json()["error"]["message"]) == (400, "as you like it")


# --- failures of vLLM


@pytest.mark.parametrize(
    ("words", "refused"),
    [
        ("status=500", (503, "server_error")),
        ("status=429", (503, "server_error")),
        ("status=400", (422, "refused")),
        ("garbled", (502, "garbled")),
    ],
)
def test_failures_of_vllm_have_different_codes(client: httpx.Client, words: str, refused: tuple[int, str]) -> None:
    for reply in (
        client.post("/score", **upload(words)),
        client.post("/rewards", json={"pairs": [pair(words), pair(words)]}),
    ):
        assert refusal(reply) == refused
        assert ("Retry-After" in reply.headers) == (refused[0] == 503)


def test_a_proxy_in_the_environment_isnt_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with serve(tmp_path) as service, service.client() as client:
        service.until_ready()
        assert client.post("/score", **upload("score=3.5")).json()["score"] == 3.5
        assert client.post("/v1/chat/completions", json=ask("score=3.5")).is_success


def test_vllm_may_take_only_so_long(tmp_path: Path) -> None:
    with serve(tmp_path, timeout=1.0) as service, ThreadPoolExecutor() as pool, service.client() as client:
        service.until_ready()
        score = pool.submit(client.post, "/score", **upload(f"wait={tmp_path}/go"))
        chat = pool.submit(client.post, "/v1/chat/completions", json=ask(f"wait={tmp_path}/go"))
        assert refusal(score.result()) == (504, "timed_out")
        assert refusal(chat.result()) == (504, "timed_out")


def test_a_vllm_that_dies_costs_its_requests_a_503_and_comes_back(service: Service, client: httpx.Client) -> None:
    reply = client.post("/score", **upload("dies"))
    assert refusal(reply) == (503, "unreachable") and int(reply.headers["Retry-After"]) > 0
    service.until_ready()
    reply = client.post("/v1/chat/completions", json=ask("dies"))
    assert refusal(reply) == (503, "unreachable") and int(reply.headers["Retry-After"]) > 0
    service.until_ready()
    assert client.post("/score", **upload("score=3.5")).json()["score"] == 3.5


def test_a_stream_that_vllm_breaks_off_doesnt_look_like_one_that_ended(client: httpx.Client) -> None:
    with client.stream("POST", "/v1/chat/completions", json=ask("dies", stream=True)) as reply:
        assert reply.status_code == 200
        with pytest.raises(httpx.RemoteProtocolError):
            reply.read()


def test_nothing_is_asked_of_a_vllm_that_isnt_ready(tmp_path: Path) -> None:
    with serve(tmp_path, "--slow", "60") as service, service.client() as client:
        for reply in (
            client.post("/score", **upload("score=3.5")),
            client.post("/score_batch", json={"pairs": [pair("score=3.5")]}),
            client.post("/v1/chat/completions", json=ask("score=3.5")),
            client.get("/v1/models"),
        ):
            assert refusal(reply) == (503, "engine_starting") and int(reply.headers["Retry-After"]) > 0
        assert client.get("/").status_code == 200
    assert not service.log.exists()


# --- limits


FULL = {"mode": "average", "samples": 2}
"""Options that fill the narrow service."""


def leave(client: httpx.Client, path: str, **request: Any) -> None:
    """Send a request and disconnect before its response."""
    with pytest.raises(httpx.ReadTimeout):
        client.post(path, **request, timeout=0.3)
    until(lambda: pending() == 2)


def test_requests_beyond_the_queue_get_a_retry_after(small: httpx.Client, tmp_path: Path) -> None:
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(small.post, "/score", **upload(f"score=3.5 wait={tmp_path}/go", **FULL))
        until(lambda: pending() == 2)
        for reply in (
            small.post("/score", **upload("score=3.5")),
            small.post("/v1/chat/completions", json=ask("score=3.5")),
        ):
            assert refusal(reply) == (429, "busy") and 1 <= int(reply.headers["Retry-After"]) <= 60
        (tmp_path / "go").touch()
        assert waiting.result().json()["score"] == 3.5
    assert small.post("/score", **upload("score=3.5")).json()["score"] == 3.5


def test_each_answer_of_a_chat_counts(small: httpx.Client, tmp_path: Path) -> None:
    with ThreadPoolExecutor() as pool:
        asked = ask(f"wait={tmp_path}/go", n=2)
        waiting: Future[httpx.Response] = pool.submit(small.post, "/v1/chat/completions", json=asked)
        until(lambda: pending() == 2)
        assert refusal(small.post("/score", **upload("score=3.5"))) == (429, "busy")
        (tmp_path / "go").touch()
        assert len(waiting.result().json()["choices"]) == 2


def test_requests_above_the_limit_are_refused_without_a_retry_after(small: httpx.Client) -> None:
    for reply in (
        small.post("/score", **upload("score=3.5", mode="average", samples=3)),
        small.post("/v1/chat/completions", json=ask("score=3.5", n=3)),
        small.post("/score_batch", json={"pairs": [pair("x", source="AAAA", edited="AAAA")] * 3}),
    ):
        assert refusal(reply) == (413, "too_many_answers")
    reply = small.post("/score_batch", json={"pairs": [pair("x", source="AAAA", edited="AAAA")] * 65})
    assert refusal(reply) == (413, "too_many_pairs")


def scored(client: httpx.Client, go: Path) -> None:
    assert client.post("/score", **upload("score=3.5", **FULL)).is_success


def refused(client: httpx.Client, go: Path) -> None:
    assert client.post("/score", **upload("score=3.5", b"GIF89a", **FULL)).status_code == 415


def failed(client: httpx.Client, go: Path) -> None:
    assert client.post("/score", **upload("status=500", **FULL)).status_code == 503


def died(client: httpx.Client, go: Path) -> None:
    assert client.post("/score", **upload("dies", **FULL)).status_code == 503


def died_in_a_stream(client: httpx.Client, go: Path) -> None:
    with pytest.raises(httpx.RemoteProtocolError):
        client.post("/v1/chat/completions", json=ask("dies", stream=True, n=2))


def left_before_the_verdict(client: httpx.Client, go: Path) -> None:
    leave(client, "/score", **upload(f"wait={go}", **FULL))
    go.touch()


def left_before_the_chat_began(client: httpx.Client, go: Path) -> None:
    leave(client, "/v1/chat/completions", json=ask(f"wait={go}", n=2))
    go.touch()


def left_in_a_stream(client: httpx.Client, go: Path) -> None:
    """vLLM would never stop generating."""
    with client.stream("POST", "/v1/chat/completions", json=ask(f"wait={go}", stream=True, n=2)) as reply:
        assert next(reply.iter_lines()) == "data: Fine.</think>" and pending() == 2


@pytest.mark.parametrize(
    "happens",
    [
        scored,
        refused,
        failed,
        died,
        died_in_a_stream,
        left_before_the_verdict,
        left_before_the_chat_began,
        left_in_a_stream,
    ],
)
def test_room_is_free_again(
    narrow: Service, small: httpx.Client, tmp_path: Path, happens: Callable[[httpx.Client, Path], None]
) -> None:
    happens(small, tmp_path / "go")
    until(lambda: pending() == 0)
    narrow.until_ready()
    assert small.post("/score", **upload("score=3.5", **FULL)).status_code == 200


@pytest.mark.parametrize("path", ["/score", "/score_batch", "/v1/chat/completions", "/feedback"])
def test_a_request_of_too_many_bytes_is_refused(small: httpx.Client, path: str) -> None:
    """With and without a Content-Length."""
    form = (
        {"Content-Type": "multipart/form-data; boundary=x"},
        b'--x\r\nContent-Disposition: form-data; name="x"\r\n\r\n',
    )
    headers, begin = form if path == "/score" else (JSON, b"")
    for content in (begin + b" " * 200_001, chain([begin], repeat(b" " * 1000, 201))):
        assert refusal(small.post(path, content=content, headers=headers)) == (413, "too_big")


def test_a_key_limits_answers_per_minute(tmp_path: Path) -> None:
    keys = "ann:ann-has-this-key,bob:bob-has-this-key:3"
    with serve(tmp_path, keys=keys) as service, service.client(headers=BOB) as bob:
        service.until_ready(**ANN)
        assert bob.post("/score", **upload("score=3.5", **FULL)).is_success
        busy = bob.post("/score", **upload("score=3.5", **FULL))
        assert refusal(busy) == (429, "rate_limited") and 1 <= int(busy.headers["Retry-After"]) <= 60
        assert refusal(bob.post("/v1/chat/completions", json=ask("x", n=2))) == (429, "rate_limited")
        assert refusal(bob.post("/v1/chat/completions", json=ask("x", n=4))) == (413, "too_many_answers")
        assert bob.post("/v1/chat/completions", json=ask("x", n=1)).is_success
        assert bob.post("/score", **upload("score=3.5", **FULL), headers=ANN).is_success
        with service.client() as stranger:
            assert refusal(stranger.post("/score", **upload("score=3.5"))) == (401, "no_key")
            assert refusal(stranger.get("/openapi.json")) == (401, "no_key")
            assert stranger.get("/").is_success and stranger.get("/examples").is_success


# --- pictures by URL


def test_no_url_is_fetched_unless_its_host_is_allowed(client: httpx.Client) -> None:
    reply = client.post("/score_batch", json={"pairs": [pair("x", source="https://pictures.example/cat.png")]})
    assert refusal(reply) == (403, "urls_off")


def test_a_picture_is_fetched(client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fetch(url: str, settings: Settings) -> bytes:
        if url.endswith("lost.png"):
            raise Refused(502, "url_failed", "pictures.example answered 404")
        return JPEG

    monkeypatch.setattr(module, "fetch", fetch)
    urls = {"source": "https://pictures.example/cat.png", "edited": "https://pictures.example/lost.png"}
    pairs = [pair("score=2", source=urls["source"]), pair("score=2", **urls)]
    good, bad = client.post("/score_batch", json={"pairs": pairs}).json()["verdicts"]
    assert good["score"] == 2.0
    assert (bad["status"], bad["detail"]) == ("bad_input", "edited: pictures.example answered 404")


def test_fetched_bytes_and_concurrent_fetches_are_limited(
    small: httpx.Client, client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, most, fetched = 0, 0, 0

    async def fetch(url: str, settings: Settings) -> bytes:
        nonlocal now, most, fetched
        now, fetched = now + 1, fetched + 1
        most = max(most, now)
        await asyncio.sleep(0.02)
        now -= 1
        return GOOD

    monkeypatch.setattr(module, "fetch", fetch)
    url = "https://pictures.example/cat.png"
    pairs = [pair("score=2", source=url, edited=url) for _ in range(32)]
    assert client.post("/score_batch", json={"pairs": pairs}).json()["verdicts"][-1]["status"] == "ok"
    assert (fetched, most) == (64, 8)
    fetched = 0
    small.post("/score_batch", json={"pairs": pairs})
    assert (fetched - 8) * len(GOOD) <= 200_000 < fetched * len(GOOD)


# --- hostile and invalid requests


@pytest.mark.parametrize("entry", HOSTILE, ids=lambda entry: f"{entry.kind}: {entry.name}")
def test_what_does_harm_is_refused_with_a_reason(client: httpx.Client, entry: Hostile) -> None:
    reply = client.request(url=entry.path, **entry.request())
    assert reply.status_code in entry.statuses, reply.text
    if not reply.is_success:
        no_string = entry.name in ("no text", "lone surrogate")  # to the schemas, which look first
        assert refusal(reply)[1] in {entry.code, "invalid" if no_string else "bad_request"}


@pytest.mark.parametrize("path", ["/score_batch", "/compare", "/rewards", "/feedback", "/v1/chat/completions"])
def test_json_is_refused_for_its_many_values_before_it_is_parsed(client: httpx.Client, path: str) -> None:
    """The body isn't valid JSON, but it isn't parsed."""
    reply = client.post(path, content=b'{"pairs": [' + b"[]," * 300_000, headers=JSON)
    assert refusal(reply) == (422, "too_many_values")


@pytest.mark.parametrize(
    ("path", "request_", "where"),
    [
        ("/score_batch", {}, "body.pairs"),
        ("/score_batch", {"pairs": [pair("x")], "samples": 1}, "body.samples"),
        ("/score_batch", {"pairs": [pair("x") | {"sauce": "y"}]}, "body.pairs.0.sauce"),
        ("/score_batch", {"pairs": [pair("x", id="x" * 201)]}, "body.pairs.0.id"),
        ("/compare", {"source": "AAAA", "instruction": "x", "edits": [{"edited": "AAAA"}]}, "body.edits"),
        ("/rewards", {"pairs": [pair("x")], "scale": "percent"}, "body.scale"),
        ("/feedback", {"receipt": "x", "rater": "ann", "score": 6}, "body.score"),
    ],
)
def test_what_isnt_asked_for_as_it_should_be_is_named(
    client: httpx.Client, path: str, request_: Any, where: str
) -> None:
    reply = client.post(path, json=request_)
    assert refusal(reply) == (422, "invalid")
    assert reply.json()["error"]["message"].startswith(f"{where}: ")


@pytest.mark.parametrize(
    "request_",
    [
        {},
        {"data": {"instruction": "x"}},
        {"files": {"source": GOOD}, "data": {"instruction": "x", "edited": "text"}},
        upload("x", mode="best"),
        upload("x", samples="many"),
        upload("x", sauce="y"),
        {"content": b"x", "headers": {"Content-Type": "multipart/form-data"}},
        {"content": b"--x\r\n", "headers": {"Content-Type": "multipart/form-data; boundary=x"}},
        {"json": {}},
    ],
)
def test_a_form_that_isnt_as_it_should_be_is_refused(client: httpx.Client, request_: Any) -> None:
    status, code = refusal(client.post("/score", **request_))
    assert (status, code) in ((422, "invalid"), (400, "bad_request"))


def test_paths_and_methods_that_arent_there_are_refusals_too(client: httpx.Client) -> None:
    assert refusal(client.get("/nowhere")) == (404, "not_found")
    assert refusal(client.get("/score")) == (405, "method_not_allowed")
    assert refusal(client.get("/page/../settings.py")) == (404, "not_found")


odd = st.text(st.characters(codec=None), max_size=20) | st.sampled_from(["", "\0", "\ud800", "x" * 201])


@checks(max_examples=60, deadline=None)
@given(text=odd, part=st.sampled_from(["id", "instruction", "source", "field", "rater", "receipt"]))
def test_no_text_makes_the_service_fail(running: Service, text: str, part: str) -> None:
    running.until_ready()
    with running.client() as client:
        rating = {"receipt": "x", "rater": "ann", "score": 3}
        if part in rating:
            reply = client.post("/feedback", content=body(rating | {part: text}), headers=JSON)
        else:
            asked = pair("score=3", edited=base64_of(SOURCE), source=base64_of(SOURCE))
            asked |= {text: 1} if part == "field" else {part: text}
            reply = client.post("/score_batch", content=body({"pairs": [asked]}), headers=JSON)
    if reply.status_code == 200:
        assert part != "id" or reply.json()["verdicts"][0]["id"] == text
    else:
        assert refusal(reply)[0] < 500


def test_a_failure_of_the_service_is_logged_without_the_request(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_: Any) -> None:
        raise RuntimeError("of no concern to a caller")

    monkeypatch.setattr(module, "count", fail)
    with caplog.at_level(logging.DEBUG):
        reply = client.post("/score", **upload("make my secret blue"), headers=ANN)
    assert refusal(reply) == (500, "internal") and "concern" not in reply.text
    assert "of no concern" in caplog.text and reply.headers["X-Request-ID"] in caplog.text
    assert "secret" not in caplog.text and "ann-has-this-key" not in caplog.text


@pytest.mark.parametrize("path", ["/score", "/score_batch", "/v1/chat/completions"])
def test_a_client_that_breaks_off_what_it_sends_is_no_failure_of_the_service(
    service: Service, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    def broken_off() -> float:
        labels = {"route": path, "code": "400", "caller": "local"}
        return REGISTRY.get_sample_value("critic_requests_total", labels) or 0.0

    before, url = broken_off(), httpx.URL(service.url)
    kind = "multipart/form-data; boundary=x" if path == "/score" else "application/json"
    head = [f"POST {path} HTTP/1.1", f"Host: {url.host}:{url.port}", f"Content-Type: {kind}", "Content-Length: 99"]
    with socket.create_connection((url.host, url.port or 0)) as connection:
        connection.sendall("\r\n".join([*head, "", "--x"]).encode())
    until(lambda: broken_off() == before + 1)
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_the_log_has_nothing_of_what_is_asked(client: httpx.Client, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        client.post("/score", **upload("my secret score=3"))
        client.post("/score_batch", json={"pairs": [pair("my secret", source="my secret")]})
        client.post("/v1/chat/completions", json=chat(temperature="my secret"))
    assert "secret" not in caplog.text and base64_of(GOOD)[100:150] not in caplog.text


# --- the interface as a document


def test_openapi_has_all_routes_and_how_each_refuses(client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()
    operations = {
        (method, path): operation
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }
    posts = ("/score", "/score_batch", "/compare", "/rewards", "/feedback", "/v1/chat/completions")
    posts += ("/compat/unirl/{mode}/score", "/compat/flow-factory/{mode}/compute")
    compat = ("unirl/{mode}/health", "unirl/{mode}/rewards", "flow-factory/{mode}/health")
    assert {*operations} == {
        *(("post", path) for path in posts),
        *(("get", path) for path in ("/v1/models", "/examples", *(f"/compat/{path}" for path in compat))),
    }
    for route, operation in operations.items():
        if route != ("get", "/examples"):
            assert {"401", "413", "422", "429", "503", "504"} <= {*operation["responses"]}
        for status, answer in operation["responses"].items():
            schema = answer["content"]["application/json"]["schema"]
            assert (status >= "400") == (schema == {"$ref": "#/components/schemas/Refusal"}), (route, status)
    assert [*operations["post", "/score"]["requestBody"]["content"]] == ["multipart/form-data"]


def test_the_pages_examples_can_be_scored(client: httpx.Client) -> None:
    for example in client.get("/examples").json():
        source, edited = (client.get(example[part]).content for part in ("source", "edited"))
        assert client.post("/score", **upload(example["instruction"], source, edited)).is_success
