"""Malicious and careless raters are excluded; pooling the others' ratings agrees with other programs."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kurtosis

from critic.params import Ratings, load
from critic.ratings.pooling import Study, pool
from critic.ratings.screening import alpha, count_outliers
from critic.tables import TableError

RULES = load(Ratings).model_copy(
    update={"min_raters": 3, "min_ratings": 8, "min_correlation": 0.75, "confidence": 0.95}
)

TABLE = np.array(
    [
        [5, 3, 4, 4, 3, 4, 3, 5],
        [4, 3, 4, 5, 3, 4, 3, 4],
        [3, 3, 3, 3, 2, 3, 2, 2],
        [3, 1, 3, 3, 1, 2, 1, 3],
        [2, 1, 1, 1, 2, 1, 1, 1],
        [3, 2, 4, 3, 5, 3, 3, 4],
        [3, 2, 4, 3, 3, 3, 3, 2],
        [2, 1, 1, 1, 2, 1, 1, 1],
        [2, 1, 1, 1, 2, 1, 1, 2],
        [5, 4, 5, 5, 5, 5, 4, 3],
        [3, 3, 3, 4, 3, 3, 3, 3],
        [3, 2, 2, 3, 2, 1, 3, 3],
        [3, 3, 3, 3, 2, 2, 2, 4],
        [5, 5, 5, 4, 5, 5, 3, 4],
    ],
    dtype=float,
)
"""Fourteen items, eight raters."""

# Results of sureal 0.9.0 (Netflix): SubjectMLEModelProjectionSolver(RawDatasetReader(...)).run_modeling()
SUREAL_MOS = [3.9872, 3.8001, 2.7413, 2.2768, 1.2237, 3.1114, 2.9406]
SUREAL_MOS += [1.2237, 1.2670, 4.6360, 3.0378, 2.2699, 2.6618, 4.5724]
SUREAL_BIAS = [0.4464, -0.4107, 0.2321, 0.2321, 0.0179, -0.1250, -0.4821, 0.0893]
SUREAL_NOISE = [0.3368, 0.5357, 0.4194, 0.4997, 0.8422, 0.4242, 0.5718, 0.8310]
SUREAL_ERROR = 0.1729


def rows(scores: np.ndarray) -> pd.DataFrame:
    """One row per rating that isn't NaN, of raters r00, r01... and items i000, i001..."""
    items, raters = np.nonzero(np.isfinite(scores))
    return pd.DataFrame(
        {
            "rater": [f"r{rater:02d}" for rater in raters],
            "item": [f"i{item:03d}" for item in items],
            "score": scores[items, raters],
        }
    )


def lenient(**rules: object) -> Ratings:
    return RULES.model_copy(update={"min_correlation": -0.99, **rules})


def test_mos_bias_and_noise_are_those_of_an_independent_program() -> None:
    study = pool(rows(TABLE), lenient())
    assert study.items["mos"].to_numpy() == pytest.approx(SUREAL_MOS, abs=1e-4)
    assert study.raters["bias"].to_numpy() == pytest.approx(SUREAL_BIAS, abs=1e-4)
    assert study.raters["noise"].to_numpy() == pytest.approx(SUREAL_NOISE, abs=1e-4)
    middle = study.items["mos"].between(2, 4)
    half = (study.items["high"] - study.items["low"])[middle].to_numpy() / 2
    assert half == pytest.approx(1.96 * SUREAL_ERROR, abs=1e-3)


def test_alpha_is_that_of_an_independent_program() -> None:
    """krippendorff 0.9.0: alpha(reliability_data=TABLE.T, level_of_measurement="interval")."""
    assert alpha(TABLE) == pytest.approx(0.6924754634678298, abs=1e-12)
    assert alpha(np.full((3, 2), 4.0)) == 1
    assert alpha(np.array([[1.0, np.nan], [np.nan, 2.0]])) is None


