"""The luck of a training: what `make seeds` found with other seeds, for the report to quote.

    seeds = read_seeds(FILE)
    if seeds.are_of(seed=7, models=evaluation.models):
        seeds.over("grpo over sft", "main_score").median

A bootstrap over source images says how well a gain of two given critics is known, and nothing of the gain that
another training would bring. `benchmarks/seeds.py` trains with several seeds and writes the file.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isclose
from pathlib import Path
from statistics import median
from typing import Self

from pydantic import BaseModel, ConfigDict

from critic.evaluation.evaluate import Scores

FILE = Path("reports/seeds.json")
METRICS = ("main_score", "mae")
GAINS = {"grpo over sft": ("grpo", "sft"), "grpo over continued sft": ("grpo", "continued sft")}
"""The models that a gain compares: the new one, and the one before or beside it."""


class _Figures(BaseModel):
    """With NaN for what isn't defined, such as an interval of few source images."""

    model_config = ConfigDict(extra="forbid", ser_json_inf_nan="strings")


class Gain(_Figures):
    """A difference of two critics and its 95 % interval over source images."""

    value: float
    low: float
    high: float


class Run(_Figures):
    """The figures of one seed: `METRICS` of each model, and of each of `GAINS`."""

    seed: int
    models: dict[str, dict[str, float]]
    gains: dict[str, dict[str, Gain]]


@dataclass(frozen=True)
class Spread:
    """A figure over the seeds."""

    median: float
    lowest: float
    highest: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        return cls(median(values), min(values), max(values))


class Seeds(_Figures):
    """Trainings that differ in their seed alone.

    Attributes:
        epochs: over which the control, continued SFT, went on: as long as GRPO took.
        rate: its learning rate.
    """

    runs: list[Run]
    epochs: float
    rate: float

    def are_of(self, seed: int, models: Mapping[str, Scores]) -> bool:
        """Whether one of the trainings is the one with this seed and these figures of SFT and GRPO."""
        own = next((run.models for run in self.runs if run.seed == seed), None)
        return own is not None and all(
            isclose(own[name][metric], models[name][metric].value, abs_tol=1e-9)
            for name in ("sft", "grpo")
            for metric in METRICS
        )

    def of(self, model: str, metric: str) -> Spread:
        """A metric of a model over the seeds."""
        return Spread.of([run.models[model][metric] for run in self.runs])

    def over(self, gain: str, metric: str) -> Spread:
        """One of `GAINS` over the seeds."""
        return Spread.of([run.gains[gain][metric].value for run in self.runs])


def read_seeds(file: Path) -> Seeds:
    """The seeds in a file, as `benchmarks/seeds.py` writes it.

    Raises:
        pydantic.ValidationError: the file has another form.
    """
    return Seeds.model_validate_json(file.read_text(encoding="utf-8"))
