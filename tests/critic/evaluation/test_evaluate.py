"""Numbers of the report: who is measured, on what, and what becomes of failures."""

import json

import numpy as np
import pandas as pd
import pytest

from critic.evaluation.evaluate import SMALLEST_GROUP, Evaluation, compute_metrics, measure_generated, plain
from critic.evaluation.metrics import correlations
from critic.scoring.judges.image_metrics import BASELINES

EDITS = 60


@pytest.fixture
def edits() -> pd.DataFrame:
    """Two edits of each source image, three edit types, one of them rare."""
    rng = np.random.default_rng(0)
    quality = rng.uniform(1, 5, EDITS)
    return pd.DataFrame(
        {
            "id": [f"e{i:02}" for i in range(EDITS)],
            "source_id": [f"s{i // 2:02}" for i in range(EDITS)],
            "mos": quality,
            "edit_type": ["rare"] * (SMALLEST_GROUP - 1) + ["colour", "add"] * 25 + ["add"],
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
        | {name: edits["mos"] * (7 if baseline.higher_is_better else -7) for name, baseline in BASELINES.items()}
    )


def evaluate(predictions: dict[str, pd.DataFrame], baselines: pd.DataFrame, edits: pd.DataFrame) -> Evaluation:
    return compute_metrics(predictions, baselines, edits, train_mean=3.0, n_boot=50)


def test_metrics_json_holds_every_metric_of_every_model(
    predictions: dict[str, pd.DataFrame], baselines: pd.DataFrame, edits: pd.DataFrame
) -> None:
    metrics = evaluate(predictions, baselines, edits).to_metrics()
    assert list(metrics) == ["base", "sft", "grpo"]
    for scores in metrics.values():
        assert {"plcc", "srcc", "krcc", "mae", "main_score", "main_score_fitted"} <= set(scores)
        assert all(set(estimate) == {"value", "low", "high"} for estimate in scores.values())
    json.dumps(metrics, allow_nan=False)


def test_a_number_that_is_not_defined_is_null_in_metrics_json(
    predictions: dict[str, pd.DataFrame], baselines: pd.DataFrame, edits: pd.DataFrame
) -> None:
    evaluation = compute_metrics(
        {"base": predictions["base"]}, baselines, edits, train_mean=3, policy="dropped", n_boot=9
    )
    assert evaluation.to_metrics()["base"]["mae"]["value"] is None


def test_coverage_counts_answers_whatever_the_policy(
    predictions: dict[str, pd.DataFrame], baselines: pd.DataFrame, edits: pd.DataFrame
) -> None:
    models = evaluate(predictions, baselines, edits).models
    assert models["base"]["coverage"].value == 0
    assert models["sft"]["coverage"].value == 1
    assert models["grpo"]["coverage"].value == pytest.approx(1 - 1 / EDITS)


def test_a_model_that_never_answers_is_no_better_than_a_guess(
    predictions: dict[str, pd.DataFrame], baselines: pd.DataFrame, edits: pd.DataFrame
) -> None:
    evaluation = evaluate(predictions, baselines, edits)
    assert evaluation.models["base"]["main_score"].value == 0
    assert evaluation.policies["base"]["worst"].value < 0


def test_order_of_a_table_does_not_matter(
    predictions: dict[str, pd.DataFrame], baselines: pd.DataFrame, edits: pd.DataFrame
) -> None:
    shuffled = {name: table[::-1] for name, table in predictions.items()}
    one = evaluate(predictions, baselines, edits)
    other = evaluate(shuffled, baselines[::-1], edits)
    assert one.models == other.models
    assert one.baselines == other.baselines


def test_the_difference_is_of_the_last_two_models(
    predictions: dict[str, pd.DataFrame], baselines: pd.DataFrame, edits: pd.DataFrame
) -> None:
    evaluation = evaluate(predictions, baselines, edits)
    sft, grpo = (evaluation.models[name]["main_score"].value for name in ("sft", "grpo"))
    assert evaluation.difference is not None
    assert evaluation.difference.value == pytest.approx(grpo - sft)
    assert evaluate({"sft": predictions["sft"]}, baselines, edits).difference is None


def test_classic_metrics_are_turned_the_right_way_and_have_no_errors_in_mos(
    predictions: dict[str, pd.DataFrame], baselines: pd.DataFrame, edits: pd.DataFrame
) -> None:
    for scores in evaluate(predictions, baselines, edits).baselines.values():
        assert scores["main_score"].value == pytest.approx(1)
        assert not {"mae", "rmse"} & set(scores)


def test_people_predict_people_and_need_ratings_for_it(
    predictions: dict[str, pd.DataFrame], baselines: pd.DataFrame, edits: pd.DataFrame
) -> None:
    ceiling = evaluate(predictions, baselines, edits).ceiling
    assert ceiling["panel"]["main_score"].value > ceiling["rater"]["main_score"].value > 0.5
    assert evaluate(predictions, baselines, edits.drop(columns="ratings")).ceiling == {}


def test_groups_measure_their_own_edits_and_leave_the_rare_out(
    predictions: dict[str, pd.DataFrame], baselines: pd.DataFrame, edits: pd.DataFrame
) -> None:
    groups = evaluate(predictions, baselines, edits).groups
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
    with pytest.raises(ValueError, match="sft and the edits differ at id 'e00'"):
        evaluate(predictions, baselines, edits)


def test_no_model_is_an_error(baselines: pd.DataFrame, edits: pd.DataFrame) -> None:
    with pytest.raises(ValueError, match="no model"):
        evaluate({}, baselines, edits)


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
    json.dumps(plain(quality), allow_nan=False)


def test_failed_answers_on_pictures_count_and_are_told(pictures: pd.DataFrame) -> None:
    """Under the default policy: else a critic would gain by answering the easy ones alone."""
    predictions = {"grpo": on_pictures(pictures, EDITS // 4)}
    quality = measure_generated(predictions, pictures, train_mean=3.0, n_boot=20)["grpo"]["quality"]
    assert quality["coverage"].value == pytest.approx(0.75)
    assert quality["plcc"].value < 0.99
    dropped = measure_generated(predictions, pictures, train_mean=3.0, policy="dropped", n_boot=20)
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
    with pytest.raises(ValueError, match=r"grpo and the edits differ at id 'p00\.jpg'"):
        measure_generated({"grpo": on_pictures(pictures, 0)}, pictures[1:], train_mean=3.0, n_boot=20)
