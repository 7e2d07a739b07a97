"""Statistics of a sample and of all its bootstrap resamples at once, and their confidence intervals.

    w = draw(sources, len(sources), n_boot=1000, seed=0)
    estimate(pearson(scores, mos, w))    # Estimate(value=0.71, low=0.68, high=0.74)

A sample is a row of weights: how many times each row of the data was drawn. So `w` is an array [samples, rows] of
whole numbers. A statistic has one value a sample, [samples]: that of the rows repeated that many times. Data `x`
and `y` are [rows].
"""

from collections.abc import Mapping
from dataclasses import dataclass, is_dataclass
from math import isfinite
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

SMALLEST_GROUP = 10
"""Figures of fewer source images have no interval: resamples draw these, and so few are too much alike."""


@dataclass(frozen=True)
class Estimate:
    """A value on the full sample, and the ends of its percentile bootstrap confidence interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Difference(Estimate):
    """An `Estimate` of a difference, and the two-sided p-value of there being none."""

    p: float


def estimate(samples: Array, confidence: float = 0.95) -> Estimate:
    """The first sample's value, and the percentile interval of the others, [1 + n_boot].

    Resamples where the statistic is not defined (NaN) are left out; without any other the interval is NaN.
    """
    resampled = samples[1:][np.isfinite(samples[1:])]
    tail = (1 - confidence) / 2
    low, high = np.quantile(resampled, [tail, 1 - tail]) if len(resampled) else (np.nan, np.nan)
    return Estimate(float(samples[0]), float(low), float(high))


def jsonable(found: Any) -> Any:
    """Mappings, lists and dataclasses as JSON has them; a number that is not defined becomes None."""
    if is_dataclass(found):
        return jsonable(vars(found))
    match found:
        case Mapping():
            return {key: jsonable(value) for key, value in found.items()}
        case list():
            return [jsonable(value) for value in found]
        case float():
            return found if isfinite(found) else None
    return found


def enough(sources: ArrayLike) -> bool:
    """Whether rows with these source images have at least `SMALLEST_GROUP` different ones."""
    return len(np.unique(sources)) >= SMALLEST_GROUP


def draw(groups: ArrayLike | None, rows: int, n_boot: int, seed: int) -> Array:
    """Weights [1 + n_boot, rows]: the sample itself, then `n_boot` resamples.

    Each resample draws as many groups as there are, with replacement, and takes all of their rows (the cluster
    bootstrap).

    Args:
        groups: one label a row, as the source image; None makes each row a group of its own.

    Raises:
        ValueError: not one label a row.
    """
    labels = np.arange(rows) if groups is None else np.asarray(groups)
    if labels.shape != (rows,):
        raise ValueError(f"groups must be one label for each of {rows} rows, not {[*labels.shape]}")
    distinct, group_of_row = np.unique(labels, return_inverse=True)
    shares = np.full(len(distinct), 1 / len(distinct))
    drawn = np.random.default_rng(seed).multinomial(len(distinct), shares, size=n_boot)
    return np.vstack([np.ones(rows), drawn[:, group_of_row]])


def draw_counted(sources: ArrayLike | None, counted: NDArray[np.bool_], n_boot: int, seed: int) -> Array:
    """The columns of `draw` for the `counted` rows; without resamples if their source images are not `enough`."""
    labels = np.arange(len(counted)) if sources is None else np.asarray(sources)
    return draw(labels, len(counted), n_boot if enough(labels[counted]) else 0, seed)[:, counted]


def mean(x: Array, w: Array) -> Array:
    """The mean, NaN for a sample without rows. x may differ between samples: [samples, rows]."""
    with np.errstate(invalid="ignore"):
        means: Array = np.sum(w * x, axis=-1) / np.sum(w, axis=-1)
    return means


def std(x: Array, w: Array) -> Array:
    """The standard deviation (divided by n), exactly 0 for a constant, NaN without rows."""
    return np.sqrt(mean(_centred(x, w) ** 2, w))


def pearson(x: Array, y: Array, w: Array) -> Array:
    """Pearson's r, 0 where x or y is constant. x and y may differ between samples."""
    dx, dy = _centred(x, w), _centred(y, w)
    norm = np.sqrt(np.sum(w * dx**2, axis=-1)) * np.sqrt(np.sum(w * dy**2, axis=-1))
    return _ratio(np.sum(w * dx * dy, axis=-1), norm)


def spearman(x: Array, y: Array, w: Array) -> Array:
    """Spearman's rho, 0 where x or y is constant: Pearson's r of the ranks."""
    return pearson(_ranks(x, w), _ranks(y, w), w)


def kendall(x: Array, y: Array, w: Array) -> Array:
    """Kendall's tau-b, 0 where x or y is constant. Takes arrays of [rows, rows]."""
    concord = np.sign(np.subtract.outer(x, x)) * np.sign(np.subtract.outer(y, y))
    norm = np.sqrt(_untied_pairs(x, w)) * np.sqrt(_untied_pairs(y, w))
    return _ratio(np.sum(w @ concord * w, axis=-1), norm)


def _untied_pairs(x: Array, w: Array) -> Array:
    """The number of pairs of rows whose x differ, each pair in both orders, [samples]."""
    drawn, _ = _levels(x, w)
    pairs: Array = np.sum(drawn, axis=-1) ** 2 - np.sum(drawn**2, axis=-1)
    return pairs


def _ranks(x: Array, w: Array) -> Array:
    """Ranks within each sample, [samples, rows], ties sharing their mean; all are 1/2 lower than usual."""
    drawn, level_of_row = _levels(x, w)
    ranks: Array = (np.cumsum(drawn, axis=-1) - drawn / 2)[:, level_of_row]
    return ranks


def _levels(x: Array, w: Array) -> tuple[Array, NDArray[np.intp]]:
    """How often each distinct x, in order, was drawn, [samples, levels], and each row's level."""
    _, level_of_row, rows_of_level = np.unique(x, return_inverse=True, return_counts=True)
    by_level = w[:, np.argsort(level_of_row, kind="stable")]
    drawn = np.add.reduceat(by_level, np.cumsum(rows_of_level) - rows_of_level, axis=-1)
    return drawn, level_of_row


def _centred(x: Array, w: Array) -> Array:
    """x minus its mean, [samples, rows].

    Exactly 0 in samples without rows, and where all x are the same up to rounding (12 digits).
    """
    values = np.broadcast_to(x, w.shape)
    lowest = values.min(axis=-1, where=w > 0, initial=np.inf)
    highest = values.max(axis=-1, where=w > 0, initial=-np.inf)
    varies = highest - lowest > 1e-12 * np.maximum(np.abs(lowest), np.abs(highest))
    return np.where(varies[:, None], values - mean(x, w)[:, None], 0.0)


def _ratio(numerator: Array, denominator: Array) -> Array:
    """The quotient within -1..1, 0 where it is not defined."""
    zero = np.zeros_like(denominator)
    return np.clip(np.divide(numerator, denominator, out=zero, where=denominator > 0), -1, 1)
