"""Tests of the difference of two correlations with the same opinions of the same edits.

    williams(0.4, 0.5, 0.1, n=103)    # Significance(statistic=-0.89, p=0.37)
    steiger(0.4, 0.5, 0.1, n=103)

Both assume independent edits and normal scores, but edits of one source image are not independent. Decide by the
paired bootstrap over source images (`critic.evaluation.agreement.paired_bootstrap`); these two are for comparison
with papers that report them.
"""

from dataclasses import dataclass

import numpy as np
from scipy import stats

_ALIKE, _VANISHES = 1e-9, 1e-12
"""Differences of correlations and variances that are only rounding."""


@dataclass(frozen=True)
class Significance:
    """A test's statistic, positive where the first critic correlates higher, and its two-sided p-value.

    0 and 1 for equal correlations; NaN if the difference has no variance.
    """

    statistic: float
    p: float


def williams(a: float, b: float, between: float, n: int) -> Significance:
    """Williams' t with n - 3 degrees of freedom.

    Williams (1959), "The comparison of regression variables", in the form of Steiger (1980), "Tests for comparing
    elements of a correlation matrix", equation 7.

    Args:
        a, b: Pearson's r of each critic with the opinions, -1..1.
        between: Pearson's r between the critics, -1..1.
        n: number of edits.

    Raises:
        ValueError: fewer than 4 edits.
    """
    _check(n)
    if abs(a - b) < _ALIKE:
        return Significance(0.0, 1.0)
    determinant = max(0.0, 1 - a**2 - b**2 - between**2 + 2 * a * b * between)
    mean = (a + b) / 2
    scale = 2 * (n - 1) / (n - 3) * determinant + mean**2 * (1 - between) ** 3
    if scale < _VANISHES:
        return Significance(np.nan, np.nan)
    t = (a - b) * np.sqrt((n - 1) * (1 + between) / scale)
    return Significance(float(t), float(2 * stats.t.sf(abs(t), n - 3)))


def steiger(a: float, b: float, between: float, n: int) -> Significance:
    """Steiger's z: the difference of Fisher's z over its standard error, with the mean of a and b for both.

    Steiger (1980), equations 3, 10 and 14. The arguments and errors are those of `williams`; a correlation of 1
    or -1 has no finite z.
    """
    _check(n)
    if abs(a - b) < _ALIKE:
        return Significance(0.0, 1.0)
    squared = ((a + b) / 2) ** 2
    psi = between * (1 - 2 * squared) - squared * (1 - 2 * squared - between**2) / 2
    covariance = psi / (1 - squared) ** 2
    variance = 2 - 2 * covariance
    if variance < _VANISHES:
        return Significance(np.nan, np.nan)
    with np.errstate(divide="ignore"):
        z = (np.arctanh(a) - np.arctanh(b)) * np.sqrt((n - 3) / variance)
    return Significance(float(z), float(2 * stats.norm.sf(abs(z))))


def _check(n: int) -> None:
    if n < 4:
        raise ValueError(f"{n} edits are too few to compare correlations: give at least 4")
