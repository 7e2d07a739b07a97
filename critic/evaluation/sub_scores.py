"""How well the sub-scores that critics state agree with people, where people rated the axes.

    found = measure_sub_scores(predictions, edits)
    found.models["grpo"]["alignment"]["srcc"]           # Estimate
    found.differences["alignment"]["srcc"]              # Difference: the last model minus the one before

A score can be right and its reasons wrong: a reward for the score alone leaves the sub-scores free to drift. Only
answers that state an axis are compared with its MOS; coverage is their share.
"""

from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from critic.answers import AXES
from critic.evaluation.agreement import correlations
from critic.evaluation.bootstrap import Array, Difference, Estimate, enough
from critic.evaluation.evaluate import Scores, Study, match

METRICS = ("srcc", "mae", "coverage")


@dataclass(frozen=True)
class SubScores:
    """The figures, empty if no axis was rated or no model states one.

    Attributes:
        models: `METRICS` by model and axis.
        differences: srcc and mae by axis, of the last model minus the one before it, if both state the axis.
        follows: by model, Pearson's r of its score and the linear combination of the axes that fits it best (least
            squares over all its answers, kept for the resamples): near 1, the score follows from the sub-scores.
    """

    models: dict[str, dict[str, Scores]] = field(default_factory=dict)
    differences: dict[str, dict[str, Difference]] = field(default_factory=dict)
    follows: dict[str, Estimate] = field(default_factory=dict)


def measure_sub_scores(
    predictions: dict[str, pd.DataFrame], edits: pd.DataFrame, *, n_boot: int = 1000, seed: int = 0
) -> SubScores:
    """Compare stated sub-scores with the MOS of their axes.

    Args:
        predictions: by model, in the order of training: id, score, and the stated alignment, fidelity and quality,
            1..5 or null, as `critic.scoring.scorer.predict` returns them.
        edits: the table that was scored: id, source_id, and the MOS of axes in `mos_alignment` and so on.
        n_boot, seed: of the bootstrap over source images.

    Raises:
        ValueError: a table whose ids are not exactly those of `edits`.
    """
    tables = {name: match(table, edits, name, "the edits") for name, table in predictions.items()}
    found = SubScores()
    for axis in AXES:
        if f"mos_{axis}" not in edits or not (rated := edits[f"mos_{axis}"].notna().to_numpy()).any():
            continue
        truth = edits[rated].assign(mos=edits[f"mos_{axis}"][rated])
        study = Study(truth, "dropped", None, n_boot, seed)
        stated = {name: _numbers(table, axis)[rated] for name, table in tables.items()}
        for name, scores in stated.items():
            if np.isfinite(scores).any():
                found.models.setdefault(name, {})[axis] = study.measure(scores, METRICS)
        *_, before, last = (np.full(len(truth), np.nan), *stated.values())
        if np.isfinite(np.stack([before, last])).all(axis=0).any():
            found.differences[axis] = {
                metric: study.difference(last, before, metric) for metric in ("srcc", "mae")
            }
    sources = Study(edits, "dropped", None, n_boot, seed).sources
    for name, axes in found.models.items():
        given = np.column_stack([np.ones(len(edits)), *(_numbers(tables[name], axis) for axis in axes)])
        score = _numbers(tables[name], "score")
        known = np.isfinite(given).all(axis=1) & np.isfinite(score)
        if known.any():
            combined = given[known] @ np.linalg.lstsq(given[known], score[known])[0]
            boot = n_boot if enough(sources[known]) else 0
            fit = correlations(combined, score[known], sources[known], metrics=("plcc",), n_boot=boot, seed=seed)
            found.follows[name] = fit["plcc"]
    return found


def _numbers(table: pd.DataFrame, column: str) -> Array:
    return table[column].to_numpy(float, na_value=np.nan)
