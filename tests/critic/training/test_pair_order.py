"""The reward for the order of two edits, and how their rows come to stand beside each other."""

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from critic.training.pairs import PairOrderReward, in_pairs, order_rewards

score = st.one_of(st.none(), st.floats(1, 5))
scores = st.lists(score, min_size=1, max_size=8)


def answer(value: float | None) -> str:
    return "Fine.</think><answer>none</answer>" if value is None else f"Fine.</think><answer>{value}</answer>"


def reward(here: list[float | None], there: list[float | None], mos: tuple[float, float]) -> list[float | None]:
    size = len(here)
    texts = [answer(value) for value in here + there]
    given = [mos[0]] * size + [mos[1]] * size
    return PairOrderReward(size)(texts, texts, [[]] * len(texts), given)


def test_a_score_earns_the_share_of_its_partners_scores_that_it_is_on_the_right_side_of() -> None:
    assert reward([4.0, 2.0], [3.0, 1.0], (4.5, 2.0)) == [1.0, 0.5, 0.5, 1.0]
    assert reward([4.0, 2.0], [3.0, 1.0], (2.0, 4.5)) == [0.0, 0.5, 0.5, 0.0]


def test_equal_scores_count_half_so_that_a_constant_earns_no_advantage() -> None:
    assert reward([3.0, 3.0], [3.0, 3.0], (4.5, 2.0)) == [0.5] * 4


def test_a_completion_without_a_score_earns_nothing_and_is_no_partner() -> None:
    assert reward([4.0, None], [None, 1.0], (4.5, 2.0)) == [1.0, 0.0, 0.0, 1.0]
    assert reward([4.0, 3.0], [None, None], (4.5, 2.0)) == [None, None, 0.0, 0.0]


def test_edits_that_people_like_equally_have_no_order() -> None:
    assert reward([4.0, 2.0], [3.0, 1.0], (3.0, 3.0)) == [None] * 4
    assert order_rewards([4.0], [3.0], math.nan) == [None]


def test_edits_of_preferences_have_the_order_of_their_pair_and_no_mos() -> None:
    texts = [answer(value) for value in (4.0, 2.0, 3.0, 1.0)]
    for wins, expected in (((1.0, 0.0), [1.0, 0.5, 0.5, 1.0]), ((0.0, 1.0), [0.0, 0.5, 0.5, 0.0])):
        given = [wins[0]] * 2 + [wins[1]] * 2
        assert PairOrderReward(2)(texts, texts, [[]] * 4, [None] * 4, given) == expected
    mixed = PairOrderReward(1)(texts, texts, [[]] * 4, [4.5, 2.0, None, None], [None, None, 0.0, 1.0])
    assert mixed == [1.0, 1.0, 0.0, 0.0]


@given(scores, scores, st.sampled_from([1.0, -1.0]))
def test_it_is_within_0_and_1_and_the_other_order_earns_the_rest(
    here: list[float | None], there: list[float | None], wanted: float
) -> None:
    for value, one, other in zip(
        here, order_rewards(here, there, wanted), order_rewards(here, there, -wanted), strict=True
    ):
        if one is not None and other is not None:
            assert 0 <= one <= 1
            assert one + other == pytest.approx(0 if value is None else 1)


@given(st.lists(st.integers(0, 5), min_size=2), st.integers(1, 20), st.integers(0, 3))
def test_rows_come_in_pairs_of_a_source(sources: list[int], pairs: int, seed: int) -> None:
    if max(Counter(sources).values()) < 2:
        with pytest.raises(ValueError, match=r"no source image has two edits.*set reward\.pairs to 0"):
            in_pairs(sources, 2 * pairs, seed)
        return
    rows = in_pairs(sources, 2 * pairs, seed)
    assert len(rows) == 2 * pairs
    assert all(sources[one] == sources[other] and one != other for one, other in np.reshape(rows, (-1, 2)))
    assert rows == in_pairs(sources, 2 * pairs, seed)


def test_a_pass_has_each_row_once_and_the_next_has_other_pairs() -> None:
    rows = in_pairs([0, 0, 0, 0, 1, 1], 12, seed=0)
    assert sorted(rows[:6]) == sorted(rows[6:]) == [0, 1, 2, 3, 4, 5]
    assert rows[:6] != rows[6:]
