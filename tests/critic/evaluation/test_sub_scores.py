"""Stated sub-scores are compared with what people said of the same axis, and with the score."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

from critic.evaluation.sub_scores import measure_sub_scores

EDITS = 60


@pytest.fixture
def edits() -> pd.DataFrame:
    """Three edits of each source image; nobody rated fidelity, and the quality of the first ten."""
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "id": [f"e{n}" for n in range(EDITS)],
            "source_id": [f"s{n // 3}" for n in range(EDITS)],
            "mos": rng.uniform(1, 5, EDITS),
            "mos_alignment": rng.uniform(1, 5, EDITS),
            "mos_quality": [None] * 10 + [*rng.uniform(1, 5, EDITS - 10)],
        }
    )


def stating(edits: pd.DataFrame, noise: float) -> pd.DataFrame:
    """Sub-scores that are off by `noise`; the score is their mean. The first edit has none."""
    rng = np.random.default_rng(1)
    alignment = np.clip(edits["mos_alignment"] + rng.normal(0, noise, EDITS), 1, 5)
    quality = np.clip(edits["mos_quality"].astype(float).fillna(3) + rng.normal(0, noise, EDITS), 1, 5)
    table = pd.DataFrame({"id": edits["id"], "alignment": alignment, "fidelity": 3.0, "quality": quality}).assign(
        score=(alignment + quality) / 2
    )
    table.loc[0, ["alignment", "fidelity", "quality", "score"]] = np.nan
    return table.astype(dict.fromkeys(("alignment", "fidelity", "quality", "score"), "Float64"))


@pytest.fixture
def predictions(edits: pd.DataFrame) -> dict[str, pd.DataFrame]:
    silent = stating(edits, 1).assign(score=pd.NA, alignment=pd.NA, fidelity=pd.NA, quality=pd.NA)
    return {"base": silent, "sft": stating(edits, 0.2), "grpo": stating(edits, 1.0)}


def test_each_axis_is_measured_where_it_was_rated_and_stated(
    predictions: dict[str, pd.DataFrame], edits: pd.DataFrame
) -> None:
    found = measure_sub_scores(predictions, edits, n_boot=100)
    assert {name: [*axes] for name, axes in found.models.items()} == {
        "sft": ["alignment", "quality"],
        "grpo": ["alignment", "quality"],
    }
    alignment = found.models["sft"]["alignment"]
    stated = predictions["sft"]["alignment"].astype(float)[1:]
    assert alignment["srcc"].value == pytest.approx(spearmanr(stated, edits["mos_alignment"][1:]).statistic)
    assert alignment["mae"].value == pytest.approx((stated - edits["mos_alignment"][1:]).abs().mean())
    assert alignment["coverage"].value == pytest.approx((EDITS - 1) / EDITS)
    assert found.models["sft"]["quality"]["coverage"].value == 1, "of the 50 edits that people rated"


def test_a_drift_has_its_interval(predictions: dict[str, pd.DataFrame], edits: pd.DataFrame) -> None:
    found = measure_sub_scores(predictions, edits, n_boot=200)
    for axis in ("alignment", "quality"):
        assert found.differences[axis]["srcc"].high < 0
        assert found.differences[axis]["mae"].low > 0


def test_a_score_that_is_the_mean_of_its_sub_scores_follows_from_them(
    predictions: dict[str, pd.DataFrame], edits: pd.DataFrame
) -> None:
    found = measure_sub_scores(predictions, edits, n_boot=100)
    assert found.follows["sft"].value == pytest.approx(1)
    unrelated = {"sft": predictions["sft"].assign(score=np.random.default_rng(2).uniform(1, 5, EDITS))}
    assert measure_sub_scores(unrelated, edits, n_boot=100).follows["sft"].value < 0.6


def test_without_rated_axes_there_is_nothing(predictions: dict[str, pd.DataFrame], edits: pd.DataFrame) -> None:
    found = measure_sub_scores(predictions, edits[["id", "source_id", "mos"]], n_boot=100)
    assert (found.models, found.differences, found.follows) == ({}, {}, {})


def test_one_model_has_no_difference(predictions: dict[str, pd.DataFrame], edits: pd.DataFrame) -> None:
    found = measure_sub_scores({"sft": predictions["sft"]}, edits, n_boot=100)
    assert found.models and not found.differences
