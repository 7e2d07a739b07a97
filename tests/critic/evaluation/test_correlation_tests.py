"""Williams' t and Steiger's z, compared with published examples, and their properties."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from critic.evaluation.correlation_tests import Significance, steiger, williams

r = st.floats(-0.9, 0.9)


def test_williams_example_of_depcor() -> None:
    """Silver, Hittner and May (2006), "A FORTRAN 77 program for comparing dependent correlations"."""
    found = williams(0.3, 0.4, 0.5, n=100)
    assert found.statistic == pytest.approx(-1.0767, abs=5e-5)
    assert found.p == pytest.approx(0.2843, abs=5e-5)


def test_steiger_example_of_depcor() -> None:
    found = steiger(0.3, 0.4, 0.5, n=100)
    assert found.statistic == pytest.approx(-1.0718, abs=5e-5)
    assert found.p == pytest.approx(0.2838, abs=5e-5)


def test_steigers_own_example() -> None:
    """Case A of the paper, n = 103; its hand computation, rounded on the way, has -.8913."""
    assert steiger(0.4, 0.5, 0.1, n=103).statistic == pytest.approx(-0.8887, abs=5e-5)


@given(r, r, r)
def test_swapping_the_critics_turns_the_sign_and_keeps_p(a: float, b: float, between: float) -> None:
    assume(1 - a**2 - b**2 - between**2 + 2 * a * b * between > 1e-6)  # else no variables correlate like that
    for test in (williams, steiger):
        one, other = test(a, b, between, 50), test(b, a, between, 50)
        assert one.statistic == pytest.approx(-other.statistic)
        assert one.p == pytest.approx(other.p)


def test_a_critic_does_not_differ_from_itself() -> None:
    assert williams(0.7, 0.7, 1.0, 50) == steiger(0.7, 0.7, 1.0, 50) == Significance(0.0, 1.0)


@given(st.floats(0.01, 100), st.floats(-5, 5), st.integers(0, 99))
def test_a_critic_does_not_differ_from_itself_on_another_scale(factor: float, shift: float, seed: int) -> None:
    x, noise = np.random.default_rng(seed).normal(size=(2, 30))
    a, b, between = (float(np.corrcoef(u, v)[0, 1]) for u, v in _pairs(x, factor * x + shift, x + noise))
    assert williams(a, b, between, 30) == steiger(a, b, between, 30) == Significance(0.0, 1.0)


@pytest.mark.parametrize("between", [1.0, 1 - 1e-14, 1 + 1e-14])
def test_a_difference_between_critics_that_are_one_is_none_to_test(between: float) -> None:
    """No scores correlate so; rounding must not make them a certain difference, or an error."""
    for test in (williams, steiger):
        found = test(0.5, 0.5 + 1e-8, between, 50)
        assert np.isnan(found.statistic) and np.isnan(found.p)


def test_the_opposite_critic_has_no_t() -> None:
    found = williams(0.5, -0.5, -1.0, 50)
    assert np.isnan(found.statistic) and np.isnan(found.p)


def test_too_few_edits() -> None:
    with pytest.raises(ValueError, match="3 edits are too few"):
        williams(0.1, 0.2, 0.3, 3)


def test_without_a_difference_p_is_uniform() -> None:
    """Two critics, as good as one another, on 800 draws of 60 edits of a normal population."""
    rng = np.random.default_rng(0)
    of_williams, of_steiger = [], []
    for _ in range(800):
        mos, noise = rng.normal(size=60), rng.normal(size=(2, 60))
        a, b, between = (float(np.corrcoef(x, y)[0, 1]) for x, y in _pairs(mos + noise[0], mos + noise[1], mos))
        of_williams.append(williams(a, b, between, 60).p)
        of_steiger.append(steiger(a, b, between, 60).p)
    for p in (of_williams, of_steiger):
        assert stats.kstest(p, "uniform").pvalue > 0.01


def _pairs(x: np.ndarray, y: np.ndarray, mos: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    return [(x, mos), (y, mos), (x, y)]
