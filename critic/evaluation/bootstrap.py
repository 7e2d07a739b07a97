"""Statistics of a sample and of its bootstrap resamples, and their confidence intervals.

    draws = draw(sources, len(sources), n_boot=1000, seed=0)
    estimate(resampled(lambda w: pearson(scores, mos, w), draws))    # Estimate(value=0.71, low=0.68, high=0.74)

A sample is a row of weights: how many times each row of the data was drawn. So `w` is an array [samples, rows] of
whole numbers. A statistic has one value a sample, [samples]: that of the rows repeated that many times. Data `x`
and `y` are [rows].

Samples come in blocks of `BLOCK` weights, so that memory doesn't grow with their number.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from math import isfinite
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

BLOCK = 2**17
"""The most weights in a block: 1 MiB. With more rows than that, a block is one sample."""

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


def difference(samples: Array, confidence: float = 0.95) -> Difference:
    """The `estimate` of differences [1 + n_boot], with p: twice the share of the resamples on the smaller side of
    zero (zero included), with one added to both counts, at most 1; NaN without resamples.
    """
    n_boot = len(samples) - 1
    smaller_side = min(np.sum(samples[1:] <= 0), np.sum(samples[1:] >= 0))
    p = min(1.0, float(2 * (1 + smaller_side) / (1 + n_boot))) if n_boot else np.nan
    return Difference(**vars(estimate(samples, confidence)), p=p)


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


def draw(
    groups: ArrayLike | None, rows: int, n_boot: int, seed: int, counted: NDArray[np.bool_] | None = None
) -> Iterator[Array]:
    """Weights in blocks [samples, counted rows]: the sample itself, then `n_boot` resamples.

    Each resample draws as many groups as there are, with replacement, and takes all of their rows (the cluster
    bootstrap). The draws depend on the seed, the number of groups and the order of their labels.

    Args:
        groups: one label a row, as the source image; None makes each row a group of its own.
        counted: the rows to return, [rows]; the others are drawn all the same. None: all.

    Raises:
        ValueError: not one label a row.
    """
    labels = np.arange(rows) if groups is None else np.asarray(groups)
    if labels.shape != (rows,):
        raise ValueError(f"groups must be one label for each of {rows} rows, not {[*labels.shape]}")
    distinct, group_of_row = np.unique(labels, return_inverse=True)
    return _blocks(len(distinct), group_of_row if counted is None else group_of_row[counted], n_boot, seed)


def _blocks(groups: int, group_of_row: NDArray[np.intp], n_boot: int, seed: int) -> Iterator[Array]:
    yield np.ones((1, len(group_of_row)))
    rng, shares = np.random.default_rng(seed), np.full(groups, 1 / groups)
    samples = max(1, BLOCK // max(groups, len(group_of_row)))
    for done in range(0, n_boot, samples):
        drawn = rng.multinomial(groups, shares, size=min(samples, n_boot - done))
        yield np.take(drawn.astype(np.float64), group_of_row, axis=1)


def draw_counted(sources: ArrayLike | None, counted: NDArray[np.bool_], n_boot: int, seed: int) -> Iterator[Array]:
    """`draw` of the `counted` rows; without resamples if their source images are not `enough`."""
    labels = np.arange(len(counted)) if sources is None else np.asarray(sources)
    return draw(labels, len(counted), n_boot if enough(labels[counted]) else 0, seed, counted)


def resampled(statistic: Callable[[Array], ArrayLike | Sequence[Array]], draws: Iterator[Array]) -> Array:
    """The values of a statistic in all samples of `draw`, [..., 1 + n_boot].

    Args:
        statistic: takes weights [samples, rows] and returns [..., samples], such as several statistics.
    """
    return np.concatenate([np.asarray(statistic(w)) for w in draws], axis=-1)


def mean(x: Array, w: Array) -> Array:
    """The mean, NaN for a sample without rows."""
    return _means([x], w)[0]


def std(x: Array, w: Array) -> Array:
    """The standard deviation (divided by n), exactly 0 for a constant, NaN without rows."""
    variance, _, _ = _moments(x, x, w)
    return np.sqrt(variance)


def pearson(x: Array, y: Array, w: Array) -> Array:
    """Pearson's r, 0 where x or y is constant."""
    of_x, of_y, of_both = _moments(x, y, w)
    return ratio(of_both, np.sqrt(of_x) * np.sqrt(of_y))


def _moments(x: Array, y: Array, w: Array) -> Array:
    """The variances of x and of y and their covariance, [3, samples], from sums over the rows.

    Where such a variance would be mostly rounding, all three are computed from the deviations.
    """
    dx, dy = (_centred(values, np.ones((1, len(values))))[0] for values in (x, y))
    mean_x, mean_y, of_x, of_y, of_both = _means([dx, dy, dx * dx, dy * dy, dx * dy], w)
    moments = np.array([of_x - mean_x**2, of_y - mean_y**2, of_both - mean_x * mean_y])
    rounding = np.full(len(w), False)
    for values, deviations, squares, variance in ((x, dx, of_x, moments[0]), (y, dy, of_y, moments[1])):
        if deviations.any():  # not constant, which has moments of exactly 0
            rounding |= ~(variance > np.maximum(1e-4 * squares, 1e-20 * np.max(values**2)))
    if rounding.any():
        dx, dy = (_centred(values, w[rounding]) for values in (x, y))
        moments[:, rounding] = _means([dx * dx, dy * dy, dx * dy], w[rounding])
    return moments


def _centred(x: Array, w: Array) -> Array:
    """x minus its mean, [samples, rows].

    Exactly 0 in samples without rows, and where all x are the same up to rounding (12 digits).
    """
    values = np.broadcast_to(x, w.shape)
    lowest = values.min(axis=-1, where=w > 0, initial=np.inf)
    highest = values.max(axis=-1, where=w > 0, initial=-np.inf)
    varies = highest - lowest > 1e-12 * np.maximum(np.abs(lowest), np.abs(highest))
    return np.where(varies[:, None], values - mean(x, w)[:, None], 0.0)


def _means(columns: Sequence[Array], w: Array) -> Array:
    """The mean of each column, [columns, samples]. A column may differ between samples: [samples, rows]."""
    sums = [
        np.einsum("...r,...r->...", w, column) for column in columns
    ]  # the same bits with any number of threads
    with np.errstate(invalid="ignore"):
        means: Array = np.array(sums) / np.sum(w, axis=-1)
    return means


def ratio(numerator: Array, denominator: Array) -> Array:
    """The quotient within -1..1, 0 where it is not defined."""
    zero = np.zeros_like(denominator)
    return np.clip(np.divide(numerator, denominator, out=zero, where=denominator > 0), -1, 1)
