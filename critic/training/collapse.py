"""Figures that show whether GRPO collapses, and the callback that stops it then.

A critic under GRPO can collapse: it breaks the format, or gives every edit the same score, which earns a fair
reward where MOS lie close together. `CriticReward` logs the figures of `describe` at each step; `Monitor` reads
them.
"""

from collections import Counter
from collections.abc import Sequence
from math import log2
from statistics import fmean
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from critic.params import Collapse

BINS = tuple(1 + half / 2 for half in range(8))
"""Lower ends of the score histogram's half-point bins; 5.0 itself is in the last."""


class TrainingCollapsed(RuntimeError):
    """The critic broke the format or gave one score to all; the message says which, and names the checkpoints."""


def describe(scores: Sequence[float | None], accuracies: Sequence[float], r_min: float) -> dict[str, float]:
    """Figures of one batch of completions.

    Args:
        scores: 1..5, or None where the answer could not be read.
        accuracies: the accuracy part of each reward, 0..1, of the completions whose edit has a MOS.
        r_min: the reward's floor.

    Returns:
        reward/floor: share of the rewards of `accuracies` at the floor or below it, 0..1; none without any.
        reward/score_entropy: of the scores over `BINS`, in bits, from 0 (all in one bin) to 3.
        scores/<bin>: share of the completions with a score in the bin, for each of `BINS`.
    """
    binned = Counter(min(int(2 * (score - 1)), len(BINS) - 1) for score in scores if score is not None)
    read = sum(binned.values())
    at_floor = [accuracy <= r_min for accuracy in accuracies]
    return {
        **({"reward/floor": fmean(at_floor)} if at_floor else {}),
        "reward/score_entropy": sum(n / read * log2(read / n) for n in binned.values()),
        **{f"scores/{low}": binned[place] / len(scores) for place, low in enumerate(BINS)},
    }


class Monitor(TrainerCallback):
    """Stops a training if each of its last `patience` logged steps is under one of the `limits`.

    Raises:
        TrainingCollapsed: from `on_log`; the checkpoints stay where they are.
    """

    def __init__(self, limits: Collapse):
        self.limits = limits

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        steps = [logs for logs in state.log_history if "reward/format" in logs][-self.limits.patience :]
        if len(steps) < self.limits.patience:
            return
        for name, least, what in (
            ("reward/format", self.limits.min_format_rate, "of the completions keep the format"),
            ("reward/score_entropy", self.limits.min_score_entropy, "bits of entropy are left in the scores"),
        ):
            if all(logs[name] < least for logs in steps):
                raise TrainingCollapsed(
                    f"GRPO collapsed: for {len(steps)} steps up to step {state.global_step}, less than {least:g} "
                    f"{what} (the last step: {steps[-1][name]:.3f}). The checkpoints are in {args.output_dir}. "
                    "Lower grpo.learning_rate, check the reward, or change grpo.collapse in params.yaml"
                )
