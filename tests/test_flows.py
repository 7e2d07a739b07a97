"""The flows from the first critic to a rollback: real Prefect, DVC, TRL, vLLM and BentoML, on a very small study.

The tests depend on each other and run in this order: a first critic, whose worker is killed in the training, an
audit, drift, and runs that must fail. The tests of the pipeline and of the service use the critic that was trained
here. The nightly story is the same one with more test pictures, and takes half an hour more: a power cut,
the critic reproduced from its record, ratings that make it better, ratings that would make it worse, a rollback.

    python -m pytest -m nightly tests/test_flows.py
"""

import csv
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import yaml
from panel import write_study
from prometheus_client import CollectorRegistry, Histogram, generate_latest
from smoke import SIZES

from critic.ratings.picture_store import PictureStore
from critic.ratings.receipts import Receipt
from critic.ratings.store import Feedback
from critic.release import registry
from critic.release.drift import SCORE_EDGES
from critic.release.git import git
from critic.release.lock import hold_lock
from flows.events import DRIFTED

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
PROJECT = (
    *("assets", "critic", "flows", "stages", "requirements", "docs/serve.md"),
    *("data/preferences/README.md", "data/ratings/README.md"),
    *("bentofile.yaml", "dvc.yaml", "params.yaml", "prefect.toml", "prefect.yaml", "pyproject.toml"),
    *("LICENSE", "Makefile", "README.md", "reports/seeds.json", ".gitignore", ".dvcignore"),
)
pytestmark = pytest.mark.e2e
SOURCES = SIZES["download"]["minibench"]["train_sources"]
MANY_TEST_SOURCES = 200
"""The whole story must tell a better critic from a worse one."""
STAGES = ["download", "validate", "build", "sft", "grpo", "evaluate", "cards"]
BUSY = "Deployment concurrency limit reached."
"""Prefect's message of a run that was cancelled because another one of its deployment was running."""


class Patient(httpx.HTTPTransport):
    """Retries while SQLite is busy, as Prefect's own client does."""

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        deadline = time.monotonic() + 60
        while (reply := super().handle_request(request)).status_code == httpx.codes.SERVICE_UNAVAILABLE:
            if time.monotonic() > deadline:
                break
            reply.close()
            time.sleep(0.5)
        return reply


