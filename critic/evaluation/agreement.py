"""How well scores agree with mean opinion scores, with confidence intervals.

    measure(pred, mos)                            every metric, as plain numbers
    correlations(pred, mos, groups)               every metric, with a confidence interval
    paired_bootstrap(new, old, mos, groups)       the difference of two critics on the same rows
    noise_ceiling(ratings, groups)                how well people predict one another
    apply_failure_policy(pred, mos, "worst")      scores with failed answers filled in

A score that is not finite is a failed answer. It lowers `coverage`; the failure policy says what else it does.
The sample and its bootstrap resamples go through the same code, `critic.evaluation.bootstrap`.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from critic.evaluation import bootstrap
from critic.evaluation.bootstrap import Array, Difference, Estimate, draw, estimate, pearson, resampled
from critic.evaluation.logistic_fit import aligned
from critic.evaluation.metrics import METRICS, FailurePolicy, Rows, Sample, main_score
from critic.evaluation.rank_correlations import Buffers, Ranks


def measure(
    pred: ArrayLike, mos: ArrayLike, failure_policy: FailurePolicy = "dropped", train_mean: float | None = None
) -> dict[str, float]:
    """Every metric of `METRICS`; see the methods of `critic.evaluation.metrics.Sample`.

    Args:
        pred, mos: scores and mean opinion scores, [n] each.
        failure_policy, train_mean: as in `apply_failure_policy`. Coverage doesn't depend on them.

    Raises:
        ValueError: no rows, lengths that differ, a MOS that is not finite, or as `apply_failure_policy`.
    """
    found = correlations(pred, mos, failure_policy=failure_policy, train_mean=train_mean, n_boot=0)
    return {name: estimate.value for name, estimate in found.items()}


def correlations(
    pred: ArrayLike,
    mos: ArrayLike,
    groups: ArrayLike | None = None,
    *,
    metrics: Sequence[str] = tuple(METRICS),
    failure_policy: FailurePolicy = "dropped",
    train_mean: float | None = None,
    n_boot: int = 1000,
    seed: int = 0,
) -> dict[str, Estimate]:
    """Metrics with confidence intervals.

    The logistic curve is fitted once, on the full sample, and kept for the resamples: the interval of a fitted
    metric leaves out the uncertainty of the curve.

    Args:
        pred, mos, failure_policy, train_mean: as in `measure`.
        groups: the source image of each row, [n]. Edits of one image are alike, so the bootstrap draws source
            images and takes all of their rows. None: each row is its own group.
        metrics: names in `METRICS`.
        n_boot: number of resamples; without any the interval is NaN.

    Raises:
        ValueError: as `measure`.
    """
    counted = apply_failure_policy(pred, mos, failure_policy, train_mean)
    pred, mos = aligned(pred, mos)
    rows = Rows(counted, mos, np.isfinite(pred))

    def figures(w: Array) -> list[Array]:
        sample = Sample(rows, w)
        return [getattr(sample, name) for name in metrics]

    samples = resampled(figures, draw(groups, len(mos), n_boot, seed))
    return {name: estimate(values) for name, values in zip(metrics, samples, strict=True)}


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

    Only rows that both have scored are compared: apply a failure policy first to count failed answers. p is that
    of `critic.evaluation.bootstrap.difference`.

    Args:
        metric: a name in `METRICS`.
        groups, n_boot, seed: as in `correlations`.
        confidence: of the percentile interval, 0..1.

    Raises:
        ValueError: as `measure`; no row has both scores; no metric has that name.
    """
    if metric not in METRICS:
        raise ValueError(f"unknown metric {metric!r}: choose one of {', '.join(METRICS)}")
    a, targets = aligned(pred_a, mos)
    b, _ = aligned(pred_b, mos)
    both = np.isfinite(a) & np.isfinite(b)
    if not both.any():
        raise ValueError("no row has a score of both critics: apply a failure policy first")
    buffers = Buffers()
    rows_a, rows_b = (Rows(pred[both], targets[both], buffers=buffers) for pred in (a, b))

    def difference(w: Array) -> Array:
        return getattr(Sample(rows_a, w), metric) - getattr(Sample(rows_b, w), metric)

    return bootstrap.difference(resampled(difference, draw(groups, len(both), n_boot, seed, both)), confidence)


