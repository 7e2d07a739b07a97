"""A server that is restarted under a run, whose worker is elsewhere, is waited for: nothing is trained twice.

STORY=1 python -m pytest tests/flows/test_server_restart.py
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

ROOT = Path(__file__).parents[2]
DOWN = 15.0
"""Seconds without a server, of a stage that takes 40."""
TRAIN = 'for i in $(seq 40); do echo "$((i * 2))%|"; sleep 1; done; echo trained > trained'
FLOW = """
from pathlib import Path
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
from flows.pipeline import GPU, Pipeline, run_pipeline

@flow
def once() -> list[str]:
    with Path("lock").open("w") as lock:
        return run_pipeline(Pipeline.read(Path.cwd()), lock.fileno())

with get_client(sync_client=True) as client:
    client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=GPU, limit=1))
assert once() == ["train", "after"]
"""


@contextmanager
def server(port: int, home: Path) -> Iterator[None]:
    """Prefect's, as prefect.toml sets it up."""
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


@pytest.mark.skipif("STORY" not in os.environ, reason="takes more than a minute: STORY=1")
def test_a_run_outlives_a_restart_of_its_server_and_keeps_the_gpu(tmp_path: Path) -> None:
    project, home = tmp_path / "project", tmp_path / "home"
    project.mkdir()
    subprocess.run([sys.executable, "-m", "dvc", "init", "--no-scm", "--quiet"], cwd=project, check=True)
    (project / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    stages = {
        "train": {"cmd": TRAIN, "outs": ["trained"], "meta": {"needs": "gpu"}},
        "after": {"cmd": "cp trained after", "deps": ["trained"], "outs": ["after"]},
    }
    (project / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}, sort_keys=False))
    (tmp_path / "once.py").write_text(FLOW)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    given = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_HOME": str(tmp_path / "client"),
    }
    with server(port, home):
        flow = subprocess.Popen([sys.executable, str(tmp_path / "once.py")], cwd=project, env=given)
        leases = wait(lambda: [*(home / "concurrency_leases").glob("*-*.json")], 120)
    time.sleep(DOWN)
    with server(port, home):
        renew = f"http://127.0.0.1:{port}/api/v2/concurrency_limits/leases/{leases[0].stem}/renew"
        again = httpx.post(renew, json={})
        assert again.status_code == httpx.codes.NO_CONTENT, "the server has forgotten who holds the GPU"
        assert flow.wait(120) == 0
        runs = httpx.post(f"http://127.0.0.1:{port}/api/flow_runs/filter", json={}).json()
        assert [run["state_type"] for run in runs] == ["COMPLETED"]
    assert (project / "after").read_text() == "trained\n"
