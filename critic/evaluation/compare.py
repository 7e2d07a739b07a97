"""Which of several critics agrees better with people on the same edits.

found = compare({"sft": scores_a, "grpo": scores_b}, mos, sources)
found["pairs"][0]["differences"]["main_score"]    # Difference(value=-0.02, low=-0.05, high=0.01, p=0.2)
"""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from critic.evaluation import bootstrap
from critic.evaluation.bootstrap import Array
from critic.evaluation.correlation_tests import steiger, williams
from critic.evaluation.evaluate import Study
from critic.evaluation.metrics import METRICS, FailurePolicy


def compare(
    critics: Mapping[str, ArrayLike],
    mos: ArrayLike,
    sources: ArrayLike | None = None,
    *,
    metrics: Sequence[str] = ("main_score",),
    failure_policy: FailurePolicy = "worst",
    train_mean: float | None = None,
    in_points: bool = True,
    n_boot: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Compare every two critics, on the same resamples of source images.

    Args:
        critics: scores by name, NaN where the critic failed, [n] each.
        mos: mean opinion scores, [n].
        sources: the source image of each edit, [n]; None: each edit has its own.
        failure_policy, train_mean: what a failed answer counts as. "dropped" compares the edits that both have
            scored.
        in_points: whether the MOS are on the scale of the scores, see `critic.evaluation.evaluate.evaluate`.

    Returns:
        critics: by name coverage and the metrics, an `Estimate` each, over all edits. Without intervals, and
            without p in differences, if the source images are not `enough`.
        pairs: a row for every two, a and b: n, the edits compared; differences, by metric the `Difference` of a
            minus b; williams and steiger, of their PLCC (`critic.evaluation.correlation_tests`), positive if a's
            is higher; closer, the shares of edits where a's score is closer to the MOS (a), b's is (b) and both
            are as close (ties), None unless `in_points`.
        policy (the failure policy), train_mean, in_points, n_boot, seed: the arguments.

    Raises:
        ValueError: fewer than two critics; a metric in points without `in_points`; as
            `critic.evaluation.agreement.paired_bootstrap` and `critic.evaluation.correlation_tests.williams`.
    """
    if len(critics) < 2:
        raise ValueError("a comparison needs two critics")
    if unfit := [metric for metric in metrics if METRICS[metric].in_points and not in_points]:
        raise ValueError(f"{unfit[0]} is in points, and these MOS have another scale than the scores")
    labels = np.arange(len(np.asarray(mos))) if sources is None else np.asarray(sources)
    truth = pd.DataFrame({"mos": np.asarray(mos, dtype=np.float64), "source_id": labels})
    study = Study(truth, failure_policy, train_mean, n_boot, seed)
    scores = {name: np.asarray(pred, dtype=np.float64) for name, pred in critics.items()}
    pairs = []
    for a, b in combinations(scores, 2):
        differences = {metric: study.difference(scores[a], scores[b], metric) for metric in metrics}
        tests = _tests(study.counted(scores[a]), study.counted(scores[b]), study.mos, in_points)
        pairs.append({"a": a, "b": b, "differences": differences} | tests)
    return {
        "critics": {name: study.measure(pred, ("coverage", *metrics)) for name, pred in scores.items()},
        "pairs": pairs,
        "policy": failure_policy,
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
    closer = {"a": float(np.mean(gain > 0)), "b": float(np.mean(gain < 0)), "ties": float(np.mean(gain == 0))}
    return {
        "n": len(mos),
        "williams": williams(of_a, of_b, between, len(mos)),
        "steiger": steiger(of_a, of_b, between, len(mos)),
        "closer": closer if in_points else None,
    }
