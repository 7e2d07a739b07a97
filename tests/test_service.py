"""The real service: BentoML, vLLM on a CPU, and a critic that is trained for these tests.

The critic's training is just long enough to answer most edits in its format.
"""

import asyncio
import json
import math
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pandas as pd
import psutil
import pyarrow.parquet as pq
import pytest
import torch
from hostile import HOSTILE, Hostile
from PIL import Image
from playwright.sync_api import expect, sync_playwright
from smoke import Project
from trainers import painted, reward_as_flow_grpo, train_by_trl

from critic import Critic, process_tree
from critic import client as over_http
from critic.engines.http import data_url
from critic.engines.load import contract_of
from critic.pictures import decode_cell
from critic.prompts import IMAGE_MARK
from critic.ratings.store import Feedback
from critic.service.page import WEB

pytestmark = pytest.mark.e2e
ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent


@pytest.fixture(scope="module")
def project(smoke: Project) -> Path:
    """A project whose pipeline has run up to SFT."""
    smoke.dvc("repro", "sft")
    return smoke.folder


def environment(folder: Path, **more: str) -> dict[str, str]:
    return {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", "PYTHONPATH": str(folder), **more}


@dataclass
class Service:
    address: str
    process: subprocess.Popen[bytes]
    feedback_url: str

    def client(self, **options: Any) -> httpx.Client:
        return httpx.Client(base_url=self.address, timeout=120, trust_env=False, **options)

    def ready(self) -> bool:
        try:
            return httpx.get(f"{self.address}/readyz", trust_env=False).is_success
        except httpx.HTTPError:
            return False

    def engines(self) -> list[psutil.Process]:
        """vLLM's processes."""
        children = psutil.Process(self.process.pid).children(recursive=True)
        lines = [(child, child.cmdline()) for child in children]
        return [child for child, line in lines if "vllm" in " ".join(line) and process_tree.__file__ not in line]


@contextmanager
def serve(model: Path, folder: Path, **settings: str) -> Iterator[Service]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    feedback_url = f"sqlite:///{folder}/feedback.db"
    given = {
        "CRITIC_MODEL": str(model),
        "CRITIC_MAX_TOKENS": "80",
        "CRITIC_FEEDBACK_URL": feedback_url,
        "BENTOML_HOME": str(folder / "bentoml"),
        **settings,
    }
    command = [sys.executable, "-m", "bentoml", "serve", "critic.service.bento:Critic", "--port", str(port)]
    began = time.monotonic()
    with (folder / "log.txt").open("wb") as log:
        process = subprocess.Popen(command, cwd=ROOT, env=environment(ROOT, **given), stdout=log, stderr=log)
        service = Service(f"http://127.0.0.1:{port}", process, feedback_url)
        try:
            while not service.ready():
                assert process.poll() is None and time.monotonic() - began < 300, (folder / "log.txt").read_text()
                time.sleep(0.2)
            yield service
        finally:
            process.terminate()
            process.wait(60)


@pytest.fixture(scope="module")
def service(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with serve(project / "models/sft", tmp_path_factory.mktemp("service")) as running:
        yield running


@pytest.fixture(scope="module")
def edits(project: Path) -> list[dict[str, Any]]:
    table = pq.read_table(project / "data/validated/test.parquet", columns=["id", "images", "instruction"])
    return table.to_pylist()[:16]


def upload(edit: dict[str, Any]) -> dict[str, Any]:
    source, edited = (image["bytes"] for image in edit["images"])
    return {"files": {"source": source, "edited": edited}, "data": {"instruction": edit["instruction"]}}


def pair(edit: dict[str, Any]) -> dict[str, Any]:
    source, edited = (data_url(decode_cell(image)) for image in edit["images"])
    return {"id": edit["id"], "source": source, "edited": edited, "instruction": edit["instruction"]}


def offline(project: Path, *options: str) -> dict[str, dict[str, Any]]:
    """The results of `critic score` with vLLM, by id."""
    out = project / f"{'-'.join(options)}.jsonl"
    main = [sys.executable, "-c", "from critic.cli import main; main(prog_name='critic')"]
    command = [*main, "score", "-m", "models/sft", "data/validated/test.parquet", "--out", str(out), *options]
    subprocess.run([*command, "--limit", "16", "--max-tokens", "80"], cwd=project, env=environment(project))
    lines = [file.read_text() for file in (out, out.with_suffix(".failures.jsonl")) if file.exists()]
    return {result["id"]: result for result in map(json.loads, "".join(lines).splitlines())}


@pytest.mark.parametrize(
    "mode",
    ["greedy", *(pytest.param(mode, marks=pytest.mark.nightly) for mode in ("expected", "average"))],
)
def test_scores_are_those_of_critic_score(
    project: Path, service: Service, edits: list[dict[str, Any]], mode: str
) -> None:
    expected = offline(project, "--mode", mode)
    with service.client() as client:
        reply = client.post("/score_batch", json={"pairs": [pair(edit) for edit in edits], "mode": mode})
    assert reply.status_code == 200, reply.text
    for result in reply.json()["verdicts"]:
        own = expected[result["id"]]
        assert (result["status"], result["raw"]) == (own["status"], own["raw"])
        assert result["score"] == pytest.approx(own["score"], abs=1e-4)
        assert result["spread"] == pytest.approx(own["spread"], abs=1e-4)
        assert (result["model"], result["contract"]) == (own["model"], own["contract"])


def test_the_critic_in_this_process_and_the_service_write_the_same(project: Path, service: Service) -> None:
    edits = pd.read_parquet(project / "data/validated/test.parquet", columns=["id", "images", "instruction"])[:8]
    with Critic.load(project / "models/sft", max_tokens=80) as here, Critic.load(service.address) as there:
        for own, other in zip(here.score_many(edits), there.score_many(edits), strict=True):
            assert (own.id, own.raw, own.model, own.status) == (other.id, other.raw, other.model, other.status)
            assert own.score == pytest.approx(other.score)


def test_an_answer_is_traced_to_the_rows_that_taught_it(
    project: Path, service: Service, edits: list[dict[str, Any]], tmp_path: Path
) -> None:
    with service.client() as client:
        (tmp_path / "answer.json").write_text(client.post("/score", **upload(edits[0])).text)
    main = [sys.executable, "-c", "from critic.cli import main; main(prog_name='critic')"]
    traced = subprocess.run(
        [*main, "audit", "trace", str(tmp_path / "answer.json")],
        cwd=project,
        env=environment(project),
        check=True,
        capture_output=True,
        text=True,
    )
    made = json.loads((project / "reports/provenance/build.json").read_text())["outputs"]["data/sft"]
    assert f"data/sft/train.parquet  sha256 {made['files']['train.parquet']}" in traced.stdout


def test_many_at_a_time_are_never_mixed_up(service: Service, edits: list[dict[str, Any]]) -> None:
    with service.client() as client:
        alone = [client.post("/score", **upload(edit)).json()["raw"] for edit in edits]
        with ThreadPoolExecutor(32) as pool:
            asked = [number % len(edits) for number in range(128)]
            together = [*pool.map(lambda n: client.post("/score", **upload(edits[n])).json()["raw"], asked)]
    assert len(set(alone)) > 2
    assert together == [alone[number] for number in asked]


def test_openais_client_needs_no_change(project: Path, service: Service, edits: list[dict[str, Any]]) -> None:
    contract = contract_of(str(project / "models/sft"))
    asked = pair(edits[0])
    text = contract.marked_text(asked["instruction"], "reasoning").replace(IMAGE_MARK, "")
    pictures = [{"type": "image_url", "image_url": {"url": asked[part]}} for part in ("source", "edited")]
    with openai.OpenAI(base_url=f"{service.address}/v1", api_key="none") as client:
        content: Any = [*pictures, {"type": "text", "text": text}]
        reply = client.chat.completions.create(
            model="critic",
            messages=[{"role": "user", "content": content}],
            temperature=0,
            max_tokens=80,
            extra_body={"repetition_penalty": 1.0},
        )
    with service.client() as http:
        result = http.post("/score", **upload(edits[0])).json()
    assert f"{contract.prefill}{reply.choices[0].message.content}" == result["raw"]


def test_requests_beyond_the_queue_get_a_retry_after(service: Service, edits: list[dict[str, Any]]) -> None:
    batch = {"pairs": [pair(edit) for edit in edits[:8]], "mode": "average", "samples": 25}
    with service.client() as client, ThreadPoolExecutor(3) as pool:
        replies = [*pool.map(lambda _: client.post("/score_batch", json=batch), range(3))]
        assert sorted(reply.status_code for reply in replies)[:1] == [200]
        (*_, busy) = sorted(replies, key=lambda reply: reply.status_code)
        assert busy.status_code == 429 and busy.json()["error"]["code"] == "busy"
        assert 1 <= int(busy.headers["Retry-After"]) <= 60
        too_many = client.post("/score_batch", json={**batch, "pairs": batch["pairs"] * 2})
        assert (too_many.status_code, too_many.json()["error"]["code"]) == (413, "too_many_answers")


@pytest.mark.nightly
def test_batches_of_a_thousand_keep_their_order_beside_each_other(
    service: Service, edits: list[dict[str, Any]]
) -> None:
    """Their 2,000 answers are six times what may wait. The client splits its batch; UniRL sends one request."""
    order = [number % len(edits) for number in range(1000)]
    given = [(*(image["bytes"] for image in edit["images"]), edit["instruction"]) for edit in edits]
    turns = [
        [{"text": one["instruction"], "image_b64": one[part]} for part in ("source", "edited")]
        for one in map(pair, edits)
    ]
    batch = {"requests": [{"history": turns[number], "required_rewards": ["critic"]} for number in order]}
    with over_http.Critic(service.address, batch_size=64) as critic, ThreadPoolExecutor(1) as pool:
        alone = [own.value for own in critic.rewards(given, scale="unit", mode="direct")]
        url = f"{service.address}/compat/unirl/direct/score"
        asked = pool.submit(httpx.post, url, json=batch, timeout=600, trust_env=False)
        together = critic.rewards([given[number] for number in order], scale="unit", mode="direct")
        reply = asked.result()
    expected = [alone[number] for number in order]
    assert len({*alone}) > 2
    assert [own.value for own in together] == expected
    assert [result.get("critic", {}).get("critic") for result in reply.json()["results"]] == expected


def test_trls_trainer_trains_on_the_services_scores(service: Service, tmp_path: Path) -> None:
    trainer = train_by_trl(service.address, tmp_path)
    rewards = trainer._logs["rewards"]["TRLReward"]
    with over_http.Critic(service.address) as critic:
        for text, reward in zip(trainer._logs["completion"], rewards, strict=True):
            picture = painted(text)
            row = [(row["source"], picture, row["instruction"]) for row in trainer.train_dataset]
            possible = [] if picture is None else [own.value for own in critic.rewards(row, scale="unit")]
            assert (None if math.isnan(reward) else pytest.approx(reward, abs=1e-4)) in (possible or [None])
    assert any(0 <= reward <= 1 for reward in rewards)
    assert trainer.state.log_history[0]["grad_norm"] > 0


def test_a_trainer_of_image_models_gets_the_services_scores(
    service: Service, tmp_path: Path, edits: list[dict[str, Any]]
) -> None:
    """For edits that this critic has a score for: it has learnt little."""
    source = Image.new("RGB", (112, 112), "blue")
    pictures = [np.array(decode_cell(edit["images"][1])) for edit in edits]
    with over_http.Critic(service.address) as critic:
        results = critic.score_batch([(source, picture, "make it red") for picture in pictures])
    scored = [number for number, result in enumerate(results) if result.score is not None][:4]
    assert len(scored) == 4
    edited = torch.from_numpy(np.stack([pictures[number] for number in scored])).permute(0, 3, 1, 2) / 255
    rewards = reward_as_flow_grpo(service.address, tmp_path, edited, "make it red")
    assert rewards == pytest.approx([(results[number].score - 1) / 4 for number in scored])


@pytest.mark.parametrize("entry", HOSTILE, ids=lambda entry: f"{entry.kind}: {entry.name}")
def test_what_does_harm_is_refused_with_a_reason(service: Service, entry: Hostile) -> None:
    with service.client() as client:
        reply = client.request(url=entry.path, **entry.request())
    assert reply.status_code in entry.statuses, reply.text
    if not reply.is_success:
        error = reply.json()["error"]
        assert error["message"] and error["request_id"] == reply.headers["X-Request-ID"]


@pytest.mark.browser
def test_a_person_scores_an_edit_on_the_page(service: Service) -> None:
    if (chromium := shutil.which("chromium")) is None:
        pytest.skip("the page needs a browser: apt-get install chromium")
    example = json.loads((WEB / "examples/examples.json").read_text())[0]
    files = {part: (WEB / example[part].lstrip("/")).read_bytes() for part in ("source", "edited")}
    with service.client() as client:
        result = client.post("/score", files=files, data={"instruction": example["instruction"]}).json()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium)
        page = browser.new_page()
        page.goto(service.address)
        page.locator(".examples button").first.click()
        page.get_by_role("button", name="Score", exact=True).click()
        expect(page.locator("#result .score")).to_contain_text(f"{result['score']:.2f} of 5", timeout=60_000)
        expect(page.locator("#result .reasoning")).to_have_text(result["reasoning"])
        page.locator("#own").fill("4.5")
        page.get_by_label("Your name").fill("Ada")
        page.get_by_role("button", name="Send my score").click()
        expect(page.locator(".rating").get_by_role("status")).to_contain_text("your score is 4.5")
        browser.close()
    (rating,) = [rating for rating in Feedback(service.feedback_url).rows() if rating.rater == "Ada"]
    assert (rating.score, rating.critic_score) == (4.5, result["score"])
    assert rating.edited_sha256 == sha256(files["edited"]).hexdigest()


def test_a_rating_is_kept_of_what_was_scored(service: Service, edits: list[dict[str, Any]]) -> None:
    with service.client() as client:
        receipt = client.post("/score", **upload(edits[0])).json()["receipt"]
        kept = client.post("/feedback", json={"receipt": receipt, "rater": "ann", "score": 4.5})
        forged = client.post("/feedback", json={"receipt": receipt[:-2], "rater": "ann", "score": 4.5})
    assert (kept.status_code, forged.status_code) == (201, 422)


def test_metrics_have_the_services_and_vllms_and_all_of_the_dashboard_and_the_alerts(
    service: Service, edits: list[dict[str, Any]]
) -> None:
    with service.client() as client:
        client.post("/score", **upload(edits[0]))
    lines = httpx.get(f"{service.address}/metrics", trust_env=False).text.splitlines()
    names = [re.split("[{ ]", line)[0] for line in lines if not line.startswith("#")]
    files = [(ROOT / "deploy" / file).read_text() for file in ("grafana/critic.json", "prometheus/alerts.yaml")]
    used = {*re.findall(r"\b(?:critic_|vllm:|bentoml_)\w+", "".join(files))}
    assert {"critic_verdicts_total", "critic_score_bucket", "vllm:num_requests_running"} <= used <= {*names}
    series = [line.rpartition(" ")[0] for line in lines if not line.startswith("#")]
    assert len(series) == len({*series}), "a series is there twice"


def test_no_request_that_openapi_allows_ends_in_a_500(service: Service, tmp_path: Path) -> None:
    command = [
        BIN / "schemathesis", "run", f"{service.address}/openapi.json", "--url", service.address,
        "--checks", "not_a_server_error", "--exclude-checks", "unsupported_method",
        "--max-examples", "25", "--workers", "1", "--seed", "1",
    ]  # fmt: skip
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-2000:]


