"""The benchmark of the data path runs the stages on a study of its own, and fits how time grows."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from benchmarks import data_path


def test_the_stages_of_each_size_are_in_one_table_and_in_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(command: list[str], *, cwd: Path, **_: Any) -> subprocess.CompletedProcess[str]:
        with monkeypatch.context() as patch:
            patch.chdir(cwd)
            figures = data_path.run(command[-1])
        return subprocess.CompletedProcess(command, 0, f"a log line\n{json.dumps(figures)}\n")

    monkeypatch.setattr(subprocess, "run", run)
    file = tmp_path / "new/data_path.json"
    sizes = ["--edits", "13", "--edits", "26"]
    monkeypatch.setattr(
        sys, "argv", ["data_path.py", *sizes, "--side", "64", "--scratch", str(tmp_path), "--json", str(file)]
    )
    data_path.main()
    found = json.loads(file.read_text())
    assert [row["edits"] for row in found["rows"]] == [13, 26]
    assert {*found["exponents"]} == {"download", "validate", "build", "all"}
    for row in found["rows"]:
        assert row["all"]["seconds"] == sum(row[stage]["seconds"] for stage in data_path.STAGES)
        assert all(row[stage]["peak_mib"] > 100 for stage in data_path.STAGES)
        assert row["bytes"]["pictures"] < row["picture_bytes"] < row["bytes"]["raw"] < 1.5 * row["picture_bytes"]
        assert row["bytes"]["sft"] < row["bytes"]["pictures"]
    assert [line.split(" | ")[0] for line in capsys.readouterr().out.splitlines()[-3:]] == ["| 13", "| 26", "|"]
    assert [*tmp_path.iterdir()] == [file.parent]


def test_a_study_has_the_edits_that_were_asked_for(tmp_path: Path) -> None:
    written = data_path.make_study(tmp_path / "study", 20, 64)
    images = [*(tmp_path / "study/images").iterdir()]
    assert len(images) == 20 + 4 and sum(image.stat().st_size for image in images) == written
    assert {Image.open(image).size for image in images} == {(64, 64)}
    lines = [(tmp_path / f"study/{split}.csv").read_text().splitlines() for split in ("train", "test")]
    assert [len(rows) for rows in lines] == [1 + 14, 1 + 6]


def test_the_exponent_is_the_slope_of_the_logarithms() -> None:
    rows = [{"edits": n, "build": {"seconds": 0.01 * n**1.5}} for n in (10, 100, 1000)]
    assert data_path.fit_exponent(rows, "build") == pytest.approx(1.5)
    assert data_path.fit_exponent(rows[:1], "build") is None
