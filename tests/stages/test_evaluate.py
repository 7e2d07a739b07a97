"""The evaluate stage without a model: what it asks of a critic, and what it writes for a second benchmark."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from critic.edits import Edit
from critic.engines.base import GREEDY, Completion, Request, Sampling
from critic.evaluation.evaluate import compute_metrics, measure_generated
from critic.evaluation.leak import Split
from critic.scoring.judges.image_metrics import BASELINES
from stages import evaluate

ROOT = Path(__file__).parents[2]


class Yes:
    """An engine that gives everything a 4, and keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[Request] = []

    name = "yes"

    def complete(self, requests: Sequence[Request], sampling: Sampling = GREEDY) -> list[Completion]:
        self.asked += requests
        return [Completion("Fine.</think><answer>4</answer>", 9, True) for _ in requests]


def test_a_generated_picture_is_scored_through_the_contract(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = (ROOT / "params.yaml").read_text()
    (tmp_path / "params.yaml").write_text(own.replace("profile: tiny", "profile: full"))
    monkeypatch.chdir(tmp_path)
    engine = Yes()
    picture = Edit("a.jpg", None, Image.new("RGB", (600, 600)), "a cat at night")
    table = evaluate.score(engine, "grpo", [picture], 1)
    assert table[["id", "score", "status"]].values.tolist() == [["a.jpg", 4.0, "ok"]]
    (request,) = engine.asked
    assert len(request.pictures) == 1
    assert "Prompt: a cat at night\n" in request.prompt


def test_without_knowing_the_test_split_it_measures_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=r"data/validation\.json is missing.*run `dvc repro validate`"):
        evaluate.main()


@pytest.mark.parametrize("with_pictures", [False, True])
def test_benchmarks_json_is_always_there_and_empty_without_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, with_pictures: bool
) -> None:
    monkeypatch.setattr(evaluate, "REPORTS", tmp_path)
    ids = [f"e{n}" for n in range(12)]
    mos = np.linspace(1, 5, 12)
    edits = pd.DataFrame({"id": ids, "source_id": ids, "mos": mos})
    predictions = {"grpo": pd.DataFrame({"id": ids, "score": mos}).astype({"score": "Float64"})}
    baselines = pd.DataFrame({"id": ids} | dict.fromkeys(BASELINES, mos))
    evaluation = compute_metrics(predictions, baselines, edits, train_mean=3, n_boot=10)
    pictures = pd.DataFrame({"id": ids, "prompt": ids, "mos_quality": mos, "mos_alignment": mos[::-1]})
    on_pictures = predictions if with_pictures else {}
    generated = measure_generated(on_pictures, pictures, train_mean=3, n_boot=10)
    split = Split("given", len(edits))
    evaluate.write(predictions, evaluation, edits, split, pd.DataFrame(), "<html>", on_pictures, generated)
    found = json.loads((tmp_path / "benchmarks.json").read_text())
    names = {path.name for path in (tmp_path / "predictions").iterdir()}
    if with_pictures:
        assert found["agiqa"]["grpo"]["quality"]["srcc"]["value"] == pytest.approx(1)
        assert found["agiqa"]["grpo"]["alignment"]["srcc"]["value"] == pytest.approx(-1)
        assert names == {"grpo.parquet", "agiqa-grpo.parquet"}
    else:
        assert found == {}
        assert names == {"grpo.parquet"}
    assert {*json.loads((tmp_path / "metrics.json").read_text())} == {"grpo"}
