"""VIEScore's two questions, and how strictly their answers are read."""

import json
from collections.abc import Sequence
from math import sqrt
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from critic.edits import Edit
from critic.engines.base import Completion, Failed, Request
from critic.results import Failure
from critic.scoring.judges.viescore import ASKED, MAX_PIXELS, UnreadableError, VieScore, parse_answer, shrink

CONSISTENT = '{"reasoning": "Half done.", "editing_success": 5, "preservation": 8}'
CLEAN = '{"reasoning": "A seam.", "naturalness": 9, "cleanness": 6.5}'
NAMES = ASKED["quality"]


class Endpoint:
    """Stands in for an `HttpEngine`: gives the outcomes in turn, and keeps what it was asked."""

    name = "model"

    def __init__(self, *outcomes: str | Completion | Failed):
        self.outcomes = [Completion(o, 20, True, 300) if isinstance(o, str) else o for o in outcomes]
        self.requests: list[Request] = []

    def complete(self, requests: Sequence[Request]) -> list[Completion | Failed]:
        self.requests += requests
        return self.outcomes


def edit(instruction: str = "make it blue") -> Edit:
    return Edit("a", Image.new("RGB", (40, 30), "red"), Image.new("RGB", (44, 30), "blue"), instruction)


def judge(*outcomes: str | Completion | Failed) -> Any:
    return VieScore(Endpoint(*outcomes))([edit()])[0]  # type: ignore[arg-type]


# --- what is asked


def test_both_pictures_are_shown_for_consistency_and_the_edited_one_for_quality() -> None:
    endpoint, pair = Endpoint(CONSISTENT, CLEAN), edit()
    VieScore(endpoint)([pair])  # type: ignore[arg-type]
    consistency, quality = endpoint.requests
    assert consistency.pictures == [pair.source, pair.edited]
    assert quality.pictures == [pair.edited]
    for request, names in zip(endpoint.requests, ASKED.values(), strict=True):
        *pictures, text = request.messages[0]["content"]
        assert len(pictures) == len(request.pictures)
        assert all(f'"{name}": a number' in text["text"] for name in names)
    assert consistency.messages[0]["content"][-1]["text"].endswith("The instruction: make it blue")


@given(st.integers(1, 5000), st.integers(1, 5000))
def test_a_large_picture_is_brought_down_and_keeps_its_ratio(width: int, height: int) -> None:
    picture = Image.new("1", (width, height))
    shown = shrink(picture)
    if width * height <= MAX_PIXELS:
        assert shown is picture
    else:
        assert 0.98 * MAX_PIXELS < shown.width * shown.height <= MAX_PIXELS
        assert shown.width * height == pytest.approx(shown.height * width, rel=0.01)


def test_an_instruction_cant_be_a_placeholder_or_a_special_token() -> None:
    endpoint = Endpoint(CONSISTENT, CLEAN)
    VieScore(endpoint)([edit("$instruction <|im_end|> ${x}")])  # type: ignore[arg-type]
    text = endpoint.requests[0].messages[0]["content"][-1]["text"]
    assert "$instruction" in text and "${x}" in text
    assert "<|im_end|>" not in text


# --- results


def test_the_score_is_the_root_of_the_two_lowest_numbers() -> None:
    result = judge(CONSISTENT, CLEAN)
    native = sqrt(5 * 6.5)
    said = json.loads(result.raw)
    assert result.score == pytest.approx(1 + 4 * native / 10)
    assert said["native"] == native
    assert (said["editing_success"], said["preservation"], said["cleanness"]) == (5, 8, 6.5)
    assert said["responses"] == [CONSISTENT, CLEAN]
    assert result.sub_scores == pytest.approx({"alignment": 3.0, "fidelity": 4.2, "quality": 3.6})
    assert result.reasoning == "Half done.\nA seam."
    assert (result.prompt_tokens, result.tokens, result.model) == (600, 40, "viescore:model")
    assert result.contract == VieScore.contract


@pytest.mark.parametrize(
    ("outcome", "status"),
    [
        ("", "empty"),
        ("I can't help with that.", "no_answer"),
        ("[9, 6]", "no_answer"),
        ('{"naturalness": 9}', "no_answer"),
        ('{"naturalness": 9, "cleanness": 6', "no_answer"),
        (f"{CLEAN} or {CLEAN}", "no_answer"),
        ('{"naturalness": 9, "cleanness": 6, "cleanness": 2}', "no_answer"),
        (f"<think>{CLEAN}</think>", "empty"),
        (f"<think>{CLEAN}", "empty"),
        ('{"naturalness": "9", "cleanness": 6}', "not_a_number"),
        ('{"naturalness": null, "cleanness": 6}', "not_a_number"),
        ('{"naturalness": NaN, "cleanness": 6}', "not_a_number"),
        ('{"naturalness": true, "cleanness": 6}', "not_a_number"),
        ('{"naturalness": 11, "cleanness": 6}', "out_of_range"),
        ('{"naturalness": 9, "cleanness": -1}', "out_of_range"),
        ('{"naturalness": 1' + 400 * "0" + ', "cleanness": 6}', "out_of_range"),
        (5000 * '{"a":', "no_answer"),
        (Completion(CLEAN, 20, finished=False), "truncated"),
        (Failed(Failure.TIMED_OUT, "120 s"), "timed_out"),
    ],
)
def test_an_answer_that_cant_be_read_is_a_failure_and_never_a_number(
    outcome: str | Completion | Failed, status: str
) -> None:
    result = judge(CONSISTENT, outcome)
    assert (result.score, result.status) == (None, status)
    assert result.detail.startswith("quality: ")
    assert CONSISTENT in json.loads(result.raw)["responses"]


def test_each_edit_gets_its_own_answers() -> None:
    endpoint = Endpoint(CONSISTENT, CLEAN, "nothing", CLEAN, CONSISTENT, CLEAN)
    results = VieScore(endpoint)([edit(), edit(), edit()])  # type: ignore[arg-type]
    assert [result.status for result in results] == ["ok", "no_answer", "ok"]
    assert results[1].detail.startswith("consistency: ")


# --- the parser

NUMBERS = st.floats(0, 10) | st.integers(0, 10)
WORDS = st.text(st.characters(exclude_characters="{}<>", exclude_categories=["Cs"]))


@given(st.fixed_dictionaries(dict.fromkeys(NAMES, NUMBERS)), st.text(), WORDS, WORDS)
def test_one_object_is_read_whatever_words_are_around_it(
    numbers: dict[str, float], reasoning: str, before: str, after: str
) -> None:
    given = {"reasoning": reasoning.replace("think>", ""), **numbers}
    text = f"<think>{{}}</think>{before}```json\n{json.dumps(given, indent=1)}\n```{after}"
    assert parse_answer(text, NAMES) == given


@given(st.text() | st.text(alphabet='{}":,. 0129naturless<think/>'), st.booleans())
def test_any_text_gives_all_numbers_in_range_or_is_unreadable(text: str, finished: bool) -> None:
    try:
        found = parse_answer(text, NAMES, finished=finished)
    except UnreadableError:
        return
    assert finished
    assert all(0 <= found[name] <= 10 for name in NAMES)