def test_a_killed_engine_costs_its_requests_a_503_and_comes_back(
    service: Service, edits: list[dict[str, Any]]
) -> None:
    with service.client() as client:
        alone = [client.post("/score", **upload(edit)).json()["raw"] for edit in edits]

        async def ask() -> list[tuple[int, httpx.Response]]:
            async with httpx.AsyncClient(base_url=service.address, timeout=120, trust_env=False) as http:

                async def one(number: int) -> tuple[int, httpx.Response]:
                    return number, await http.post("/score", **upload(edits[number % len(edits)]))

                asked = [asyncio.create_task(one(number)) for number in range(64)]
                await asyncio.sleep(0.5)
                for process in service.engines():
                    process.kill()
                return await asyncio.gather(*asked)

        replies = asyncio.run(ask())
        assert {reply.status_code for _, reply in replies} <= {200, 503}
        for number, reply in replies:
            if reply.status_code == 200:
                assert reply.json()["raw"] == alone[number % len(edits)]
            else:
                assert reply.json()["error"]["code"] and int(reply.headers["Retry-After"]) > 0
        assert any(reply.status_code == 503 for _, reply in replies)
        began = time.monotonic()
        while service.ready():
            assert time.monotonic() - began < 30  # lost once the whole process tree has ended
        assert client.post("/score", **upload(edits[0])).status_code == 503
        while not service.ready():
            assert time.monotonic() - began < 300
            time.sleep(0.5)
        assert [client.post("/score", **upload(edit)).json()["raw"] for edit in edits] == alone


@pytest.mark.nightly
def test_sigterm_lets_requests_end_and_leaves_nothing_running(
    project: Path, tmp_path: Path, edits: list[dict[str, Any]]
) -> None:
    with serve(project / "models/sft", tmp_path) as service:
        left = psutil.Process(service.process.pid).children(recursive=True)
        batch = {"pairs": [pair(edit) for edit in edits[:8]], "mode": "average", "samples": 30}
        with service.client() as client, ThreadPoolExecutor(1) as pool:
            asked = pool.submit(client.post, "/score_batch", json=batch)
            time.sleep(1)
            assert not asked.done()
            service.process.send_signal(signal.SIGTERM)
            reply = asked.result()
        assert reply.status_code == 200 and len(reply.json()["verdicts"]) == 8
        service.process.wait(60)
        _, alive = psutil.wait_procs(left, timeout=30)
        assert not alive
