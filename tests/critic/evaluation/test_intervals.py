"""From resamples to an interval, a p-value and JSON."""

import math

import numpy as np
import pytest

from critic.evaluation import bootstrap
from critic.evaluation.intervals import SMALLEST_GROUP, draw, enough, estimate, plain
from critic.evaluation.metrics import Estimate


def test_the_first_is_the_value_and_the_others_are_the_interval() -> None:
    found = estimate(np.array([9.0, *range(101)]))
    assert (found.value, found.low, found.high) == pytest.approx((9, 2.5, 97.5))


def test_resamples_without_a_value_take_no_part() -> None:
    assert estimate(np.array([1.0, 1.0, np.nan])) == Estimate(1.0, 1.0, 1.0)
    assert math.isnan(estimate(np.array([1.0])).low)


def test_sources_are_counted_and_not_edits() -> None:
    assert enough(["a", *range(1, SMALLEST_GROUP)])
    assert not enough([*range(1, SMALLEST_GROUP)] * 5)


def test_resamples_are_of_the_counted_rows_and_none_of_those_of_few_sources() -> None:
    sources = np.repeat(np.arange(SMALLEST_GROUP), 2)
    counted = np.full(len(sources), True)
    counted[0] = False
    whole = bootstrap.draw(sources, len(sources), 5, seed=3)
    assert np.array_equal(draw(sources, counted, 5, seed=3), whole[:, 1:])
    counted[1] = False
    assert draw(sources, counted, 5, seed=3).tolist() == [[1.0] * (len(sources) - 2)]
    assert draw(None, counted, 5, seed=3).shape == (6, len(sources) - 2)  # each edit is a source of its own


def test_plain_leaves_nothing_that_json_lacks() -> None:
    found = {"a": [Estimate(1.0, math.nan, math.inf)], "b": None, "c": "x", "d": 3}
    assert plain(found) == {"a": [{"value": 1.0, "low": None, "high": None}], "b": None, "c": "x", "d": 3}
