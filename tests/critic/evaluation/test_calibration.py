"""Calibration, compared with numpy and for critics whose faults are known."""

import math

import numpy as np
import pytest
from scipy import stats

from critic.evaluation.bootstrap import SMALLEST_GROUP
from critic.evaluation.calibration import calibration, spread_quality

NAN = math.nan


def test_the_line_is_that_of_scipy() -> None:
    rng = np.random.default_rng(0)
    mos = rng.uniform(1, 5, 200)
    pred = np.clip(mos + rng.normal(0, 0.7, 200), 1, 5)
    found, line = calibration(pred, mos, None, n_boot=0), stats.linregress(pred, mos)
    assert found["slope"].value == pytest.approx(line.slope)
    assert found["intercept"].value == pytest.approx(line.intercept)
    assert found["bias"].value == pytest.approx(np.mean(pred - mos))


def test_bins_and_error_by_hand() -> None:
    """Two bins: 1.0 to 1.5 is 0.5 too low on average, 4.5 to 5.0, its end with it, is right on average."""
    found = calibration([1.0, 1.2, 4.5, 5.0, NAN], [1.5, 1.7, 4.9, 4.6, 3.0], None, n_boot=0)
    assert [(b["low"], b["high"], b["n"], b["score"]) for b in found["bins"]] == [
        (1.0, 1.5, 2, pytest.approx(1.1)),
        (4.5, 5.0, 2, 4.75),
    ]
    assert [b["mos"].value for b in found["bins"]] == pytest.approx([1.6, 4.75])
    assert found["ece"].value == pytest.approx((2 * 0.5 + 2 * 0) / 4)


def test_a_kind_critic_has_a_bias_and_is_otherwise_right() -> None:
    mos = np.linspace(1, 4.5, 60)
    found = calibration(mos + 0.5, mos, None, n_boot=50)
    assert found["bias"].value == found["bias"].low == found["ece"].value == pytest.approx(0.5)
    assert (found["slope"].value, found["intercept"].value) == pytest.approx((1, -0.5))


def test_a_constant_critic_has_no_slope_and_one_that_never_answers_nothing() -> None:
    assert math.isnan(calibration([3, 3, 3], [2, 3, 4], None, n_boot=5)["slope"].value)
    nothing = calibration([NAN, NAN], [2, 3], None, n_boot=5)
    assert math.isnan(nothing["bias"].value) and math.isnan(nothing["ece"].value) and nothing["bins"] == []


def test_a_bin_of_few_sources_has_no_interval() -> None:
    """The first bin has as many edits as the second, two of each source."""
    pred = [2.1] * SMALLEST_GROUP + [4.1] * SMALLEST_GROUP
    sources = [*[f"s{number // 2}" for number in range(SMALLEST_GROUP)], *range(SMALLEST_GROUP)]
    bins = calibration(pred, np.linspace(1, 5, len(pred)), sources, n_boot=50)["bins"]
    assert [math.isnan(b["mos"].low) for b in bins] == [True, False]


def test_the_interval_of_the_bias_holds_the_truth_about_as_often_as_it_says() -> None:
    """Errors of one picture go together, so intervals that took edits for independent would be half as wide."""
    rng = np.random.default_rng(0)
    sources = np.repeat(np.arange(50), 6)
    clustered, naive = [], []
    for _ in range(200):
        error = 0.2 + np.repeat(rng.normal(0, 0.4, 50), 6) + rng.normal(0, 0.3, 300)
        mos = rng.uniform(1.9, 4.1, 300)
        for held, groups in ((clustered, sources), (naive, None)):
            bias = calibration(np.clip(mos + error, 1, 5), mos, groups, n_boot=200)["bias"]
            held.append(bias.low <= 0.2 <= bias.high)
    assert 0.90 <= np.mean(clustered) <= 0.985
    assert np.mean(naive) < 0.8


# --- spread


def test_a_spread_that_tells_the_error_is_believed() -> None:
    rng = np.random.default_rng(0)
    spread = rng.uniform(0.1, 1.0, 2000)
    error = rng.normal(0, spread)
    mos = np.full(2000, 3.0)
    found = spread_quality(spread, mos + error, mos, None, n_boot=100)
    assert found["srcc"].low > 0.3
    assert found["covered"].low <= 0.954 <= found["covered"].high
    assert found["srcc"].value == pytest.approx(stats.spearmanr(spread, np.abs(error)).statistic)


def test_a_spread_that_is_too_small_covers_too_little_and_one_is_needed() -> None:
    found = spread_quality([0.1, 0.1, NAN, 0.1], [3, 3, 3, NAN], [3.1, 3.5, 3.0, 3.0], None, n_boot=0)
    assert (found["n"], found["covered"].value) == (2, 0.5)
