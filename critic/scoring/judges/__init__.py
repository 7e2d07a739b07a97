"""Other judges of edits, measured as the critic is: classic image metrics, and other people's models.

    judge = kinds()["ssim"].open()
    (result,) = judge([edit])
    result.score                         # 1..5, higher is better, by judge.scale
    json.loads(result.raw)["native"]     # the judge's own number

A judge fits wherever `critic.scoring.resumable.score_to_file` wants one. An edit gets a named failure if the judge
gives no number, a number outside its own range, or one that it is known to have made up.

To add a judge, add one module to this folder, with a table `JUDGES` of names and `Kind`s: `critic judge` finds it.
The module must import what is slow (torch, numpy...) in its functions, since the command's help imports it.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from math import inf, isfinite
from pkgutil import iter_modules
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import click

from critic.answers import HIGHEST, LOWEST, Status
from critic.results import Failure, Result

if TYPE_CHECKING:
    from PIL import Image

    from critic.edits import Edit

MODE = "judge"
"""`Result.mode` of a judge other than the critic."""


class JudgeError(RuntimeError):
    """A judge that can't be used at all; the message says why and what to do."""


@dataclass(frozen=True)
class Scale:
    """A judge's own range, and the monotone map from it onto 1..5.

    Attributes:
        lowest, highest: the ends, both included; infinite if there is none.
        higher_is_better: if False, the map reverses the order.
        halfway: for a range without a highest end, the distance from `lowest` that scores 3.
    """

    lowest: float
    highest: float
    higher_is_better: bool = True
    halfway: float = 1.0

    def __str__(self) -> str:
        better = "higher" if self.higher_is_better else "lower"
        ends = f"{self.lowest:g} to {self.highest:g}" if isfinite(self.highest) else f"{self.lowest:g} and more"
        return f"{ends if isfinite(self.lowest) else 'any number'}, {better} is better"

    @property
    def linear(self) -> bool:
        """Whether the map keeps distances, not only the order."""
        return isfinite(self.lowest) and isfinite(self.highest)

    def to_score(self, native: float) -> float:
        """Map a number of the range to 1..5: 1 + 4 t, or 5 - 4 t if lower is better, with

            t = (x - lowest) / (highest - lowest)                between two ends
            t = u / (1 + u),  u = (x - lowest) / halfway         without a highest end
            t = (1 + x / (1 + |x|)) / 2                          without any end

        Only the first is linear. The others keep the order, so rank correlations are those of the judge's own
        numbers; Pearson's r isn't, and differences between scores mean nothing.
        """
        if self.linear:
            place = (native - self.lowest) / (self.highest - self.lowest)
        elif isfinite(self.lowest):
            distance = (native - self.lowest) / self.halfway
            place = distance / (1 + distance)
        else:
            place = (1 + native / (1 + abs(native))) / 2
        return LOWEST + 4 * place if self.higher_is_better else HIGHEST - 4 * place

    def fault(self, native: Any, what: str = "score") -> tuple[Status, str] | None:
        """What is wrong with a value that should be a number in the range; None if nothing is."""
        if not isinstance(native, int | float) or isinstance(native, bool) or not abs(native) < inf:
            return Status.NOT_A_NUMBER, f"the {what} is not a number: {native!r:.80}"
        if not self.lowest <= native <= self.highest:
            return Status.OUT_OF_RANGE, f"the {what} is outside {self.lowest:g} to {self.highest:g}: {native}"
        return None


class Judge(ABC):
    """Gives one result for each edit, in order.

    Attributes:
        name: identifies the judge and its weights.
        scale: the range of its own numbers.
        settings: what else its results depend on, as JSON.
        batch_size: edits in one call; a kill loses the results of one call at most.
        resize: applied to each picture after decoding, None to leave pictures as they are.
    """

    name: str
    scale: Scale
    settings: Mapping[str, Any] = MappingProxyType({})
    batch_size: int = 16
    resize: "Callable[[Image.Image], Image.Image] | None" = None

    def __call__(self, edits: "Sequence[Edit]") -> list[Result]:
        return [self.judge(edit) for edit in edits]

    @abstractmethod
    def judge(self, edit: "Edit") -> Result:
        """The result for one edit."""

    def result(
        self,
        id: str,
        native: Any,
        sub_scores: Mapping[str, Any] | None = None,
        extra: Mapping[str, Any] | None = None,
        **fields: Any,
    ) -> Result:
        """A result with a score, or with a failure if a number isn't in the judge's range.

        Args:
            native, sub_scores: the judge's numbers, on its own scale; sub-scores are named as in `Result`.
            extra: what else to keep in `raw`, the JSON of {"native": ..., **extra}.
            fields: of `Result`.
        """
        numbers = {"score": native, **(sub_scores or {})}
        fields["raw"] = json.dumps({"native": native, **(extra or {})}, ensure_ascii=False, default=repr)
        for what, number in numbers.items():
            if fault := self.scale.fault(number, what):
                return self.failure(id, *fault, **fields)
        score, *subs = (self.scale.to_score(float(number)) for number in numbers.values())
        return Result(
            id,
            score,
            Status.OK.value,
            mode=MODE,
            model=self.name,
            sub_scores=dict(zip(sub_scores or {}, subs, strict=True)),
            **fields,
        )

    def failure(self, id: str, status: Status | Failure, detail: str, **fields: Any) -> Result:
        """A result without a score."""
        return Result(id, None, status.value, detail, mode=MODE, model=self.name, **fields)


@dataclass(frozen=True)
class Kind:
    """A judge that `critic judge` offers; `open` makes it from the values of the command's `options`."""

    summary: str
    scale: Scale
    open: Callable[..., Judge]
    options: Sequence[click.Option] = ()


@cache
def kinds() -> dict[str, Kind]:
    """All judges by name, from the tables `JUDGES` of this folder's modules."""
    modules = [import_module(f"{__name__}.{module.name}") for module in iter_modules(__path__)]
    return {name: kind for module in modules for name, kind in module.JUDGES.items()}


def imported(module: str, name: str, fix: str) -> Any:
    """An attribute of an optional module; without it a `JudgeError`, whose message ends with `fix`."""
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise JudgeError(f"{module} can't be used here ({error}): {fix}") from error
