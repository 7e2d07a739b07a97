"""Which of several critics is better, on the same edits?

found = compare({"sft": scores_a, "grpo": scores_b}, mos, sources)
found["pairs"][0]["differences"]["main_score"]    # Difference(value=-0.02, low=-0.05, high=0.01, p=0.2)
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from critic.evaluation import bootstrap
from critic.evaluation.appraisal import coverage
from critic.evaluation.bootstrap import Array
from critic.evaluation.correlation_tests import steiger, williams
from critic.evaluation.intervals import enough
from critic.evaluation.metrics import IN_POINTS, Policy, apply_policy, correlations, paired_bootstrap


def compare(
    critics: Mapping[str, ArrayLike],
    mos: ArrayLike,
    sources: ArrayLike | None = None,
    *,
    metrics: Sequence[str] = ("main_score",),
    policy: Policy = "worst",
    train_mean: float | None = None,
    in_points: bool = True,
    n_boot: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Every two of the critics, on the same resamples of source images.

    Args:
        critics: scores by name, NaN where the critic failed, [n] each.
        mos: mean opinion scores, [n].
        sources: the source image of each edit, [n]; None: each is its own.
        metrics: names that `critic.evaluation.metrics.measure` returns, but coverage.
        policy, train_mean: what a failed answer counts as. "dropped" compares the edits that both have scored.
        in_points: whether the MOS are on the scale of the scores, see `critic.evaluation.appraisal.appraise`.

    Returns:
        critics: by name coverage and the metrics, an `Estimate` each, over all edits. Neither these nor the
            differences have an interval, nor the latter a p, where source images are not `enough`.
        pairs: a row for every two, a and b: n, the edits compared; differences, by metric the `Difference` of a
            minus b; williams and steiger, of their PLCC (`critic.evaluation.correlation_tests`), positive where a's is higher;
            closer, the shares of edits where a's score is closer to the MOS (a), b's is (b) and both are as close
            (ties), None unless `in_points`.
        policy, train_mean, in_points, n_boot, seed: as given.

    Raises:
        ValueError: fewer than two critics; a metric in points without `in_points`; as
            `critic.evaluation.metrics.paired_bootstrap` and `critic.evaluation.correlation_tests.williams`.
    """
    if len(critics) < 2:
        raise ValueError("a comparison needs two critics")
    if apart := [metric for metric in metrics if metric in IN_POINTS and not in_points]:
        raise ValueError(f"{apart[0]} is in points, and these MOS are on another scale than the scores")
    mos = np.asarray(mos, dtype=np.float64)
    answers = {name: np.asarray(pred, dtype=np.float64) for name, pred in critics.items()}
    counted = {name: apply_policy(pred, mos, policy, train_mean) for name, pred in answers.items()}
    labels = np.arange(len(mos)) if sources is None else np.asarray(sources)
    boot = {"n_boot": n_boot if enough(labels) else 0, "seed": seed}
    rows = {}
    for name in critics:
        measured = correlations(counted[name], mos, sources, **boot)
        covered = {"coverage": coverage(answers[name], sources, **boot)}
        rows[name] = covered | {metric: measured[metric] for metric in metrics}
    pairs = []
    for a, b in combinations(critics, 2):
        told = enough(labels[np.isfinite(counted[a]) & np.isfinite(counted[b])])
        differences = {}
        for metric in metrics:
            found = paired_bootstrap(
                counted[a], counted[b], mos, sources, metric=metric, n_boot=n_boot if told else 0, seed=seed
            )
            differences[metric] = found if told else replace(found, p=np.nan)
        pairs.append({"a": a, "b": b, "differences": differences} | _tests(counted[a], counted[b], mos, in_points))
    return {
        "critics": rows,
        "pairs": pairs,
        "policy": policy,
        "train_mean": train_mean,
        "in_points": in_points,
        "n_boot": n_boot,
        "seed": seed,
    }


def _tests(a: Array, b: Array, mos: Array, in_points: bool) -> dict[str, Any]:
    both = np.isfinite(a) & np.isfinite(b)
    a, b, mos = a[both], b[both], mos[both]
    once = np.ones((1, len(mos)))
    of_a, of_b, between = (float(bootstrap.pearson(x, y, once)[0]) for x, y in ((a, mos), (b, mos), (a, b)))
    gain = np.round(np.abs(b - mos) - np.abs(a - mos), 9)  # 3.6 and 3.4 are as far from 3.5
    return {
        "n": len(mos),
        "williams": williams(of_a, of_b, between, len(mos)),
        "steiger": steiger(of_a, of_b, between, len(mos)),
        "closer": {
            "a": float(np.mean(gain > 0)),
            "b": float(np.mean(gain < 0)),
            "ties": float(np.mean(gain == 0)),
        }
        if in_points
        else None,
    }
