"""Several rewards are mixed by weight and keep their names; a missing one never becomes a number."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from critic.client import Critic
from critic.client.mixing import RewardFunction, edit_reward, weighted
from critic.client.reward_functions import NoReward

MAKE_IT = "make it red"
numbers_or_none = st.one_of(st.none(), st.floats(-100, 100), st.just(math.nan))


def red(value: int) -> Image.Image:
    """A picture whose reward from the test service is value / 240; none for 0."""
    return Image.new("RGB", (8, 6), (value, 0, 0))


def constant(*values: float | None) -> RewardFunction:
    return lambda sources, edits, instructions: values


@pytest.fixture
def critic(service: Any) -> Iterator[Critic]:
    with Critic(service.url, max_retries=0) as critic:
        yield critic


def test_rewards_are_mixed_by_weight_and_named(critic: Critic) -> None:
    mixed = weighted(critic=(1.0, edit_reward(critic)), small=(0.1, constant(5, 10)))(
        [red(1)] * 2, [red(60), red(240)], [MAKE_IT] * 2
    )
    assert mixed.values() == [0.75, 2.0]
    assert {name: [one.value for one in part] for name, part in mixed.parts.items()} == {
        "critic": [0.25, 1.0],
        "small": [5.0, 10.0],
    }


def test_a_missing_reward_stops_the_training_or_is_nan_and_is_named(critic: Critic) -> None:
    reward = weighted(critic=(1.0, edit_reward(critic, scale="mos")), small=(0.1, constant(None, 10, 10)))
    mixed = reward([red(1)] * 3, [red(60), red(240), red(0)], [MAKE_IT] * 3)
    assert [one.status for one in mixed.total] == ["small: no_reward", "ok", "critic: no_answer"]
    assert [one.status for one in mixed.parts["critic"]] == ["ok", "ok", "no_answer"]
    with pytest.raises(
        NoReward, match=r"2 of 3 edits have no reward .*small: no_reward.*the function returned None"
    ):
        mixed.values()
    assert mixed.values("nan") == pytest.approx([math.nan, 6.0, math.nan], nan_ok=True)


def test_a_function_must_return_one_reward_per_edit() -> None:
    with pytest.raises(ValueError, match="the reward 'one' has 1 values for 2 edits"):
        weighted(one=(1.0, constant(1.0)))([red(1)] * 2, [red(1)] * 2, [MAKE_IT] * 2)


@given(st.lists(st.tuples(numbers_or_none, numbers_or_none), min_size=1), st.floats(-2, 2), st.floats(-2, 2))
def test_a_sum_is_complete_or_missing(
    rows: list[tuple[float | None, float | None]], one: float, two: float
) -> None:
    mixed = weighted(a=(one, constant(*(a for a, _ in rows))), b=(two, constant(*(b for _, b in rows))))
    for (a, b), total in zip(rows, mixed([], [red(1)] * len(rows), []).total, strict=True):
        if a is None or b is None or math.isnan(a) or math.isnan(b):
            assert total.value is None
        else:
            assert total.value == pytest.approx(one * a + two * b)


# --- the loops of DanceGRPO and of scripts with diffusers


def test_a_dance_grpo_loop_normalises_the_rewards_of_a_group(critic: Critic) -> None:
    """As sample_reference_model and train_one_step of XueZeyue/DanceGRPO 15cc71d: one picture of Pillow at a time,
    rewards collected as tensors."""
    reward, all_rewards = weighted(critic=(1.0, edit_reward(critic))), []
    for value in (60, 120, 240):
        decoded_image, batch_caption = [red(value)], [MAKE_IT]
        mixed = reward([red(1)], decoded_image, batch_caption)
        all_rewards.append(torch.tensor(mixed.values(), device="cpu"))
    rewards = torch.cat(all_rewards, dim=0).to(torch.float32)
    assert rewards.tolist() == [0.25, 0.5, 1.0]
    advantages = (rewards - rewards.mean()) / (rewards.std() + 1e-8)
    assert advantages.argsort().tolist() == [0, 1, 2]


@pytest.mark.parametrize("output_type", ["pil", "pt"])
def test_what_a_diffusers_pipeline_returns_is_rewarded(critic: Critic, output_type: str) -> None:
    """`pipe(...).images` of diffusers: Pillow images, or a tensor (N, 3, H, W) from 0 to 1."""
    images: Any = [red(60), red(240)]
    if output_type == "pt":
        pixels = torch.from_numpy(np.stack([np.asarray(image) for image in images]))
        images = pixels.permute(0, 3, 1, 2) / 255
    assert [one.value for one in edit_reward(critic)([red(1)] * 2, images, [MAKE_IT] * 2)] == [0.25, 1.0]
