"""Stages of dvc.yaml run as tasks, in their order, if they have changed. Only a lost network is retried."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.runtime import flow_run

from flows import pipeline
from flows.pipeline import Pipeline, Stage, run_pipeline
from flows.processes import CommandError

pytestmark = pytest.mark.usefixtures("prefect")

ROOT = Path(__file__).parents[2]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project of two stages, of which the second reads what the first writes."""
    subprocess.run([sys.executable, "-m", "dvc", "init", "--no-scm", "--quiet"], cwd=tmp_path, check=True)
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    (tmp_path / "source").write_text("1")
    write_stages(
        tmp_path,
        fetch={"cmd": "cp source fetched", "deps": ["source"], "outs": ["fetched"], "meta": {"needs": "network"}},
        train={"cmd": "echo trained; cp fetched trained", "deps": ["fetched"], "outs": ["trained"],
               "meta": {"needs": "gpu"}},
    )  # fmt: skip
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    monkeypatch.setattr(pipeline, "_NETWORK_WAITS", [0.1, 0.1])
    return tmp_path


def write_stages(folder: Path, **stages: dict[str, Any]) -> None:
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}, sort_keys=False))


def run(folder: Path, **options: Any) -> tuple[list[str], dict[str, str]]:
    """Which stages ran, and the name of each one's state."""
    seen: list[str] = []

    @flow
    def once() -> list[str]:
        seen.append(str(flow_run.id))
        with (folder / "lock").open("w") as lock:
            return run_pipeline(Pipeline.read(folder), lock.fileno(), **options)

    try:
        ran = once()
    finally:
        with get_client(sync_client=True) as client:
            tasks = client.read_task_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[seen[0]])))
        states = {task.name: str(task.state_name) for task in tasks}
    return ran, states


def test_stages_are_those_of_dvc_yaml_in_their_order() -> None:
    stages = Pipeline.read(ROOT).stages
    names = ["download", "validate", "build", "sft", "grpo", "evaluate", "cards"]
    assert [stage.name for stage in stages] == names
    assert stages[0] == Stage("download", (), "network")
    assert {*stages[-2].after} == {"validate", "sft", "grpo"} and stages[-2].needs == "gpu"
    assert {*stages[-1].after} == {*names[:-1]} and stages[-1].needs is None


def test_changes_are_one_line(project: Path) -> None:
    changed = Pipeline.read(project).changed
    assert changed["fetch"] == "changed deps: source; changed outs: fetched"
    many = {"changed deps": dict.fromkeys("abcde", "modified")}
    assert pipeline._words(["always changed", many]) == "always changed; changed deps: a, b, c and 2 more"


def test_only_changed_stages_run(project: Path) -> None:
    assert run(project) == (["fetch", "train"], {"fetch": "Completed", "train": "Completed"})
    assert (project / "trained").read_text() == "1"
    assert run(project) == ([], {"fetch": "Unchanged", "train": "Unchanged"})
    (project / "source").write_text("2")
    assert run(project)[0] == ["fetch", "train"]
    assert (project / "trained").read_text() == "2"


def test_a_stage_with_equal_inputs_is_unchanged(project: Path) -> None:
    run(project)
    ran, states = run(project, force={"fetch"})
    assert ran == ["fetch"] and states == {"fetch": "Completed", "train": "Unchanged"}


def test_stages_can_be_excluded(project: Path) -> None:
    run(project)
    assert run(project, force={"train"}, only={"train"}) == (["train"], {"train": "Completed"})


def test_a_lost_network_is_retried(project: Path) -> None:
    once = f"test -e tried || {{ touch tried; exit {os.EX_TEMPFAIL}; }}; cp source fetched"
    write_stages(
        project, fetch={"cmd": once, "deps": ["source"], "outs": ["fetched"], "meta": {"needs": "network"}}
    )
    assert run(project) == (["fetch"], {"fetch": "Completed"})


def test_other_failures_are_not_retried(project: Path) -> None:
    write_stages(
        project, fetch={"cmd": "echo tried >> count; exit 1", "deps": ["source"], "meta": {"needs": "network"}}
    )
    with pytest.raises(CommandError, match=r"exited with 1"):
        run(project)
    assert (project / "count").read_text().split() == ["tried"]


def test_after_a_failure_no_stage_runs_and_the_next_run_continues(project: Path) -> None:
    stages = yaml.safe_load((project / "dvc.yaml").read_text())["stages"]
    write_stages(project, fetch=stages["fetch"], train={**stages["train"], "cmd": "exit 1"})
    with pytest.raises(CommandError):
        run(project)
    write_stages(project, **stages)
    assert run(project) == (["train"], {"fetch": "Unchanged", "train": "Completed"})


def test_a_stage_that_times_out_is_ended_with_its_children(project: Path) -> None:
    params = yaml.safe_load((project / "params.yaml").read_text())
    params["retrain"]["stage_timeout_hours"] = 6 / 3600
    (project / "params.yaml").write_text(yaml.safe_dump(params))
    note = project / "pid"
    write_stages(project, train={"cmd": f"setsid sh -c 'echo $$ > {note}; sleep 600' ", "deps": ["source"]})
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        run(project)
    assert time.monotonic() - began < 60
    assert not psutil.pid_exists(int(note.read_text()))
