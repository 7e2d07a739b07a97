"""The evaluate stage without a model: what it asks of a critic, and what it writes for a second benchmark."""

import json
import os
from collections.abc import Sequence
from multiprocessing import get_context
from multiprocessing.queues import SimpleQueue
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from critic import params
from critic.data.minibench import make_table
from critic.edits import TYPES, Edit, normalise
from critic.engines.base import GREEDY, Completion, Request, Sampling
from critic.evaluation.evaluate import compute_metrics, measure_generated
from critic.evaluation.leak import Split
from critic.evaluation.probing import Probing
from critic.evaluation.sub_scores import SubScores
from critic.prompts import load_contract
from critic.scoring.judges.image_metrics import BASELINES
from critic.tables import write_parquet
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

    def close(self) -> None:
        pass


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


def test_engines_side_by_side_each_have_gpus_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = SimpleQueue(ctx=get_context("spawn"))
    for visible, expected in (("4,5,6,7", ["4,5", "6,7"]), (None, ["0,1", "2,3"])):
        seen = []
        for number in (0, 1):
            monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
            if visible:
                monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
            numbers.put(number)
            evaluate.take_gpus(numbers, 2)
            seen.append(os.environ["CUDA_VISIBLE_DEVICES"])
        assert seen == expected


def test_more_engines_than_gpus_are_refused_with_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    section = params.load(params.Evaluate, profile="full")
    with pytest.raises(SystemExit, match="which takes 8 GPUs, and 4 are visible: lower one of the two"):
        next(evaluate.score_by_each({"grpo": "models/grpo"}, [evaluate.TEST], section))


def test_the_parts_of_a_table_are_all_of_it_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    monkeypatch.chdir(tmp_path)
    table = normalise(make_table("test", sources=2, side=56, seed=7), "test")
    write_parquet(table, "data/validated/test.parquet", TYPES)
    monkeypatch.setattr(evaluate, "engine", lambda checkpoint, name: Yes())
    parts = [evaluate.score_part("grpo", "models/grpo", [evaluate.TEST], 3, part) for part in range(3)]
    assert [[*found["id"]] for (found,) in parts] == [[*table["id"][start : start + 4]] for start in (0, 4, 8)]
    assert all((found["score"] == 4).all() for (found,) in parts)


def test_a_critic_that_gives_one_score_is_found_on_the_validation_split(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    monkeypatch.chdir(tmp_path)
    table = normalise(make_table("validation", sources=3, side=56, seed=7), "validation")
    write_parquet(table, evaluate.VALIDATION, TYPES)
    monkeypatch.setattr(evaluate, "engine", lambda checkpoint, name: Yes())
    monkeypatch.setattr(evaluate, "used_contract", lambda: load_contract("tiny"))
    found = evaluate.probe_critic(params.load(params.Evaluate))
    assert found.constant == 4 and found.edits == len(table)


def test_a_split_of_one_source_image_is_probed_without_other_edits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    monkeypatch.chdir(tmp_path)
    table = normalise(make_table("validation", sources=1, side=56, seed=7), "validation")
    write_parquet(table.assign(mos=5.0), evaluate.VALIDATION, TYPES)
    monkeypatch.setattr(evaluate, "engine", lambda checkpoint, name: Yes())
    monkeypatch.setattr(evaluate, "used_contract", lambda: load_contract("tiny"))
    found = {one.probe for one in evaluate.probe_critic(params.load(params.Evaluate)).probes}
    assert "black" in found and not found & {"swapped", "other_edit"}
    assert "alone: " in (said := capsys.readouterr().out) and "no edit of another source image" in said


@pytest.mark.parametrize("rated", [[1, 2, 3], [2], []])
def test_the_curve_of_a_training_has_the_share_at_the_floor_where_edits_have_a_mos(
    rated: list[int], tmp_path: Path
) -> None:
    for name in ("reward", "reward_std", "completions_mean_length", "reward_format", "reward_score_entropy",
                 "completions_clipped_ratio", "reward_floor", "reward_accuracy"):  # fmt: skip
        of_mos = name in ("reward_floor", "reward_accuracy")
        if steps := rated if of_mos else [1, 2, 3]:
            file = tmp_path / f"plots/metrics/{name}.tsv"
            file.parent.mkdir(parents=True, exist_ok=True)
            pd.DataFrame({"step": steps, name: 0.5}).to_csv(file, sep="\t", index=False)
    found = evaluate.training_curve(tmp_path)
    assert [*found["step"]] == [1, 2, 3] and (found["reward"] == 0.5).all()
    assert ("floor_share" in found) == bool(rated)
    if rated:
        assert [*found["step"][found["floor_share"].notna()]] == rated
    (tmp_path / "plots/metrics/reward_format.tsv").unlink()
    with pytest.raises(FileNotFoundError, match=r"reward_format\.tsv"):
        evaluate.training_curve(tmp_path)


def test_the_scores_are_kept_if_probing_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    monkeypatch.chdir(tmp_path)
    table = normalise(make_table("test", sources=2, side=56, seed=7), "test")
    for split in ("train", "test", "validation"):
        write_parquet(table, f"data/validated/{split}.parquet", TYPES)
    scores = pd.DataFrame({"id": table["id"], "score": 4.0})
    monkeypatch.setattr(evaluate, "read_split", lambda: Split("given", len(table)))
    monkeypatch.setattr(evaluate, "read_seeds", lambda file: None)
    monkeypatch.setattr(evaluate, "score_by_each", lambda *given: iter([("grpo", [scores])]))
    measures = ("baseline_scores", "compute_metrics", "measure_sub_scores", "validation_curve", "beside_published")
    for name in measures:
        monkeypatch.setattr(evaluate, name, lambda *given, **how: None)

    def fail(section: params.Evaluate) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(evaluate, "probe_critic", fail)
    with pytest.raises(OSError, match="no space left"):
        evaluate.main()
    assert len(pd.read_parquet("reports/predictions/grpo.parquet")) == len(table)


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
    split, stated = Split("given", len(edits)), SubScores()
    more = (pd.DataFrame(), "<html>", generated, stated, Probing(0, 0, None, []))
    evaluate.write_predictions(predictions, edits, on_pictures)
    evaluate.write(predictions, evaluation, edits, split, *more)
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
    sub_scores = json.loads((tmp_path / "sub_scores.json").read_text())
    assert sub_scores == {"models": {}, "differences": {}, "follows": {}}
