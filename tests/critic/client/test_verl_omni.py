"""verl-omni's reward manager, re-enacted from the source that critic/client/verl_omni.py names, gets rewards."""

import asyncio
import importlib
import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from critic.client.reward_functions import NoReward

ENTRY = {"path": "pkg://critic.client.verl_omni", "name": "compute_score", "weight": 0.5, "required": True}


def picture(value: int) -> torch.Tensor:
    """A rollout's response, (3, H, W) of uint8, whose reward from the test service is value / 240; none for 0."""
    return torch.from_numpy(np.full((8, 6, 3), (value, 0, 0), np.uint8)).permute(2, 0, 1)


async def run_single(
    entry: dict[str, Any], response: torch.Tensor, extra_info: dict[str, Any]
) -> dict[str, float]:
    """MultiVisualRewardManager.run_single of one function."""
    function = getattr(importlib.import_module(entry["path"].removeprefix("pkg://")), entry["name"])
    assert inspect.iscoroutinefunction(function)
    given = {
        "data_source": "image_edit",
        "solution_image": response,
        "ground_truth": "make it red",
        "extra_info": {**extra_info, "num_turns": None, "rollout_reward_scores": {}},
        "reward_router_address": None,
        **{name: value for name, value in entry.items() if name not in ("path", "name", "weight", "required")},
    }
    parameters = inspect.signature(function).parameters
    if not any(one.kind == inspect.Parameter.VAR_KEYWORD for one in parameters.values()):
        given = {name: value for name, value in given.items() if name in parameters}
    result = await function(**given)
    return {"reward/critic": float(result["score"]), "reward/combined": entry["weight"] * float(result["score"])}


@pytest.fixture
def entry(service: Any, tmp_path: Path) -> dict[str, Any]:
    """The configuration's; prepare_data.py writes the source picture's name to `extra_info["image"]`."""
    Image.new("RGB", (8, 6), (1, 0, 0)).save(tmp_path / "000001.png")
    return {**ENTRY, "server_url": service.url, "folder": str(tmp_path)}


def test_a_batch_of_concurrent_samples_gets_its_rewards_in_order(service: Any, entry: dict[str, Any]) -> None:
    async def batch() -> list[dict[str, float]]:
        values = (60, 240, 120)
        return await asyncio.gather(*(run_single(entry, picture(v), {"image": "000001.png"}) for v in values))

    rewards = asyncio.run(batch())
    assert [one["reward/critic"] for one in rewards] == [0.25, 1.0, 0.5]
    assert [one["reward/combined"] for one in rewards] == [0.125, 0.5, 0.25]
    assert all(body["pairs"][0]["instruction"] == "make it red" for body in service.bodies)


def test_the_configuration_has_the_mode_and_a_row_may_hold_its_picture(
    service: Any, entry: dict[str, Any]
) -> None:
    source = {"before": (Path(entry["folder"]) / "000001.png").read_bytes()}
    entry |= {"mode": "expected", "scale": "mos", "source": "before"}
    assert asyncio.run(run_single(entry, picture(60), source))["reward/critic"] == 2.0
    assert service.bodies[0]["mode"] == "expected"


def test_what_has_no_reward_raises(entry: dict[str, Any]) -> None:
    with pytest.raises(NoReward, match=r"1 of 1 edits have no reward \(1 x no_answer\)"):
        asyncio.run(run_single(entry, picture(0), {"image": "000001.png"}))
    with pytest.raises(NoReward, match=r"1 x bad_input.*No such file"):
        asyncio.run(run_single(entry, picture(60), {"image": "gone.png"}))
    with pytest.raises(ValueError, match=r"solution_image is \(2, 3, 8, 6\): the critic scores pictures"):
        asyncio.run(run_single(entry, torch.stack([picture(60)] * 2), {"image": "000001.png"}))
    with pytest.raises(ValueError, match="extra_info has no 'image'"):
        asyncio.run(run_single(entry, picture(60), {}))
