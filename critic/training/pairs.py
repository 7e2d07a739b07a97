"""GRPO on the order of two edits of a source image: which one people like better.

    rows = in_pairs(sources, number=640, seed=7)      # of the data set: two edits of a source beside each other
    GRPOTrainer(reward_funcs=[PairOrderReward(num_generations=8)], train_dataset=dataset.select(rows), ...)

Of the MOS only the order counts. Edits of preferences have none; their pairs have an order of their own. The
formula is the project's own: the share of right comparisons, as in pairwise accuracy, but of one score with each
of the partner's.
"""

from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from math import isfinite
from statistics import fmean
from typing import Any

import numpy as np

from critic.answers import parse_critique
from critic.training.rewards import Message, text_of


@dataclass(frozen=True)
class PairOrderReward:
    """How often a score orders an edit and its partner as people do, as a reward function of TRL.

    Attributes:
        num_generations: completions of each prompt. The prompts are in pairs, see `in_pairs`.
        prefill: as in `critic.training.rewards.CriticReward`.
    """

    num_generations: int
    prefill: str = "<think>"

    def __call__(
        self,
        prompts: Sequence[Any],
        completions: Sequence[str | list[Message]],
        completion_ids: Sequence[list[int]],
        mos: Sequence[float | None],
        wins: Sequence[float | None] | None = None,
        log_metric: Callable[[str, float], None] | None = None,
        **columns: Any,
    ) -> list[float | None]:
        """The reward of each completion, 0..1, see `order_rewards`; None for edits that people like equally.

        Args:
            completions: as in `CriticReward`, those of a prompt one after another, and those of its partner next.
            mos: one for each completion, None for an edit of preferences; only its order counts.
            wins: 1 for the preferred edit of a pair, 0 for the other, None for edits with a MOS.
            prompts, completion_ids, columns: ignored.
        """
        size = self.num_generations
        order = zip(mos, wins or [None] * len(mos), strict=True)
        opinions = np.array([one if win is None else win for one, win in order], float)
        scores = [parse_critique(self.prefill + text_of(text)).score for text in completions]
        rewards: list[float | None] = []
        for start in range(0, len(scores), 2 * size):
            here, there = scores[start : start + size], scores[start + size : start + 2 * size]
            wanted = float(np.sign(opinions[start] - opinions[start + size]))
            rewards += order_rewards(here, there, wanted) + order_rewards(there, here, -wanted)
        known = [reward for reward in rewards if reward is not None]
        if log_metric is not None and known:
            log_metric("reward/pair_order", fmean(known))
        return rewards


def order_rewards(
    scores: Sequence[float | None], others: Sequence[float | None], wanted: float
) -> list[float | None]:
    """The share of a partner's scores that each score is on the right side of; equal scores count half.

    Args:
        scores, others: of an edit's completions and of its partner's; None for a completion without a score, which
            earns 0 and is no one's partner.
        wanted: 1 if people like the edit better than its partner, -1 if less, 0 if they like both equally.

    Returns:
        0..1 for each of `scores`; None if there is no order, or nothing to compare with.
    """
    partners = [other for other in others if other is not None]
    if wanted == 0 or not partners or not isfinite(wanted):
        return [None] * len(scores)
    return [
        0.0 if score is None else fmean((1 + np.sign((score - other) * wanted)) / 2 for other in partners)
        for score in scores
    ]


def in_pairs(sources: Sequence[Hashable], number: int, seed: int) -> list[int]:
    """Rows in the order of a training, two of each source beside each other, with other pairs in each pass.

    Args:
        sources: the source image of each row, or its pair of preferences. One that has a single row is left out.
        number: of rows, even; passes over the data set follow each other until there are so many.

    Raises:
        ValueError: no source has two rows.
    """
    rows: dict[Hashable, list[int]] = defaultdict(list)
    for row, source in enumerate(sources):
        rows[source].append(row)
    groups = [group for group in rows.values() if len(group) > 1]
    if not groups:
        raise ValueError("no source image has two edits, so that there are no pairs: set reward.pairs to 0")
    rng = np.random.default_rng(seed)
    order: list[int] = []
    while len(order) < number:
        shuffled = [rng.permutation(group) for group in groups]
        pairs = np.concatenate([group[: len(group) // 2 * 2].reshape(-1, 2) for group in shuffled])
        order += rng.permutation(pairs).flatten().tolist()
    return order[:number]
