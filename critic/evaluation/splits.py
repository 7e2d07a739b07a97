"""One figure of several test splits: the mean over them, and how much they differ.

over_splits([{"grpo": {"srcc": {"value": 0.81}}}, {"grpo": {"srcc": {"value": 0.83}}}])
# {"grpo": {"srcc": Spread(mean=0.82, std=0.014, lowest=0.81, highest=0.83, splits=2)}}
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from critic.evaluation.metrics import METRICS


@dataclass(frozen=True)
class Spread:
    """A metric over test splits.

    Attributes:
        std: the sample standard deviation (n - 1), NaN for one split. Random splits of one data set share
            pictures, so it is no standard error of the mean.
        splits: how many.
    """

    mean: float
    std: float
    lowest: float
    highest: float
    splits: int


def over_splits(metrics: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Spread]]:
    """The spread of each metric of each model.

    Args:
        metrics: the content of reports/metrics.json after `evaluate`, one for each split.

    Raises:
        ValueError: there is no split; the splits have different models; or a split lacks the value of a metric.
    """
    if not metrics:
        raise ValueError("no split to average: give the reports/metrics.json of each split")
    models = [*metrics[0]]
    if other := [[*one] for one in metrics if [*one] != models]:
        raise ValueError(f"one split has the models {', '.join(models)}, another {', '.join(other[0])}")
    return {
        model: {
            name: _spread([one[model] for one in metrics], name) for name in METRICS if name in metrics[0][model]
        }
        for model in models
    }


def _spread(scores: Sequence[Mapping[str, Any]], name: str) -> Spread:
    found = [one[name]["value"] if name in one else None for one in scores]
    values: list[float] = [value for value in found if value is not None]
    if len(values) < len(found):
        raise ValueError(f"split {found.index(None) + 1} of {len(found)} has no {name}")
    std = stdev(values) if len(values) > 1 else float("nan")
    return Spread(fmean(values), std, min(values), max(values), len(values))
