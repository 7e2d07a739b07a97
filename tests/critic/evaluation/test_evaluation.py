"""Figures of the report and of one critic: who is measured, on what, and how failed answers count."""

import json
from typing import Any

import numpy as np
import pandas as pd
import pytest

from critic.evaluation.agreement import correlations
from critic.evaluation.bootstrap import SMALLEST_GROUP, jsonable
from critic.evaluation.evaluate import Evaluation, compute_metrics, evaluate, match, measure_generated
from critic.scoring.judges.image_metrics import BASELINES
from critic.tables import TableError

EDITS = 60


@pytest.fixture
def edits() -> pd.DataFrame:
    """Two edits of each source image, three edit types; the rare one has nine images, of 18 edits."""
    rng = np.random.default_rng(0)
    quality = rng.uniform(1, 5, EDITS)
    return pd.DataFrame(
        {
            "id": [f"e{i:02}" for i in range(EDITS)],
            "source_id": [f"s{i // 2:02}" for i in range(EDITS)],
            "mos": quality,
            "edit_type": ["rare"] * (2 * SMALLEST_GROUP - 2)
            + ["colour", "colour", "add", "add"] * 10
            + ["add", "add"],
            "ratings": list(np.clip(quality[:, None] + rng.normal(0, 0.7, (EDITS, 6)), 1, 5)),
        }
    )


