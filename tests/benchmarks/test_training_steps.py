"""The table of the training steps: a row for each part, with the ratio of the two ways."""

import json
import subprocess
import sys
from typing import Any

import pytest

from benchmarks import training_steps

SECONDS = {
    ("sft", "TRL"): {"step": 3.0},
    ("sft", "shared"): {"step": 1.5},
    ("grpo", "TRL"): {"step": 21.0, "rollout": 6.0, "update": 15.0},
    ("grpo", "shared"): {"step": 5.0, "rollout": 3.0, "update": 2.0},
}


def test_each_part_has_its_ratio(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        training, way = command[2], command[command.index("--way") + 1]
        return subprocess.CompletedProcess(command, 0, "a log line\n" + json.dumps(SECONDS[training, way]) + "\n")

    for path in ("data/validated/train.parquet", "data/rl/train.parquet", "models/sft"):
        (tmp_path / path).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(sys, "argv", ["training_steps.py", "--json", str(tmp_path / "new/steps.json")])
    training_steps.main()
    assert capsys.readouterr().out.splitlines() == [
        "| | TRL | shared | ratio |",
        "|---|---:|---:|---:|",
        "| sft, step | 3.00 s | 1.50 s | 2.0 |",
        "| grpo, rollout | 6.00 s | 3.00 s | 2.0 |",
        "| grpo, update | 15.00 s | 2.00 s | 7.5 |",
        "| grpo, step | 21.00 s | 5.00 s | 4.2 |",
    ]
    assert json.loads((tmp_path / "new/steps.json").read_text())["grpo"]["shared"]["update"] == 2.0


def test_what_is_missing_is_said_before_anything_is_measured(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["training_steps.py", "sft"])
    with pytest.raises(SystemExit, match="There is no data/validated"):
        training_steps.main()
