"""UniRL and Flow-Factory get the service's rewards: their clients, re-enacted from the sources that
critic/service/compat_routes.py names, send the same bytes and read the answers by the same rules."""

import base64
import json
import math
import pickle
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import requests
from PIL import Image
from prometheus_client import REGISTRY
from test_app import Service, serve, until

EDITS = [("blue", "score=1"), ("lime", "answer=none"), ("red", "score=4"), ("white", "score=2.5")]
"""Colours of edits of a black picture, and instructions that vLLM's stand-in obeys. The second has no score."""
Edits = list[tuple[str, str]]


def encoded(colour: str, format: str, **options: Any) -> str:
    file = BytesIO()
    Image.new("RGB", (28, 28), colour).save(file, format, **options)
    return base64.b64encode(file.getvalue()).decode()


class Trainer:
    """A trainer's HTTP session, whose only setting is a URL."""

    path: str

    def __init__(self, url: str):
        self.url, self.session = url, requests.Session()
        self.session.trust_env = False

    def post(self, body: bytes) -> Any:
        headers = {"Content-Type": "application/json"}
        answer = self.session.post(f"{self.url}/{self.path}", data=body, headers=headers, timeout=60)
        answer.raise_for_status()
        return answer.json()

    def health(self) -> Any:
        answer = self.session.get(f"{self.url}/health", timeout=5)
        answer.raise_for_status()
        return answer.json()


class UniRL(Trainer):
    """RemoteRewardBackend for edits, whose `required_rewards` is ["critic"]."""

    path = "score"

    def body(self, edits: Edits) -> bytes:
        source = encoded("black", "JPEG", quality=95)
        turns = '{"history": [{"text": "%s", "image_b64": "%s"}, {"text": "%s", "image_b64": "%s"}], '
        entry = turns + '"required_rewards": ["critic"], "metadata": null}'
        entries = [
            entry % (text, source, text, encoded(colour, "JPEG", quality=95) if colour else "AAAA")
            for colour, text in edits
        ]
        return f'{{"requests": [{", ".join(entries)}]}}'.encode()

    def available(self) -> bool:
        answer = self.session.get(f"{self.url}/health", timeout=5)
        return answer.status_code == 200 and "critic" in answer.json()["rewards"]

    def rewards(self, edits: Edits) -> list[float | str]:
        """Each edit's reward, or why the trainer flags it as failed and stops."""
        answer = self.post(self.body(edits))
        found: list[float | str] = []
        for result, errors in zip(answer["results"], answer["errors"], strict=True):
            if "critic" in result:
                assert all(type(value) is float and math.isfinite(value) for value in result["critic"].values())
                found.append(next(iter(result["critic"].values())))
            else:
                found.append(errors["critic"])
        return found


class FlowFactory(Trainer):
    """RemoteRewardClient, whose samples have one condition image each."""

    path = "compute"

    def body(self, edits: Edits, sources: str | None = None) -> bytes:
        source = encoded("black", "PNG")
        conditions = ", ".join(f'["{source}"]' for _ in edits)
        images = ", ".join(f'"{encoded(colour, "PNG")}"' for colour, _ in edits)
        prompts = ", ".join(f'"{text}"' for _, text in edits)
        begin = f'{{"prompt": [{prompts}], "image": [{images}], "video": null, "condition_images": '
        return f'{begin}{sources or f"[{conditions}]"}, "condition_videos": null}}'.encode()

    def rewards(self, edits: Edits) -> list[float]:
        answer = self.post(self.body(edits))
        if answer.get("error"):
            raise RuntimeError(f"Server error: {answer['error']}")
        return answer["rewards"]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with serve(tmp_path_factory.mktemp("compat")) as service:
        service.until_ready()
        yield service


@pytest.fixture
def unirl(service: Service) -> UniRL:
    return UniRL(f"{service.url}/compat/unirl/greedy")


@pytest.fixture
def flow_factory(service: Service) -> FlowFactory:
    return FlowFactory(f"{service.url}/compat/flow-factory/greedy")


def code(error: requests.HTTPError) -> tuple[int, str]:
    return error.response.status_code, error.response.json()["error"]["code"]


def test_the_bytes_are_those_of_the_trainers_libraries(unirl: UniRL, flow_factory: FlowFactory) -> None:
    for trainer in (unirl, flow_factory):
        body = trainer.body(EDITS)
        assert requests.Request("POST", unirl.url, json=json.loads(body)).prepare().body == body


def test_unirl_gets_rewards_in_order_and_flags_what_has_none(unirl: UniRL) -> None:
    first, unread, third, broken, last = unirl.rewards([*EDITS[:3], ("", "score=3"), EDITS[3]])
    assert (first, third, last) == (0.0, 0.75, 0.375)
    assert str(unread).startswith("not_a_number: ")
    assert str(broken).startswith("bad_input: edited: ")


