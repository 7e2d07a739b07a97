"""Rewards of edits for loops that mix no rewards themselves: DanceGRPO's, or a script with diffusers.

reward = weighted(critic=(1.0, edit_reward(critic)), small=(0.1, jpeg_sizes))
mixed = reward(sources, edits, instructions)     # N pictures, N pictures, N texts
mixed.values()                                   # N floats, or an error that says which edits have none
mixed.parts["critic"][0].status                  # each reward by its name: value, status and detail
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from critic.client.http import Critic, Picture, Reward, Scale
from critic.client.reward_functions import numbers

RewardFunction: TypeAlias = Callable[
    [Sequence[Picture], Sequence[Picture], Sequence[str]], Sequence[Reward | float | None]
]
"""Takes N sources, N edits and N instructions; returns N rewards, None or NaN for an edit without one."""


@dataclass(frozen=True)
class Mixed:
    """The rewards of N edits.

    Attributes:
        parts: N rewards of each function, by its name.
        total: their N weighted sums. If a part is missing, the sum is too: its status is "NAME: STATUS".
    """

    parts: Mapping[str, Sequence[Reward]]
    total: Sequence[Reward]

    def values(self, on_failure: Literal["raise", "nan"] = "raise") -> list[float]:
        """The N sums. Raises `NoReward` if one is missing, unless `on_failure` is "nan"."""
        return numbers(self.total, on_failure)


def edit_reward(client: Critic, *, scale: Scale = "unit", **options: Any) -> RewardFunction:
    """The critic's reward as a function of sources, edits and instructions; options as in `schemas.Options`."""

    def reward(sources: Sequence[Picture], edits: Sequence[Picture], instructions: Sequence[str]) -> list[Reward]:
        return client.rewards([*zip(sources, edits, instructions, strict=True)], scale=scale, **options)

    return reward


def weighted(**functions: tuple[float, RewardFunction]) -> Callable[..., Mixed]:
    """Mix reward functions, each given by its name with its weight. The sum isn't divided by the weights.

    Raises:
        ValueError: by the mix, if a function returns another number of rewards than edits.
    """

    def reward(sources: Sequence[Picture], edits: Sequence[Picture], instructions: Sequence[str]) -> Mixed:
        parts: dict[str, list[Reward]] = {}
        for name, (_, function) in functions.items():
            parts[name] = [_named(one) for one in function(sources, edits, instructions)]
            if len(parts[name]) != len(edits):
                raise ValueError(f"the reward {name!r} has {len(parts[name])} values for {len(edits)} edits")
        total = [_sum({name: rewards[place] for name, rewards in parts.items()}) for place in range(len(edits))]
        return Mixed(parts, total)

    def _sum(rewards: Mapping[str, Reward]) -> Reward:
        total = 0.0
        for name, one in rewards.items():
            if one.value is None:
                return Reward(None, f"{name}: {one.status}", one.detail, one.version)
            total += functions[name][0] * one.value
        return Reward(total, "ok", "", "")

    return reward


def _named(value: Reward | float | None) -> Reward:
    if isinstance(value, Reward):
        return value
    if value is None or not math.isfinite(value):
        return Reward(None, "no_reward", f"the function returned {value}", "")
    return Reward(float(value), "ok", "", "")
