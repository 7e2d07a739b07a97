"""The benchmark of scoring: a row for each way, with ratios to the loop and the scores that agree with it."""

import argparse
import json
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from benchmarks import score
from critic.checkpoints import load_processor
from critic.data.minibench import make_table
from critic.edits import normalise
from critic.prompts import load_contract

BASE = Path(__file__).parents[2] / "assets/tiny-base"


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    file = tmp_path / "pairs.parquet"
    normalise(make_table("test", sources=3, side=84, seed=7), "test").to_parquet(file)
    return file


def test_each_way_has_its_seconds_and_its_ratio(
    pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])

    def run(way: str, model: str, table: Path, max_tokens: int) -> dict[str, float | None]:
        ids = pq.read_table(table, columns=["id"])["id"].to_pylist()
        clock[0] += 2 + len(ids) / (2 if way == score.LOOP else 4)
        wrong = way == score.WAYS[1]
        return {id: 2.5 if wrong and number == 0 else 1.0 for number, id in enumerate(ids)}

    monkeypatch.setattr(score, "run", run)
    file = tmp_path / "new/score.json"
    monkeypatch.setattr(sys, "argv", ["score.py", "model", str(pairs), "--edits", "4", "8", "--json", str(file)])
    score.main()
    assert capsys.readouterr().out.splitlines() == [
        "| | 4 edits, s | ratio | 8 edits, s | ratio | edits/s | same scores |",
        "|---|---:|---:|---:|---:|---:|---:|",
        "| transformers, a loop | 4.0 | 1.00 | 6.0 | 1.00 | 2 | 100.0% |",
        "| vLLM alone | 3.0 | 1.33 | 4.0 | 1.50 | 4 | 87.5% |",
        "| critic score, transformers | 3.0 | 1.33 | 4.0 | 1.50 | 4 | 100.0% |",
        "| critic score, vLLM | 3.0 | 1.33 | 4.0 | 1.50 | 4 | 100.0% |",
    ]
    assert json.loads(file.read_text())["vLLM alone"]["ratios"] == pytest.approx([4 / 3, 1.5])


def test_a_table_with_too_few_edits_stops_it(pairs: Path) -> None:
    with pytest.raises(SystemExit, match="give a table of 9000, or a smaller --edits"):
        score.compare(argparse.Namespace(pairs=pairs, edits=[9000], model="", max_tokens=1))


def test_enlarged_pictures_have_the_contract_and_the_processor_of_a_critic(tmp_path: Path) -> None:
    critic = tmp_path / "critic"
    critic.mkdir()
    for file in BASE.iterdir():
        (critic / file.name).symlink_to(file)
    (critic / "contract.yaml").write_text(load_contract("tiny").text)
    large = score.enlarged(str(critic), 560, tmp_path / "large")
    contract = load_contract(f"{large}/contract.yaml")
    assert (contract.min_pixels, contract.max_pixels) == (560**2, 560**2)
    assert contract.chat_template == load_contract("tiny").chat_template
    size = load_processor(large, contract).image_processor.size
    assert (size["shortest_edge"], size["longest_edge"]) == (560**2, 560**2)
