"""Does a 3.5 mean a 3.5? And does a critic know when it is unsure?

    calibration(pred, mos, sources)["slope"]               # Estimate(value=0.8, ...): scores too far apart
    spread_quality(spread, pred, mos, sources)["srcc"]     # does a wide spread foretell a large error?

Only edits with a score take part: a failed answer has nothing to calibrate.
"""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from critic.answers import HIGHEST, LOWEST
from critic.evaluation import bootstrap
from critic.evaluation.intervals import draw, enough, estimate

BIN = 0.5
"""Width of a bin of scores, in points."""


def calibration(
    pred: ArrayLike, mos: ArrayLike, sources: ArrayLike | None, *, n_boot: int = 1000, seed: int = 0
) -> dict[str, Any]:
    """How scores translate into mean opinion scores; without intervals where sources are not `enough`.

    Args:
        pred, mos: scores 1..5 (NaN where the answer failed) and mean opinion scores, [n] each.
        sources: the source image of each edit, [n]; None: each is its own.

    Returns:
        bias: mean of score less MOS, in points; above 0 the critic is too kind.
        slope, intercept: of the least-squares line from scores to MOS; 1 and 0 are perfect, a slope below 1
            means that the scores lie too far apart. NaN where all scores are the same.
        ece: expected calibration error in points (Guo et al. 2017, with means for frequencies): the mean over
            edits of the distance between mean score and mean MOS of their bin. Noise makes it positive for
            a perfect critic, and in resamples more so.
        bins: a row each that has edits: low, high (ends of the bin, the upper one outside but for 5), n,
            score (mean), mos (mean, an `Estimate`).
    """
    pred, mos = np.asarray(pred, dtype=np.float64), np.asarray(mos, dtype=np.float64)
    scored = np.isfinite(pred)
    x, y, w = pred[scored], mos[scored], draw(sources, scored, n_boot, seed)
    source_of = (np.arange(len(mos)) if sources is None else np.asarray(sources))[scored]
    with np.errstate(divide="ignore", invalid="ignore"):
        slope = bootstrap.pearson(x, y, w) * bootstrap.spread(y, w) / bootstrap.spread(x, w)
    last = round((HIGHEST - LOWEST) / BIN) - 1
    bin_of = np.minimum(np.floor((x - LOWEST) / BIN), last).astype(int)
    gaps = np.zeros(len(w))
    bins = []
    for number in np.unique(bin_of):
        inside = bin_of == number
        gaps += np.abs(w[:, inside] @ (x - y)[inside])
        low = LOWEST + BIN * float(number)
        n, score = int(inside.sum()), float(x[inside].mean())
        drawn = w if enough(source_of[inside]) else w[:1]
        mean_mos = estimate(bootstrap.mean(y[inside], drawn[:, inside]))
        bins.append({"low": low, "high": low + BIN, "n": n, "score": score, "mos": mean_mos})
    with np.errstate(invalid="ignore"):
        ece = gaps / w.sum(axis=1)
    return {
        "bias": estimate(bootstrap.mean(x - y, w)),
        "slope": estimate(slope),
        "intercept": estimate(bootstrap.mean(y, w) - slope * bootstrap.mean(x, w)),
        "ece": estimate(ece),
        "bins": bins,
    }


def spread_quality(
    spread: ArrayLike,
    pred: ArrayLike,
    mos: ArrayLike,
    sources: ArrayLike | None,
    *,
    n_boot: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Whether the spread that a critic states (`Result.spread`) tells how wrong it may be.

    Args:
        spread: standard deviations in points of MOS, NaN where there is none, [n].
        pred, mos, sources: as in `calibration`.

    Returns:
        n: edits with a score and a spread.
        srcc: Spearman's rho between spread and absolute error, -1..1; 0 if the spread tells nothing.
        covered: share of the edits whose MOS lies within two spreads of the score, 0..1. Were errors normal and
            spreads right, it would be 0.954.
    """
    spread, pred, mos = (np.asarray(values, dtype=np.float64) for values in (spread, pred, mos))
    known = np.isfinite(spread) & np.isfinite(pred)
    w = draw(sources, known, n_boot, seed)
    error = np.abs(pred - mos)[known]
    within = (error <= 2 * spread[known]).astype(np.float64)
    return {
        "n": int(known.sum()),
        "srcc": estimate(bootstrap.spearman(spread[known], error, w)),
        "covered": estimate(bootstrap.mean(within, w)),
    }
