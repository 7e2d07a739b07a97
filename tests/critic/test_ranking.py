"""Order within pictures and between editors, held to cases by hand and to simulations with a known truth."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from critic.ranking import pairwise_accuracy, rank

# --- pairs


def test_a_case_by_hand() -> None:
    """Cat: three pairs, one wrong. Dog: one pair, tied by the critic. Car: a single edit."""
    found = pairwise_accuracy(
        [4, 2, 3, 3, 3, 1], [5, 3, 2, 1, 2, 4], ["cat", "cat", "cat", "dog", "dog", "car"], n_boot=0
    )
    assert (found.n, found.sources) == (4, 2)
    assert found.accuracy.value == (2 + 0.5) / 4


def test_pairs_that_people_hardly_tell_apart_can_be_left_out() -> None:
    pred, mos = [1, 2, 3], [2.0, 1.7, 4.0]
    assert pairwise_accuracy(pred, mos, ["s"] * 3, n_boot=0).accuracy.value == pytest.approx(2 / 3)
    apart = pairwise_accuracy(pred, mos, ["s"] * 3, min_gap=0.3, n_boot=0)  # 2.0 - 1.7 is 0.3, not more
    assert (apart.n, apart.accuracy.value) == (2, 1)


def test_ties_of_people_and_failed_answers_make_no_pair() -> None:
    assert pairwise_accuracy([1, 2, np.nan], [3, 3, 4], ["s"] * 3, n_boot=0).n == 0
    nothing = pairwise_accuracy([1, 2], [3, 4], ["s", "t"], n_boot=20)
    assert nothing.n == 0 and math.isnan(nothing.accuracy.value) and math.isnan(nothing.accuracy.low)


def test_of_one_picture_it_is_kendalls_tau() -> None:
    rng = np.random.default_rng(0)
    mos, pred = rng.normal(size=(2, 30))
    tau = stats.kendalltau(pred, mos).statistic
    assert pairwise_accuracy(pred, mos, ["s"] * 30, n_boot=0).accuracy.value == pytest.approx((tau + 1) / 2)


def study(rng: np.random.Generator, sources: int, edits: int = 4) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores, MOS and sources, where critics and people see quality through as much noise."""
    quality = rng.normal(size=sources * edits)
    pred, mos = quality + rng.normal(0, 0.5, (2, len(quality)))
    return pred, mos, np.repeat(np.arange(sources), edits)


def test_the_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    truth = pairwise_accuracy(*study(rng, 20_000), n_boot=0).accuracy.value
    found = [pairwise_accuracy(*study(rng, 40), n_boot=200).accuracy for _ in range(200)]
    held = np.mean([estimate.low <= truth <= estimate.high for estimate in found])
    assert 0.90 <= held <= 0.985


# --- editors


def test_editors_by_hand() -> None:
    """Elm leads by 1 and 2 points on the two pictures that both have; the third is elm's alone."""
    found = rank([4, 3, 5, 3, 1], ["elm", "oak", "elm", "oak", "elm"], ["a", "a", "b", "b", "c"], n_boot=0)
    assert [(g.group, g.n, g.scored, g.mean.value) for g in found.groups] == [
        ("elm", 3, 3, pytest.approx(10 / 3)),
        ("oak", 2, 2, 3),
    ]
    [lead] = found.leads
    assert (lead.better, lead.worse, lead.sources, lead.difference.value) == ("elm", "oak", 2, 1.5)


def test_several_edits_of_a_picture_count_as_their_mean() -> None:
    [lead] = rank([5, 3, 2], ["elm", "elm", "oak"], ["a", "a", "a"], n_boot=0).leads
    assert lead.difference.value == 2


def test_the_easier_pictures_do_not_make_the_better_editor() -> None:
    """Oak is better on each picture that both have, and has the lower mean for its hard ones."""
    scores = [4.0, 4.5, 3.0, 3.5, 1.5, 1.5]
    found = rank(scores, ["elm", "oak"] * 2 + ["oak"] * 2, ["a", "a", "b", "b", "c", "d"], n_boot=50)
    assert [group.group for group in found.groups] == ["elm", "oak"]
    [lead] = found.leads
    assert (lead.better, lead.difference.value, lead.difference.low) == ("oak", 0.5, 0.5)


def test_failed_answers_take_no_part_but_are_told() -> None:
    found = rank([4, np.nan, 3, np.nan], ["elm", "oak", "elm", "oak"], ["a", "a", "b", "b"], n_boot=20)
    assert [(g.group, g.scored) for g in found.groups] == [("elm", 2), ("oak", 0)]
    [lead] = found.leads
    assert lead.sources == 0 and math.isnan(lead.difference.value)


def test_the_interval_of_a_lead_holds_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(2)
    held = []
    for _ in range(200):
        hard = rng.normal(0, 1, 40)
        elm, oak = 3.3 + hard + rng.normal(0, 0.5, 40), 3.0 + hard + rng.normal(0, 0.5, 40)
        table = pd.DataFrame({"elm": elm, "oak": oak}).melt(var_name="editor", ignore_index=False)
        [lead] = rank(table["value"], [*table["editor"]], [*table.index.map(str)], n_boot=200).leads
        truth = 0.3 if lead.better == "elm" else -0.3
        held.append(lead.difference.low <= truth <= lead.difference.high)
    assert 0.90 <= np.mean(held) <= 0.985