class Flows:
    """`make flows` in a new checkout, and Prefect's API."""

    def __init__(self, folder: Path, story: str):
        self.story, self.folder = story, folder / "checkout"
        self.kept, self.store = folder / "kept", f"sqlite:///{folder}/feedback.db"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            url = f"http://127.0.0.1:{free.getsockname()[1]}/api"
        self.api = httpx.Client(base_url=url, timeout=300, transport=Patient())
        self.environment = {
            **os.environ,
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "PYTHONPATH": str(self.folder),
            "PREFECT_API_URL": url,
            "PREFECT_WORKER_QUERY_SECONDS": "1",  # instead of 10, between looks for new runs
            "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "5",  # of 60: looks for schedules
            "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_FLUSH_INTERVAL": "1",  # of 5: stores events
            "BENTOML_HOME": str(folder / "bentoml"),
            "CRITIC_FEEDBACK_URL": self.store,
            "CRITIC_KEEP_IMAGES": str(self.kept),
        }
        self.log = folder / "flows.log"
        self.process: subprocess.Popen[bytes] | None = None

    def check_out(self) -> None:
        for name in PROJECT:
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
            copy(ROOT / name, self.folder / name)
        params = yaml.safe_load((ROOT / "params.yaml").read_text())
        tiny = params["profiles"]["tiny"]
        for section, values in SIZES.items():
            tiny[section].update(values)
        tiny["evaluate"]["engine"] = "transformers"  # vLLM, of the Bentos, must score as it does
        if self.story == "whole":
            tiny["download"]["minibench"]["test_sources"] = MANY_TEST_SOURCES
        params["evaluate"]["n_boot"] = 100
        params["gate"].update(min_main_score=-1.0, min_coverage=0.5, coverage_margin=1.0, type_margin=1.0)
        params["ratings"]["min_raters"] = 2
        (self.folder / "params.yaml").write_text(yaml.safe_dump(params))
        git(self.folder, "init", "--quiet", "--initial-branch", "main")
        git(self.folder, "config", "user.name", "Ann")
        git(self.folder, "config", "user.email", "ann@example.org")
        for command in (["init", "--quiet"], ["cache", "dir", "--local", str(self.folder.parent / "cache")]):
            subprocess.run([sys.executable, "-m", "dvc", *command], cwd=self.folder, check=True)
        git(self.folder, "add", ".")
        git(self.folder, "commit", "--quiet", "-m", "Begin")

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "flows.up"], cwd=self.folder, env=self.environment, stdout=log, stderr=log
            )
        self.wait(lambda: "The flows:" in self.log.read_text())

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(60)
        self.log.write_text("")

    def wait(self, what: Callable[[], Any], seconds: float = 300) -> Any:
        deadline = time.monotonic() + seconds
        while not (found := what()):
            assert time.monotonic() < deadline, self.log.read_text()[-5000:]
            time.sleep(0.5)
        return found

    def deployment(self, flow: str) -> str:
        return self.api.get(f"/deployments/name/{flow}/critic").raise_for_status().json()["id"]

    def start_run(self, flow: str, **parameters: Any) -> str:
        path = f"/deployments/{self.deployment(flow)}/create_flow_run"
        return self.api.post(path, json={"parameters": parameters}).raise_for_status().json()["id"]

    def state(self, run: str) -> dict[str, Any]:
        return self.api.get(f"/flow_runs/{run}").raise_for_status().json()["state"]

    def runs(self, flow: str) -> list[dict[str, Any]]:
        body = {"flows": {"name": {"any_": [flow]}}, "sort": "START_TIME_DESC"}
        return self.api.post("/flow_runs/filter", json=body).raise_for_status().json()

    def ended(self, run: str, seconds: float = 1800) -> dict[str, Any]:
        """The final state of a run, once it has one."""
        last = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}
        return self.wait(lambda: state if (state := self.state(run))["type"] in last else None, seconds)

    def run(self, flow: str, **parameters: Any) -> dict[str, Any]:
        """Start a run, again if a scheduled one of the same flow was just running, and give its final state."""
        return self.wait(
            lambda: state if (state := self.ended(self.start_run(flow, **parameters)))["message"] != BUSY else None
        )

    def tasks(self, run: str) -> list[dict[str, Any]]:
        body = {"flow_runs": {"id": {"any_": [run]}}, "sort": "EXPECTED_START_TIME_ASC"}
        return self.api.post("/task_runs/filter", json=body).raise_for_status().json()

    def lines(self, task: str) -> list[str]:
        body = {"logs": {"task_run_id": {"any_": [task]}}, "sort": "TIMESTAMP_ASC"}
        return [line["message"] for line in self.api.post("/logs/filter", json=body).raise_for_status().json()]

    def is_running(self, run: str, stage: str) -> bool:
        return any(task["name"] == stage and task["state_type"] == "RUNNING" for task in self.tasks(run))

    def processes(self, *words: str) -> list[psutil.Process]:
        """The processes in the checkout whose command has all these words."""
        found = []
        for process in psutil.process_iter(["cmdline"]):
            try:
                if process.cwd().startswith(str(self.folder)) and {*words} <= {*(process.info["cmdline"] or [])}:
                    found.append(process)
            except psutil.Error:
                continue
        return found

    @property
    def champion(self) -> str | None:
        release = registry.champion(self.folder)
        return release and release.version

    def clean(self) -> bool:
        return git(self.folder, "status", "--porcelain") == ""


@pytest.fixture(scope="module", params=["short", pytest.param("whole", marks=pytest.mark.nightly)])
def flows(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, trained: Path
) -> Iterator[Flows]:
    folder = trained if request.param == "short" else tmp_path_factory.mktemp("flows")
    flows = Flows(folder, request.param)
    flows.check_out()
    flows.start()
    yield flows
    flows.stop()
    flows.api.close()


