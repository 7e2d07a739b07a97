"""The kinds of reward: how the accuracy of a score falls with its distance to the MOS.

A new kind is a function here, listed in `KINDS`, and its test. `reward.kind` in params.yaml names it.

The formulas are IE-Critic-R1's (arXiv 2511.18055 and its released score function). Each takes
x = |score - mos| / diff_at_rmin, 0 or more, and r = r_min, between 0 and 1. It returns 1 at x = 0 and r at x = 1.
"""

from collections.abc import Callable


def l1(x: float, r: float) -> float:
    """1 - (1 - r) x"""
    return 1 - (1 - r) * x


def l2(x: float, r: float) -> float:
    """1 - (1 - r) x^2"""
    return 1 - (1 - r) * x**2


def laplace(x: float, r: float) -> float:
    """r^x, that is exp(-d / tau) with d = |score - mos| and tau = diff_at_rmin / ln(1/r)"""
    return float(r**x)


def gaussian(x: float, r: float) -> float:
    """r^(x^2), that is exp(-d^2 / (2 sigma^2)) with d as above and sigma = diff_at_rmin / sqrt(2 ln(1/r))"""
    return float(r ** (x**2))


KINDS: dict[str, Callable[[float, float], float]] = {kind.__name__: kind for kind in (l1, l2, laplace, gaussian)}


def require_kind(name: str) -> str:
    """Return the name of a kind unchanged, or raise ValueError."""
    if name not in KINDS:
        raise ValueError(f"unknown kind of reward {name!r}: choose one of {', '.join(KINDS)}")
    return name