def test_flow_factory_gets_rewards_in_order(flow_factory: FlowFactory) -> None:
    assert flow_factory.rewards([EDITS[0], *EDITS[2:]]) == [0.0, 0.75, 0.375]


def test_flow_factory_which_has_no_missing_reward_stops(flow_factory: FlowFactory) -> None:
    with pytest.raises(RuntimeError, match=r"error: 1 of 4 edits have no reward \(1 x not_a_number\). Number 1: "):
        flow_factory.rewards(EDITS)


@pytest.mark.parametrize("name", ["unirl", "flow_factory"])
def test_the_critic_sees_the_source_and_then_the_edit(name: str, service: Service, request: Any) -> None:
    request.getfixturevalue(name).rewards([("white", "score=3")])
    *pictures, text = service.asked()[-1]["messages"][0]["content"]
    files = [base64.b64decode(picture["image_url"]["url"].partition(",")[2]) for picture in pictures]
    seen = [Image.open(BytesIO(file)).convert("L").getpixel((0, 0)) for file in files]
    assert seen == [0, 255] and "score=3" in text["text"]


def test_the_trainers_ask_whether_the_critic_is_there(
    unirl: UniRL, flow_factory: FlowFactory, tmp_path: Path
) -> None:
    assert unirl.available() and flow_factory.health() == {"status": "ok"}
    with serve(tmp_path, "--slow", "60") as starting:
        assert not UniRL(f"{starting.url}/compat/unirl/greedy").available()
        with pytest.raises(requests.HTTPError, match="503"):
            FlowFactory(f"{starting.url}/compat/flow-factory/greedy").health()


def test_the_url_has_the_mode_and_metrics_the_route(service: Service) -> None:
    before = len(service.asked())
    assert UniRL(f"{service.url}/compat/unirl/average").rewards([EDITS[2]]) == [0.75]
    assert sum(asked.get("n") or 1 for asked in service.asked()[before:]) == 8
    labels = {"route": "/compat/unirl/average/score", "code": "200", "caller": "local"}
    until(lambda: REGISTRY.get_sample_value("critic_requests_total", labels) == 1)
    with pytest.raises(requests.HTTPError, match="422"):
        UniRL(f"{service.url}/compat/unirl/best").rewards([EDITS[2]])


def test_other_requests_are_refused_as_a_whole(unirl: UniRL, flow_factory: FlowFactory) -> None:
    good = unirl.body(EDITS[:1])
    turn = good[good.index(b"{", 1 + good.index(b"history")) : good.index(b", {", good.index(b"history"))]
    bodies = {
        good.replace(turn + b", ", b"", 1): (422, "invalid"),  # an image made from text, which has no source
        good.replace(b'["critic"]', b'["hpsv2"]'): (422, "invalid"),
        pickle.dumps({"requests": []}): (400, "bad_request"),
    }
    for body, expected in bodies.items():
        with pytest.raises(requests.HTTPError) as refused:
            unirl.post(body)
        assert code(refused.value) == expected
    for sources, expected in (("null", "invalid"), ('[["AAAA", "AAAA"]]', "invalid"), ("[]", "other_lengths")):
        with pytest.raises(requests.HTTPError) as refused:
            flow_factory.post(flow_factory.body(EDITS[:1], sources))
        assert code(refused.value) == (422, expected)


MANY = [("red", f"score={1 + place % 401 / 100}") for place in range(400)]
"""More than the service has room for: 64 answers and a queue of 256."""


@pytest.mark.slow
def test_a_large_batch_keeps_its_order_and_lets_another_have_its_turns(
    service: Service, unirl: UniRL, flow_factory: FlowFactory
) -> None:
    before = len(service.asked())
    with ThreadPoolExecutor(1) as pool:
        many = pool.submit(unirl.rewards, MANY)
        until(lambda: len(service.asked()) > before)
        assert flow_factory.rewards(MANY[350:]) == pytest.approx([place / 400 for place in range(350, 400)])
        assert not many.done()
        assert many.result() == pytest.approx([place / 400 for place in range(400)])


def test_large_batches_leave_the_queue_to_others(tmp_path: Path) -> None:
    go = tmp_path / "go"
    with serve(tmp_path, concurrency=4, queue=4) as service, ThreadPoolExecutor(2) as pool:
        service.until_ready()
        unirl = UniRL(f"{service.url}/compat/unirl/greedy")
        before = len(service.asked())
        batches = [pool.submit(unirl.rewards, [("red", f"score=4 wait={go}")] * 20) for _ in range(2)]
        try:
            until(lambda: len(service.asked()) == before + 4)
            with service.client() as client:
                edit = {"source": encoded("black", "PNG"), "edited": encoded("red", "PNG")}
                pairs = [edit | {"instruction": "score=2"}] * 4
                answer = client.post("/score_batch", json={"pairs": pairs})
            assert len(service.asked()) == before + 8
        finally:
            go.touch()
        assert [one["score"] for one in answer.raise_for_status().json()["verdicts"]] == [2.0] * 4
        assert [batch.result() for batch in batches] == [[0.75] * 20] * 2


