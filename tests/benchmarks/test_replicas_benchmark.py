"""Under load no answer is lost, mixed up or out of order, also while a copy of the critic is killed."""

import json
import sys
from pathlib import Path

import pytest

from benchmarks import replicas
from critic.data.minibench import make_table
from critic.edits import normalise

CRITIC = Path(__file__).parents[2] / "assets/tiny-critic"


@pytest.mark.nightly
def test_no_answer_is_lost_when_a_copy_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs, file = tmp_path / "pairs.parquet", tmp_path / "load.json"
    normalise(make_table("test", sources=8, side=112, seed=7), "test").to_parquet(pairs)
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "")  # the benchmark sets it
    size = ["--clients", "8", "--batch", "32", "--json", str(file)]
    monkeypatch.setattr(sys, "argv", ["replicas.py", str(CRITIC), str(pairs), *size])
    replicas.main()
    assert {load: row["edits"] for load, row in json.loads(file.read_text()).items()} == {
        "one client": 32,
        "8 clients": 256,
        "8 clients, a copy killed": 256,
        "one client, afterwards": 32,
    }
    assert capsys.readouterr().out.count("|") == 30
