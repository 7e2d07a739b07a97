"""All that is said of one critic: who is counted where, and what is left out for want of columns."""

import json
from typing import Any

import numpy as np
import pandas as pd
import pytest

from critic.evaluation.appraisal import appraise
from critic.evaluation.evaluate import compute_metrics
from critic.evaluation.intervals import plain
from critic.scoring.judges.image_metrics import BASELINES

EDITS = 90


@pytest.fixture
def truth() -> pd.DataFrame:
    """Three edits of each of 30 source images; the editor oak has 15 edits of five of them."""
    rng = np.random.default_rng(0)
    mos = rng.uniform(1, 5, EDITS)
    return pd.DataFrame(
        {
            "id": [f"e{i:02}" for i in range(EDITS)],
            "source_id": [f"s{i // 3:02}" for i in range(EDITS)],
            "mos": mos,
            "edit_type": ["add", "colour"] * (EDITS // 2),
            "editor": ["oak"] * 15 + ["elm"] * (EDITS - 15),
            "ratings": list(np.clip(mos[:, None] + rng.normal(0, 0.7, (EDITS, 6)), 1, 5)),
        }
    )


@pytest.fixture
def scores(truth: pd.DataFrame) -> pd.DataFrame:
    """A fair critic whose answers failed twice, with three samples each and a spread."""
    rng = np.random.default_rng(1)
    samples = np.clip(truth["mos"].to_numpy()[:, None] + rng.normal(0, 0.5, (EDITS, 3)), 1, 5)
    score = samples.mean(axis=1)
    score[:2] = np.nan
    return pd.DataFrame(
        {
            "id": truth["id"],
            "score": score,
            "status": ["truncated", "no_answer"] + ["ok"] * (EDITS - 2),
            "mode": "greedy",
            "raw": ["", ""] + [f"<answer>{s}</answer>" for s in score[2:]],
            "spread": [np.nan, np.nan, *samples[2:].std(axis=1)],
            "samples": [[], [], *samples[2:].tolist()],
        }
    )


def found(scores: pd.DataFrame, truth: pd.DataFrame, **options: Any) -> dict[str, Any]:
    return appraise(scores, truth, n_boot=60, **options)


def test_the_metrics_are_those_of_the_evaluate_stage(scores: pd.DataFrame, truth: pd.DataFrame) -> None:
    baselines = pd.DataFrame({"id": truth["id"]} | dict.fromkeys(BASELINES, truth["mos"]))
    stage = compute_metrics({"critic": scores}, baselines, truth, train_mean=3.0, policy="train_mean", n_boot=60)
    ours = found(scores, truth, policy="train_mean", train_mean=3.0)
    assert ours["metrics"] == stage.models["critic"]
    assert ours["policies"] == stage.policies["critic"]
    assert ours["ceiling"] == stage.ceiling


def test_failures_count_and_are_told(scores: pd.DataFrame, truth: pd.DataFrame) -> None:
    ours = found(scores, truth)
    assert (ours["scored"], ours["failed"]) == (EDITS - 2, {"no_answer": 1, "truncated": 1})
    assert ours["metrics"]["coverage"].value == pytest.approx(1 - 2 / EDITS)
    assert ours["metrics"]["main_score"] == ours["policies"]["worst"]
    assert ours["policies"]["worst"].value < ours["policies"]["dropped"].value
    assert "train_mean" not in ours["policies"]
    assert ours["upstream"]["dropped"] == 2


def test_pairs_of_one_source_count_failures_too(scores: pd.DataFrame, truth: pd.DataFrame) -> None:
    assert found(scores, truth)["pairs"]["n"] == 3 * 30
    dropped = found(scores, truth, policy="dropped")["pairs"]
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
    assert sum(band["n"] for band in ours["bands"]) == EDITS
    assert not {"plcc", "srcc", "main_score"} & {*ours["bands"][0]}


def test_a_mos_at_the_edge_of_two_bands_is_in_the_higher_and_a_5_in_the_last() -> None:
    truth = pd.DataFrame({"id": [*"abcd"], "mos": [1.0, 2.0, 4.0, 5.0]})
    scores = pd.DataFrame({"id": [*"abcd"], "score": [1.0, 2.0, 4.0, 5.0], "status": "ok", "raw": None})
    scores = scores.assign(mode="greedy", spread=np.nan, samples=[[]] * 4)
    assert [band["n"] for band in found(scores, truth)["bands"]] == [1, 1, 0, 2]


def test_a_critic_that_shrinks_to_the_middle_is_too_kind_below_and_too_strict_above(truth: pd.DataFrame) -> None:
    scores = pd.DataFrame({"id": truth["id"], "score": 3 + (truth["mos"] - 3) / 2, "status": "ok", "raw": None})
    bands = found(scores.assign(mode="greedy", spread=np.nan, samples=[[]] * EDITS), truth)["bands"]
    assert bands[0]["bias"].low > 0 > bands[-1]["bias"].high


def test_reliability_is_over_other_runs_or_else_over_samples(scores: pd.DataFrame, truth: pd.DataFrame) -> None:
    of_samples = found(scores, truth)["reliability"]
    assert (of_samples["of"], of_samples["k"], of_samples["n"]) == ("samples", 3, EDITS - 2)
    of_seeds = found(scores, truth, again=[scores])["reliability"]
    assert (of_seeds["of"], of_seeds["k"], of_seeds["icc"].value) == ("seeds", 2, 1)
    assert found(scores.assign(samples=[[]] * EDITS), truth)["reliability"] is None


def test_reliability_that_can_not_be_told_stops_nothing_else(scores: pd.DataFrame, truth: pd.DataFrame) -> None:
    one_failed = scores.assign(samples=[[None, 3.0, 3.2]] * EDITS)
    ours = found(one_failed, truth)
    assert ours["reliability"] == {
        "of": "samples",
        "stopped": "0 edits have a score in all 3 runs: 2 are needed to tell how alike the runs are",
    }
    assert ours["metrics"]["main_score"] == found(scores, truth)["metrics"]["main_score"]


def test_few_sources_have_figures_and_no_intervals(scores: pd.DataFrame, truth: pd.DataFrame) -> None:
    """However many edits these have."""
    few = truth.assign(source_id=[f"s{number % 9}" for number in range(EDITS)])
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
    told = found(scores.assign(mode=["greedy"] + [mode] * (EDITS - 1)), truth)["upstream"]
    assert [*told] == ["stopped"] and told["stopped"].endswith(f"these scores are of mode {mode}")


def test_columns_that_are_not_there_leave_their_part_out(scores: pd.DataFrame, truth: pd.DataFrame) -> None:
    bare = found(scores.assign(raw=None, spread=np.nan), truth[["id", "mos"]])
    assert bare["sources"] is bare["pairs"] is bare["spread"] is None
    assert bare["ceiling"] == {} and bare["groups"] == []
    assert bare["upstream"]["read"] == "score"


def test_a_critic_that_never_answers_is_appraised_too(scores: pd.DataFrame, truth: pd.DataFrame) -> None:
    silent = scores.assign(score=np.nan, status="empty", raw="", spread=np.nan, samples=[[None] * 3] * EDITS)
    for policy in ("worst", "dropped"):
        ours = found(silent, truth, policy=policy)
        assert ours["metrics"]["coverage"].value == 0
        assert ours["upstream"]["stopped"]
        json.dumps(plain(ours), allow_nan=False)
