"""The benchmark of the bootstrap measures both ways, and stops if their figures differ."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import bootstrap
from critic.evaluation.metrics import METRICS


def test_both_ways_are_in_one_table_and_in_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "runs/bootstrap.json"
    monkeypatch.setattr(sys, "argv", ["bootstrap.py", "--size", "90x20", "--json", str(file)])
    bootstrap.main()
    (row,) = json.loads(file.read_text())["rows"]
    assert (row["rows"], row["resamples"]) == (90, 20)
    assert row["ratio"] == row["loop"]["seconds"] / row["critic"]["seconds"]
    assert all(row[way]["peak_mib"] > 10 for way in ("critic", "loop"))
    assert "| 90 | 20 | " in capsys.readouterr().out


def test_both_ways_have_every_metric_and_the_same_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, loop = (bootstrap.run(way, 120, 30)["figures"] for way in ("critic", "loop"))
    assert [*ours] == [*loop] == [*METRICS]
    assert {name: pytest.approx(figures, abs=1e-9) for name, figures in ours.items()} == loop


def test_figures_that_differ_stop_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(command: list[str], **_: Any) -> Any:
        figures = {"krcc": {"value": 0.5, "low": 0.4, "high": 0.6 if "loop" in command else 0.7}}
        done = {"seconds": 1.0, "peak_mib": 50.0, "figures": figures}
        return bootstrap.subprocess.CompletedProcess(command, 0, stdout=json.dumps(done))

    monkeypatch.setattr(bootstrap.subprocess, "run", run)
    with pytest.raises(SystemExit, match="krcc at 90 x 20 is"):
        bootstrap.compare(90, 20)