def outliers_step_by_step(scores: np.ndarray) -> tuple[list[int], list[int]]:
    """Rec. ITU-R BT.500-14, annex 1, step by step, with SciPy's kurtosis."""
    above, below = [0] * scores.shape[1], [0] * scores.shape[1]
    for item in scores:
        seen = item[np.isfinite(item)]
        if len(seen) < 2 or seen.std() == 0:
            continue
        beta = kurtosis(seen, fisher=False)
        factor = 2 if 2 <= beta <= 4 else 20**0.5
        for rater, score in enumerate(item):
            above[rater] += bool(score >= seen.mean() + factor * seen.std(ddof=1))
            below[rater] += bool(score <= seen.mean() - factor * seen.std(ddof=1))
    return above, below


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), missing=st.floats(0, 0.6))
def test_outliers_are_counted_as_bt500_says(seed: int, missing: float) -> None:
    rng = np.random.default_rng(seed)
    scores = np.where(rng.random((20, 12)) < missing, np.nan, rng.normal(3, 1.2, (20, 12)))
    scores = scores[np.isfinite(scores).any(axis=1)]
    assert [side.tolist() for side in count_outliers(scores)] == [*outliers_step_by_step(scores)]


@pytest.mark.parametrize(("seed", "rejected"), [(0, [3, 7]), (1, []), (3, [3]), (5, [3, 5]), (28, [3, 7, 8])])
def test_bt500_rejects_whom_an_independent_program_rejects(seed: int, rejected: list[int]) -> None:
    """SubjrejMosModel of sureal 0.9.0 on the same tables, in which rater 3 gave 1 or 5 at random in 60 %."""
    rng = np.random.default_rng(seed)
    truth = rng.uniform(1.5, 4.5, 60)
    scores = np.clip(np.round(truth[:, None] + rng.normal(0, 0.6, (60, 24))), 1, 5)
    odd = rng.random(60) < 0.6
    scores[odd, 3] = np.where(rng.random(odd.sum()) < 0.5, 1, 5)
    statuses = pool(rows(scores), lenient()).raters["status"].tolist()
    assert [rater for rater, status in enumerate(statuses) if status == "outlier"] == rejected


def simulate(seed: int, *, raters: int, per_item: int, items: int, malicious: int = 1, careless: int = 2) -> Study:
    """Raters of minibench's kinds on items with known scores: the first are malicious, the next careless."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(3.2, 0.95, items).clip(1, 5)
    bias, gain = rng.normal(0, 0.25, raters), rng.normal(1, 0.12, raters).clip(0.6, 1.4)
    answers = (
        3 + gain * (truth[:, None] - 3) + bias + rng.normal(0, 1, (items, raters)) * rng.uniform(0.3, 0.6, raters)
    )
    answers[:, :malicious] = 6 - answers[:, :malicious]
    answers[:, malicious : malicious + careless] = rng.uniform(1, 5, (items, careless))
    rank = rng.random((items, raters)).argsort(axis=1).argsort(axis=1)
    return pool(rows(np.where(rank < per_item, answers.round().clip(1, 5), np.nan)), RULES)


def excluded(study: Study, start: int, end: int) -> float:
    """The share of these raters that aren't counted, of those with enough ratings."""
    statuses = [study.raters["status"].get(f"r{rater:02d}", "insufficient_data") for rater in range(start, end)]
    tested = [status for status in statuses if status != "insufficient_data"]
    return float(np.mean([status != "counted" for status in tested])) if tested else np.nan


@pytest.mark.parametrize(
    "design",
    [
        {"raters": 10, "per_item": 5, "items": 60},
        {"raters": 10, "per_item": 3, "items": 100},
        {"raters": 15, "per_item": 15, "items": 20},
        {"raters": 12, "per_item": 5, "items": 60, "malicious": 2},
    ],
)
def test_malicious_and_careless_raters_are_excluded_and_few_others(design: dict[str, int]) -> None:
    """300 ratings per study; docs/ratings.md has the rates."""
    bad = design.get("malicious", 1)
    studies = [simulate(seed, **design) for seed in range(60)]
    assert np.nanmean([excluded(study, 0, bad) for study in studies]) >= 0.98
    assert np.nanmean([excluded(study, bad, bad + 2) for study in studies]) >= 0.95
    assert np.nanmean([excluded(study, bad + 2, design["raters"]) for study in studies]) <= 0.08


