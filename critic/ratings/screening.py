"""Screening: which raters count, by their agreement with the others.

    raters = screen(scores, params.load(params.Ratings))     # scores: [items, raters], NaN without a rating
    raters["status"], raters["reason"]

1. A rater whose correlation with the others is significantly below `min_correlation` doesn't count: ITU-T P.913
   (2021), annex A, asks for 0.75. "Significantly" refers to the upper bound of Fisher's z, so that few ratings
   exclude nobody; "the others" is the mean of the raters that still count. The worst rater is removed first and
   the rest is tested again, because that rater was part of the means. At the end, every rater is compared with
   those that remain.
2. Of the rest, a rater who is often far from the mean, on both sides, doesn't count: ITU-R BT.500-14, annex 1.

A rater with fewer than `min_ratings` items that others rated too can't be tested and doesn't count. Such ratings
are kept, and count as soon as there are enough.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import NormalDist
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from critic.params import Ratings

Array = npt.NDArray[np.float64]
Status = Literal["counted", "insufficient_data", "inverted", "low_agreement", "outlier"]

_MAX_OUTLIERS, _MAX_ASYMMETRY = 0.05, 0.3
"""BT.500's limits: outliers in more than 5 % of the ratings, and neither side with 65 % of them."""


@dataclass(frozen=True)
class Agreement:
    """A rater's agreement with the others, such as a correlation, over the shared items, and a bound of it."""

    value: float
    shared: int
    bound: float


def screen(scores: Array, rules: Ratings) -> pd.DataFrame:
    """The status of each rater.

    Args:
        scores: [items, raters], NaN without a rating.

    Returns:
        One row per rater: ratings (how many), status (a `Status`), reason (a sentence, "" for the counted),
        correlation (with the mean of the counted others, -1..1).
    """
    everybody = [*range(scores.shape[1])]
    agree = partial(_agree, scores, rules)
    found = compare(everybody, everybody, agree, rules.min_ratings, rules.min_correlation)
    rows = [_status(found[rater], rules) for rater in everybody]
    counted = [rater for rater, (status, _) in enumerate(rows) if status == "counted"]
    given = np.isfinite(scores).sum(axis=0)
    rated = np.isfinite(scores[:, counted]).any(axis=1)
    for rater, above, below in zip(counted, *count_outliers(scores[rated][:, counted]), strict=True):
        share = (above + below) / given[rater]
        if share > _MAX_OUTLIERS and abs(above - below) / (above + below) < _MAX_ASYMMETRY:
            times = f"far above the mean {above} times and far below {below} times, in {given[rater]} ratings"
            rows[rater] = ("outlier", f"{times} (BT.500)")
    statuses, reasons = zip(*rows, strict=True)
    correlations = [found[rater].value for rater in everybody]
    return pd.DataFrame({"ratings": given, "status": statuses, "reason": reasons, "correlation": correlations})


def compare(
    everybody: Sequence[int],
    panel: Sequence[int],
    agree: Callable[[int, list[int]], Agreement],
    min_shared: int,
    min_bound: float,
) -> dict[int, Agreement]:
    """Everybody's agreement with those of a panel that agree with each other.

    Who shares too few items with the others, or whose bound is too low, leaves the panel, the worst first.
    """
    kept = [*panel]
    while True:
        found = {rater: agree(rater, kept) for rater in kept}
        few = [rater for rater in kept if found[rater].shared < min_shared]
        low = [rater for rater in kept if found[rater].bound < min_bound]
        if few:
            kept.remove(min(few, key=lambda rater: found[rater].shared))
        elif low:
            kept.remove(min(low, key=lambda rater: found[rater].bound))
        else:
            return {rater: agree(rater, kept) for rater in everybody}


def count_outliers(scores: Array) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """How often each rater is far above and far below an item's mean: P and Q of BT.500-14, annex 1.

    Far is two standard deviations if the item's ratings are close to normal (kurtosis 2 to 4), else the root of 20
    standard deviations. `scores` is as in `screen`.
    """
    counts = np.isfinite(scores).sum(axis=1, keepdims=True)
    residuals = scores - np.nanmean(scores, axis=1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        deviation = np.sqrt(np.nansum(residuals**2, axis=1, keepdims=True) / (counts - 1))
        moments = [np.nansum(residuals**power, axis=1, keepdims=True) / counts for power in (2, 4)]
        kurtosis = moments[1] / moments[0] ** 2
    far = np.where((kurtosis >= 2) & (kurtosis <= 4), 2.0, np.sqrt(20)) * deviation
    above, below = ((side >= far) & (deviation > 0) for side in (residuals, -residuals))
    return above.sum(axis=0), below.sum(axis=0)


def alpha(scores: Array) -> float | None:
    """Krippendorff's alpha for interval data [items, raters], -1..1; NaN without a rating.

    One minus the observed divided by the expected disagreement: the mean squared difference of two ratings of one
    item, and of any two ratings (K. Krippendorff, *Computing Krippendorff's alpha-reliability*, 2011). None if no
    item has two ratings; 1 if all ratings are equal.
    """
    pairable = scores[np.isfinite(scores).sum(axis=1) >= 2]
    values = pairable[np.isfinite(pairable)]
    if not len(values):
        return None
    counts = np.isfinite(pairable).sum(axis=1)
    within = np.nanvar(pairable, axis=1) * 2 * counts**2 / (counts - 1)  # over each item's ordered pairs
    between = values.var() * 2 * len(values) ** 2 / (len(values) - 1)
    return 1.0 if between == 0 else float(1 - within.sum() / between)


def _status(found: Agreement, rules: Ratings) -> tuple[Status, str]:
    """A rater's status by the agreement with the panel, and the reason."""
    if found.shared < rules.min_ratings:
        reason = f"rated {found.shared} items that counted raters rated too; {rules.min_ratings} are needed"
        return "insufficient_data", reason
    if found.bound >= rules.min_correlation:
        return "counted", ""
    numbers = (
        f"correlation with the others {found.value:.2f} (upper bound {found.bound:.2f}) over {found.shared} "
        f"items; {rules.min_correlation:.2f} is needed"
    )
    if found.bound < 0:
        return "inverted", f"{numbers}: uses the scale inverted, or rates maliciously"
    return "low_agreement", f"{numbers}: rates carelessly or at random"


def _agree(scores: Array, rules: Ratings, rater: int, panel: list[int]) -> Agreement:
    """A rater's agreement with the rest of a panel; constant ratings have correlation 0."""
    others = scores[:, [other for other in panel if other != rater]]
    shared = np.isfinite(scores[:, rater]) & np.isfinite(others).any(axis=1)
    own, number = scores[shared, rater], int(shared.sum())
    means = np.array([np.nanmean(row) for row in others[shared]])
    if number <= 3:
        return Agreement(0.0, number, 1.0)
    varies = own.std() > 0 and means.std() > 0
    r = float(np.corrcoef(own, means)[0, 1].clip(-1 + 1e-9, 1 - 1e-9)) if varies else 0.0
    bound = np.tanh(np.arctanh(r) + NormalDist().inv_cdf(rules.confidence) / np.sqrt(number - 3))
    return Agreement(r, number, float(bound))
