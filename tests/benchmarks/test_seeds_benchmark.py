"""The comparison of seeds: what its table says, and that nothing is trained twice."""

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks import seeds
from critic.evaluation.seeds import GAINS, METRICS, Gain, Run

ROOT = Path(__file__).parents[2]


def run(seed: int, grpo: float) -> Run:
    """A seed at which SFT has 0.7 and its control 0.69."""
    models = {"sft": 0.7, "continued sft": 0.69, "grpo": grpo}
    gains = {
        title: {metric: Gain(value=models[new] - models[old], low=-0.01, high=0.05) for metric in METRICS}
        for title, (new, old) in GAINS.items()
    }
    scores = {name: {"main_score": value, "mae": 1 - value} for name, value in models.items()}
    return Run(seed=seed, models=scores, gains=gains)


def test_the_table_has_each_seed_the_median_and_the_spread() -> None:
    lines = seeds.table([run(7, 0.72), run(8, 0.78), run(9, 0.74)])
    assert lines[0] == "| | seed 7 | seed 8 | seed 9 | median | spread |"
    assert "| grpo, main score | 0.720 | 0.780 | 0.740 | 0.740 | 0.060 |" in lines
    (gain,) = [line for line in lines if line.startswith("| grpo over continued sft, main score")]
    assert "+0.030 (-0.010 to +0.050)" in gain and gain.endswith("| +0.050 | 0.060 |")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_training_has_the_data_of_the_project_and_params_of_its_own(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Any]] = []

    def done(command: list[str], **given: Any) -> subprocess.CompletedProcess[bytes]:
        asked.append({"command": command, **given})
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", done)
    folder = Path("runs/seeds/8")
    first = seeds.train(folder, "sft", {"seed": 8}, sft={"learning_rate": 1e-4})
    assert seeds.train(folder, "sft", {"seed": 8}) == pytest.approx(first, abs=0.1)
    (only,) = asked
    assert only["cwd"] == folder and only["command"][-1] == "stages.sft"
    assert (folder / "data").readlink() == project / "data"
    content = yaml.safe_load((folder / "params.yaml").read_text())
    assert content["seed"] == 8
    own = yaml.safe_load((project / "params.yaml").read_text())["profiles"]["tiny"]["sft"]
    assert content["profiles"]["tiny"]["sft"] == own | {"learning_rate": 1e-4}


def test_a_failed_training_names_its_log_and_is_run_again(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", lambda command, **_: subprocess.CompletedProcess(command, 1))
    with pytest.raises(SystemExit, match=r"stages\.grpo failed: see runs/seeds/8/grpo\.log"):
        seeds.train(Path("runs/seeds/8"), "grpo", {"seed": 8})
    assert not Path("runs/seeds/8/grpo.seconds").exists()


def lock(seed: int, weights: str, metrics_code: str) -> str:
    stage = {"deps": [{"path": "data/sft", "md5": weights}], "params": {"params.yaml": {"seed": seed}}}
    stages = {
        "sft": stage,
        "grpo": stage,
        "evaluate": {"deps": [{"path": "reports/seeds.json", "md5": metrics_code}]},
    }
    return yaml.safe_dump({"schema": "2.0", "stages": stages})


def test_other_trainings_are_told_apart_and_another_evaluation_is_not(project: Path) -> None:
    def identity(*given: Any) -> str:
        (project / "dvc.lock").write_text(lock(*given))
        return seeds.identity()

    assert identity(7, "a", "b") == identity(7, "a", "c")
    assert len({identity(7, "a", "b"), identity(8, "a", "b"), identity(7, "d", "b")}) == 3
