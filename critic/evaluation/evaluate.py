"""How well critics agree with people: for `critic eval` one critic in detail, for the report several side by side.

    found = evaluate(scores, truth, failure_policy="worst")
    found["metrics"]["main_score"]                   # Estimate(value=0.73, low=0.69, high=0.78)

All figures of the same edits come from the same resamples of source images, so they can be compared. Figures of
fewer than `critic.evaluation.bootstrap.SMALLEST_GROUP` source images have no interval. A failed answer counts by
the failure policy where every edit needs a score, and is left out of calibration and reliability.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from critic.edits import GENERATED_AXES
from critic.evaluation import bootstrap
from critic.evaluation.agreement import apply_failure_policy, correlations, noise_ceiling, paired_bootstrap
from critic.evaluation.bootstrap import Array, Difference, Estimate, draw_counted, enough, estimate, resampled
from critic.evaluation.calibration import calibration, spread_quality
from critic.evaluation.icc import retest
from critic.evaluation.ie_critic_r1 import upstream
from critic.evaluation.metrics import FAILURE_POLICIES, METRICS, ON_ANY_SCALE, FailurePolicy
from critic.evaluation.ranking import pairwise_accuracy
from critic.scoring.judges.image_metrics import BASELINES
from critic.tables import TableError

Scores = dict[str, Estimate]

GROUPS = ("edit_type", "editor", "source_kind")
"""Columns of a table of opinions that edits are grouped by, where it has them."""

BANDS = ((1, 2), (2, 3), (3, 4), (4, 5))
"""Bands of MOS; the upper end belongs to the next band, except 5."""


@dataclass(frozen=True)
class Evaluation:
    """The figures of the report. Models are in the order of the predictions.

    Attributes:
        models: every metric of `critic.evaluation.metrics.METRICS` by model, failed answers counted by
            `failure_policy`; coverage is the share of answers that have a score.
        policies: the main score by model and failure policy.
        baselines: the metrics that need no common scale, by classic metric.
        ceiling: plcc, srcc and main_score of "panel" and "rater"; empty without ratings.
        difference, error_difference: main score and mae of the last model minus those of the one before it; None
            for one model.
        groups: main score within groups of `enough` source images, a row each: by, group, n (edits), model, value,
            low, high.
        failure_policy, n_boot, seed: how failed answers count, except in `policies`, and every bootstrap.
    """

    models: dict[str, Scores]
    policies: dict[str, dict[FailurePolicy, Estimate]]
    baselines: dict[str, Scores]
    ceiling: dict[str, Scores]
    difference: Difference | None
    error_difference: Difference | None
    groups: pd.DataFrame
    failure_policy: FailurePolicy
    n_boot: int
    seed: int


def evaluate(
    scores: pd.DataFrame,
    truth: pd.DataFrame,
    *,
    failure_policy: FailurePolicy = "worst",
    train_mean: float | None = None,
    again: Sequence[pd.DataFrame] = (),
    min_gap: float = 0.0,
    in_points: bool = True,
    n_boot: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Every figure of one critic, as nested mappings and lists of numbers and `Estimate`s.

    Args:
        scores: as `critic.evaluation.score_tables.read_predictions` returns them, in the order of `truth`.
        truth: as `critic.evaluation.score_tables.read_truth` returns it.
        failure_policy: see `critic.evaluation.agreement.apply_failure_policy`.
        train_mean: mean MOS of the edits that the critic was trained on, 1..5; None: unknown.
        again: scores of the same edits by the same critic with other seeds, in the order of `truth`.
        min_gap: see `critic.evaluation.ranking.pairwise_accuracy`.
        in_points: whether the MOS are on the scale of the scores. If not, as those of AGIQA-3k, figures in points
            are left out: metrics that are `in_points`, mae and bias of groups, bands ([]), calibration and spread
            (None). A failed answer counts by the scale of the scores all the same.

    Returns:
        edits, sources: how many; sources is None without a column source_id.
        scored: answers with a score; failed: the number of each other status.
        metrics: every metric of `critic.evaluation.metrics.METRICS`; coverage is the share of answers with a
            score.
        policies: main_score by failure policy; "train_mean" only with a train mean.
        ceiling: of `critic.evaluation.agreement.noise_ceiling`, empty without ratings.
        pairs: n, sources, min_gap and accuracy; None without source_id. A pair with a failed answer is wrong, or
            is left out with the policy "dropped".
        groups, bands: a row each: by, group or low, high; n; and if their source images are `enough`, mae, bias
            and, of groups, main_score, plcc, srcc. In a narrow band of MOS a correlation is low for any critic.
        calibration, spread: of `critic.evaluation.calibration`; spread is None if no answer states one.
        reliability: of `critic.evaluation.icc`, over `again` ("of": "seeds"), else over the samples of each answer
            ("of": "samples"); None without either. "stopped" says why there is no figure, else "".
        upstream: of `critic.evaluation.ie_critic_r1`; only "stopped" if a score is not that of one response (modes
            "average" and "expected", other judges).
        policy (the failure policy), train_mean, in_points, n_boot, seed: the arguments.

    Raises:
        ValueError: failure policy "train_mean" without a train mean.
    """
    study = Study(truth, failure_policy, train_mean, n_boot, seed)
    boot = {"n_boot": n_boot, "seed": seed}
    pred, mos, sources = scores["score"].to_numpy(float), study.mos, study.sources
    failed = scores["status"][scores["score"].isna()].value_counts().sort_index()
    errors = ("mae",) if in_points else ()
    groups = [
        {"by": by, "group": group, "n": len(at)} | study.figures(pred, at, ("main_score", "plcc", "srcc", *errors))
        for by, group, at in study.groups()
    ]
    bands = []
    for low, high in BANDS if in_points else ():
        at = np.flatnonzero((mos >= low) & ((mos < high) | (high == BANDS[-1][1])))
        bands.append({"low": low, "high": high, "n": len(at)} | study.figures(pred, at, errors))
    has_spread = in_points and scores["spread"].notna().any()
    return {
        "edits": len(truth),
        "sources": len(np.unique(sources)) if "source_id" in truth else None,
        "scored": int(np.isfinite(pred).sum()),
        "failed": {str(status): int(n) for status, n in failed.items()},
        "metrics": study.measure(pred, tuple(METRICS) if in_points else ON_ANY_SCALE),
        "policies": study.policies(pred),
        "ceiling": study.ceiling(),
        "pairs": study.pairs(pred, min_gap) if "source_id" in truth else None,
        "groups": groups,
        "bands": bands,
        "calibration": calibration(pred, mos, sources, **boot) if in_points else None,
        "spread": spread_quality(scores["spread"], pred, mos, sources, **boot) if has_spread else None,
        "reliability": _reliability(scores, again, sources, **boot),
        "upstream": _upstream(scores, pred, mos),
        "policy": failure_policy,
        "train_mean": train_mean,
        "in_points": in_points,
        "n_boot": n_boot,
        "seed": seed,
    }


