"""Everything that `critic eval` says of one critic, from its scores and people's opinions of the same edits.

    found = appraise(scores, truth, policy="worst")
    found["metrics"]["main_score"]     # Estimate(value=0.73, low=0.69, high=0.78)
    plain(found)                       # as JSON holds it (`critic.evaluation.intervals`)

Intervals come from resamples of source images, the same for all figures of the same edits. What is of fewer than
`critic.evaluation.intervals.SMALLEST_GROUP` source images has none. A failed answer counts as `policy` says where every edit
needs a score, and is left out of what is said about scores as such (calibration, reliability).
"""

from collections.abc import Sequence
from typing import Any, get_args

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from critic.evaluation import bootstrap
from critic.evaluation.bootstrap import Array
from critic.evaluation.calibration import calibration, spread_quality
from critic.evaluation.icc import retest
from critic.evaluation.ie_critic_r1 import upstream
from critic.evaluation.intervals import draw, enough, estimate
from critic.evaluation.metrics import IN_POINTS, Estimate, Policy, apply_policy, correlations, noise_ceiling
from critic.evaluation.ranking import pairwise_accuracy
from critic.evaluation.score_tables import GROUPS

BANDS = ((1, 2), (2, 3), (3, 4), (4, 5))
"""Bands of MOS; the upper end belongs to the next, but for 5."""