def test_a_batch_that_takes_too_long_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What vLLM has of it is pending until it is done, and the rest isn't sent."""
    monkeypatch.setattr("critic.service.scoring_queue._PATIENCE", 0.05)
    go = tmp_path / "go"
    with serve(tmp_path, concurrency=4, queue=4, timeout=20) as service:
        service.until_ready()
        before = len(service.asked())
        unirl = UniRL(f"{service.url}/compat/unirl/greedy")
        try:
            with pytest.raises(requests.HTTPError) as refused:
                unirl.rewards([("red", f"score=4 wait={go}")] * 40)
            assert code(refused.value) == (429, "busy")
            message = refused.value.response.json()["error"]["message"]
            assert message.startswith("0 of 40 edits were scored in 1 s")
            pair = {"source": encoded("black", "PNG"), "edited": encoded("red", "PNG"), "instruction": "score=2"}
            with service.client() as client:
                assert client.post("/score_batch", json={"pairs": [pair] * 5}).status_code == 429
        finally:
            go.touch()
        until(lambda: unirl.rewards(EDITS[:1]) == [0.0])
        assert len(service.asked()) == before + 5


def test_an_edit_that_cant_be_scored_fails_alone_in_a_part_of_its_own(tmp_path: Path) -> None:
    with serve(tmp_path, concurrency=1, queue=1) as service:
        service.until_ready()
        blue, broken, white = UniRL(f"{service.url}/compat/unirl/greedy").rewards(
            [EDITS[0], ("", "score=3"), EDITS[3]]
        )
        with pytest.raises(requests.HTTPError) as refused:
            UniRL(f"{service.url}/compat/unirl/average").rewards(EDITS)
    assert (blue, white) == (0.0, 0.375) and str(broken).startswith("bad_input: edited: ")
    assert code(refused.value) == (413, "too_many_answers")


def test_edits_that_may_be_lost_dont_hold_up_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are asked for again after 30 s in which vLLM hasn't ended: all others must have been asked by then."""
    monkeypatch.setattr("critic.service.scoring_queue._NOTICED", 0.5)
    with serve(tmp_path, concurrency=1, queue=1) as service:
        service.until_ready()
        before = len(service.asked())
        rewards = UniRL(f"{service.url}/compat/unirl/greedy").rewards([("red", "status=500")] * 3 + EDITS[:1])
        asked = [json.dumps(one["messages"]) for one in service.asked()[before:]]
    assert [str(reward).partition(":")[0] for reward in rewards] == ["server_error"] * 3 + ["0.0"]
    assert ["status=500" in one for one in asked] == [True] * 3 + [False] + [True] * 3


def test_a_batch_survives_a_vllm_that_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The edits of the part in which it ends are scored again, and those of later parts wait for its restart."""
    monkeypatch.setattr("critic.service.scoring_queue._NOTICED", 1.0)
    once = tmp_path / "once"
    once.touch()
    with serve(tmp_path, concurrency=4, queue=4) as service:
        service.until_ready()
        edits = [("red", f"score={1 + place / 10}") for place in range(20)]
        edits[1] = ("red", f"score=1.1 kill={once}")
        rewards = UniRL(f"{service.url}/compat/unirl/greedy").rewards(edits)
    assert rewards == pytest.approx([place / 40 for place in range(20)])
    assert not once.exists()


def test_a_key_in_the_url_is_known_and_limited(tmp_path: Path) -> None:
    with serve(tmp_path, keys="ann:ann-has-this-key:3") as service:
        service.until_ready(Authorization="Bearer ann-has-this-key")
        host = service.url.removeprefix("http://")
        ann = UniRL(f"http://ann:ann-has-this-key@{host}/compat/unirl/greedy")
        assert ann.available() and ann.rewards([EDITS[2]] * 2) == [0.75] * 2
        stranger = UniRL(f"http://ann:another-key@{host}/compat/unirl/greedy")
        for trainer, edits, expected in (
            (ann, EDITS, (413, "too_many_answers")),
            (ann, EDITS[:2], (429, "rate_limited")),
            (stranger, EDITS[:1], (401, "no_key")),
        ):
            with pytest.raises(requests.HTTPError) as refused:
                trainer.rewards(edits)
            assert code(refused.value) == expected