def compute_metrics(
    predictions: dict[str, pd.DataFrame],
    baselines: pd.DataFrame,
    edits: pd.DataFrame,
    *,
    train_mean: float,
    failure_policy: FailurePolicy = "train_mean",
    n_boot: int = 1000,
    seed: int = 0,
) -> Evaluation:
    """Measure models, classic metrics and raters on the same edits, with the same resamples.

    Args:
        predictions: by model, in the order of training: id, score (null where the answer failed).
        baselines: from `critic.scoring.judges.image_metrics.baseline_scores`.
        edits: the validated table that was scored: id, source_id, mos, and optionally `GROUPS` and ratings (the
            same number of raters in each row).
        train_mean: mean MOS of the training split, 1..5, for the failure policy of that name.
        failure_policy: how failed answers count. The train mean is the default: it treats a failed answer as one
            without information, where dropping it flatters the critic and the worst score turns a model that never
            answers into one that is always wrong.

    Raises:
        ValueError: no model; a table whose ids are not exactly those of `edits`.
    """
    if not predictions:
        raise ValueError("predictions has no model to evaluate")
    study = Study(edits, failure_policy, train_mean, n_boot, seed)
    answers = {name: _scores(table, edits, name) for name, table in predictions.items()}
    last_two = [*answers.values()][-2:]
    rows = [
        {"by": by, "group": group, "n": len(at), "model": model, **vars(found["main_score"])}
        for by, group, at in study.groups()
        for model, pred in answers.items()
        if (found := study.figures(pred, at, ("main_score",)))
    ]
    classic = match(baselines, edits, "baselines", "the edits")
    standardised = {name: _standardised(classic, name) for name in BASELINES if name in classic}
    return Evaluation(
        models={name: study.measure(pred) for name, pred in answers.items()},
        policies={name: study.policies(pred) for name, pred in answers.items()},
        baselines={n: study.measure(x, ON_ANY_SCALE, failure_policy="dropped") for n, x in standardised.items()},
        ceiling=study.ceiling(),
        difference=study.difference(last_two[1], last_two[0]) if len(last_two) == 2 else None,
        error_difference=study.difference(last_two[1], last_two[0], "mae") if len(last_two) == 2 else None,
        groups=pd.DataFrame(rows, columns=["by", "group", "n", "model", "value", "low", "high"]),
        failure_policy=failure_policy,
        n_boot=n_boot,
        seed=seed,
    )


