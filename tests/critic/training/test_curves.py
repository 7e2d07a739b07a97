"""Curves hold figures by step, and no times or speeds."""

import json
from pathlib import Path

import pandas as pd
from transformers import TrainerControl, TrainerState, TrainingArguments

from critic.training.curves import Curves


def train(folder: Path, speed: float) -> Path:
    """Two logged steps, as a trainer would."""
    curves = Curves(folder / "scratch")
    arguments = TrainingArguments(output_dir=str(folder), report_to="none")
    curves.on_train_begin(arguments, TrainerState(), TrainerControl())
    for step in (1, 2):
        state = TrainerState(global_step=step)
        logs: dict[str, float | None] = {"reward": step / 2, "completions/mean_length": 40.0}
        logs |= {"rewards/pairs/mean": None if step == 1 else 0.5, "train_runtime": speed, "epoch": speed}
        curves.on_log(arguments, state, TrainerControl(), logs=logs)
    curves.finish(folder / "curves")
    return folder / "curves"


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_curve_is_a_table_by_step(tmp_path: Path) -> None:
    folder = train(tmp_path, speed=1.0)
    table = pd.read_csv(folder / "plots/metrics/reward.tsv", sep="\t")
    assert table.to_dict("list") == {"step": [1, 2], "reward": [0.5, 1.0]}
    assert json.loads((folder / "metrics.json").read_text())["reward"] == 1.0


def test_a_step_without_a_figure_has_no_row(tmp_path: Path) -> None:
    table = pd.read_csv(train(tmp_path, speed=1.0) / "plots/metrics/rewards_pairs_mean.tsv", sep="\t")
    assert table.iloc[:, 0].tolist() == [2] and table.iloc[:, -1].tolist() == [0.5]


def test_the_same_training_at_another_speed_gives_the_same_files(tmp_path: Path) -> None:
    assert files(train(tmp_path / "a", speed=1.0)) == files(train(tmp_path / "b", speed=2.0))


def test_finished_curves_replace_older_ones(tmp_path: Path) -> None:
    (tmp_path / "curves").mkdir()
    (tmp_path / "curves/old.tsv").touch()
    assert "old.tsv" not in files(train(tmp_path, speed=1.0))


def test_a_run_that_goes_on_has_the_steps_before_and_not_those_after_its_checkpoint(tmp_path: Path) -> None:
    arguments = TrainingArguments(output_dir=str(tmp_path), report_to="none")
    killed = Curves(tmp_path / "scratch")
    killed.on_train_begin(arguments, TrainerState(), TrainerControl())
    for step in (1, 2, 3):
        killed.on_log(arguments, TrainerState(global_step=step), TrainerControl(), logs={"loss": 9.0})

    resumed = Curves(tmp_path / "scratch")
    remembered = [{"loss": 0.5, "epoch": 0.1, "step": 1}]
    resumed.on_train_begin(arguments, TrainerState(global_step=1, log_history=remembered), TrainerControl())
    resumed.on_log(arguments, TrainerState(global_step=2), TrainerControl(), logs={"loss": 0.25})
    resumed.finish(tmp_path / "curves")

    table = pd.read_csv(tmp_path / "curves/plots/metrics/loss.tsv", sep="\t")
    assert table.to_dict("list") == {"step": [1, 2], "loss": [0.5, 0.25]}
