"""The best edit of each request, and thresholds whose promise holds on edits that they weren't set on."""

from collections.abc import Sequence
from math import nan

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from benchmarks.selection import simulate, simulated
from critic.evaluation.selection import SelectionError, find_threshold, lower_bound, pick


def test_the_best_scored_edit_of_each_request_is_picked() -> None:
    found = pick([2, 4, 4, nan, 3, nan], [("a", 1), ("a", 1), ("a", 1), ("a", 2), ("b", 1), ("b", 1)])
    assert ([*found.rows], found.tied, found.unscored) == ([1, 4], 1, 1)


def test_rounding_makes_no_edit_the_best() -> None:
    assert ([*(found := pick([3.3, 3.3000001], ["a", "a"])).rows], found.tied) == ([0], 1)


@given(st.lists(st.tuples(st.sampled_from([1.0, 2.5, nan]), st.sampled_from("abc")), min_size=1))
def test_no_edit_of_a_request_is_better_than_the_picked_one(edits: Sequence[tuple[float, str]]) -> None:
    scores, requests = zip(*edits, strict=True)
    rows = pick(scores, requests).rows
    best = {requests[row]: scores[row] for row in rows}
    assert len(best) == len(rows)
    assert all(score != score or score <= best[request] for score, request in edits)


def test_a_precision_of_nine_in_ten_holds_on_a_fresh_split() -> None:
    """19 of 20 thresholds must hold it, and cost few good edits: the best threshold has a recall of 0.56."""
    held, recall = simulate(150)
    assert held >= 0.95 and recall > 0.4
    found = find_threshold(*simulated(700, np.random.default_rng(0)), least_mos=4, precision=0.9, n_boot=0)
    assert found.precision.value >= found.at_least >= 0.9


def test_the_bound_of_independent_edits_is_that_of_clopper_and_pearson() -> None:
    good = np.arange(100) < 90
    exact = stats.binomtest(90, 100, alternative="greater").proportion_ci(0.95, method="exact").low
    assert lower_bound(good, np.arange(100), 0.05) == pytest.approx(exact, abs=0.002)


def test_copies_of_an_edit_are_worth_one() -> None:
    good, source = np.arange(100) < 90, np.arange(100)
    once = lower_bound(good, source, 0.05)
    assert lower_bound(np.repeat(good, 5), np.repeat(source, 5), 0.05) == pytest.approx(once, abs=0.002)
    assert lower_bound(np.full(50, True), np.repeat(np.arange(10), 5), 0.05) == pytest.approx(0.05 ** (1 / 10))


def test_what_cant_be_promised_is_said() -> None:
    scores, mos, source = simulated(10, np.random.default_rng(0))
    with pytest.raises(
        SelectionError, match=r"a precision of 0\.9 for certain, on edits of at least 61 source images: r"
    ):
        find_threshold(scores, mos, source, least_mos=4, precision=0.9)
    with pytest.raises(SelectionError, match=r"that of \d.* is 0.\d+, at least 0.\d+: rate more"):
        find_threshold(*simulated(300, np.random.default_rng(0)), least_mos=5, precision=0.9)