def measure_generated(
    predictions: dict[str, pd.DataFrame],
    generated: pd.DataFrame,
    *,
    train_mean: float,
    failure_policy: FailurePolicy = "train_mean",
    n_boot: int = 1000,
    seed: int = 0,
) -> dict[str, dict[str, Scores]]:
    """How well the one score of each critic agrees with each mean opinion score of generated pictures.

    Pictures of one prompt are resampled together, as edits of one source image are. A failed answer counts by the
    edits' scale. The arguments are as in `compute_metrics`, `generated` being the validated table that was scored.

    Returns:
        By model and axis (`critic.edits.GENERATED_AXES`) the metrics that need no common scale.

    Raises:
        ValueError: a table whose ids are not exactly those of `generated`.
    """
    by_prompt = generated.assign(source_id=generated["prompt"])
    studies = {
        axis: Study(by_prompt.assign(mos=by_prompt[column]), failure_policy, train_mean, n_boot, seed)
        for axis, column in GENERATED_AXES.items()
    }
    answers = {name: _scores(table, generated, name) for name, table in predictions.items()}
    return {
        name: {axis: study.measure(pred, ON_ANY_SCALE) for axis, study in studies.items()}
        for name, pred in answers.items()
    }


def match(table: pd.DataFrame, truth: pd.DataFrame, name: str, truth_name: str) -> pd.DataFrame:
    """`table` in the order of `truth`, by id; a `TableError` if an id is in one alone, or in `table` twice."""
    ids = table["id"]
    missing, unknown = truth["id"][~truth["id"].isin(ids)], ids[~ids.isin(truth["id"])]
    if len(missing):
        raise TableError(
            f"{name} lacks {len(missing)} of the {len(truth)} ids of {truth_name}, first {missing.iloc[0]!r}: add "
            "their scores (a failure is a row without a score), or remove the ids from the table"
        )
    if len(unknown):
        raise TableError(
            f"{name} has {len(unknown)} ids that {truth_name} lacks, first {unknown.iloc[0]!r}: give "
            "the table of these edits, or remove the rows"
        )
    if len(again := ids[ids.duplicated()]):
        raise TableError(f"{name} has the id {again.iloc[0]!r} twice: remove one of the rows")
    return table.set_index("id").loc[list(truth["id"])].reset_index()


