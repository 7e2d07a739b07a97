"""Two critics on the same edits: which one is better, and by which test."""

import math

import numpy as np
import pytest

from critic.evaluation.agreement import paired_bootstrap
from critic.evaluation.bootstrap import SMALLEST_GROUP, Array
from critic.evaluation.compare import compare
from critic.evaluation.correlation_tests import williams

NAN = math.nan


@pytest.fixture
def mos() -> Array:
    return np.random.default_rng(0).uniform(1, 5, 120)


@pytest.fixture
def critics(mos: Array) -> dict[str, Array]:
    rng = np.random.default_rng(1)
    return {name: np.clip(mos + rng.normal(0, noise, 120), 1, 5) for name, noise in (("good", 0.4), ("poor", 1.2))}


def test_the_better_critic_wins_every_test(critics: dict[str, Array], mos: Array) -> None:
    found = compare(critics, mos, metrics=["main_score", "mae"], n_boot=200)
    [pair] = found["pairs"]
    assert (pair["a"], pair["b"], pair["n"]) == ("good", "poor", 120)
    assert pair["differences"]["main_score"].low > 0 > pair["differences"]["mae"].high
    assert pair["williams"].p < 0.001 and pair["steiger"].p < 0.001 and pair["williams"].statistic > 0
    assert pair["closer"]["a"] > 0.6 > pair["closer"]["b"]
    assert found["critics"]["good"]["main_score"].value > found["critics"]["poor"]["main_score"].value


def test_differences_are_those_of_the_paired_bootstrap_and_correlations_numpys(
    critics: dict[str, Array], mos: Array
) -> None:
    sources = np.repeat(np.arange(30), 4)
    [pair] = compare(critics, mos, sources, n_boot=50, seed=4)["pairs"]
    good, poor = critics.values()
    assert pair["differences"]["main_score"] == paired_bootstrap(good, poor, mos, sources, n_boot=50, seed=4)
    a, b, between = np.corrcoef([mos, good, poor])[[0, 0, 1], [1, 2, 2]]
    assert vars(pair["williams"]) == pytest.approx(vars(williams(a, b, between, 120)))


@pytest.mark.parametrize("sources", [SMALLEST_GROUP - 1, SMALLEST_GROUP])
def test_few_sources_have_no_interval_and_no_p(critics: dict[str, Array], mos: Array, sources: int) -> None:
    """Of however many edits; and those that one critic has dropped don't count."""
    labels = np.arange(120) % sources
    found = compare(critics, mos, labels, n_boot=50)
    told = [found["pairs"][0]["differences"]["main_score"], found["critics"]["good"]["main_score"]]
    figures = [told[0].low, told[0].p, told[1].low]
    assert np.isfinite(figures).all() if sources == SMALLEST_GROUP else np.isnan(figures).all()
    critics["good"][labels == 0] = NAN
    [pair] = compare(critics, mos, labels, failure_policy="dropped", n_boot=50)["pairs"]
    assert math.isnan(pair["differences"]["main_score"].p)


def test_who_is_closer_by_hand() -> None:
    """3.4 and 3.6 are as far from 3.5, though not in floating point."""
    [pair] = compare({"a": [3.4, 2, 4, 1], "b": [3.6, 3, 5, 2]}, [3.5, 2.2, 4.9, 1.1], n_boot=0)["pairs"]
    assert pair["closer"] == {"a": 0.5, "b": 0.25, "ties": 0.25}


def test_every_two_of_three(critics: dict[str, Array], mos: Array) -> None:
    pairs = compare(critics | {"flat": np.full(120, 3.0)}, mos, n_boot=20)["pairs"]
    assert [(pair["a"], pair["b"]) for pair in pairs] == [("good", "poor"), ("good", "flat"), ("poor", "flat")]


def test_failures_count_unless_dropped(critics: dict[str, Array], mos: Array) -> None:
    critics["good"][:40] = NAN
    [worst] = compare(critics, mos, n_boot=20)["pairs"]
    [dropped] = compare(critics, mos, failure_policy="dropped", n_boot=20)["pairs"]
    assert (worst["n"], dropped["n"]) == (120, 80)
    assert worst["differences"]["main_score"].value < 0 < dropped["differences"]["main_score"].value
    found = compare(critics, mos, n_boot=20)["critics"]["good"]
    assert found["coverage"].value == pytest.approx(2 / 3)


def test_a_critic_is_as_good_as_itself(critics: dict[str, Array], mos: Array) -> None:
    [pair] = compare({"a": critics["good"], "b": critics["good"]}, mos, n_boot=20)["pairs"]
    assert pair["differences"]["main_score"].p == pair["williams"].p == pair["steiger"].p == 1
    assert pair["closer"]["ties"] == 1


def test_one_critic_is_no_comparison(mos: Array) -> None:
    with pytest.raises(ValueError, match="two critics"):
        compare({"a": mos}, mos)
