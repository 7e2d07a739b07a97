"""Average the figures of `evaluate` over test splits, such as the ten of AGIQA-3k.

    dvc exp run --queue -n agiqa -S profile=agiqa -S 'profiles.agiqa.download.agiqa.split=range(0,10)'
    dvc exp run --run-all
    python benchmarks/splits.py agiqa-1 agiqa-2 ... agiqa-10

Takes the names of DVC experiments, or git revisions, and reads reports/metrics.json of each. Each row of the table
says which of its test splits leak. See docs/full-run.md.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

import dvc.api

from critic.evaluation.metrics import METRICS, SHOWN

METRICS_FILE = "reports/metrics.json"


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


def main() -> None:
    summary, _, rest = (__doc__ or "").partition("\n\n")
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=summary, epilog=rest, formatter_class=formatter)
    parser.add_argument("revisions", nargs="+", metavar="EXPERIMENT", help="of one split each")
    parser.add_argument("--metrics", nargs="+", choices=[*SHOWN], default=["main_score", "plcc", "srcc"])
    given = parser.parse_args()
    splits = {revision: json.loads(dvc.api.read(METRICS_FILE, rev=revision)) for revision in given.revisions}
    try:
        print("\n".join(table(splits, given.metrics)))
    except ValueError as error:
        parser.error(str(error))


def table(splits: Mapping[str, Mapping[str, Any]], metrics: Sequence[str]) -> list[str]:
    """Lines of Markdown: mean ± standard deviation over the splits, and in brackets the lowest and the highest.

    Args:
        splits: the content of reports/metrics.json by the name of the split. If one has a leak, the last column of
            each model says which of the splits leak, and what.

    Raises:
        ValueError: as `over_splits`.
    """
    found = over_splits([*splits.values()])
    notes = {
        model: [f"{name} {one[model]['split']['note']}" for name, one in splits.items() if "split" in one[model]]
        for model in found
    }
    columns = [f"{len(splits)} splits", *(SHOWN[name].heading for name in metrics)]
    columns += ["test splits"] * any(notes.values())
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for model, spreads in found.items():
        cells = [
            f"{one.mean:.3f} ± {one.std:.3f} ({one.lowest:.3f} to {one.highest:.3f})"
            for one in (spreads[name] for name in metrics)
        ]
        cells += [f"{len(notes[model])} of {len(splits)}: {'; '.join(notes[model])}"] * bool(notes[model])
        lines.append(f"| {' | '.join([model, *cells])} |")
    return lines


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


if __name__ == "__main__":
    main()
