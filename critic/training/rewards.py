"""The rewards of a response in GRPO: the distance of its score to the MOS, its format, and its sub-scores.

The formulas of the first two are IE-Critic-R1's (arXiv 2511.18055 and its released score function). They equal
upstream's on every well-formed response whose answer is a plain number. `critic.answers` reads the answer, as in
evaluation. That of the sub-scores is the project's own: without it, they drift away from what people say, since
only the score is rewarded.

    compute_score("<think>Good.</think><answer>3.5</answer>", mos=3.0)
    # {"overall": 1.525, "format": 1.0, "accuracy": 0.525}
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isfinite
from statistics import fmean
from typing import Any, TypedDict

from critic.answers import AXES, HIGHEST, LOWEST, parse_critique, sub_scores
from critic.reward_kinds import KINDS, require_kind
from critic.training.collapse import describe

Message = dict[str, Any]


class Scores(TypedDict):
    """The result of `compute_score`; the names are upstream's."""

    overall: float
    format: float
    accuracy: float


def compute_score(
    response: str,
    mos: float,
    kind: str = "l1",
    format_weight: float = 1.0,
    strict_format: bool = False,
    r_min: float = 0.05,
    diff_at_rmin: float = 1.0,
    use_floor: bool = True,
) -> Scores:
    """Reward one response.

    Args:
        response: the assistant's whole turn, with a prefilled `<think>`.
        mos: the mean opinion score to predict, 1..5; anything else raises ValueError.
        format_weight: the reward of a well-formed response; an exact score earns 1.
        strict_format: whether a response that breaks the format earns 0.
        kind, r_min, diff_at_rmin, use_floor: see `accuracy`.

    Returns:
        accuracy: 0..1, see `accuracy`; 0 for a response without a valid score.
        format: 1 if the response is well formed (`critic.answers.is_well_formed`), else 0.
        overall: accuracy + format_weight * format, or 0 if `strict_format` and format is 0.
    """
    if not LOWEST <= mos <= HIGHEST:
        raise ValueError(f"mos is {mos}, not within {LOWEST:g}..{HIGHEST:g}: rescale it or leave the row out")
    critique = parse_critique(response)
    nearness = 0.0
    if critique.score is not None:
        nearness = accuracy(critique.score, mos, kind, r_min, diff_at_rmin, use_floor)
    format_score = float(critique.well_formed)
    earns = critique.well_formed or not strict_format
    overall = nearness + format_weight * format_score if earns else 0.0
    return {"overall": overall, "format": format_score, "accuracy": nearness}


def accuracy(
    score: float,
    mos: float,
    kind: str = "l1",
    r_min: float = 0.05,
    diff_at_rmin: float = 1.0,
    use_floor: bool = True,
) -> float:
    """How near a score is to the MOS, both 1..5: 1 if equal, `r_min` if `diff_at_rmin` apart.

    Args:
        kind: how it falls between, a name in `critic.reward_kinds.KINDS`; an unknown one raises ValueError.
        r_min: clipped to 1e-6..0.999999, as upstream does.
        diff_at_rmin: in points of MOS; its absolute value, at least 1e-6.
        use_floor: whether the result is at least `r_min`; without it, at least 0.
    """
    r = min(max(r_min, 1e-6), 0.999999)
    x = abs(score - mos) / max(abs(diff_at_rmin), 1e-6)
    return max(KINDS[require_kind(kind)](x, r), r if use_floor else 0.0)


@dataclass(frozen=True)
class CriticReward:
    """`compute_score` in the shape that TRL's GRPOTrainer calls.

        GRPOTrainer(reward_funcs=CriticReward(partial(compute_score, kind="gaussian")), ...)

    Attributes:
        score: from response and MOS to `Scores`.
        prefill: the start of the assistant's turn that the prompt holds; added to each completion.
        r_min: the floor of `score`, for the log.
    """

    score: Callable[[str, float], Scores] = compute_score
    prefill: str = "<think>"
    r_min: float = 0.05

    def __call__(
        self,
        prompts: Sequence[Any],
        completions: Sequence[str | list[Message]],
        completion_ids: Sequence[list[int]],
        mos: Sequence[float | None],
        log_metric: Callable[[str, float], None] | None = None,
        **columns: Any,
    ) -> list[float | None]:
        """The overall reward of each completion; logs the means of its two parts and the figures of `describe`.

        Without a MOS there is no distance: such a completion has no reward here, and counts for the format and the
        figures of scores alone.

        Args:
            completions: texts, or conversations of one assistant message.
            mos: one for each completion, None for an edit without one.
            prompts, completion_ids, columns: ignored.
        """
        responses = [self.prefill + text_of(completion) for completion in completions]
        scores = [
            None if target is None else self.score(response, target)
            for response, target in zip(responses, mos, strict=True)
        ]
        if log_metric is not None:
            critiques = [parse_critique(response) for response in responses]
            log_metric("reward/format", fmean(critique.well_formed for critique in critiques))
            near = [score["accuracy"] for score in scores if score is not None]
            if near:
                log_metric("reward/accuracy", fmean(near))
            for name, value in describe([critique.score for critique in critiques], near, self.r_min).items():
                log_metric(name, value)
        return [None if score is None else score["overall"] for score in scores]


@dataclass(frozen=True)
class AxesReward:
    """How near the stated sub-scores are to the MOS of their axes, as a further reward function of TRL.

        GRPOTrainer(reward_funcs=[CriticReward(), AxesReward(partial(accuracy, kind="l2"))], ...)

    Attributes:
        accuracy: from a stated sub-score and the MOS of its axis to 0..1.
        prefill: as in `CriticReward`.
    """

    accuracy: Callable[[float, float], float] = accuracy
    prefill: str = "<think>"

    def __call__(
        self,
        prompts: Sequence[Any],
        completions: Sequence[str | list[Message]],
        completion_ids: Sequence[list[int]],
        log_metric: Callable[[str, float], None] | None = None,
        **columns: Sequence[Any],
    ) -> list[float | None]:
        """The mean accuracy of each completion over the axes that people rated; None if they rated none.

        A sub-score that isn't stated counts as 0. Logs the mean accuracy of each axis.

        Args:
            completions: as in `CriticReward`.
            columns: with a MOS for each completion, 1..5 or None, in `mos_alignment` and so on. An axis without a
                column has no MOS.
            prompts, completion_ids: ignored.
        """
        stated = [sub_scores(parse_critique(self.prefill + text_of(text)).reasoning) for text in completions]
        found: list[dict[str, float]] = [{} for _ in stated]
        for axis in AXES:
            if (opinions := columns.get(f"mos_{axis}")) is None:
                continue
            for scores, mos, nearness in zip(stated, opinions, found, strict=True):
                if mos is not None and isfinite(mos):
                    nearness[axis] = self.accuracy(scores[axis], mos) if axis in scores else 0.0
            rated = [nearness[axis] for nearness in found if axis in nearness]
            if log_metric is not None and rated:
                log_metric(f"reward/{axis}", fmean(rated))
        return [fmean(nearness.values()) if nearness else None for nearness in found]


def text_of(completion: str | list[Message]) -> str:
    """A completion's text, which TRL gives as it is or as a conversation of one message."""
    return completion if isinstance(completion, str) else str(completion[0]["content"])
