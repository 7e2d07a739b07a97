"""The check of a GPU gives a row for whatever happens, and runs at a tiny size without a GPU."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest

from benchmarks import gpu_check
from benchmarks.gpu_check import CHECKS, Row, line, parse, run, run_alone
from critic import params

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks/gpu_check.py"


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    (tmp_path / "params.yaml").symlink_to(ROOT / "params.yaml")
    (tmp_path / "runs/gpu_check").mkdir(parents=True)


def check(*arguments: str) -> "subprocess.CompletedProcess[str]":
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, SCRIPT, *arguments], env=env, capture_output=True, text=True)


def found() -> list[dict[str, Any]]:
    return json.loads(Path("runs/gpu_check.json").read_text())["rows"]


def test_the_table_is_printed_and_kept_with_all_figures() -> None:
    checked = check("device", "kernels", "--shape", "tiny")
    assert checked.returncode == 0, checked.stderr
    rows = found()
    assert [row["check"] for row in rows] == ["device"] + ["kernels"] * (len(rows) - 1)
    assert {(row["status"], row["note"]) for row in rows} == {("skipped", "no GPU")}
    table = Path("runs/gpu_check.md").read_text()
    assert table in checked.stdout
    assert "| device | skipped |" in table and "| flash_attention_2 | skipped | no GPU |" in table


def test_a_check_whose_process_fails_has_the_last_line_of_its_log() -> None:
    (row,) = run_alone("device", "huge", 120)
    assert row.status == "failed"
    assert "invalid choice: 'huge'" in row.note and row.note.endswith("see runs/gpu_check/device.log")


def test_a_check_that_takes_too_long_fails() -> None:
    (row,) = run_alone("kernels", "tiny", 0.2)
    assert (row.status, row.note) == ("failed", "not finished after 0 s, see runs/gpu_check/kernels.log")


def test_what_is_found_before_a_check_breaks_off_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(given: Any) -> Any:
        yield Row("first", "passed", {"step, s": 1.5})
        os._exit(3)

    rows = Path("runs/gpu_check/device.jsonl")
    monkeypatch.setitem(CHECKS, "device", (crash, 10))
    if (child := os.fork()) == 0:
        try:
            gpu_check.write_rows(parse(["device", "--rows", str(rows)]))
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3
    assert json.loads(rows.read_text())["figures"] == {"step, s": 1.5}


def test_a_kernel_is_skipped_only_if_its_package_is_not_installed() -> None:
    def broken() -> Any:
        raise ImportError("undefined symbol")

    assert gpu_check._attempt("a", "no-such-package", broken).status == "skipped"
    row = gpu_check._attempt("a", "torch", broken)
    assert (row.status, row.note) == ("failed", "ImportError: undefined symbol")


def test_each_attention_that_needs_a_package_is_checked() -> None:
    choices = get_args(params.Model.model_fields["attn_implementation"].annotation)
    assert [*gpu_check.ATTENTION] == [name for name in choices if name not in ("sdpa", "eager")]


def test_the_checks_share_all_of_the_time() -> None:
    assert sum(share for _, share in CHECKS.values()) == pytest.approx(1)


def test_a_check_may_take_its_share_and_what_those_before_it_left(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = {}

    def take(name: str, shape: str, limit: float) -> list[Row]:
        limits[name] = limit
        return []

    monkeypatch.setattr(gpu_check, "run_alone", take)
    run(parse(["device", "sft", "grpo"]))
    assert limits == pytest.approx({"device": 300, "sft": 420, "grpo": 600}, abs=1)


def test_checks_without_time_left_are_not_run_and_that_is_a_failure() -> None:
    checked = check("--shape", "tiny", "--minutes", "0")
    rows = found()
    assert [row["check"] for row in rows] == [*CHECKS]
    assert all(row["status"] == "not run" and "name it to run it alone" in row["note"] for row in rows)
    assert checked.returncode == 1
    assert f"not run for want of time: {', '.join(CHECKS)}" in checked.stdout


def test_a_row_of_the_table_has_figures_then_the_reason() -> None:
    row = Row("GRPO", "failed", {"tokens/s": 12345.6, "MFU": 0.3456, "GPU": "H100"}, "too slow")
    assert line(row) == "| GRPO | failed | tokens/s 12,346; MFU 0.346; GPU H100; too slow |"


def test_the_7b_wants_a_gpu() -> None:
    checked = check()
    assert checked.returncode == 1 and "no GPU here: --shape tiny" in checked.stderr


def test_an_unknown_check_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["speed"])
    assert "unknown check speed: choose from device, kernels, sft, grpo" in capsys.readouterr().err


@pytest.mark.nightly
def test_all_of_it_runs_at_a_tiny_size(tmp_path: Path) -> None:
    (tmp_path / "assets").symlink_to(ROOT / "assets")
    checked = check("--shape", "tiny", "--minutes", "60")
    rows = {row["name"]: row for row in found()}
    assert checked.returncode == 0, checked.stdout
    assert rows["SFT"]["figures"]["tokens/s"] > 0
    assert rows["GRPO"]["figures"]["sync, s"] > 0
    assert rows["rollouts after the updates"]["status"] == "passed"
    assert rows["bfloat16: vLLM against transformers"]["figures"]["edits"] == 6
    assert rows["service"]["figures"]["edits/s"] > 0
