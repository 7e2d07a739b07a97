"""The whole pipeline at a smoke size with the real libraries: DVC, Great Expectations, TRL and vLLM.

The critic that it trains is poor. The tests check that each stage does its work, once, again and after a kill.

    python -m pytest -m nightly tests/test_pipeline.py    # kills each stage, and compares the engines
"""

import json
import os
import signal
import sys
import time

import pandas as pd
import pytest
from smoke import Project

from critic.prompts import load_contract
from critic.tables import read_parquet

STAGES = ("download", "validate", "build", "sft", "grpo", "evaluate", "cards")
pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def project(smoke: Project) -> Project:
    """Where every stage has run."""
    smoke.dvc("repro")
    return smoke


def test_every_stage_leaves_what_the_next_one_and_the_reader_need(project: Project) -> None:
    metrics = json.loads((project.folder / "reports/metrics.json").read_text())
    assert set(metrics) == {"base", "sft", "grpo"}
    for scores in metrics.values():
        assert {"plcc", "srcc", "krcc", "mae", "main_score", "main_score_fitted", "coverage"} <= set(scores)
        assert all(set(score) == {"value", "low", "high"} for score in scores.values())
    assert json.loads((project.folder / "reports/benchmarks.json").read_text()) == {}
    stated = json.loads((project.folder / "reports/sub_scores.json").read_text())
    assert {"alignment", "fidelity", "quality"} == {*stated["models"]["grpo"]} == {*stated["differences"]}
    assert stated["models"]["grpo"]["quality"]["coverage"]["value"] > 0.1
    assert "<html" in (project.folder / "reports/report.html").read_text()
    for model in ("sft", "grpo"):
        assert (project.folder / f"models/{model}/contract.yaml").read_text() == load_contract("tiny").text


def test_predictions_cover_the_test_split_and_no_score_is_made_up(project: Project) -> None:
    test = read_parquet(project.folder / "data/validated/test.parquet")
    for name in ("base", "sft", "grpo"):
        table = pd.read_parquet(project.folder / f"reports/predictions/{name}.parquet")
        assert list(table["id"]) == list(test["id"])
        assert (table["score"].notna() == (table["status"] == "ok")).all()
        assert table["score"].dropna().between(1, 5).all()


def test_training_changes_the_weights(project: Project) -> None:
    weights = [(project.folder / f"models/{m}/model.safetensors").read_bytes() for m in ("sft", "grpo")]
    assert weights[0] != weights[1]


@pytest.mark.nightly
def test_all_engines_write_the_same_alone_and_in_batches_in_order_and_shuffled(project: Project) -> None:
    """The parity gate, on what the smoke run trained; pictures are of mixed sizes."""
    command = ["parity", "-m", "models/grpo", "--pairs", "data/validated/test.parquet", "--json", "parity.json"]
    command += ["--limit", "24", "--batch-size", "8", "--max-tokens", "40"]
    process = project.run(sys.executable, "-c", "from critic.cli import main; main()", *command)
    output, errors = process.communicate(timeout=900)
    assert process.returncode == 0, output + errors[-3000:]
    results = json.loads((project.folder / "parity.json").read_text())
    assert len(results) == 6
    assert all(result["edits"] == 24 and result["ok"] for result in results)


def test_nothing_changed_nothing_runs(project: Project) -> None:
    assert project.status() == {}
    assert "Running stage" not in project.dvc("repro")


@pytest.mark.parametrize(
    ("file", "old", "new", "rerun"),
    [
        ("params.yaml", "temperature: 0.6", "temperature: 0.7", ["grpo"]),
        ("params.yaml", "n_boot: 100", "n_boot: 101", ["evaluate"]),
        ("critic/evaluation/metrics.py", '"""', '"""\n', ["evaluate", "cards"]),
        ("critic/training/rewards.py", '"""', '"""\n', ["grpo"]),
    ],
    ids=["a GRPO param", "an evaluation param", "the metrics", "the reward"],
)
def test_a_change_reruns_what_hangs_on_it(
    project: Project, file: str, old: str, new: str, rerun: list[str]
) -> None:
    """A dry run names the stages whose own inputs have changed; those after them follow if outputs differ."""
    path = project.folder / file
    before = path.read_text()
    assert old in before
    path.write_text(before.replace(old, new, 1))
    try:
        plan = project.dvc("repro", "--dry")
    finally:
        path.write_text(before)
    running = [stage for stage in STAGES if f"Running stage '{stage}'" in plan]
    assert running == rerun


@pytest.mark.nightly
@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_killed_halfway_leaves_nothing_half_written_and_can_be_run_again(
    project: Project, stage: str
) -> None:
    began = time.monotonic()
    project.dvc("repro", "--single-item", "--force", stage)
    delay = (time.monotonic() - began) / 2
    project.dvc("repro")  # what depends on the record of this run, if the stage ran in another checkout before
    hashes = project.lock()
    process = project.run(sys.executable, "-m", "dvc", "repro", "--single-item", "--force", stage)
    time.sleep(delay)
    while process.poll() is not None:  # the machine has become faster since the first run
        delay /= 2
        process = project.run(sys.executable, "-m", "dvc", "repro", "--single-item", "--force", stage)
        time.sleep(delay)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert project.output_states(stage) <= {"deleted"}

    project.dvc("repro", "--no-run-cache")
    assert project.lock() == hashes
    assert project.status() == {}
