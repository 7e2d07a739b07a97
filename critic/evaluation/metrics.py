"""How well predicted scores agree with human opinion, and how sure one can be of it.

    measure(pred, mos)                         every metric, as plain numbers
    correlations(pred, mos, groups)            every metric, with a confidence interval
    paired_bootstrap(new, old, mos, groups)    is one critic better than another on the same rows?
    noise_ceiling(ratings, groups)             how well people predict one another
    apply_policy(pred, mos, "worst")           what failed predictions are taken for
    fit_logistic(pred, mos)                    the curve behind the fitted metrics

A prediction that is not finite is a failure: it lowers `coverage` and takes part in nothing else,
unless `apply_policy` gave it a value.

The sample and its bootstrap resamples go through the same code, `critic.evaluation.bootstrap`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args
from warnings import catch_warnings, simplefilter

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import OptimizeWarning, curve_fit
from scipy.special import expit

from critic.evaluation import bootstrap
from critic.evaluation.bootstrap import Array

Policy = Literal["dropped", "worst", "train_mean"]

IN_POINTS = ("rmse", "mae", "spread")
"""Metrics that say nothing where predictions and MOS are on different scales."""


@dataclass(frozen=True)
class Estimate:
    """A value on the full sample, and the ends of its percentile bootstrap confidence interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Difference(Estimate):
    """An `Estimate` of a difference, and the two-sided bootstrap p-value of there being none."""

    p: float


def measure(pred: ArrayLike, mos: ArrayLike) -> dict[str, float]:
    """Every metric of predictions against mean opinion scores, [n] each.

    Returns:
        plcc, srcc, krcc: Pearson's r, Spearman's rho, Kendall's tau-b, -1..1.
        plcc_fitted: Pearson's r after `fit_logistic`, 0..1. The curve may fall, so a critic that
            has it the wrong way round looks good here: read it beside plcc.
        main_score, main_score_fitted: the mean of srcc and plcc, and of srcc and plcc_fitted, as
            IE-Critic-R1 evaluates (arXiv 2511.18055).
        rmse, mae: root mean squared and mean absolute error, in points of MOS, without a fit.
        spread: standard deviation of the predictions, in their own unit; 0 flags a constant critic.
        coverage: share of the rows with a prediction, 0..1.

    A correlation is 0 where it is not defined, because the predictions (or the MOS) are all the
    same or there are none: such a critic tells no edit from another. rmse, mae and spread of no
    predictions at all are NaN.

    Raises:
        ValueError: no rows, lengths that differ, or a MOS that is not finite.
    """
    pred, mos = _aligned(pred, mos)
    metrics = _measure(pred, mos, np.ones((1, len(mos))))
    return {name: float(value) for name, (value,) in metrics.items()}


