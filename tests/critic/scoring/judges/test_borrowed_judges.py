"""EditScore and EditReward, against stand-ins with the public interface of their packages, without any weights."""

import json
import sys
from math import nan, sqrt
from types import ModuleType
from typing import Any

import pytest
import torch
from PIL import Image

from critic.edits import Edit
from critic.results import Result
from critic.scoring.judges import JudgeError
from critic.scoring.judges.editreward import EditRewardJudge
from critic.scoring.judges.editscore import EditScoreJudge

SAID = {
    "prompt_following": 9.2,
    "consistency": 6.0,
    "perceptual_quality": 7.2,
    "overall": sqrt(6.0 * 7.2),
    "SC_reasoning": "Much else changed.",
    "PQ_reasoning": "A little soft.",
}
PAIR = Edit("a", Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8), "blue"), "make it blue")


class EditScore:
    """The constructor and `evaluate` of editscore 0.2; `answer` is what it returns, or raises."""

    answer: Any = SAID
    calls: list[Any]

    def __init__(
        self, backbone: str, model_name_or_path: str, score_range: int, num_pass: int, lora_path: str | None
    ):
        if lora_path == "gone":
            raise OSError("gone is not a folder")
        type(self).calls = [(backbone, model_name_or_path, score_range, num_pass, lora_path)]

    def evaluate(self, image_prompts: list[Image.Image], text_prompt: str) -> dict[str, Any]:
        self.calls.append((image_prompts, text_prompt))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


class EditRewardInferencer:
    """The constructor and `reward` of EditReward's repository; `answer` is the row that it gives, or raises."""

    answer: Any = (0.75, -0.5)
    calls: list[Any]

    def __init__(self, config_path: str, checkpoint_path: str, device: str, reward_dim: str, rm_head_type: str):
        if checkpoint_path == "gone":
            raise ValueError("Checkpoint not found at gone")
        type(self).calls = [(config_path, checkpoint_path, reward_dim, rm_head_type)]

    def reward(
        self, prompts: list[str], image_src: list[Image.Image], image_paths: list[Image.Image]
    ) -> torch.Tensor:
        assert not torch.is_grad_enabled()
        self.calls.append((prompts, image_src, image_paths))
        if isinstance(self.answer, Exception):
            raise self.answer
        return torch.tensor([self.answer], dtype=torch.float64)


@pytest.fixture(autouse=True)
def packages(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, stand_in in {"editscore": EditScore, "EditReward": EditRewardInferencer}.items():
        module = ModuleType(name)
        setattr(module, stand_in.__name__, stand_in)
        monkeypatch.setitem(sys.modules, name, module)


def editscore(checkpoint: str = "theirs") -> EditScoreJudge:
    return EditScoreJudge(checkpoint, base="base", backbone="qwen25vl")


def score_by_editscore(monkeypatch: pytest.MonkeyPatch, answer: Any) -> Result:
    monkeypatch.setattr(EditScore, "answer", answer)
    (result,) = editscore()([PAIR])
    return result


def reward_by_editreward(monkeypatch: pytest.MonkeyPatch, answer: Any) -> Result:
    monkeypatch.setattr(EditRewardInferencer, "answer", answer)
    (result,) = EditRewardJudge("theirs", config="theirs.yaml")([PAIR])
    return result


# --- EditScore


def test_editscore_is_asked_by_its_public_interface(monkeypatch: pytest.MonkeyPatch) -> None:
    result = score_by_editscore(monkeypatch, SAID)
    assert EditScore.calls == [
        ("qwen25vl", "base", 25, 1, "theirs"),
        ([PAIR.source, PAIR.edited], "make it blue"),
    ]
    assert result.score == pytest.approx(1 + 4 * sqrt(6.0 * 7.2) / 10)
    assert result.sub_scores == pytest.approx({"alignment": 4.68, "fidelity": 3.4, "quality": 3.88})
    assert json.loads(result.raw) == {"native": SAID["overall"], **SAID}
    assert result.reasoning == "Much else changed.\nA little soft."
    assert (result.model, result.status) == ("editscore:theirs", "ok")


@pytest.mark.parametrize("name", ["SC_reasoning", "PQ_reasoning"])
def test_a_score_that_editscore_drew_at_random_is_a_failure(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    result = score_by_editscore(monkeypatch, {**SAID, name: "guess_if_cannot_parse | I'm sorry"})
    assert (result.score, result.status) == (None, "no_answer")
    assert "drew a random score" in result.detail
    assert "I'm sorry" in result.raw


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        ({**SAID, "overall": nan}, "not_a_number"),
        ({**SAID, "overall": None}, "not_a_number"),
        ({**SAID, "overall": 10.5}, "out_of_range"),
        ({**SAID, "consistency": 10.4}, "out_of_range"),
        ({**SAID, "perceptual_quality": nan}, "not_a_number"),
        ({"final_score": 7.0}, "garbled"),
        (None, "garbled"),
        (IndexError("list index out of range"), "server_error"),
    ],
)
def test_what_is_no_score_of_editscores_is_a_failure(
    monkeypatch: pytest.MonkeyPatch, answer: Any, status: str
) -> None:
    result = score_by_editscore(monkeypatch, answer)
    assert (result.score, result.status) == (None, status)
    assert result.detail


# --- EditReward


def test_editreward_is_asked_by_its_public_interface(monkeypatch: pytest.MonkeyPatch) -> None:
    result = reward_by_editreward(monkeypatch, (0.75, -0.5))
    assert EditRewardInferencer.calls == [
        ("theirs.yaml", "theirs", "overall_detail", "ranknet_multi_head"),
        (["make it blue"], [PAIR.source], [PAIR.edited]),
    ]
    assert json.loads(result.raw) == {"native": 0.75, "outputs": [0.75, -0.5]}
    assert result.score == pytest.approx(1 + 2 * (1 + 0.75 / 1.75))
    assert (result.model, result.status) == ("editreward:theirs", "ok")


def test_rewards_keep_their_order_however_far_out(monkeypatch: pytest.MonkeyPatch) -> None:
    rewards = [-500.0, -4.0, -0.01, 0.0, 0.01, 3.9, 4.0, 499.0, 500.0]
    scores = [reward_by_editreward(monkeypatch, (reward, 0.0)).score for reward in rewards]
    assert scores == sorted({*scores})  # type: ignore[type-var]


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        ((nan, 0.0), "not_a_number"),
        ((float("inf"), 0.0), "not_a_number"),
        ((), "server_error"),
        (torch.OutOfMemoryError("too large"), "server_error"),
    ],
)
def test_what_is_no_reward_is_a_failure(monkeypatch: pytest.MonkeyPatch, answer: Any, status: str) -> None:
    result = reward_by_editreward(monkeypatch, answer)
    assert (result.score, result.status) == (None, status)
    assert result.detail


# --- what can't be had


def test_a_package_that_isnt_there_is_told_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("editscore", "EditReward"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(JudgeError, match=r"editscore can't be used here .*: pip install editscore"):
        editscore()
    with pytest.raises(JudgeError, match=r"EditReward can't be used here .*: clone https://github\.com/TIGER"):
        EditRewardJudge("theirs", config="theirs.yaml")


def test_a_checkpoint_that_cant_be_loaded_is_named() -> None:
    with pytest.raises(JudgeError, match="EditScore can't load gone on base as qwen25vl: gone is not a folder"):
        editscore("gone")
    with pytest.raises(JudgeError, match=r"EditReward can't load gone with theirs\.yaml: Checkpoint not found"):
        EditRewardJudge("gone", config="theirs.yaml")
