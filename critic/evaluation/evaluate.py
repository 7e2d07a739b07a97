"""Every number of the report, from predictions: models, classic metrics and people side by side.

    evaluation = compute_metrics(predictions, baseline_scores(edits), edits, train_mean=3.1)
    evaluation.to_metrics()["grpo"]["main_score"]    # {"value": 0.71, "low": 0.68, "high": 0.74}

All are measured on the same edits with the same resamples of source images, so rows compare.
"""

from dataclasses import dataclass
from math import isfinite
from typing import get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from critic.edits import GENERATED_AXES
from critic.evaluation.metrics import (
    IN_POINTS,
    Difference,
    Estimate,
    Policy,
    apply_policy,
    correlations,
    noise_ceiling,
    paired_bootstrap,
)
from critic.scoring.judges.image_metrics import BASELINES

Array = NDArray[np.float64]
Scores = dict[str, Estimate]

GROUPINGS = ("edit_type", "editor")
SMALLEST_GROUP = 10
"""Groups of fewer edits are left out: a correlation over so few says nothing."""


@dataclass(frozen=True)
class Evaluation:
    """What `compute_metrics` found. Models are in the order that they were given in.

    Attributes:
        models: every metric of `critic.evaluation.metrics.measure` by model, failures counted as `policy`
            says; coverage is the share of answers that parsed, whatever the policy.
        policies: the main score by model and failure policy.
        baselines: the same metrics by classic metric, without those in points of MOS.
        ceiling: plcc, srcc and main_score of "panel" and "rater"; empty without ratings.
        difference: main score of the last model minus that of the one before it; None if alone.
        groups: main score within groups of edits, a row each: by, group, n, model,
            value, low, high.
        policy: how failures were counted, except in `policies`.
        n_boot, seed: of every bootstrap.
    """

    models: dict[str, Scores]
    policies: dict[str, dict[Policy, Estimate]]
    baselines: dict[str, Scores]
    ceiling: dict[str, Scores]
    difference: Difference | None
    groups: pd.DataFrame
    policy: Policy
    n_boot: int
    seed: int

    def to_metrics(self) -> dict[str, dict[str, dict[str, float | None]]]:
        """`models` as `reports/metrics.json` holds them; a number that is not defined is None."""
        return {model: plain(scores) for model, scores in self.models.items()}


def plain(scores: Scores) -> dict[str, dict[str, float | None]]:
    """Scores as JSON holds them; a number that is not defined is None."""
    return {
        metric: {
            end: value if isfinite(value := getattr(estimate, end)) else None for end in ("value", "low", "high")
        }
        for metric, estimate in scores.items()
    }


def compute_metrics(
    predictions: dict[str, pd.DataFrame],
    baselines: pd.DataFrame,
    edits: pd.DataFrame,
    *,
    train_mean: float,
    policy: Policy = "train_mean",
    n_boot: int = 1000,
    seed: int = 0,
) -> Evaluation:
    """Measure models, classic metrics and raters on the same edits, with the same resamples.

    Args:
        predictions: by model, in the order of training: id, score (null where the answer failed).
        baselines: from `critic.scoring.judges.image_metrics.baseline_scores`.
        edits: the validated table that was scored: id, source_id, mos, and optionally edit_type,
            editor and ratings (the same number of raters in each row).
        train_mean: mean MOS of the training split, 1..5, for the failure policy of that name.
        policy: how failures count. The train mean says that a failed answer tells nothing; it is
            the default because dropping flatters, and the worst case turns a model that answers
            nothing into one that is always wrong.

    Raises:
        ValueError: no model; a table that does not hold exactly the ids of `edits`.
    """
    if not predictions:
        raise ValueError("predictions has no model to evaluate")
    mos, sources = edits["mos"].to_numpy(float), edits["source_id"].to_numpy()
    answers = {
        name: aligned(table, edits, name)["score"].to_numpy(float, na_value=np.nan)
        for name, table in predictions.items()
    }
    counted = {name: apply_policy(p, mos, policy, train_mean) for name, p in answers.items()}

    def scores(pred: Array) -> Scores:
        return correlations(pred, mos, sources, n_boot=n_boot, seed=seed)

    parsed = {name: scores(pred)["coverage"] for name, pred in answers.items()}
    last_two = list(counted.values())[-2:]
    return Evaluation(
        models={name: scores(pred) | {"coverage": parsed[name]} for name, pred in counted.items()},
        policies={
            name: {way: scores(apply_policy(pred, mos, way, train_mean))["main_score"] for way in get_args(Policy)}
            for name, pred in answers.items()
        },
        baselines={
            name: {metric: estimate for metric, estimate in scores(pred).items() if metric not in IN_POINTS}
            for name, pred in _as_critics(aligned(baselines, edits, "baselines")).items()
        },
        ceiling=_ceiling(edits, n_boot=n_boot, seed=seed),
        difference=(
            paired_bootstrap(last_two[1], last_two[0], mos, sources, n_boot=n_boot, seed=seed)
            if len(last_two) == 2
            else None
        ),
        groups=_by_group(counted, edits, n_boot=n_boot, seed=seed),
        policy=policy,
        n_boot=n_boot,
        seed=seed,
    )


