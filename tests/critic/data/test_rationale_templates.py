"""Rationales say what the sub-scores are, in words and in numbers, and nothing that the parser rejects."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from critic.answers import parse_critique
from critic.data.rationale_templates import AXES, word, write_rationale

scores = st.floats(1, 5)
triples = st.fixed_dictionaries(dict.fromkeys(AXES, scores))


def wordings(axis: str, score: float) -> set[str]:
    """All wordings for a score."""
    return {word(axis, score, np.random.default_rng(seed)) for seed in range(20)}


def test_the_axes_are_the_papers_in_its_order() -> None:
    assert AXES == ("alignment", "fidelity", "quality")


def test_a_rationale_has_a_clause_an_axis_closed_by_its_value() -> None:
    rationale = write_rationale({"quality": 3.0, "alignment": 1.0, "fidelity": 4.96}, np.random.default_rng(0))
    clauses = rationale.removesuffix(".").split(". ")
    assert [clause.split(", ")[1] for clause in clauses] == ["alignment 1.0", "fidelity 5.0", "quality 3.0"]
    for clause, (axis, score) in zip(clauses, zip(AXES, (1, 5, 3), strict=True), strict=True):
        assert clause.split(", ")[0] in wordings(axis, score)


@given(triples, st.integers(0, 100))
def test_the_values_can_be_read_back_to_a_decimal(values: dict[str, float], seed: int) -> None:
    rationale = write_rationale(values, np.random.default_rng(seed))
    read = {axis: float(value) for axis, value in re.findall(r"(\w+) (\d\.\d)\.", rationale)}
    assert read == {axis: pytest.approx(value, abs=0.0501) for axis, value in values.items()}


@given(triples, st.integers(0, 100))
def test_a_rationale_stays_inside_the_reasoning(values: dict[str, float], seed: int) -> None:
    rationale = write_rationale(values, np.random.default_rng(seed))
    critique = parse_critique(f"<think>{rationale}</think>\n<answer>3.00</answer>")
    assert (critique.well_formed, critique.reasoning, critique.score) == (True, rationale, 3.0)


def test_the_same_seed_words_it_the_same_and_others_in_other_ways() -> None:
    values = dict.fromkeys(AXES, 3.0)
    texts = [write_rationale(values, np.random.default_rng(seed)) for seed in range(20)]
    assert texts == [write_rationale(values, np.random.default_rng(seed)) for seed in range(20)]
    assert len({*texts}) > 4


@pytest.mark.parametrize("axis", AXES)
def test_each_whole_score_has_words_of_its_own(axis: str) -> None:
    bands = [wordings(axis, score) for score in range(1, 6)]
    assert all(len(band) >= 2 for band in bands)
    assert len(set.union(*bands)) == sum(map(len, bands))


@given(st.sampled_from(AXES), scores.filter(lambda score: score % 1 != 0.5), st.integers(0, 20))
def test_a_score_has_the_words_of_the_nearest_whole_one(axis: str, score: float, seed: int) -> None:
    rng, same = np.random.default_rng(seed), np.random.default_rng(seed)
    assert word(axis, score, rng) == word(axis, round(score), same)


@pytest.mark.parametrize("score", [0.99, 5.01, 0, -3, float("nan"), float("inf")])
@pytest.mark.parametrize("axis", AXES)
def test_a_score_off_the_scale_is_named_with_its_axis(axis: str, score: float) -> None:
    values = dict.fromkeys(AXES, 3.0) | {axis: score}
    with pytest.raises(ValueError, match=rf"{axis} is {score}: .* between 1 and 5"):
        write_rationale(values, np.random.default_rng(0))
