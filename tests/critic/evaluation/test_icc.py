"""Test-retest, compared with the published example of the intraclass correlation."""

import math

import numpy as np
import pytest

from critic.evaluation import bootstrap
from critic.evaluation.icc import retest

SHROUT_FLEISS = np.array(
    [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]], float
)
"""Six subjects by four judges: Shrout and Fleiss (1979), table 2."""


def test_the_published_example() -> None:
    found = retest(SHROUT_FLEISS, n_boot=0)
    assert (found["n"], found["k"]) == (6, 4)
    assert found["icc"].value == pytest.approx(0.29, abs=0.005)
    assert found["icc_mean"].value == pytest.approx(0.62, abs=0.005)


def test_a_shift_of_all_scores_changes_nothing() -> None:
    assert retest(SHROUT_FLEISS + 1000, n_boot=0)["icc"].value == pytest.approx(
        retest(SHROUT_FLEISS, n_boot=0)["icc"].value
    )


def test_the_same_answers_agree_and_a_run_that_is_kinder_agrees_less() -> None:
    scores = np.linspace(1, 4, 20)
    same = retest(np.column_stack([scores, scores]), n_boot=50)
    assert same["icc"].value == same["icc"].low == 1
    assert same["difference"].value == 0
    shifted = retest(np.column_stack([scores, scores + 1]), n_boot=0)
    assert shifted["icc"].value < 0.7
    assert shifted["difference"].value == pytest.approx(1)


def test_noise_has_none_and_half_noise_half() -> None:
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(2000, 3))
    assert retest(noise, n_boot=0)["icc"].value == pytest.approx(0, abs=0.03)
    found = retest(rng.normal(size=(2000, 1)) + noise, n_boot=50)
    assert found["icc"].low < 0.5 < found["icc"].high
    assert found["icc_mean"].value == pytest.approx(0.75, abs=0.03)  # Spearman-Brown of 0.5 and 3


def test_a_resample_equals_its_rows_written_out() -> None:
    runs = np.vstack([SHROUT_FLEISS + shift for shift in range(4)])
    pictures = np.repeat([*"abcdefghijkl"], 2)
    _, (drawn,) = bootstrap.draw(pictures, 24, n_boot=1, seed=3)
    assert drawn.max() > 1
    written_out = retest(np.repeat(runs, drawn.astype(int), axis=0), n_boot=0)
    resampled = retest(runs, pictures, n_boot=1, seed=3)  # the interval is this one's value
    for statistic in ("icc", "icc_mean", "difference"):
        assert resampled[statistic].low == pytest.approx(written_out[statistic].value)


def test_edits_without_all_answers_are_left_out() -> None:
    runs = np.vstack([SHROUT_FLEISS, [math.nan, 1, 2, 3]])
    assert retest(runs, n_boot=0)["n"] == 6


def test_what_can_not_be_told() -> None:
    assert math.isnan(retest(np.full((5, 2), 3.0), n_boot=5)["icc"].value)
    with pytest.raises(ValueError, match="at least 2 runs"):
        retest(np.ones((5, 1)))
    with pytest.raises(ValueError, match="1 edits have a score in all 2 runs"):
        retest([[1, 2], [math.nan, 3]])
