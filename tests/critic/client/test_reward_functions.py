"""Trainers get the service's rewards unchanged, and a missing reward never becomes a number."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from trainers import reward_as_flow_grpo, train_by_trl

from critic.client import Critic
from critic.client.reward_functions import NoReward, TRLReward, edit_r1_reward, flow_reward

MAKE_IT = "make it red"


def red(value: int) -> Image.Image:
    """A picture whose reward from the test service is value / 240; none for 0."""
    return Image.new("RGB", (8, 6), (value, 0, 0))


def as_number(text: str, row: Any) -> Image.Image | None:
    """Render a completion, a number, as a picture with that value of red."""
    return red(int(text)) if text.isdigit() else None


@pytest.fixture
def critic(service: Any) -> Iterator[Critic]:
    with Critic(service.url, max_retries=0) as critic:
        yield critic


def rewarded(critic: Critic, *completions: Any, **settings: Any) -> list[float | None]:
    columns = {"source": [red(1)] * len(completions), "instruction": [MAKE_IT] * len(completions)}
    return TRLReward(critic, settings.pop("render", as_number), **settings)(
        prompts=["Paint it:"] * len(completions), completions=completions, trainer_state=None, **columns
    )


# --- TRL


def test_completions_earn_what_their_edits_score(critic: Critic) -> None:
    assert rewarded(critic, "60", "240", "0", "not a program", "120") == [0.25, 1.0, None, None, 0.5]
    assert rewarded(critic, "60", "0", scale="mos") == [2.0, None]


def test_what_makes_no_picture_earns_what_was_chosen_and_what_has_no_score_nothing(critic: Critic) -> None:
    assert rewarded(critic, "60", "not a program", "0", no_picture=-1.0) == [0.25, -1.0, None]


def test_a_conversation_is_read_by_its_last_message(critic: Critic) -> None:
    assert rewarded(critic, [{"role": "assistant", "content": "60"}]) == [0.25]


def test_options_reach_the_service(service: Any, critic: Critic) -> None:
    rewarded(critic, "60", options={"mode": "expected"})
    assert service.bodies[0]["mode"] == "expected"


def test_an_edit_is_rendered_from_its_own_row(critic: Critic) -> None:
    rows = []

    def render(text: str, row: Any) -> Image.Image:
        rows.append({name: row[name] for name in ("prompt", "instruction", "shade")})
        return red(row["shade"])

    rewards = TRLReward(critic, render)(
        prompts=["a", "b"],
        completions=["x", "y"],
        source=[red(1), red(2)],
        instruction=["c", "d"],
        shade=[120, 240],
        trainer_state=None,
    )
    assert rewards == [0.5, 1.0]
    assert rows == [
        {"prompt": "a", "instruction": "c", "shade": 120},
        {"prompt": "b", "instruction": "d", "shade": 240},
    ]


def test_coverage_is_logged(critic: Critic) -> None:
    logged: dict[str, float] = {}
    TRLReward(critic, as_number)(
        prompts=[""] * 4,
        completions=["60", "0", "no program", "120"],
        source=[red(1)] * 4,
        instruction=[MAKE_IT] * 4,
        log_metric=logged.__setitem__,
    )
    assert logged == {"critic/coverage": 0.5}


def test_a_batch_without_a_single_program_goes_on(service: Any, critic: Critic) -> None:
    assert rewarded(critic, "no", "nor this") == [None, None]
    assert not service.seen


def test_some_requests_that_fail_are_no_reward_and_all_of_them_stop_the_training(service: Any) -> None:
    with Critic(service.url, max_retries=0, batch_size=1, concurrency=1) as critic:
        service.spoilt = [lambda handler: handler.refuse(503, "engine_lost")]
        assert rewarded(critic, "60", "120") == [None, 0.5]
        service.spoilt = [lambda handler: handler.refuse(401, "no_key")] * 2
        with pytest.raises(
            NoReward, match=r"2 of 2 edits have no reward \(2 x refused\). Number 0: 401 no_key: as you"
        ):
            rewarded(critic, "60", "120")


def test_trls_trainer_trains_on_what_the_service_says(service: Any, tmp_path: Path) -> None:
    trainer = train_by_trl(service.url, tmp_path)
    texts, rewards = trainer._logs["completion"], trainer._logs["rewards"]["TRLReward"]
    shades = [len(text) * 8 % 248 if len(text) % 2 == 0 else 0 for text in texts]
    expected = [round(1 + min(shade, 240) / 60, 4) / 4 - 0.25 if shade else math.nan for shade in shades]
    assert len(texts) == 16
    assert rewards == pytest.approx(expected, nan_ok=True)
    assert 2 < sum(map(math.isnan, rewards)) < 14
    first, second = trainer.state.log_history[:2]
    assert second["critic/coverage"] == pytest.approx(1 - np.isnan(rewards).mean())
    assert second["rewards/TRLReward/mean"] == pytest.approx(np.nanmean(rewards), abs=1e-4)
    assert first["grad_norm"] > 0 and math.isfinite(second["grad_norm"])


# --- flow-GRPO


def tensors(*values: int) -> torch.Tensor:
    """(N, 3, H, W) from 0 to 1."""
    pictures = np.stack([np.asarray(red(value)) for value in values])
    return torch.from_numpy(pictures).permute(0, 3, 1, 2) / 255


def test_flow_grpo_gets_a_reward_a_picture(service: Any, tmp_path: Path) -> None:
    assert reward_as_flow_grpo(service.url, tmp_path, tensors(60, 240, 120), MAKE_IT) == [0.25, 1.0, 0.5]


def test_pictures_may_be_arrays_and_sources_come_with_them(critic: Critic, tmp_path: Path) -> None:
    arrays = np.stack([np.asarray(red(value)) for value in (60, 240)])
    rewards, info = flow_reward(critic, scale="mos")(arrays, [MAKE_IT] * 2, [{}, {}], [red(1), red(2)])
    assert (rewards, info) == ([2.0, 5.0], {"status": ["ok", "ok"]})
    rewards, _ = flow_reward(critic, source="before")(arrays, [MAKE_IT] * 2, [{"before": red(1)}] * 2)
    assert rewards == [0.25, 1.0]


def test_a_picture_without_a_score_stops_the_training_or_is_nan(critic: Critic) -> None:
    asked = (tensors(60, 0), [MAKE_IT] * 2, [{}, {}], [red(1), red(1)])
    with pytest.raises(NoReward, match=r"1 of 2 edits have no reward \(1 x no_answer\). Number 1: it is black"):
        flow_reward(critic)(*asked)
    rewards, info = flow_reward(critic, on_failure="nan")(*asked)
    assert rewards == pytest.approx([0.25, math.nan], nan_ok=True)
    assert info == {"status": ["ok", "no_answer"]}


def test_pictures_prompts_and_sources_are_of_one_number(critic: Critic) -> None:
    with pytest.raises(ValueError, match="shorter"):
        flow_reward(critic)(tensors(60, 120), [MAKE_IT], [{}, {}], [red(1), red(1)])


# --- Edit-R1, which trains UniWorld-V2, and FIRM


def edit_r1_scores(function: Any, weights: dict[str, float], images: Any, metadata: list[Any], refs: Any) -> Any:
    """`multi_score` of both trainers, of the sources that `edit_r1_reward` names, for its `mllm_` functions.

    Edit-R1 calls `function` without arguments, if it has none named device; FIRM with a device and settings.
    """
    settings = {"normalize_mllm_score": True, "normalize_mllm_score_mode": "div5"}
    details: dict[str, Any] = {}
    total: list[float] = []
    for made in (function(), function("cuda", **settings)):
        total = []
        for name, weight in weights.items():
            scores, _ = made(refs, images, [MAKE_IT] * len(images), metadata)
            details[name] = scores
            weighted = [weight * score for score in scores]
            total = [a + b for a, b in zip(total, weighted, strict=True)] if total else weighted
    return {name: torch.as_tensor(value).float() for name, value in {**details, "avg": total}.items()}


def test_edit_r1_and_firm_get_a_reward_a_picture(critic: Critic) -> None:
    scores = edit_r1_scores(
        lambda *_, **__: edit_r1_reward(critic),
        {"mllm_critic": 2.0},
        tensors(60, 240, 120),
        [{"prompt": MAKE_IT, "image": "a.png", "requirement": ""}] * 3,
        [red(1)] * 3,
    )
    assert scores["mllm_critic"].tolist() == [0.25, 1.0, 0.5]
    assert scores["avg"].tolist() == [0.5, 2.0, 1.0]
    with pytest.raises(NoReward, match="1 of 2 edits have no reward"):
        edit_r1_reward(critic)([red(1)] * 2, tensors(60, 0), [MAKE_IT] * 2, [{}, {}])
