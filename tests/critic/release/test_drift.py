"""Drift is detected when the service differs from the test split by more than chance."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram, generate_latest

from critic.release.drift import SCORE_EDGES, deciles, histogram, measure_drift, served_scores
from critic.service import monitoring

counts = st.lists(st.integers(0, 500), min_size=8, max_size=8).map(lambda c: np.array(c, float))


def test_the_index_is_that_of_the_formula() -> None:
    """Ten and thirty of forty, then thirty and ten: with half of one more in each bin."""
    found = measure_drift("x", tested=np.array([10.0, 30.0]), served=np.array([30.0, 10.0]))
    p, q = np.array([10.5, 30.5]) / 41, np.array([30.5, 10.5]) / 41
    assert found is not None and found.psi == pytest.approx(float(np.sum((q - p) * np.log(q / p))))
    assert (found.tested, found.served) == (40, 40)


@given(one=counts, other=counts)
def test_the_index_is_not_negative_and_the_same_from_both_sides(one: np.ndarray, other: np.ndarray) -> None:
    found, back = measure_drift("x", tested=one, served=other), measure_drift("x", tested=other, served=one)
    if found is None or back is None:
        assert not one.sum() or not other.sum()
        return
    assert found.psi >= 0 and found.psi == pytest.approx(back.psi)


def test_equal_shares_are_no_drift_and_another_critic_is() -> None:
    rng = np.random.default_rng(0)
    tested, like, unlike = (histogram(rng.normal(m, 0.8, 700).clip(1, 5)) for m in (3.2, 3.2, 4.2))
    same = measure_drift("scores", tested=tested, served=like)
    moved = measure_drift("scores", tested=tested, served=unlike)
    assert same is not None and not same.exceeds(0.25)
    assert moved is not None and moved.exceeds(0.25) and "scores: population stability index" in str(moved)


def test_few_observations_drift_by_chance_alone() -> None:
    """Of samples of 20 from the tested shares, some pass 0.25, and nearly none of them counts as drift."""
    rng = np.random.default_rng(1)
    tested = histogram(rng.normal(3.2, 0.8, 700).clip(1, 5))
    samples = [histogram(rng.normal(3.2, 0.8, 20).clip(1, 5)) for _ in range(300)]
    found = [measure_drift("x", tested=tested, served=served) for served in samples]
    assert sum(one is not None and one.psi >= 0.25 for one in found) > 30
    assert sum(one is not None and one.exceeds(0.25) for one in found) <= 15


def test_nothing_served_is_nothing_to_compare() -> None:
    assert measure_drift("x", tested=np.ones(8), served=np.zeros(8)) is None


def test_scores_fall_into_bins_with_their_upper_edge() -> None:
    assert histogram([1.0, 1.5, 1.51, 3.0, 5.0, float("nan")]).tolist() == [2, 1, 0, 1, 0, 0, 0, 1]


def test_deciles_hold_a_tenth_each() -> None:
    values = list(range(1000))
    assert histogram(values, deciles(values)).tolist() == [100.0] * 10
    assert len(deciles([3.0] * 50)) == 2


def test_served_scores_are_read_from_the_services_metrics() -> None:
    registry = CollectorRegistry()
    scores = Histogram("critic_score", "Scores.", ["mode"], buckets=SCORE_EDGES, registry=registry)
    for score in (1.2, 3.0, 3.1, 4.9):
        scores.labels("greedy").observe(score)
    scores.labels("average").observe(2.0)
    text = generate_latest(registry).decode()
    assert served_scores(text).tolist() == histogram([1.2, 3.0, 3.1, 4.9]).tolist()
    assert served_scores("").sum() == 0
    with pytest.raises(ValueError, match=r"no bin up to 1\.5"):
        served_scores(text.replace('le="1.5"', 'le="1.25"'))


def test_the_service_counts_in_these_bins() -> None:
    assert {*SCORE_EDGES} <= {*monitoring.SCORES._upper_bounds}
