"""Choose edits by a critic's scores: the best of each request, or those above a threshold of known precision.

    pick(scores, requests).rows                                          # the best row of each request
    find_threshold(scores, mos, sources, least_mos=4, precision=0.9).score

A failed answer (NaN) is never chosen.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from critic.answers import SAME_SCORE
from critic.evaluation.bootstrap import Estimate, draw_counted, estimate, resampled

THRESHOLDS = np.round(np.arange(1, 5.05, 0.1), 1)
"""The thresholds that are tried, in points."""
_SPARE = 2


class SelectionError(ValueError):
    """Nothing can be chosen as asked; the message says why and what to do."""


@dataclass(frozen=True)
class Picked:
    """The row of the best edit of each request that has a scored one, in their order.

    `tied` counts requests of which several edits have the best score (the first one is picked), `unscored` those
    without a scored edit.
    """

    rows: NDArray[np.intp]
    tied: int
    unscored: int


def pick(scores: ArrayLike, requests: Sequence[Hashable]) -> Picked:
    """The best of each request, by scores (NaN where the critic failed) and the request of each edit, [n] each."""
    numbers: dict[Hashable, int] = {}
    of_edits = [numbers.setdefault(request, len(numbers)) for request in requests]
    table = pd.DataFrame({"score": np.asarray(scores, dtype=float), "request": of_edits})
    scored = table.dropna()
    below = scored.groupby("request")["score"].transform("max") - scored["score"]
    best = scored[below < SAME_SCORE]
    rows = best.drop_duplicates("request").index.to_numpy()
    tied = best["request"][best["request"].duplicated()].nunique()
    return Picked(rows, tied, len(numbers) - len(rows))


@dataclass(frozen=True)
class Threshold:
    """A threshold, and what it does on the rated edits that it was set on.

    Attributes:
        score: edits with at least this score are kept.
        n, good, kept: rated edits, those that are good, and those that are kept.
        precision: share of the kept edits that are good.
        at_least: the one-sided lower bound of the precision.
        recall: share of the good edits that are kept; of the edits without a score, none is.
    """

    score: float
    n: int
    good: int
    kept: int
    precision: Estimate
    at_least: float
    recall: Estimate


def find_threshold(
    scores: ArrayLike,
    mos: ArrayLike,
    sources: ArrayLike,
    *,
    least_mos: float,
    precision: float,
    confidence: float = 0.95,
    n_boot: int = 1000,
    seed: int = 0,
) -> Threshold:
    """The lowest threshold that keeps edits of which at least the share `precision` has a MOS of `least_mos`.

    With the probability `confidence` over the choice of the rated edits, the precision on all edits of that kind
    is at least `precision`. The bound of a threshold is that of Clopper and Pearson (1934), at the number of
    independent edits that are worth as much as these edits of shared source images (Korn and Graubard, "Confidence
    intervals for proportions with small expected number of positive counts", 1998). Thresholds are tried from the
    top down to the first whose bound is too low, so that the choice among them costs nothing (fixed sequence
    testing, Angelopoulos et al., "Learn then test", arXiv 2110.01052). The first is the highest with edits of so
    many source images that two could be bad: the scores alone choose it.

    Args:
        scores, mos, sources: of the rated edits, [n] each; scores are NaN where the critic failed.

    Raises:
        SelectionError: no threshold has the precision.
    """
    scores, mos = np.asarray(scores, dtype=float), np.asarray(mos, dtype=float)
    good, (_, source) = mos >= least_mos, np.unique(np.asarray(sources), return_inverse=True)
    error, needed = 1 - confidence, _SPARE + 1
    while stats.beta.ppf(error, needed - _SPARE, _SPARE + 1) < precision:
        needed += 1
    chosen, bound, tried = None, 0.0, ""
    for threshold in map(float, THRESHOLDS[::-1]):
        rows = scores >= threshold - SAME_SCORE
        if len(np.unique(source[rows])) < needed:
            continue
        if (found := lower_bound(good[rows], source[rows], error)) < precision:
            tried = f"; that of {threshold:g} is {good[rows].mean():.3f}, at least {found:.3f}"
            break
        chosen, bound = threshold, found
    if chosen is None:
        raise SelectionError(
            f"no threshold has a precision of {precision:g} for certain, on edits of at least {needed} source "
            f"images{tried}: rate more edits, or ask for a lower precision, confidence or MOS"
        )
    rows = scores >= chosen - SAME_SCORE

    def share(of: NDArray[np.bool_], among: NDArray[np.bool_]) -> Estimate:
        draws = draw_counted(source, np.full(len(scores), True), n_boot, seed)
        with np.errstate(invalid="ignore"):
            return estimate(resampled(lambda w: w @ (of & among) / (w @ among), draws))

    return Threshold(
        chosen,
        len(scores),
        int(good.sum()),
        int(rows.sum()),
        share(good, rows),
        bound,
        share(rows, good),
    )


def lower_bound(good: NDArray[np.bool_], source: NDArray[np.intp], error: float) -> float:
    """The lower bound of a share, too high with the probability `error`; see `find_threshold`.

    With p the share in n edits and u the sum of (y - p) over the edits of one of m source images, the variance of
    p is m / (m - 1) sum(u^2) / n^2, and the effective number is p (1 - p) / variance, at most n. Without a
    variance, where all edits are alike, it is m.
    """
    n, share = len(good), float(good.mean())
    sums = np.bincount(source, good - share)[np.unique(source)]
    m = len(sums)
    variance = m / max(m - 1, 1) * float(np.sum(sums**2)) / n**2
    effective = min(n, share * (1 - share) / variance) if variance > 1e-12 else m
    return float(stats.beta.ppf(error, share * effective, (1 - share) * effective + 1)) if share else 0.0
