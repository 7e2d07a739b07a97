"""Calibration: whether scores equal the MOS on average, and whether a stated spread predicts the error.

    calibration(pred, mos, sources)["slope"]               # Estimate(value=0.8, ...): scores vary too much
    spread_quality(spread, pred, mos, sources)["srcc"]     # whether a wide spread means a large error

Failed answers are left out.
"""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from critic.answers import HIGHEST, LOWEST
from critic.evaluation import bootstrap
from critic.evaluation.bootstrap import Array, draw_counted, enough, estimate, resampled
from critic.evaluation.rank_correlations import Ranks

BIN = 0.5
"""Width of a bin of scores, in points."""


def calibration(
    pred: ArrayLike, mos: ArrayLike, sources: ArrayLike | None, *, n_boot: int = 1000, seed: int = 0
) -> dict[str, Any]:
    """How scores translate into mean opinion scores; without intervals if the source images are not `enough`.

    Args:
        pred: scores 1..5, NaN where the answer failed.
        sources: the source image of each edit, [n]; None: each is its own.

    Returns:
        bias: mean of score minus MOS, in points; above 0 the scores are too high.
        slope, intercept: of the least-squares line from scores to MOS; 1 and 0 are perfect, a slope below 1
            means that the scores vary too much. NaN if all scores are the same.
        ece: expected calibration error in points (Guo et al. 2017, with means in place of frequencies): the mean
            over edits of the distance between mean score and mean MOS of their bin. Noise makes it positive for a
            perfect critic, and larger in resamples.
        bins: a row for each bin with edits: low, high (ends of the bin, the upper one outside except 5), n, score
            (mean), mos (mean, an `Estimate`).
    """
    pred, mos = np.asarray(pred, dtype=np.float64), np.asarray(mos, dtype=np.float64)
    scored = np.isfinite(pred)
    x, y = pred[scored], mos[scored]
    source_of = (np.arange(len(mos)) if sources is None else np.asarray(sources))[scored]
    last = round((HIGHEST - LOWEST) / BIN) - 1
    bin_of = np.minimum(np.floor((x - LOWEST) / BIN), last).astype(int)
    insides = [bin_of == number for number in np.unique(bin_of)]

    def figures(w: Array) -> list[Array]:
        bias, mean_x, mean_y = (bootstrap.mean(values, w) for values in (x - y, x, y))
        gaps = sum((np.abs(w[:, inside] @ (x - y)[inside]) for inside in insides), np.zeros(len(w)))
        with np.errstate(divide="ignore", invalid="ignore"):
            slope = bootstrap.pearson(x, y, w) * bootstrap.std(y, w) / bootstrap.std(x, w)
            ece = gaps / w.sum(axis=1)
        of_bins = [bootstrap.mean(y[inside], w[:, inside]) for inside in insides]
        return [bias, slope, mean_y - slope * mean_x, ece, *of_bins]

    bias, slope, intercept, ece, *of_bins = resampled(figures, draw_counted(sources, scored, n_boot, seed))
    bins = []
    for inside, mean_mos in zip(insides, of_bins, strict=True):
        low = LOWEST + BIN * float(bin_of[inside][0])
        n, score = int(inside.sum()), float(x[inside].mean())
        known = estimate(mean_mos if enough(source_of[inside]) else mean_mos[:1])
        bins.append({"low": low, "high": low + BIN, "n": n, "score": score, "mos": known})
    return {
        "bias": estimate(bias),
        "slope": estimate(slope),
        "intercept": estimate(intercept),
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
    """Whether the spread that a critic states (`critic.results.Result.spread`) predicts its error.

    `spread` are standard deviations in points of MOS, NaN if there is none; the rest is as in `calibration`.

    Returns:
        n: edits with a score and a spread.
        srcc: Spearman's rho between spread and absolute error, -1..1; 0 if the spread predicts nothing.
        covered: share of the edits whose MOS lies within two spreads of the score, 0..1. It is 0.954 for normal
            errors and right spreads.
    """
    spread, pred, mos = (np.asarray(values, dtype=np.float64) for values in (spread, pred, mos))
    known = np.isfinite(spread) & np.isfinite(pred)
    stated, error = spread[known], np.abs(pred - mos)[known]
    within, ranks = (error <= 2 * stated).astype(np.float64), Ranks(stated, error)
    draws = draw_counted(sources, known, n_boot, seed)
    srcc, covered = resampled(lambda w: [ranks.spearman(w), bootstrap.mean(within, w)], draws)
    return {"n": len(error), "srcc": estimate(srcc), "covered": estimate(covered)}