def noise_ceiling(
    ratings: ArrayLike,
    groups: ArrayLike | None = None,
    *,
    n_splits: int = 20,
    n_boot: int = 1000,
    seed: int = 0,
) -> dict[str, dict[str, Estimate]]:
    """How well people predict one another: plcc, srcc and main_score, by "panel" and by "rater".

    panel: the mean of a random half of the raters against the mean of the others, over `n_splits`
        splits, corrected to the size of the full panel by Spearman-Brown, 2r / (1 + |r|): how well another panel
        like this one would predict the MOS. A critic that knew the true quality, without the noise of a panel,
        could reach the square root of that.
    rater: one rater against the mean of the others, over all raters.

    Args:
        ratings: [n, raters], all finite, at least two raters. A column may hold several people's ratings.
        groups, n_boot, seed: as in `correlations`.

    Raises:
        ValueError: ratings have another shape, or one is missing.
    """
    ratings = np.asarray(ratings, dtype=np.float64)
    if ratings.ndim != 2 or len(ratings) == 0 or ratings.shape[1] < 2:
        raise ValueError(f"ratings must be [rows, at least 2 raters], not {[*ratings.shape]}")
    if len(incomplete := np.flatnonzero(~np.isfinite(ratings).all(axis=1))):
        raise ValueError(f"row {incomplete[0]} lacks a rating: leave rows with missing ratings out")
    rows, raters = ratings.shape
    rng = np.random.default_rng(seed)
    halves = [np.array_split(rng.permutation(raters), 2) for _ in range(n_splits)]
    singles = [np.split(np.roll(np.arange(raters), shift), [1]) for shift in range(raters)]
    buffers = Buffers()
    half_sides, single_sides = (
        [_sides(ratings, split, buffers) for split in splits] for splits in (halves, singles)
    )

    def figures(w: Array) -> Array:
        half, single = _agreement(half_sides, w), _agreement(single_sides, w)
        return np.array([np.mean(r, axis=0) for r in (2 * half / (1 + np.abs(half)), single)])

    ceilings = {}
    samples = resampled(figures, draw(groups, rows, n_boot, seed))
    for name, (plcc, srcc) in zip(("panel", "rater"), samples, strict=True):
        both = {"plcc": plcc, "srcc": srcc, "main_score": main_score(plcc, srcc)}
        ceilings[name] = {metric: estimate(values) for metric, values in both.items()}
    return ceilings


Sides = tuple[Array, Array, Ranks]
"""The mean ratings of both sides of a split of the raters, [rows] each, and their order."""


def _sides(ratings: Array, split: list[NDArray[np.intp]], buffers: Buffers) -> Sides:
    one, other = (ratings[:, side].mean(axis=1) for side in split)
    return one, other, Ranks(one, other, buffers)


def _agreement(splits: list[Sides], w: Array) -> Array:
    """plcc and srcc between the sides, [splits, 2, samples]."""
    return np.array([[pearson(one, other, w), ranks.spearman(w)] for one, other, ranks in splits])


def apply_failure_policy(
    pred: ArrayLike, mos: ArrayLike, failure_policy: FailurePolicy, train_mean: float | None = None
) -> Array:
    """Scores [n] with those of failed answers (not finite) filled in.

    dropped: NaN, so that no metric except coverage counts them, as IE-Critic-R1 evaluates. This flatters a critic.
    worst: the end of the scale 1..5 that is farthest from the row's MOS (5 if the MOS is the midpoint).
    train_mean: `train_mean`, the best guess for an edit that was not seen.

    Raises:
        ValueError: another policy; "train_mean" without `train_mean`; as `measure`.
    """
    pred, mos = aligned(pred, mos)
    values: dict[str, Any] = {"dropped": np.nan, "worst": np.where(mos <= 3, 5.0, 1.0), "train_mean": train_mean}
    if failure_policy not in values:
        raise ValueError(f"unknown failure policy {failure_policy!r}: choose one of {', '.join(values)}")
    if values[failure_policy] is None:
        raise ValueError('failure policy "train_mean" needs train_mean, the mean MOS of the training split')
    return np.where(np.isfinite(pred), pred, values[failure_policy])
