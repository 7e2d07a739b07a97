"""A server and a worker on two machines, of which one goes down: no run is repeated, and none runs for ever.

python -m pytest -m nightly tests/flows/test_outages.py
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

ROOT = Path(__file__).parents[2]
DOWN = 15.0
"""Seconds without a server, during a stage that takes 40."""
TRAIN = 'for i in $(seq 40); do echo "$((i * 2))%|"; sleep 1; done; echo trained > trained'
FLOW = """
import sys
from pathlib import Path
from prefect import flow, tags
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
from flows.pipeline import GPU, Pipeline, run_pipeline

@flow
def once() -> list[str]:
    with Path("lock").open("w") as lock:
        return run_pipeline(Pipeline.read(Path.cwd()), lock.fileno())

with get_client(sync_client=True) as client:
    client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=GPU, limit=1))
with tags(*sys.argv[1:]):
    assert once() == ["train", "after"]
"""
pytestmark = [pytest.mark.e2e, pytest.mark.nightly]


@contextmanager
def server(port: int, home: Path) -> Iterator[None]:
    """A Prefect server with the settings of prefect.toml."""
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    with (home.parent / "server.log").open("ab") as log:
        process = subprocess.Popen(
            command, cwd=ROOT, env={**os.environ, "PREFECT_HOME": str(home)}, stdout=log, stderr=log
        )
    try:
        wait(lambda: answers(port), 120)
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def answers(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/api/health", timeout=5).is_success
    except httpx.HTTPError:
        return False


def wait(what: Callable[[], Any], seconds: float) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline
        time.sleep(0.5)
    return found


def make_project(folder: Path) -> None:
    folder.mkdir()
    subprocess.run([sys.executable, "-m", "dvc", "init", "--no-scm", "--quiet"], cwd=folder, check=True)
    (folder / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    stages = {
        "train": {"cmd": TRAIN, "outs": ["trained"], "meta": {"needs": "gpu"}},
        "after": {"cmd": "cp trained after", "deps": ["trained"], "outs": ["after"]},
    }
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}, sort_keys=False))


@dataclass
class Elsewhere:
    """The machines of a test: the server's port and home, and the folder and environment of the flow."""

    port: int
    home: Path
    project: Path
    environment: dict[str, str]

    def run(self, code: str, *arguments: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", code, *arguments]
        return subprocess.Popen(command, cwd=self.project, env=self.environment, start_new_session=True)

    def leases(self) -> list[Path]:
        """The leases of the GPU, on the server's disk."""
        return [*(self.home / "concurrency_leases").glob("*-*.json")]

    def states(self) -> list[str]:
        """The states of all runs."""
        runs = httpx.post(f"http://127.0.0.1:{self.port}/api/flow_runs/filter", json={}).json()
        return [run["state_type"] for run in runs]


@pytest.fixture
def elsewhere(tmp_path: Path) -> Elsewhere:
    make_project(tmp_path / "project")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    given = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_HOME": str(tmp_path / "client"),
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",  # as in prefect.toml
    }
    return Elsewhere(port, tmp_path / "home", tmp_path / "project", {**os.environ, **given})


def test_a_run_survives_a_restart_of_the_server_and_keeps_the_gpu(elsewhere: Elsewhere) -> None:
    with server(elsewhere.port, elsewhere.home):
        flow = elsewhere.run(FLOW)
        (lease,) = wait(elsewhere.leases, 120)
    time.sleep(DOWN)
    with server(elsewhere.port, elsewhere.home):
        renew = f"http://127.0.0.1:{elsewhere.port}/api/v2/concurrency_limits/leases/{lease.stem}/renew"
        again = httpx.post(renew, json={})
        assert again.status_code == httpx.codes.NO_CONTENT, "the server does not know which run holds the GPU"
        assert flow.wait(120) == 0
        assert elsewhere.states() == ["COMPLETED"]
    assert (elsewhere.project / "after").read_text() == "trained\n"


def test_a_run_without_heartbeats_counts_as_crashed(elsewhere: Elsewhere) -> None:
    with server(elsewhere.port, elsewhere.home):
        assert elsewhere.run("from flows.events import register_automations as r; r()").wait(120) == 0
        flow = elsewhere.run(FLOW, "critic")
        wait(elsewhere.leases, 120)
        os.killpg(flow.pid, signal.SIGKILL)
        flow.wait()
        assert elsewhere.states() == ["RUNNING"]
        wait(lambda: elsewhere.states() == ["CRASHED"], 240)