def whole_story(test: Callable[..., None]) -> Callable[..., None]:
    """A test of the whole story alone."""
    return pytest.mark.nightly(pytest.mark.parametrize("flows", ["whole"], indirect=True)(test))


def test_make_flows_deploys_everything(flows: Flows) -> None:
    deployed = flows.api.post("/deployments/filter", json={}).raise_for_status().json()
    assert len(deployed) == len(yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"])
    limits = flows.api.post("/v2/concurrency_limits/filter", json={}).raise_for_status().json()
    assert {limit["name"]: limit["limit"] for limit in limits}["gpu"] == 1
    automations = flows.api.post("/automations/filter", json={}).raise_for_status().json()
    assert len(automations) == 5
    register = [sys.executable, "-c", "from flows.events import register_automations as r; r()"]
    subprocess.run(register, cwd=flows.folder, env=flows.environment, check=True)
    again = flows.api.post("/automations/filter", json={}).raise_for_status().json()
    assert again == automations, "what is saved already is not saved again"


def test_a_scheduled_run_starts(flows: Flows) -> None:
    schedules = f"/deployments/{flows.deployment('watch')}/schedules"
    (made,) = (
        flows.api.post(
            schedules,
            json=[{"active": True, "schedule": {"interval": 10, "anchor_date": datetime.now(UTC).isoformat()}}],
        )
        .raise_for_status()
        .json()
    )
    done = flows.wait(lambda: [run for run in flows.runs("watch") if run["state_type"] == "COMPLETED"])
    flows.api.delete(f"{schedules}/{made['id']}").raise_for_status()
    assert done[0]["auto_scheduled"] and done[0]["state_name"] == "Nothing new"


def test_a_killed_worker_ends_its_run_and_the_next_run_continues_to_a_promotion(flows: Flows) -> None:
    run = flows.start_run("retrain", reason="the first one")
    flows.wait(lambda: flows.is_running(run, "sft") and flows.processes("stages.sft"), 600)
    second = flows.start_run("retrain", reason="one more")
    flows.wait(lambda: flows.state(second)["name"] == "AwaitingConcurrencySlot")
    flows.api.delete(f"/flow_runs/{second}")
    (worker,) = [p for p in flows.processes("worker", "start") if "process_tree" not in " ".join(p.cmdline())]
    worker.send_signal(signal.SIGKILL)
    flows.wait(lambda: not flows.processes("-m", "stages.sft") and not flows.processes("repro"), 60)
    assert flows.champion is None
    flows.stop()
    flows.start()

    if flows.story == "whole":
        cut = flows.start_run("retrain", reason="go on")
        flows.wait(lambda: flows.is_running(cut, "sft") and flows.processes("stages.sft"), 600)
        for process in flows.processes():  # a power cut
            with suppress(psutil.NoSuchProcess):  # it ended with its parent
                process.kill()
        flows.stop()
        flows.start()
        assert flows.state(cut)["message"] == "Its process is gone."

    run = flows.start_run("retrain", reason="go on")
    state = flows.ended(run)
    assert state["name"] == "Promoted", state
    assert flows.champion == "v1.0.0" and flows.clean()
    tasks = {task["name"]: task for task in flows.tasks(run)}
    assert [tasks[stage]["state_name"] for stage in STAGES] == [*["Unchanged"] * 3, *["Completed"] * 4]
    for stage in ("sft", "grpo", "evaluate"):
        assert any(f"Running stage '{stage}'" in line for line in flows.lines(tasks[stage]["id"]))
    assert any("main score" in line for line in flows.lines(tasks["evaluate"]["id"]))
    artifacts = flows.api.post("/artifacts/filter", json={}).raise_for_status().json()
    assert {artifact["type"] for artifact in artifacts} == {"progress", "table", "markdown"}
    (page,) = [artifact["data"] for artifact in artifacts if artifact["key"] == "gate-decision"]
    assert page == (flows.folder / "reports/decisions/0001-promoted.md").read_text()


def test_an_audit_finds_a_changed_record(flows: Flows) -> None:
    state = flows.run("audit")
    assert (state["type"], state["message"]) == ("COMPLETED", "The records are consistent."), state
    metrics = flows.folder / "reports/metrics.json"
    before = metrics.read_text()
    metrics.write_text(before.replace("0.", "0.9", 1))
    state = flows.run("audit")
    assert state["type"] == "FAILED" and "reports/metrics.json" in state["message"], state
    metrics.write_text(before)


@whole_story
def test_a_release_is_reproduced_from_its_lock(flows: Flows) -> None:
    state = flows.run("audit", again="v1.0.0")
    assert state["name"] == "Reproduced", state


def test_without_news_retrain_does_nothing(flows: Flows) -> None:
    began = time.monotonic()
    assert flows.run("retrain")["name"] == "Nothing new"
    assert time.monotonic() - began < 60


@contextmanager
def listening(page: bytes = b"") -> Iterator[tuple[str, list[str]]]:
    """A web server on this machine with this page at /metrics; gives its address and the bodies posted to it."""
    heard: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/metrics" else 404)
            self.end_headers()
            self.wfile.write(page)

        def do_POST(self) -> None:
            heard.append(self.rfile.read(int(self.headers["Content-Length"])).decode())
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", heard
    server.shutdown()
    server.server_close()
    thread.join()


def test_scores_that_drift_start_a_retraining_once_a_day(flows: Flows) -> None:
    served = CollectorRegistry()
    scores = Histogram("critic_score", "Scores.", ["mode"], buckets=SCORE_EDGES, registry=served)
    for _ in range(500):
        scores.labels("greedy").observe(1.1)
    with listening(generate_latest(served)) as (address, _):
        state = flows.run("watch", service=f"{address}/")
        assert state["name"] == "Started" and "scores: population stability index" in state["message"], state
        (run,) = [run["id"] for run in flows.runs("retrain") if DRIFTED in run["tags"]]
        assert flows.ended(run)["name"] == "Nothing new"
        state = flows.run("watch", service=address)
        assert state["name"] == "Held back" and "was started for drift" in state["message"], state
    wanted = {"filter": {"event": {"name": [DRIFTED]}}}
    flows.wait(lambda: flows.api.post("/events/filter", json=wanted).raise_for_status().json()["total"] == 1)


def test_uncommitted_changes_are_not_trained_on(flows: Flows) -> None:
    params = flows.folder / "params.yaml"
    before = params.read_text()
    params.write_text(before.replace("n_boot: 100", "n_boot: 200"))
    state = flows.run("retrain")
    params.write_text(before)
    assert state["type"] == "FAILED" and "has uncommitted changes: params.yaml" in state["message"]
    assert flows.champion == "v1.0.0" and flows.clean()


def test_a_cancelled_stage_ends_with_its_children(flows: Flows) -> None:
    run = flows.start_run("evaluate")
    flows.wait(lambda: flows.is_running(run, "evaluate") and flows.processes("stages.evaluate"), 600)
    cancelling = {"state": {"type": "CANCELLING", "name": "Cancelling"}}
    flows.api.post(f"/flow_runs/{run}/set_state", json=cancelling).raise_for_status()
    assert flows.ended(run, 90)["type"] == "CANCELLED"
    assert not flows.processes("-m", "stages.evaluate") and not flows.processes("repro")


def test_a_run_in_a_checkout_in_use_fails_and_the_channel_is_notified(flows: Flows) -> None:
    with listening() as (address, heard):
        message = {"text": "{{subject}}: {{body}}"}
        register = (
            "from prefect.blocks.notifications import CustomWebhookNotificationBlock as Block; import runpy; "
            f"Block(name='x', url='{address}', json_data={message}).save('ops'); "
            "runpy.run_module('flows.register', run_name='__main__')"
        )
        given = {**flows.environment, "CRITIC_NOTIFY": "custom-webhook/ops"}
        subprocess.run([sys.executable, "-c", register], cwd=flows.folder, env=given, check=True)
        with hold_lock(flows.folder, "somebody's critic promote"):
            state = flows.run("promote")
        assert state["type"] == "FAILED" and "somebody's critic promote (process" in state["message"]
        flows.wait(lambda: any("promote Failed" in message for message in heard))


@whole_story
def test_good_ratings_make_a_better_critic_which_is_promoted(flows: Flows, tmp_path: Path) -> None:
    """300 ratings of 100 edits by twelve raters: two are careless and one is malicious."""
    study = write_study(tmp_path, benchmark_sources=SOURCES, edits=100, per_edit=3)
    critic = "from critic.cli import main; main()"
    subprocess.run(
        [sys.executable, "-c", critic, "rate", str(study)], cwd=flows.folder, env=flows.environment, check=True
    )
    report = json.loads((flows.folder / "data/ratings/0001/report.json").read_text())
    assert report["counts"]["ratings"] == 300
    statuses = {rater["rater"]: rater["status"] for rater in report["raters"]}
    assert statuses["malicious-11"] == "inverted"
    assert {statuses["careless-9"], statuses["careless-10"]} == {"low_agreement"}
    state = flows.run("retrain", reason="a study")
    assert state["name"] == "Promoted", state
    assert flows.champion == "v1.1.0" and flows.clean()
    assert "data/ratings/0001/report.md" in git(flows.folder, "ls-files")
    assert "Promote critic v1.1.0" in git(flows.folder, "log", "-1", "--format=%s")


@whole_story
def test_poisoned_ratings_start_a_retraining_that_the_gate_refuses(flows: Flows, tmp_path: Path) -> None:
    """They come through the service, from malicious raters only: screening has no honest ones to compare with."""
    study = write_study(
        tmp_path,
        benchmark_sources=SOURCES + 17,
        edits=100,
        per_edit=3,
        honest=0,
        careless=0,
        malicious=12,
        raters_seed=1,
    )
    rate_by_service(flows, study)
    watch = flows.run("watch")
    assert watch["name"] == "Started" and "300 new ratings" in watch["message"], watch
    begun = ("PENDING", "RUNNING")  # not the runs scheduled for later
    run = flows.wait(lambda: [r["id"] for r in flows.runs("retrain") if r["state_type"] in begun])[0]
    flows.wait(lambda: flows.is_running(run, "build"), 600)
    assert flows.run("watch")["name"] == "Held back"
    assert flows.ended(run)["name"] == "Refused"
    assert flows.champion == "v1.1.0" and flows.clean()
    page = (flows.folder / "reports/decisions/0003-refused.md").read_text()
    assert "lower bound of the gain is -" in page
    assert git(flows.folder, "log", "-1", "--format=%s") == "Refuse a critic"


@whole_story
def test_a_rollback_takes_less_than_a_minute(flows: Flows) -> None:
    began = time.monotonic()
    assert flows.run("rollback")["name"] == "Rolled back"
    assert time.monotonic() - began < 60
    assert flows.champion == "v1.0.0"
    wanted = {"filter": {"event": {"name": ["critic.promoted"]}}}
    flows.wait(lambda: flows.api.post("/events/filter", json=wanted).raise_for_status().json()["total"] == 3)


def rate_by_service(flows: Flows, study: Path) -> None:
    """Store the ratings of a study as the service does, with the pictures."""
    feedback, pictures = Feedback(flows.store), PictureStore(flows.kept)
    with study.open(newline="") as file:
        for row in csv.DictReader(file):
            files = [(study.parent / row[role]).read_bytes() for role in ("source", "edited")]
            for content in files:
                pictures.add(content, "JPEG")
            facts = {"request_id": "r", "pair_id": "0", "mode": "greedy", "status": "ok", "score": 3.0}
            facts |= {"model": "m", "version": "v", "contract": "c", "scored_at": datetime.now(UTC)}
            source, edited = (sha256(content).hexdigest() for content in files)
            receipt = Receipt(source_sha256=source, edited_sha256=edited, instruction=row["instruction"], **facts)
            feedback.add(receipt, row["rater"], float(row["score"]))
    feedback.close()