@pytest.fixture
def predictions(edits: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """A base that never answers, a fair SFT and a better GRPO that fails once."""
    rng = np.random.default_rng(1)
    mos = edits["mos"].to_numpy(float)
    scores = {
        "base": np.full(EDITS, np.nan),
        "sft": np.clip(mos + rng.normal(0, 1.5, EDITS), 1, 5),
        "grpo": np.clip(mos + rng.normal(0, 0.4, EDITS), 1, 5),
    }
    scores["grpo"][0] = np.nan
    return {
        name: pd.DataFrame({"id": edits["id"], "score": values}).astype({"score": "Float64"})
        for name, values in scores.items()
    }


@pytest.fixture
def baselines(edits: pd.DataFrame) -> pd.DataFrame:
    """Classic metrics that order the edits perfectly, each in its own direction."""
    return pd.DataFrame(
        {"id": edits["id"]}
        | {
            name: edits["mos"] * (7 if baseline.scale.higher_is_better else -7)
            for name, baseline in BASELINES.items()
        }
    )


def of_stage(predictions: dict[str, pd.DataFrame], baselines: pd.DataFrame, edits: pd.DataFrame) -> Evaluation:
    return compute_metrics(predictions, baselines, edits, train_mean=3.0, n_boot=50)


def test_metrics_json_holds_every_metric_of_every_model(
    predictions: dict[str, pd.DataFrame], baselines: pd.DataFrame, edits: pd.DataFrame
) -> None:
    metrics = jsonable(of_stage(predictions, baselines, edits).models)
    assert list(metrics) == ["base", "sft", "grpo"]
    for scores in metrics.values():
        assert {"plcc", "srcc", "krcc", "mae", "main_score", "main_score_fitted"} <= set(scores)
        assert all(set(estimate) == {"value", "low", "high"} for estimate in scores.values())
    json.dumps(metrics, allow_nan=False)


def test_a_number_that_is_not_defined_is_null_in_metrics_json(
    predictions: dict[str, pd.DataFrame], baselines: pd.DataFrame, edits: pd.DataFrame
) -> None:
    evaluation = compute_metrics(
        {"base": predictions["base"]}, baselines, edits, train_mean=3, failure_policy="dropped", n_boot=9
    )
    assert jsonable(evaluation.models)["base"]["mae"]["value"] is None


def test_coverage_counts_answers_whatever_the_policy(
    predictions: dict[str, pd.DataFrame], baselines: pd.DataFrame, edits: pd.DataFrame
) -> None:
    models = of_stage(predictions, baselines, edits).models
    assert models["base"]["coverage"].value == 0
    assert models["sft"]["coverage"].value == 1
    assert models["grpo"]["coverage"].value == pytest.approx(1 - 1 / EDITS)


def test_a_model_that_never_answers_is_no_better_than_a_guess(
    predictions: dict[str, pd.DataFrame], baselines: pd.DataFrame, edits: pd.DataFrame
) -> None:
    evaluation = of_stage(predictions, baselines, edits)
    assert evaluation.models["base"]["main_score"].value == 0
    assert evaluation.policies["base"]["worst"].value < 0


def test_order_of_a_table_does_not_matter(
    predictions: dict[str, pd.DataFrame], baselines: pd.DataFrame, edits: pd.DataFrame
) -> None:
    shuffled = {name: table[::-1] for name, table in predictions.items()}
    one = of_stage(predictions, baselines, edits)
    other = of_stage(shuffled, baselines[::-1], edits)
    assert one.models == other.models
    assert one.baselines == other.baselines


def test_the_difference_is_of_the_last_two_models(
    predictions: dict[str, pd.DataFrame], baselines: pd.DataFrame, edits: pd.DataFrame
) -> None:
    evaluation = of_stage(predictions, baselines, edits)
    sft, grpo = (evaluation.models[name]["main_score"].value for name in ("sft", "grpo"))
    assert evaluation.difference is not None
    assert evaluation.difference.value == pytest.approx(grpo - sft)
    sft, grpo = (evaluation.models[name]["mae"].value for name in ("sft", "grpo"))
    assert evaluation.error_difference is not None
    assert evaluation.error_difference.value == pytest.approx(grpo - sft)
    alone = of_stage({"sft": predictions["sft"]}, baselines, edits)
    assert alone.difference is None and alone.error_difference is None


def test_classic_metrics_are_turned_the_right_way_and_have_no_errors_in_mos(
    predictions: dict[str, pd.DataFrame], baselines: pd.DataFrame, edits: pd.DataFrame
) -> None:
    for scores in of_stage(predictions, baselines, edits).baselines.values():
        assert scores["main_score"].value == pytest.approx(1)
        assert not {"mae", "rmse"} & set(scores)


def test_people_predict_people_and_need_ratings_for_it(
    predictions: dict[str, pd.DataFrame], baselines: pd.DataFrame, edits: pd.DataFrame
) -> None:
    ceiling = of_stage(predictions, baselines, edits).ceiling
    assert ceiling["panel"]["main_score"].value > ceiling["rater"]["main_score"].value > 0.5
    assert of_stage(predictions, baselines, edits.drop(columns="ratings")).ceiling == {}


def test_groups_measure_their_own_edits_and_leave_the_rare_out(
    predictions: dict[str, pd.DataFrame], baselines: pd.DataFrame, edits: pd.DataFrame
) -> None:
    groups = of_stage(predictions, baselines, edits).groups
    assert set(groups["group"]) == {"add", "colour"}
    of_add = (edits["edit_type"] == "add").to_numpy()
    expected = correlations(predictions["sft"]["score"].to_numpy(float)[of_add], edits["mos"][of_add], n_boot=0)
    [row] = groups[(groups["group"] == "add") & (groups["model"] == "sft")].to_dict("records")
    assert row["n"] == of_add.sum()
    assert row["value"] == pytest.approx(expected["main_score"].value)


@pytest.mark.parametrize("broken", [slice(1, None), [0, *range(EDITS)]], ids=["missing", "twice"])
def test_ids_that_do_not_match_are_named(
    predictions: dict[str, pd.DataFrame],
    baselines: pd.DataFrame,
    edits: pd.DataFrame,
    broken: slice | list[int],
) -> None:
    predictions["sft"] = predictions["sft"].iloc[broken]
    with pytest.raises(ValueError, match=r"sft (lacks 1 of .*, first|has the id) 'e00'"):
        of_stage(predictions, baselines, edits)


def test_no_model_is_an_error(baselines: pd.DataFrame, edits: pd.DataFrame) -> None:
    with pytest.raises(ValueError, match="no model"):
        of_stage({}, baselines, edits)


# --- generated pictures


@pytest.fixture
def pictures() -> pd.DataFrame:
    """Two pictures of each prompt, whose quality and alignment go opposite ways on a scale from 0 to 5."""
    quality = np.random.default_rng(2).uniform(0, 5, EDITS)
    ids = [f"p{i:02}.jpg" for i in range(EDITS)]
    prompts = [f"prompt {i // 2}" for i in range(EDITS)]
    return pd.DataFrame({"id": ids, "prompt": prompts, "mos_quality": quality, "mos_alignment": 5 - quality})


def on_pictures(pictures: pd.DataFrame, failed: int) -> pd.DataFrame:
    """A critic of quality alone, whose last answers failed."""
    score = (1 + 0.8 * pictures["mos_quality"]).mask(np.arange(EDITS) >= EDITS - failed).astype("Float64")
    return pd.DataFrame({"id": pictures["id"], "score": score})[::-1]


def test_one_score_is_measured_against_both_opinions(pictures: pd.DataFrame) -> None:
    measured = measure_generated({"grpo": on_pictures(pictures, 0)}, pictures, train_mean=3.0, n_boot=20)
    assert [*measured] == ["grpo"]
    quality, alignment = measured["grpo"]["quality"], measured["grpo"]["alignment"]
    assert (quality["plcc"].value, quality["srcc"].value) == pytest.approx((1, 1))
    assert (alignment["plcc"].value, alignment["srcc"].value) == pytest.approx((-1, -1))
    assert not {"mae", "rmse", "spread"} & {*quality}
    json.dumps(jsonable(quality), allow_nan=False)


def test_failed_answers_on_pictures_count_and_are_told(pictures: pd.DataFrame) -> None:
    """Under the default policy: else a critic would gain by answering the easy ones alone."""
    predictions = {"grpo": on_pictures(pictures, EDITS // 4)}
    quality = measure_generated(predictions, pictures, train_mean=3.0, n_boot=20)["grpo"]["quality"]
    assert quality["coverage"].value == pytest.approx(0.75)
    assert quality["plcc"].value < 0.99
    dropped = measure_generated(predictions, pictures, train_mean=3.0, failure_policy="dropped", n_boot=20)
    assert dropped["grpo"]["quality"]["plcc"].value == pytest.approx(1)


def test_pictures_of_one_prompt_are_resampled_together(pictures: pd.DataFrame) -> None:
    noisy = on_pictures(pictures, 0).assign(
        score=lambda t: t["score"] + np.random.default_rng(3).normal(0, 1, EDITS)
    )
    alone = pictures.assign(prompt=pictures["id"])
    lows = [
        measure_generated({"grpo": noisy}, table, train_mean=3.0, n_boot=50)["grpo"]["quality"]["plcc"].low
        for table in (pictures, alone)
    ]
    assert lows[0] != lows[1]


def test_predictions_of_other_pictures_are_refused(pictures: pd.DataFrame) -> None:
    with pytest.raises(ValueError, match=r"grpo has 1 ids that the edits lacks, first 'p00\.jpg'"):
        measure_generated({"grpo": on_pictures(pictures, 0)}, pictures[1:], train_mean=3.0, n_boot=20)


# --- ids


def test_scores_follow_the_order_of_the_opinions_and_must_be_of_the_same_edits() -> None:
    truth = pd.DataFrame({"id": ["a", "b", "c"]})
    assert [*match(pd.DataFrame({"id": ["c", "a", "b"]}), truth, "s", "t")["id"]] == ["a", "b", "c"]
    with pytest.raises(TableError, match=r"s\.jsonl lacks 2 of the 3 ids of t\.csv, first 'b'"):
        match(pd.DataFrame({"id": ["a"]}), truth, "s.jsonl", "t.csv")
    with pytest.raises(TableError, match=r"s\.jsonl has 1 ids that t\.csv lacks, first 'd'"):
        match(pd.DataFrame({"id": ["a", "b", "c", "d"]}), truth, "s.jsonl", "t.csv")


# --- one critic

RATED = 90


@pytest.fixture
def truth() -> pd.DataFrame:
    """Three edits of each of 30 source images; the editor oak has 15 edits of five of them."""
    rng = np.random.default_rng(0)
    mos = rng.uniform(1, 5, RATED)
    return pd.DataFrame(
        {
            "id": [f"e{i:02}" for i in range(RATED)],
            "source_id": [f"s{i // 3:02}" for i in range(RATED)],
            "mos": mos,
            "edit_type": ["add", "colour"] * (RATED // 2),
            "editor": ["oak"] * 15 + ["elm"] * (RATED - 15),
            "ratings": list(np.clip(mos[:, None] + rng.normal(0, 0.7, (RATED, 6)), 1, 5)),
        }
    )


@pytest.fixture
def scores(truth: pd.DataFrame) -> pd.DataFrame:
    """A fair critic whose answers failed twice, with three samples each and a spread."""
    rng = np.random.default_rng(1)
    samples = np.clip(truth["mos"].to_numpy()[:, None] + rng.normal(0, 0.5, (RATED, 3)), 1, 5)
    score = samples.mean(axis=1)
    score[:2] = np.nan
    return pd.DataFrame(
        {
            "id": truth["id"],
            "score": score,
            "status": ["truncated", "no_answer"] + ["ok"] * (RATED - 2),
            "mode": "greedy",
            "raw": ["", ""] + [f"<answer>{s}</answer>" for s in score[2:]],
            "spread": [np.nan, np.nan, *samples[2:].std(axis=1)],
            "samples": [[], [], *samples[2:].tolist()],
        }
    )


def found(scores: pd.DataFrame, truth: pd.DataFrame, **options: Any) -> dict[str, Any]:
    return evaluate(scores, truth, n_boot=60, **options)


def test_the_metrics_are_those_of_the_evaluate_stage(scores: pd.DataFrame, truth: pd.DataFrame) -> None:
    baselines = pd.DataFrame({"id": truth["id"]} | dict.fromkeys(BASELINES, truth["mos"]))
    stage = compute_metrics(
        {"critic": scores}, baselines, truth, train_mean=3.0, failure_policy="train_mean", n_boot=60
    )
    ours = found(scores, truth, failure_policy="train_mean", train_mean=3.0)
    assert ours["metrics"] == stage.models["critic"]
    assert ours["policies"] == stage.policies["critic"]
    assert ours["ceiling"] == stage.ceiling


def test_failures_count_and_are_told(scores: pd.DataFrame, truth: pd.DataFrame) -> None:
    ours = found(scores, truth)
    assert (ours["scored"], ours["failed"]) == (RATED - 2, {"no_answer": 1, "truncated": 1})
    assert ours["metrics"]["coverage"].value == pytest.approx(1 - 2 / RATED)
    assert ours["metrics"]["main_score"] == ours["policies"]["worst"]
    assert ours["policies"]["worst"].value < ours["policies"]["dropped"].value
    assert "train_mean" not in ours["policies"]
    assert ours["upstream"]["dropped"] == 2


def test_pairs_of_one_source_count_failures_too(scores: pd.DataFrame, truth: pd.DataFrame) -> None:
    assert found(scores, truth)["pairs"]["n"] == 3 * 30
    dropped = found(scores, truth, failure_policy="dropped")["pairs"]
    assert (dropped["n"], dropped["sources"]) == (3 * 29, 29)  # two of the first source's three edits failed


def test_groups_and_bands_tell_of_few_sources_only_their_number(scores: pd.DataFrame, truth: pd.DataFrame) -> None:
    ours = found(scores, truth)
    assert [(row["by"], row["group"], row["n"]) for row in ours["groups"]] == [
        ("edit_type", "add", 45),
        ("edit_type", "colour", 45),
        ("editor", "elm", 75),
        ("editor", "oak", 15),
    ]
    assert [*ours["groups"][-1]] == ["by", "group", "n"]
    assert {"main_score", "mae", "bias"} <= {*ours["groups"][0]}
    assert sum(band["n"] for band in ours["bands"]) == RATED
    assert not {"plcc", "srcc", "main_score"} & {*ours["bands"][0]}


def test_a_mos_at_the_edge_of_two_bands_is_in_the_higher_and_a_5_in_the_last() -> None:
    truth = pd.DataFrame({"id": [*"abcd"], "mos": [1.0, 2.0, 4.0, 5.0]})
    scores = pd.DataFrame({"id": [*"abcd"], "score": [1.0, 2.0, 4.0, 5.0], "status": "ok", "raw": None})
    scores = scores.assign(mode="greedy", spread=np.nan, samples=[[]] * 4)
    assert [band["n"] for band in found(scores, truth)["bands"]] == [1, 1, 0, 2]


def test_a_critic_that_shrinks_to_the_middle_is_too_kind_below_and_too_strict_above(truth: pd.DataFrame) -> None:
    scores = pd.DataFrame({"id": truth["id"], "score": 3 + (truth["mos"] - 3) / 2, "status": "ok", "raw": None})
    bands = found(scores.assign(mode="greedy", spread=np.nan, samples=[[]] * RATED), truth)["bands"]
    assert bands[0]["bias"].low > 0 > bands[-1]["bias"].high


def test_reliability_is_over_other_runs_or_else_over_samples(scores: pd.DataFrame, truth: pd.DataFrame) -> None:
    of_samples = found(scores, truth)["reliability"]
    assert (of_samples["of"], of_samples["k"], of_samples["n"]) == ("samples", 3, RATED - 2)
    of_seeds = found(scores, truth, again=[scores])["reliability"]
    assert (of_seeds["of"], of_seeds["k"], of_seeds["icc"].value) == ("seeds", 2, 1)
    assert found(scores.assign(samples=[[]] * RATED), truth)["reliability"] is None


def test_reliability_that_can_not_be_told_stops_nothing_else(scores: pd.DataFrame, truth: pd.DataFrame) -> None:
    one_failed = scores.assign(samples=[[None, 3.0, 3.2]] * RATED)
    ours = found(one_failed, truth)
    assert ours["reliability"] == {
        "of": "samples",
        "stopped": "0 edits have a score in all 3 runs: reliability needs 2",
    }
    assert ours["metrics"]["main_score"] == found(scores, truth)["metrics"]["main_score"]


def test_few_sources_have_figures_and_no_intervals(scores: pd.DataFrame, truth: pd.DataFrame) -> None:
    """However many edits these have."""
    few = truth.assign(source_id=[f"s{number % 9}" for number in range(RATED)])
    ours = found(scores, few, again=[scores])
    calibration, reliability = ours["calibration"], ours["reliability"]
    figures = [*ours["metrics"].values(), *ours["policies"].values(), ours["pairs"]["accuracy"]]
    figures += (
        [reliability["icc"]] + [of["main_score"] for of in ours["ceiling"].values()] + [ours["spread"]["covered"]]
    )
    figures += [calibration["slope"], *(row["mos"] for row in calibration["bins"])]
    assert np.isfinite([figure.value for figure in figures]).all()
    assert np.isnan([figure.low for figure in figures]).all()
    assert (ours["sources"], ours["n_boot"]) == (9, 60)


def test_upstream_reads_responses_only_if_each_score_has_its_own(
    scores: pd.DataFrame, truth: pd.DataFrame
) -> None:
    failures_without = scores.assign(raw=scores["raw"].replace("", None))
    assert found(failures_without, truth)["upstream"] == found(scores, truth)["upstream"]
    assert found(scores, truth)["upstream"]["read"] == "raw"
    some_lost = scores.assign(raw=[*scores["raw"][:-1], None])
    assert found(some_lost, truth)["upstream"]["read"] == "score"


@pytest.mark.parametrize("mode", ["average", "expected", "judge"])
def test_upstream_is_not_told_of_scores_that_are_of_no_one_response(
    scores: pd.DataFrame, truth: pd.DataFrame, mode: str
) -> None:
    """Failures of the input are of mode "greedy" in all files."""
    told = found(scores.assign(mode=["greedy"] + [mode] * (RATED - 1)), truth)["upstream"]
    assert [*told] == ["stopped"] and told["stopped"].endswith(f"these scores have the mode {mode}")


def test_columns_that_are_not_there_leave_their_part_out(scores: pd.DataFrame, truth: pd.DataFrame) -> None:
    bare = found(scores.assign(raw=None, spread=np.nan), truth[["id", "mos"]])
    assert bare["sources"] is bare["pairs"] is bare["spread"] is None
    assert bare["ceiling"] == {} and bare["groups"] == []
    assert bare["upstream"]["read"] == "score"


def test_a_critic_that_never_answers_is_evaluated_too(scores: pd.DataFrame, truth: pd.DataFrame) -> None:
    silent = scores.assign(score=np.nan, status="empty", raw="", spread=np.nan, samples=[[None] * 3] * RATED)
    for policy in ("worst", "dropped"):
        ours = found(silent, truth, failure_policy=policy)
        assert ours["metrics"]["coverage"].value == 0
        assert ours["upstream"]["stopped"]
        json.dumps(jsonable(ours), allow_nan=False)