def correlations(
    pred: ArrayLike,
    mos: ArrayLike,
    groups: ArrayLike | None = None,
    *,
    n_boot: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> dict[str, Estimate]:
    """Every metric of `measure`, with a confidence interval.

    Args:
        pred, mos: predictions and mean opinion scores, [n] each.
        groups: the source image of each row, [n]. Edits of one image are alike, so the bootstrap
            draws source images and takes all of their rows. None: each row is its own group.
        n_boot: number of resamples; without any the interval is NaN.
        confidence: of the percentile interval, 0..1.

    The logistic curve is fitted once, on the full sample, and kept for the resamples: the interval
    of a fitted metric leaves out the uncertainty of the curve.
    """
    pred, mos = _aligned(pred, mos)
    samples = _measure(pred, mos, bootstrap.draw(groups, len(mos), n_boot, seed))
    return {name: _estimate(values, confidence) for name, values in samples.items()}


def paired_bootstrap(
    pred_a: ArrayLike,
    pred_b: ArrayLike,
    mos: ArrayLike,
    groups: ArrayLike | None = None,
    *,
    metric: str = "main_score",
    n_boot: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> Difference:
    """`metric` of critic a minus that of critic b, on the same resamples.

    Above zero, a is better (for rmse and mae, worse). Only rows that both have scored are compared:
    apply a failure policy first to have failures count. p is twice the share of the resamples that
    lie on the smaller side of zero (at it or beyond), one added to both counts, at most 1.

    Args:
        pred_a, pred_b, mos: predictions and mean opinion scores, [n] each.
        metric: a name that `measure` returns.
        groups, n_boot, seed, confidence: as in `correlations`.

    Raises:
        ValueError: as `measure`; no row that both have scored; no metric of that name.
    """
    a, targets = _aligned(pred_a, mos)
    b, _ = _aligned(pred_b, mos)
    both = np.isfinite(a) & np.isfinite(b)
    if not both.any():
        raise ValueError("no row has a prediction of both critics: apply a failure policy to them first")
    weights = bootstrap.draw(groups, len(both), n_boot, seed)[:, both]
    of_a, of_b = (_measure(pred[both], targets[both], weights) for pred in (a, b))
    if metric not in of_a:
        raise ValueError(f"unknown metric {metric!r}: choose one of {', '.join(of_a)}")
    differences = of_a[metric] - of_b[metric]
    resampled = differences[1:]
    smaller_side = min(np.sum(resampled <= 0), np.sum(resampled >= 0))
    p = min(1.0, float(2 * (1 + smaller_side) / (1 + n_boot)))
    estimate = _estimate(differences, confidence)
    return Difference(estimate.value, estimate.low, estimate.high, p)


def noise_ceiling(
    ratings: ArrayLike,
    groups: ArrayLike | None = None,
    *,
    n_splits: int = 20,
    n_boot: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> dict[str, dict[str, Estimate]]:
    """How well people predict one another: plcc, srcc and main_score, by "panel" and by "rater".

    panel: the mean of a random half of the raters against the mean of the others, over `n_splits`
        splits, taken to the size of the full panel by Spearman-Brown, 2r / (1 + |r|): how well
        another panel like this one would predict the MOS. A critic that knew the true quality, not
        a panel's noisy view of it, could reach the square root of that.
    rater: one rater against the mean of the others, over all raters.

    Args:
        ratings: [n, raters], all finite, at least two raters. A column need not be one person.
        groups, n_boot, seed, confidence: as in `correlations`.

    Raises:
        ValueError: ratings of another shape, or with one missing.
    """
    ratings = np.asarray(ratings, dtype=np.float64)
    if ratings.ndim != 2 or len(ratings) == 0 or ratings.shape[1] < 2:
        raise ValueError(f"ratings must be [rows, at least 2 raters], not {[*ratings.shape]}")
    incomplete = np.flatnonzero(~np.isfinite(ratings).all(axis=1))
    if len(incomplete):
        raise ValueError(f"row {incomplete[0]} lacks a rating: leave rows with missing ratings out")
    rows, raters = ratings.shape
    rng = np.random.default_rng(seed)
    halves = [np.array_split(rng.permutation(raters), 2) for _ in range(n_splits)]
    singles = [np.split(np.roll(np.arange(raters), shift), [1]) for shift in range(raters)]
    weights = bootstrap.draw(groups, rows, n_boot, seed)
    half = _agreement(ratings, halves, weights)
    agreement = {
        "panel": 2 * half / (1 + np.abs(half)),
        "rater": _agreement(ratings, singles, weights),
    }
    ceilings = {}
    for name, r in agreement.items():
        plcc, srcc = r.mean(axis=1)
        samples = {"plcc": plcc, "srcc": srcc, "main_score": (plcc + srcc) / 2}
        ceilings[name] = {metric: _estimate(values, confidence) for metric, values in samples.items()}
    return ceilings


def _agreement(ratings: Array, splits: list[list[NDArray[np.intp]]], weights: Array) -> Array:
    """plcc and srcc between the means of two sides, [2, splits, samples]."""
    sides = [[ratings[:, side].mean(axis=1) for side in split] for split in splits]
    return np.array(
        [
            [correlate(one, other, weights) for one, other in sides]
            for correlate in (bootstrap.pearson, bootstrap.spearman)
        ]
    )


def apply_policy(pred: ArrayLike, mos: ArrayLike, policy: Policy, train_mean: float | None = None) -> Array:
    """Predictions [n] with the failed ones (not finite) replaced as `policy` says.

    dropped: NaN, so that no metric but coverage counts them, as IE-Critic-R1 evaluates: flatters.
    worst: the end of the 1..5 scale farthest from the row's MOS (5 if the MOS is the midpoint).
    train_mean: `train_mean`, the best guess of one who has not seen the edit.

    Raises:
        ValueError: another policy; "train_mean" without one; as `measure`.
    """
    pred, mos = _aligned(pred, mos)
    match policy:
        case "dropped":
            stand_in: ArrayLike = np.nan
        case "worst":
            stand_in = np.where(mos <= 3, 5.0, 1.0)
        case "train_mean" if train_mean is not None:
            stand_in = train_mean
        case "train_mean":
            raise ValueError('policy "train_mean" needs train_mean, the mean MOS of the training split')
        case _:
            raise ValueError(f"unknown policy {policy!r}: choose one of {', '.join(get_args(Policy))}")
    return np.where(np.isfinite(pred), pred, stand_in)


def fit_logistic(pred: ArrayLike, mos: ArrayLike) -> Callable[[ArrayLike], Array]:
    """The curve from predictions to the MOS scale that takes up a critic's own use of the scale.

    Least squares of y = b2 + (b1 - b2) / (1 + exp(-(x - b3) / |b4|)), as IE-Critic-R1's evaluation
    and with its start, [max(mos), min(mos), mean(pred), 0.5]; a second start has the standard
    deviation of the predictions for 0.5, for scales that are nothing like 1..5. The least-squares
    straight line, a limit of that family, stands in if neither converges or both fit worse than it:
    then plcc_fitted is |plcc|. If the predictions are all the same, it is level at the mean MOS.

    Raises:
        ValueError: as `measure`; no prediction that is finite.
    """
    pred, mos = _aligned(pred, mos)
    x, y = pred[np.isfinite(pred)], mos[np.isfinite(pred)]
    if len(x) == 0:
        raise ValueError("no prediction to fit a curve to: apply a failure policy first")
    centred = x - x.mean()
    slope = centred @ y / (centred @ centred) if np.ptp(x) > 0 else 0.0

    def line(at: ArrayLike) -> Array:
        values: Array = y.mean() + slope * (np.asarray(at, dtype=np.float64) - x.mean())
        return values

    starts = [[y.max(), y.min(), x.mean(), width] for width in (0.5, x.std())]
    curves = [line, *filter(None, (_converge(x, y, start) for start in starts))]
    return min(curves, key=lambda curve: float(np.sum((curve(x) - y) ** 2)))


def _converge(x: Array, y: Array, start: list[float]) -> Callable[[ArrayLike], Array] | None:
    """The curve that Levenberg-Marquardt reaches from `start`, None if it does not converge."""
    if len(x) < len(start) or np.ptp(x) == 0:
        return None
    with catch_warnings():
        simplefilter("ignore", OptimizeWarning)  # the covariance, not used here, may be singular
        try:
            beta, _ = curve_fit(_logistic, x, y, p0=start, maxfev=5000)
        except RuntimeError:
            return None
    return lambda at: _logistic(np.asarray(at, dtype=np.float64), *beta)


def _logistic(x: Array, b1: float, b2: float, b3: float, b4: float) -> Array:
    values: Array = b2 + (b1 - b2) * expit((x - b3) / max(abs(b4), 1e-12))
    return values


def _aligned(pred: ArrayLike, mos: ArrayLike) -> tuple[Array, Array]:
    pred, mos = np.asarray(pred, dtype=np.float64), np.asarray(mos, dtype=np.float64)
    if pred.shape != mos.shape or pred.ndim != 1 or len(mos) == 0:
        shapes = f"{[*pred.shape]} and {[*mos.shape]}"
        raise ValueError(f"pred and mos must be of one length, at least 1, not {shapes}")
    broken = np.flatnonzero(~np.isfinite(mos))
    if len(broken):
        raise ValueError(f"row {broken[0]} has MOS {mos[broken[0]]}: leave rows without a MOS out")
    return pred, mos


def _measure(pred: Array, mos: Array, weights: Array) -> dict[str, Array]:
    """Every metric, [samples] each, from weights [samples, rows]."""
    scored = np.isfinite(pred)
    x, y, w = pred[scored], mos[scored], weights[:, scored]
    plcc, srcc = bootstrap.pearson(x, y, w), bootstrap.spearman(x, y, w)
    fitted = bootstrap.pearson(fit_logistic(x, y)(x), y, w) if scored.any() else plcc
    return {
        "plcc": plcc,
        "srcc": srcc,
        "krcc": bootstrap.kendall(x, y, w),
        "plcc_fitted": fitted,
        "main_score": (plcc + srcc) / 2,
        "main_score_fitted": (fitted + srcc) / 2,
        "rmse": np.sqrt(bootstrap.mean((x - y) ** 2, w)),
        "mae": bootstrap.mean(np.abs(x - y), w),
        "spread": bootstrap.spread(x, w),
        "coverage": bootstrap.mean(scored.astype(np.float64), weights),
    }


def _estimate(samples: Array, confidence: float) -> Estimate:
    """The first sample's value, and the interval of those of the others where it is defined."""
    resampled = samples[1:][np.isfinite(samples[1:])]
    tail = (1 - confidence) / 2
    low, high = np.quantile(resampled, [tail, 1 - tail]) if len(resampled) else (np.nan, np.nan)
    return Estimate(float(samples[0]), float(low), float(high))
