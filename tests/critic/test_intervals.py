"""From resamples to an interval, a p-value and JSON."""

import math

import numpy as np
import pytest

from critic import weighted
from critic.intervals import difference, estimate, plain
from critic.metrics import Estimate, paired_bootstrap


def test_the_first_is_the_value_and_the_others_are_the_interval() -> None:
    found = estimate(np.array([9.0, *range(101)]))
    assert (found.value, found.low, found.high) == pytest.approx((9, 2.5, 97.5))


def test_resamples_without_a_value_take_no_part() -> None:
    assert estimate(np.array([1.0, 1.0, np.nan])) == Estimate(1.0, 1.0, 1.0)
    assert math.isnan(estimate(np.array([1.0])).low)


def test_p_is_that_of_the_paired_bootstrap() -> None:
    rng = np.random.default_rng(0)
    mos = rng.uniform(1, 5, 40)
    a, b = mos + rng.normal(0, 0.5, 40), mos + rng.normal(0, 0.6, 40)
    w = weighted.draw(None, 40, 300, 0)
    samples = weighted.mean(np.abs(a - mos), w) - weighted.mean(np.abs(b - mos), w)
    expected = paired_bootstrap(a, b, mos, metric="mae", n_boot=300)
    assert vars(difference(samples)) == pytest.approx(vars(expected))


def test_plain_leaves_nothing_that_json_lacks() -> None:
    found = {"a": [Estimate(1.0, math.nan, math.inf)], "b": None, "c": "x", "d": 3}
    assert plain(found) == {"a": [{"value": 1.0, "low": None, "high": None}], "b": None, "c": "x", "d": 3}
