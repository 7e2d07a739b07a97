"""The critic as a reward function of verl-omni's trainers, chosen in their configuration:

    'reward.reward_manager.name=MultiVisualRewardManager'
    '+reward.reward_functions.critic.path=pkg://critic.client.verl_omni'
    '+reward.reward_functions.critic.name=compute_score'
    '+reward.reward_functions.critic.weight=1.0'
    '+reward.reward_functions.critic.required=true'            # else a missing reward becomes 0
    '+reward.reward_functions.critic.server_url=http://127.0.0.1:3000'
    '+reward.reward_functions.critic.folder=data/edits/images'

The signature is that of verl-project/verl-omni a1139ba: verl_omni/reward_loop/reward_manager/multi.py calls it,
and examples/flowgrpo_trainer/qwen_image_edit/prepare_data.py writes the rows.
"""

import asyncio
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from critic.client.http import AsyncCritic, Picture, Scale
from critic.client.reward_functions import numbers


async def compute_score(
    solution_image: Any,
    ground_truth: str,
    extra_info: Mapping[str, Any],
    *,
    server_url: str = "http://127.0.0.1:3000",
    source: str = "image",
    folder: str = "",
    scale: Scale = "unit",
    mode: str = "greedy",
    **_: Any,
) -> dict[str, float]:
    """The reward of one edit, as {"score": float}. Concurrent calls of a worker share their connections.

    Args:
        solution_image: the edit, a tensor (3, H, W) of uint8.
        ground_truth: the instruction.
        extra_info: the row's; it has the source picture.
        server_url: the service's address. The environment variable CRITIC_API_KEY may have a key.
        source: the key of the source picture in `extra_info`: a path or another `Picture`.
        folder: the folder that a path is relative to.
        mode: as in `critic.client.schemas.Options`.

    Raises:
        NoReward: the edit has no score.
        ValueError: `solution_image` isn't one picture, or `extra_info` has no source.
    """
    if solution_image.ndim != 3:
        shape = tuple(solution_image.shape)
        raise ValueError(f"solution_image is {shape}: the critic scores pictures (3, H, W), not videos")
    if source not in extra_info:
        raise ValueError(f"extra_info has no {source!r}: name the key of the source picture as `source`")
    given: Picture = extra_info[source]
    before = Path(folder, given) if isinstance(given, str) else given
    edited = solution_image.permute(1, 2, 0).cpu().numpy()
    critic = _client(asyncio.get_running_loop(), server_url)
    (score,) = numbers(await critic.rewards([(before, edited, ground_truth)], scale=scale, mode=mode))
    return {"score": score}


@cache
def _client(loop: asyncio.AbstractEventLoop, server_url: str) -> AsyncCritic:
    """A client for an event loop: a worker of verl-omni has one."""
    return AsyncCritic(server_url, max_retries=20, concurrency=64)
