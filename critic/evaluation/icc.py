"""Retest reliability: whether a critic gives the same scores again."""

from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from critic.evaluation import bootstrap
from critic.evaluation.bootstrap import Array, draw_counted, estimate, resampled


def retest(
    runs: ArrayLike, sources: ArrayLike | None = None, *, n_boot: int = 1000, seed: int = 0
) -> dict[str, Any]:
    """Agreement between several scores of each edit by the same critic.

    Args:
        runs: [n, k] scores, NaN where an answer failed; a column is a run with another seed, or one of k samples.
            Edits that lack a score are left out.
        sources: the source image of each edit, [n]; None: each is its own.

    Returns:
        n, k: edits with all scores, and scores an edit.
        icc: the intraclass correlation ICC(2,1) of Shrout and Fleiss (1979, "Intraclass correlations: uses in
            assessing rater reliability"): absolute agreement of single scores, 1 if runs agree, about 0 if edits
            differ no more than runs do. NaN if all scores are the same.
        icc_mean: ICC(2,k), that of the mean of k scores.
        difference: mean absolute difference between two runs' scores of an edit, in points.

    Raises:
        ValueError: fewer than 2 runs, or fewer than 2 edits with all scores.
    """
    runs = np.asarray(runs, dtype=np.float64)
    if runs.ndim != 2 or runs.shape[1] < 2:
        raise ValueError(f"runs must be [edits, at least 2 runs], not {[*runs.shape]}")
    whole = np.isfinite(runs).all(axis=1)
    n, k = int(whole.sum()), runs.shape[1]
    if n < 2:
        raise ValueError(f"{n} edits have a score in all {k} runs: reliability needs 2")
    x = runs[whole] - runs[whole].mean()  # for the precision of the sums of squares
    apart = np.mean([np.abs(x[:, i] - x[:, j]) for i, j in combinations(range(k), 2)], axis=0)
    draws = draw_counted(sources, whole, n_boot, seed)
    icc, icc_mean, difference = resampled(lambda w: [*_icc(x, w), bootstrap.mean(apart, w)], draws)
    return {
        "n": n,
        "k": k,
        "icc": estimate(icc),
        "icc_mean": estimate(icc_mean),
        "difference": estimate(difference),
    }


def _icc(x: Array, w: Array) -> tuple[Array, Array]:
    """ICC(2,1) and ICC(2,k) of runs x, [n, k] about 0, [samples] each."""
    k = x.shape[1]
    rows = w.sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        of_run = w @ x / rows[:, None]
        overall = of_run.mean(axis=1)
        total = w @ (x**2).sum(axis=1) - rows * k * overall**2
        between_edits = k * (w @ x.mean(axis=1) ** 2 - rows * overall**2)
        between_runs = rows * ((of_run - overall[:, None]) ** 2).sum(axis=1)
        edits, judges = between_edits / (rows - 1), between_runs / (k - 1)
        rest = (total - between_edits - between_runs) / ((rows - 1) * (k - 1))
        icc = (edits - rest) / (edits + (k - 1) * rest + k * (judges - rest) / rows)
        icc_mean = (edits - rest) / (edits + (judges - rest) / rows)
    return icc, icc_mean