@dataclass(frozen=True)
class Study:
    """Opinions, and how critics are measured against them; `pred` has their order, NaN for failed answers."""

    truth: pd.DataFrame
    failure_policy: FailurePolicy
    train_mean: float | None
    n_boot: int
    seed: int

    @cached_property
    def mos(self) -> Array:
        return self.truth["mos"].to_numpy(float)

    @cached_property
    def sources(self) -> NDArray[Any]:
        return self.truth["source_id"].to_numpy() if "source_id" in self.truth else np.arange(len(self.truth))

    def boot(self, sources: NDArray[Any]) -> dict[str, int]:
        return {"n_boot": self.n_boot if enough(sources) else 0, "seed": self.seed}

    def counted(self, pred: Array) -> Array:
        return apply_failure_policy(pred, self.mos, self.failure_policy, self.train_mean)

    def measure(
        self,
        pred: Array,
        metrics: Sequence[str] = tuple(METRICS),
        at: NDArray[np.intp] | slice = slice(None),
        failure_policy: FailurePolicy | None = None,
    ) -> Scores:
        return correlations(
            pred[at],
            self.mos[at],
            self.sources[at],
            metrics=metrics,
            failure_policy=failure_policy or self.failure_policy,
            train_mean=self.train_mean,
            **self.boot(self.sources[at]),
        )

    def policies(self, pred: Array) -> dict[FailurePolicy, Estimate]:
        """The main score by failure policy."""
        return {
            policy: self.measure(pred, ("main_score",), failure_policy=policy)["main_score"]
            for policy in FAILURE_POLICIES
            if policy != "train_mean" or self.train_mean is not None
        }

    def ceiling(self) -> dict[str, Scores]:
        if "ratings" not in self.truth or not (rated := self.truth["ratings"].notna().to_numpy()).any():
            return {}
        sources = self.sources[rated]
        return noise_ceiling(np.stack(list(self.truth["ratings"][rated])), sources, **self.boot(sources))

    def difference(self, new: Array, old: Array, metric: str = "main_score") -> Difference:
        pair = self.counted(new), self.counted(old)
        boot = self.boot(self.sources[np.isfinite(pair).all(axis=0)])
        return paired_bootstrap(*pair, self.mos, self.sources, metric=metric, **boot)

    def pairs(self, pred: Array, min_gap: float) -> dict[str, Any]:
        left_out = np.isnan(pred) & (self.failure_policy == "dropped")
        mos, boot = np.where(left_out, np.nan, self.mos), {"n_boot": self.n_boot, "seed": self.seed}
        return {"min_gap": min_gap} | vars(pairwise_accuracy(pred, mos, self.sources, min_gap=min_gap, **boot))

    def groups(self) -> Iterator[tuple[str, Any, NDArray[np.intp]]]:
        """Each column of `GROUPS`, group in it, and the positions of its edits."""
        for by in GROUPS:
            for group, at in sorted(self.truth.groupby(by).indices.items()) if by in self.truth else ():
                yield by, group, np.asarray(at)

    def figures(self, pred: Array, at: NDArray[np.intp], metrics: Sequence[str]) -> Scores:
        """Metrics of some edits, with mae and bias (score minus MOS); none if source images aren't `enough`."""
        counted = self.counted(pred)[at]
        known, sources = np.isfinite(counted), self.sources[at]
        if not enough(sources[known]):
            return {}
        found = self.measure(pred, metrics, at)
        if "mae" in metrics:
            errors, draws = (counted - self.mos[at])[known], draw_counted(sources, known, self.n_boot, self.seed)
            found["bias"] = estimate(resampled(lambda w: bootstrap.mean(errors, w), draws))
        return found


def _scores(table: pd.DataFrame, truth: pd.DataFrame, name: str) -> Array:
    return match(table, truth, name, "the edits")["score"].to_numpy(float, na_value=np.nan)


def _standardised(baselines: pd.DataFrame, name: str) -> Array:
    """Standard scores of a classic metric, with the sign changed if lower is better.

    No correlation depends on the scale; a common one suits the start of the logistic fit.
    """
    values = baselines[name].to_numpy(float) * (1 if BASELINES[name].scale.higher_is_better else -1)
    return (values - values.mean()) / (values.std() or 1)


def _upstream(scores: pd.DataFrame, pred: Array, mos: Array) -> dict[str, Any]:
    if other := ", ".join(sorted({*scores["mode"]} - {"greedy", "direct"})):
        return {"stopped": f"its script reads one answer an edit, and these scores have the mode {other}"}
    kept = scores["raw"].notna()
    has_responses = kept.any() and (kept | scores["score"].isna()).all()  # a failure may have none
    return upstream([*scores["raw"].fillna("")] if has_responses else None, pred, mos)


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
    of = {"of": "seeds" if again else "samples"}
    try:
        return of | retest(runs, sources, n_boot=n_boot, seed=seed) | {"stopped": ""}
    except ValueError as error:
        return of | {"stopped": str(error)}