def test_an_inverted_scale_is_distinguished_from_random_ratings() -> None:
    study = simulate(0, raters=10, per_item=10, items=30)
    assert study.raters["status"].tolist() == ["inverted", "low_agreement", "low_agreement", *["counted"] * 7]
    assert "scale inverted" in study.raters["reason"]["r00"] and "at random" in study.raters["reason"]["r01"]


def test_screening_reduces_the_error_of_the_mos() -> None:
    rng = np.random.default_rng(3)
    truth = rng.uniform(1.2, 4.8, 60)
    answers = (truth[:, None] + rng.normal(0, 0.5, (60, 8))).round().clip(1, 5)
    answers[:, 0] = 6 - answers[:, 0]
    pooled = pool(rows(answers), RULES).items["mos"].to_numpy()
    assert np.abs(pooled - truth).mean() < 0.8 * np.abs(answers.mean(axis=1) - truth).mean()


def test_a_rater_with_few_ratings_has_insufficient_data() -> None:
    scores = np.full((20, 9), np.nan)
    scores[:14, :8] = TABLE
    scores[:7, 8] = 6 - TABLE[:7, 0]
    raters = pool(rows(scores), lenient(min_correlation=0.5)).raters
    assert raters["status"]["r08"] == "insufficient_data"
    assert "rated 7 items" in raters["reason"]["r08"]


def test_the_last_rating_of_an_item_counts() -> None:
    table = pd.concat([pd.DataFrame({"rater": ["r00"], "item": ["i000"], "score": [1.0]}), rows(TABLE)])
    study = pool(table, lenient())
    assert study.repeated == 1
    pd.testing.assert_frame_equal(study.items, pool(rows(TABLE), lenient()).items)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_the_order_of_raters_and_items_means_nothing(seed: int) -> None:
    table = rows(np.where(np.random.default_rng(seed).random(TABLE.shape) < 0.2, np.nan, TABLE))
    shuffled = table.sample(frac=1, random_state=seed)
    one, other = pool(table, lenient(min_ratings=5)), pool(shuffled, lenient(min_ratings=5))
    pd.testing.assert_frame_equal(one.items, other.items)
    pd.testing.assert_frame_equal(one.raters, other.raters)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_mos_are_on_the_scale_and_within_their_intervals(seed: int) -> None:
    scores = np.random.default_rng(seed).integers(1, 6, (12, 9)).astype(float)
    items = pool(rows(scores), lenient()).items
    assert items["mos"].between(1, 5).all()
    assert ((items["low"] <= items["mos"]) & (items["mos"] <= items["high"])).all()


def test_nobody_is_counted_where_nobody_agrees() -> None:
    rng = np.random.default_rng(0)
    study = pool(rows(rng.integers(1, 6, (40, 6)).astype(float)), RULES)
    assert not (study.raters["status"] == "counted").any()
    assert study.items.empty


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("score", 6.0, "ratings row 2 has the score 6.0, not a number from 1 to 5"),
        ("score", np.nan, "ratings row 2 has no score"),
        ("rater", None, "ratings row 2 has no rater"),
    ],
)
def test_an_invalid_row_is_named(column: str, value: object, message: str) -> None:
    table = rows(TABLE)
    table.loc[1, column] = value
    with pytest.raises(TableError, match=message):
        pool(table, RULES)


def test_no_ratings_are_an_error() -> None:
    with pytest.raises(TableError, match="no ratings"):
        pool(rows(TABLE).iloc[:0], RULES)
