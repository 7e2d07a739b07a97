"""Measure the time that a flow adds to `dvc repro`, with the pipeline's seven stages replaced by empty ones.

    python benchmarks/overhead.py
    python benchmarks/overhead.py --json runs/overhead.json

The stages write their outputs at once, so the time is that of starting processes, of DVC and of Prefect. A flow is
timed to the end of its last stage, once from when a worker takes it and once from its first line. The wait for a
worker, 10 s at most, isn't counted.
"""

import argparse
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import yaml

from critic.files import write_json

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
COPIED = (
    *("critic", "flows", "stages", "assets", "reports/seeds.json"),
    *("data/preferences/README.md", "data/ratings/README.md"),
    *("params.yaml", "prefect.yaml"),
)
EMPTY = """
import sys
from pathlib import Path
for out in sys.argv[1:]:
    path = Path(out)
    if path.suffix:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
    else:
        path.mkdir(parents=True, exist_ok=True)
        (path / "file").write_text(out)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="Write all figures to this file.")
    given = parser.parse_args()
    with TemporaryDirectory(prefix="flows-") as scratch:
        bare, flow = (empty_pipeline(Path(scratch) / name) for name in ("bare", "flow"))
        took = time_command([str(BIN / "dvc"), "repro"], bare)
        with server(flow) as api:
            taken, begun = time_flow(api)
        again = time_command([str(BIN / "dvc"), "repro"], bare)
    seconds = {
        "dvc repro": took,
        "dvc repro, nothing to do": again,
        "flow, from the worker": taken,
        "flow, from its first line": begun,
    }
    print("| | s | ratio |\n|---|---:|---:|")
    for name, spent in seconds.items():
        print(f"| {name} | {spent:.1f} | {spent / took:.2f} |")
    if given.json:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        write_json(given.json, seconds)


def empty_pipeline(folder: Path) -> Path:
    """Make a checkout whose stages have the same dependencies and write empty outputs."""
    for name in COPIED:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, folder / name)
    run([sys.executable, "-m", "compileall", "-q", "critic", "flows", "stages"], folder)  # as after a first run
    (folder / "empty.py").write_text(EMPTY)
    pipeline = yaml.safe_load((ROOT / "dvc.yaml").read_text())
    for stage in pipeline["stages"].values():
        declared = [*stage["outs"], *stage.get("metrics", [])]
        outs = [next(iter(out)) if isinstance(out, dict) else out for out in declared]
        stage["cmd"] = f"{sys.executable} empty.py {' '.join(outs)}"
    del pipeline["plots"]
    (folder / "dvc.yaml").write_text(yaml.safe_dump(pipeline, sort_keys=False))
    (folder / ".gitignore").write_text(
        "/data/*\n!/data/preferences/\n!/data/ratings/\n/models\n/reports\n/runs\n/.prefect\n__pycache__\n"
    )
    run(["git", "init", "--quiet"], folder)
    run([str(BIN / "dvc"), "init", "--quiet"], folder)
    run(["git", "add", "."], folder)
    run(["git", "-c", "user.name=x", "-c", "user.email=x@example.org", "commit", "--quiet", "-m", "x"], folder)
    return folder


def time_command(command: list[str], folder: Path) -> float:
    began = time.monotonic()
    run(command, folder)
    return time.monotonic() - began


def run(command: list[str], folder: Path) -> None:
    subprocess.run(command, cwd=folder, env=environment(folder), check=True, stdout=subprocess.DEVNULL)


def environment(folder: Path, **more: str) -> dict[str, str]:
    return {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", "PYTHONPATH": str(folder), **more}


@contextmanager
def server(folder: Path) -> Iterator[httpx.Client]:
    """Run `make flows` in a checkout."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/api"
    store = f"sqlite:///{folder}/runs/feedback.db"
    (folder / "runs").mkdir(exist_ok=True)
    given = environment(
        folder, PREFECT_API_URL=url, PREFECT_HOME=str(folder / ".prefect"), CRITIC_FEEDBACK_URL=store
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "flows.up"],
        cwd=folder,
        env=given,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        with httpx.Client(base_url=url, timeout=60) as api:
            wait(lambda: deployed(api))
            time.sleep(15)  # the worker has started
            yield api
    finally:
        process.terminate()
        process.wait(60)


def deployed(api: httpx.Client) -> bool:
    try:
        return api.get("/deployments/name/rollback/critic").is_success
    except httpx.HTTPError:
        return False


def time_flow(api: httpx.Client) -> tuple[float, float]:
    """Seconds to the end of the last stage, from when a worker takes the run and from the run's first line."""
    deployment = api.get("/deployments/name/retrain/critic").raise_for_status().json()["id"]
    made = api.post(f"/deployments/{deployment}/create_flow_run", json={}).raise_for_status().json()["id"]
    tasks = wait(
        lambda: [task for task in read_tasks(api, made) if task["name"] == "evaluate" and task["end_time"]]
    )
    states = api.get("/flow_run_states/", params={"flow_run_id": made}).raise_for_status().json()
    times = {state["type"]: datetime.fromisoformat(state["timestamp"]) for state in states}
    end = datetime.fromisoformat(tasks[0]["end_time"])
    return (end - times["PENDING"]).total_seconds(), (end - times["RUNNING"]).total_seconds()


def read_tasks(api: httpx.Client, flow_run: str) -> list[dict[str, Any]]:
    body = {"flow_runs": {"id": {"any_": [flow_run]}}}
    tasks: list[dict[str, Any]] = api.post("/task_runs/filter", json=body).raise_for_status().json()
    return tasks


def wait(what: Any) -> Any:
    deadline = time.monotonic() + 180
    while not (found := what()):
        if time.monotonic() > deadline:
            raise SystemExit("Prefect took more than three minutes")
        time.sleep(0.5)
    return found


if __name__ == "__main__":
    main()