def appraise(
    scores: pd.DataFrame,
    truth: pd.DataFrame,
    *,
    policy: Policy = "worst",
    train_mean: float | None = None,
    again: Sequence[pd.DataFrame] = (),
    min_gap: float = 0.0,
    in_points: bool = True,
    n_boot: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Every figure of a critic, as nested mappings and lists of numbers and `Estimate`s.

    Args:
        scores: id, score (NaN if failed), status, mode, raw, spread, samples, as
            `critic.evaluation.score_tables.read_predictions` gives them, in the order of `truth`.
        truth: id, mos and what `critic.evaluation.score_tables.read_truth` may give besides.
        policy: what a failed answer counts as, see `critic.evaluation.metrics.apply_policy`.
        train_mean: mean MOS of the edits that the critic was trained on, 1..5; None: unknown.
        again: scores of the same edits by the same critic with other seeds, in the order of `truth`.
        min_gap: of `critic.evaluation.ranking.pairwise_accuracy`.
        in_points: whether the MOS are on the scale of the scores. If not, as those of AGIQA-3k, what compares them
            in points is left out: `critic.evaluation.metrics.IN_POINTS`, mae and bias of groups, and bands, calibration and
            spread as a whole ([] and None). A failed answer counts by the scale of the scores all the same.

    Returns:
        edits, sources: numbers of them; sources is None where the table has no source_id.
        scored: answers with a score; failed: the number of each other status.
        metrics: all of `critic.evaluation.metrics.measure`, coverage being the share of answers that have a score.
        policies: main_score by failure policy; "train_mean" only with a train mean.
        ceiling: `critic.evaluation.metrics.noise_ceiling`, empty without ratings.
        pairs: n, sources, min_gap and accuracy; None without source_id. A pair with a failed answer is wrong, but
            with policy "dropped" it is none.
        groups: a row each: by, group, n, and where their source images are `enough` main_score, plcc, srcc, mae,
            bias.
        bands: a row each: low, high, n, and likewise mae, bias. No correlation, since within a narrow band of MOS
            it is low for any critic.
        calibration, spread: of `critic.evaluation.calibration`; spread is None where no answer has one.
        reliability: of `critic.evaluation.icc`, over `again` ("of": "seeds"), else over the samples of each answer
            ("of": "samples"); None where there are neither. "stopped" says why it can't be told, else "".
        upstream: of `critic.evaluation.ie_critic_r1`; only "stopped" where a score is not that of one response (modes "average"
            and "expected", and other judges).
        policy, train_mean, in_points, n_boot, seed: as given.

    Raises:
        ValueError: policy "train_mean" without a train mean.
    """
    pred, mos = scores["score"].to_numpy(float), truth["mos"].to_numpy(float)
    sources = truth["source_id"].to_numpy() if "source_id" in truth else np.arange(len(truth))
    counted = apply_policy(pred, mos, policy, train_mean)
    boot = {"n_boot": n_boot if enough(sources) else 0, "seed": seed}
    policies = [way for way in get_args(Policy) if way != "train_mean" or train_mean is not None]
    failed = scores["status"][scores["score"].isna()].value_counts().sort_index()
    metrics = correlations(counted, mos, sources, **boot) | {"coverage": coverage(pred, sources, **boot)}
    return {
        "edits": len(truth),
        "sources": len(np.unique(sources)) if "source_id" in truth else None,
        "scored": int(np.isfinite(pred).sum()),
        "failed": {str(status): int(n) for status, n in failed.items()},
        "metrics": {name: found for name, found in metrics.items() if in_points or name not in IN_POINTS},
        "policies": {
            way: correlations(apply_policy(pred, mos, way, train_mean), mos, sources, **boot)["main_score"]
            for way in policies
        },
        "ceiling": _ceiling(truth, sources, **boot),
        "pairs": _pairs(pred, mos, sources, policy, min_gap, **boot) if "source_id" in truth else None,
        "groups": _groups(counted, truth, sources, in_points, **boot),
        "bands": _bands(counted, mos, sources, **boot) if in_points else [],
        "calibration": calibration(pred, mos, sources, **boot) if in_points else None,
        "spread": spread_quality(scores["spread"], pred, mos, sources, **boot)
        if in_points and scores["spread"].notna().any()
        else None,
        "reliability": _reliability(scores, again, sources, **boot),
        "upstream": _upstream(scores, pred, mos),
        "policy": policy,
        "train_mean": train_mean,
        "in_points": in_points,
        "n_boot": n_boot,
        "seed": seed,
    }


def coverage(pred: Array, sources: ArrayLike | None, *, n_boot: int, seed: int) -> Estimate:
    """The share, 0..1, of answers that have a score, as `critic.evaluation.metrics.measure` has it."""
    drawn = draw(sources, np.full(len(pred), True), n_boot, seed)
    return estimate(bootstrap.mean(np.isfinite(pred).astype(np.float64), drawn))


def _ceiling(
    truth: pd.DataFrame, sources: NDArray[Any], *, n_boot: int, seed: int
) -> dict[str, dict[str, Estimate]]:
    rated = truth["ratings"].notna().to_numpy() if "ratings" in truth else np.zeros(len(truth), dtype=bool)
    if not rated.any():
        return {}
    ratings = np.stack(list(truth["ratings"][rated]))
    of_rated = sources[rated]
    return noise_ceiling(ratings, of_rated, n_boot=n_boot if enough(of_rated) else 0, seed=seed)


def _pairs(
    pred: Array, mos: Array, sources: NDArray[Any], policy: Policy, min_gap: float, *, n_boot: int, seed: int
) -> dict[str, Any]:
    left_out = np.isnan(pred) & (policy == "dropped")
    opinions = np.where(left_out, np.nan, mos)
    return {"min_gap": min_gap} | vars(
        pairwise_accuracy(pred, opinions, sources, min_gap=min_gap, n_boot=n_boot, seed=seed)
    )


def _upstream(scores: pd.DataFrame, pred: Array, mos: Array) -> dict[str, Any]:
    if other := sorted({*scores["mode"]} - {"greedy", "direct"}):
        return {"stopped": f"its script reads one answer an edit, and these scores are of mode {', '.join(other)}"}
    return upstream(_responses(scores), pred, mos)


def _responses(scores: pd.DataFrame) -> list[str] | None:
    """The responses, "" for a failure without one; None if those behind scores weren't kept."""
    kept = scores["raw"].notna()
    return [*scores["raw"].fillna("")] if kept.any() and (kept | scores["score"].isna()).all() else None


def _groups(
    counted: Array, truth: pd.DataFrame, sources: NDArray[Any], in_points: bool, *, n_boot: int, seed: int
) -> list[dict[str, Any]]:
    mos = truth["mos"].to_numpy(float)
    rows = []
    for by in GROUPS:
        for group, at in sorted(truth.groupby(by).indices.items()) if by in truth else []:
            row: dict[str, Any] = {"by": by, "group": group, "n": len(at)}
            if enough(sources[at[np.isfinite(counted[at])]]):
                found = correlations(counted[at], mos[at], sources[at], n_boot=n_boot, seed=seed)
                row |= {metric: found[metric] for metric in ("main_score", "plcc", "srcc")}
                if in_points:
                    row |= _errors(counted[at], mos[at], sources[at], n_boot=n_boot, seed=seed)
            rows.append(row)
    return rows


def _bands(counted: Array, mos: Array, sources: NDArray[Any], *, n_boot: int, seed: int) -> list[dict[str, Any]]:
    rows = []
    for low, high in BANDS:
        at = np.flatnonzero((mos >= low) & ((mos < high) | (high == BANDS[-1][1])))
        row: dict[str, Any] = {"low": low, "high": high, "n": len(at)}
        if enough(sources[at[np.isfinite(counted[at])]]):
            row |= _errors(counted[at], mos[at], sources[at], n_boot=n_boot, seed=seed)
        rows.append(row)
    return rows


def _errors(pred: Array, mos: Array, sources: NDArray[Any], *, n_boot: int, seed: int) -> dict[str, Estimate]:
    """Mean absolute error and bias (score less MOS) of those with a score, in points."""
    known = np.isfinite(pred)
    error, w = (pred - mos)[known], draw(sources, known, n_boot, seed)
    return {"mae": estimate(bootstrap.mean(np.abs(error), w)), "bias": estimate(bootstrap.mean(error, w))}


def _reliability(
    scores: pd.DataFrame, again: Sequence[pd.DataFrame], sources: NDArray[Any], *, n_boot: int, seed: int
) -> dict[str, Any] | None:
    if again:
        runs = np.column_stack([table["score"].to_numpy(float) for table in (scores, *again)])
    elif (k := scores["samples"].map(len).max()) >= 2:
        runs = np.full((len(scores), k), np.nan)
        for row, samples in enumerate(scores["samples"]):
            runs[row, : len(samples)] = samples  # None becomes NaN
    else:
        return None
    try:
        found = retest(runs, sources, n_boot=n_boot, seed=seed) | {"stopped": ""}
    except ValueError as error:
        found = {"stopped": str(error)}
    return {"of": "seeds" if again else "samples"} | found
