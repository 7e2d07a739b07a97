"""What a response earns in GRPO: how near its score is to the MOS, and whether its format is kept.

The formulas are IE-Critic-R1's (arXiv 2511.18055 and its released score function), and on every
well-formed response whose answer is a plain number the rewards are the same. Elsewhere the answer
is read by `critic.answers`, so what earns accuracy here is what evaluation counts as a score.

    compute_score("<think>Good.</think><answer>3.5</answer>", mos=3.0)
    # {"overall": 1.525, "format": 1.0, "accuracy": 0.525}
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Literal, TypedDict, get_args

from critic.answers import HIGHEST, LOWEST, parse_critique
from critic.training.collapse import describe

Kind = Literal["l1", "l2", "laplace", "gaussian"]
Message = dict[str, Any]


class Scores(TypedDict):
    """What `compute_score` returns; the names are upstream's."""

    overall: float
    format: float
    accuracy: float


def compute_score(
    response: str,
    mos: float,
    kind: Kind = "l1",
    format_weight: float = 1.0,
    strict_format: bool = False,
    r_min: float = 0.05,
    diff_at_rmin: float = 1.0,
    use_floor: bool = True,
) -> Scores:
    """Reward one response.

    Args:
        response: all that the assistant said, a prefilled `<think>` included.
        mos: the mean opinion score to predict, 1..5; anything else raises ValueError.
        format_weight: what keeping the format is worth beside an exact score, which is worth 1.
        strict_format: whether a response that breaks the format earns nothing at all.
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
    kind: Kind = "l1",
    r_min: float = 0.05,
    diff_at_rmin: float = 1.0,
    use_floor: bool = True,
) -> float:
    """How near a score is to the MOS, both 1..5: 1 if equal, `r_min` if `diff_at_rmin` apart.

    With x = |score - mos| / diff_at_rmin and r = r_min:

        l1        1 - (1 - r) x
        l2        1 - (1 - r) x^2
        laplace   r^x       that is exp(-d/tau), tau = diff_at_rmin / ln(1/r)
        gaussian  r^(x^2)   that is exp(-d^2 / 2 sigma^2), sigma = diff_at_rmin / sqrt(2 ln(1/r))

    never below r with the floor, nor below 0 without. As in the source, r is held within
    [1e-6, 0.999999] and |diff_at_rmin| to at least 1e-6. An unknown kind raises ValueError.
    """
    r = min(max(r_min, 1e-6), 0.999999)
    x = abs(score - mos) / max(abs(diff_at_rmin), 1e-6)
    match kind:
        case "l1":
            reward = 1 - (1 - r) * x
        case "l2":
            reward = 1 - (1 - r) * x**2
        case "laplace":
            reward = r**x
        case "gaussian":
            reward = r ** (x**2)
        case _:
            raise ValueError(f"unknown kind of reward {kind!r}: choose one of {', '.join(get_args(Kind))}")
    return max(reward, r if use_floor else 0.0)


@dataclass(frozen=True)
class CriticReward:
    """`compute_score` in the shape that TRL's GRPOTrainer calls.

        GRPOTrainer(reward_funcs=CriticReward(partial(compute_score, kind="gaussian")), ...)

    Attributes:
        score: response and MOS to `Scores`.
        prefill: what the prompt made the assistant's turn begin with; put back before scoring.
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
        mos: Sequence[float],
        log_metric: Callable[[str, float], None] | None = None,
        **columns: Any,
    ) -> list[float]:
        """The overall reward of each completion; TRL's log gets the means of its two parts and `describe`.

        Completions are texts or conversations of one assistant message, one for each `mos`.
        `prompts`, `completion_ids` and the other columns are not looked at.
        """
        responses = [self.prefill + _text(completion) for completion in completions]
        scores = [self.score(response, target) for response, target in zip(responses, mos, strict=True)]
        if log_metric is not None:
            log_metric("reward/accuracy", fmean(score["accuracy"] for score in scores))
            log_metric("reward/format", fmean(score["format"] for score in scores))
            read = [parse_critique(response).score for response in responses]
            for name, value in describe(read, [score["accuracy"] for score in scores], self.r_min).items():
                log_metric(name, value)
        return [score["overall"] for score in scores]


def _text(completion: str | list[Message]) -> str:
    return completion if isinstance(completion, str) else str(completion[0]["content"])