def measure_generated(
    predictions: dict[str, pd.DataFrame],
    generated: pd.DataFrame,
    *,
    train_mean: float,
    policy: Policy = "train_mean",
    n_boot: int = 1000,
    seed: int = 0,
) -> dict[str, dict[str, Scores]]:
    """How well the one score of each critic agrees with each mean opinion score of generated pictures.

    Args:
        predictions: by model: id, score (null where the answer failed).
        generated: the validated table that was scored (`critic.edits`). Pictures of one prompt are resampled
            together, as edits of one source image are.
        train_mean, policy, n_boot, seed: as `compute_metrics`; a failed answer counts by the edits' scale.

    Returns:
        By model and axis (`critic.edits.GENERATED_AXES`) the metrics of `critic.evaluation.metrics.measure`, without those in
        points of MOS, since the scales are not the same; coverage as in `Evaluation`.

    Raises:
        ValueError: a table that does not hold exactly the ids of `generated`.
    """
    measured: dict[str, dict[str, Scores]] = {}
    for model, table in predictions.items():
        pred = aligned(table, generated, model)["score"].to_numpy(float, na_value=np.nan)
        measured[model] = {}
        for axis, column in GENERATED_AXES.items():
            mos, prompts = generated[column].to_numpy(float), generated["prompt"].to_numpy()
            counted = correlations(
                apply_policy(pred, mos, policy, train_mean), mos, prompts, n_boot=n_boot, seed=seed
            )
            parsed = correlations(pred, mos, prompts, n_boot=n_boot, seed=seed)["coverage"]
            kept = {metric: e for metric, e in counted.items() if metric not in IN_POINTS}
            measured[model][axis] = kept | {"coverage": parsed}
    return measured


def aligned(table: pd.DataFrame, edits: pd.DataFrame, name: str) -> pd.DataFrame:
    """`table` in the order of `edits`, matched by id.

    Raises:
        ValueError: an id of one that the other lacks, or that `table` has twice.
    """
    ids = pd.Index(table["id"])
    odd = [*ids[ids.duplicated()], *ids.symmetric_difference(pd.Index(edits["id"]))]
    if odd:
        raise ValueError(
            f"{name} and the edits differ at id {odd[0]!r} ({len(odd)} in all): "
            "score exactly the edits of the table, each once"
        )
    return table.set_index("id").loc[list(edits["id"])].reset_index()


def _as_critics(baselines: pd.DataFrame) -> dict[str, Array]:
    """Standard scores of the classic metrics, turned so that higher means better.

    No correlation depends on the scale; a common one gives the logistic fit its start.
    """
    critics = {}
    for name, baseline in BASELINES.items():
        values = baselines[name].to_numpy(float) * (1 if baseline.higher_is_better else -1)
        critics[name] = (values - values.mean()) / (values.std() or 1)
    return critics


def _ceiling(edits: pd.DataFrame, *, n_boot: int, seed: int) -> dict[str, Scores]:
    rated = edits[edits["ratings"].notna()] if "ratings" in edits else edits[:0]
    if rated.empty:
        return {}
    ratings = np.stack(list(rated["ratings"]))
    return noise_ceiling(ratings, rated["source_id"].to_numpy(), n_boot=n_boot, seed=seed)


def _by_group(counted: dict[str, Array], edits: pd.DataFrame, *, n_boot: int, seed: int) -> pd.DataFrame:
    rows = [
        {"by": by, "group": group, "n": len(at), "model": model, **vars(estimate)}
        for by in GROUPINGS
        if by in edits
        for group, at in sorted(edits.groupby(by).indices.items())
        if len(at) >= SMALLEST_GROUP
        for model, pred in counted.items()
        for estimate in [
            correlations(
                pred[at],
                edits["mos"].to_numpy(float)[at],
                edits["source_id"].to_numpy()[at],
                n_boot=n_boot,
                seed=seed,
            )["main_score"]
        ]
    ]
    return pd.DataFrame(rows, columns=["by", "group", "n", "model", "value", "low", "high"])
