"""Other judges of edits, measured by the same harness as the critic: classic metrics, and models of other people.

    judge = MetricJudge("ssim")
    (verdict,) = judge([edit])
    verdict.score                        # 1..5, higher is better, by judge.scale
    json.loads(verdict.raw)["native"]    # what the judge itself said

A judge goes wherever `critic.scoring.resumable.score_to_file` wants one. Where it gives no number, or none within its own
range, or is known to have made it up, the edit has a named failure.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from math import inf, isfinite
from typing import TYPE_CHECKING, Any, Protocol

from critic.answers import HIGHEST, LOWEST, Status
from critic.results import Failure, Result

if TYPE_CHECKING:  # this module is light: the help of `critic judge` needs it
    from critic.edits import Edit

MODE = "judge"
"""`Result.mode` of a judge that isn't the critic."""


class JudgeError(RuntimeError):
    """A judge that can't be used at all; the message says why and what to do."""


@dataclass(frozen=True)
class Scale:
    """A judge's own range, and the monotone map from it onto 1..5.

    Attributes:
        lowest, highest: the ends, both included; infinite where there is none.
        higher_is_better: if not, the map turns the scale round.
        halfway: of a range without a highest end, the distance from `lowest` that scores 3.
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
        """Whether the map keeps distances, and not the order alone."""
        return isfinite(self.lowest) and isfinite(self.highest)

    def to_score(self, native: float) -> float:
        """1..5 of a score in the range: 1 + 4 t, or 5 - 4 t where lower is better, with

            t = (x - lowest) / (highest - lowest)                between two ends
            t = u / (1 + u),  u = (x - lowest) / halfway         without a highest end
            t = (1 + x / (1 + |x|)) / 2                          without any end

        Only the first is linear. The others keep every order, so rank correlations are those of the judge's own
        scores; Pearson's r isn't, and the size of a score says nothing.
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
        """What is wrong with something that should be a number in the range; None if it is one."""
        if not isinstance(native, int | float) or isinstance(native, bool) or not abs(native) < inf:
            return Status.NOT_A_NUMBER, f"the {what} is no number: {native!r:.80}"
        if not self.lowest <= native <= self.highest:
            return Status.OUT_OF_RANGE, f"the {what} is outside {self.lowest:g} to {self.highest:g}: {native}"
        return None


SCALES = {
    "psnr": Scale(0, 100),
    "ssim": Scale(-1, 1),
    "colour_difference": Scale(0, inf, higher_is_better=False, halfway=10),
    "noise": Scale(0, inf, higher_is_better=False, halfway=10),
    "blur": Scale(0, 1, higher_is_better=False),
    "viescore": Scale(0, 10),
    "editscore": Scale(0, 10),
    "editreward": Scale(-inf, inf),
}
"""The range of each judge, in its own unit."""


class Judge(Protocol):
    """Gives a verdict an edit, in order; `name` tells the judge and its weights, `scale` what its scores are."""

    name: str
    scale: Scale

    def __call__(self, edits: "Sequence[Edit]") -> list[Result]: ...


def judged(
    judge: Judge,
    id: str,
    native: Any,
    sub_scores: Mapping[str, Any] | None = None,
    said: Mapping[str, Any] | None = None,
    **fields: Any,
) -> Result:
    """The verdict on an edit: a score, or a failure if the judge's is no number in its range.

    Args:
        native: the judge's score, on its own scale.
        sub_scores: on the same scale, named as those of `Result`; one that is no number in the range fails too.
        said: what else `raw` keeps, which is {"native": ..., **said} in JSON.
        fields: of `Result`.
    """
    given = {"score": native, **(sub_scores or {})}
    fields["raw"] = json.dumps({"native": native, **(said or {})}, ensure_ascii=False, default=repr)
    for what, number in given.items():
        if fault := judge.scale.fault(number, what):
            return unjudged(judge, id, *fault, **fields)
    score, *subs = (judge.scale.to_score(float(number)) for number in given.values())
    return Result(
        id,
        score,
        Status.OK.value,
        mode=MODE,
        model=judge.name,
        sub_scores=dict(zip(sub_scores or {}, subs, strict=True)),
        **fields,
    )


def unjudged(judge: Judge, id: str, status: Status | Failure, detail: str, **fields: Any) -> Result:
    """The verdict on an edit that has no score."""
    return Result(id, None, status.value, detail, mode=MODE, model=judge.name, **fields)


def borrowed(module: str, name: str, remedy: str) -> Any:
    """What a module of other people's has by this name.

    Raises:
        JudgeError: it can't be imported, or doesn't have it; with the remedy.
    """
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise JudgeError(f"{module} can't be used here ({error}): {remedy}") from error
