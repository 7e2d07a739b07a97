"""Order within pictures and between editors, compared with cases by hand and simulations with a known truth."""

import math

import numpy as np
import pytest
from scipy import stats

from critic.evaluation.bootstrap import SMALLEST_GROUP
from critic.evaluation.ranking import Lead, pairwise_accuracy, rank

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


def test_a_pair_with_a_failed_answer_is_wrong() -> None:
    """So that failing where it is hard gains nothing."""
    found = pairwise_accuracy([1, 2, np.nan], [2, 3, 4], ["s"] * 3, n_boot=0)
    assert (found.n, found.accuracy.value) == (3, pytest.approx(1 / 3))


@pytest.mark.parametrize("sources", [SMALLEST_GROUP - 1, SMALLEST_GROUP])
def test_pairs_of_few_sources_have_no_interval_however_many_they_are(sources: int) -> None:
    pred, mos, groups = study(np.random.default_rng(0), sources, edits=8)
    alone = [*pred, 1, 2], [*mos, 1, 2], [*groups, -1, -2]  # two sources of one edit each have no pair
    assert math.isfinite(pairwise_accuracy(*alone, n_boot=50).accuracy.low) == (sources == SMALLEST_GROUP)


def test_ties_of_people_make_no_pair() -> None:
    assert pairwise_accuracy([1, 2], [3, 3], ["s"] * 2, n_boot=0).n == 0
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
    assert (lead.better, lead.difference.value) == ("oak", 0.5)


def test_failed_answers_take_no_part_but_are_told() -> None:
    found = rank([4, np.nan, 3, np.nan], ["elm", "oak", "elm", "oak"], ["a", "a", "b", "b"], n_boot=20)
    assert [(g.group, g.scored) for g in found.groups] == [("elm", 2), ("oak", 0)]
    [lead] = found.leads
    assert lead.sources == 0 and math.isnan(lead.difference.value)


def two_editors(rng: np.random.Generator, pictures: int, lead: float = 0.0) -> Lead:
    """Elm, whose edits are better by `lead`, and oak on the same pictures, some of which are hard."""
    hard, noise = rng.normal(0, 1, pictures), rng.normal(0, 0.5, (2, pictures))
    names = [f"s{number}" for number in range(pictures)]
    scores = [*(hard + lead + noise[0]), *(hard + noise[1])]
    [found] = rank(scores, ["elm"] * pictures + ["oak"] * pictures, names * 2, n_boot=100).leads
    return found


@pytest.mark.parametrize("pictures", [1, 3, SMALLEST_GROUP - 1])
def test_a_lead_on_few_pictures_has_no_interval_and_no_p(pictures: int) -> None:
    lead = two_editors(np.random.default_rng(0), pictures, lead=9.0)
    assert (lead.better, lead.sources) == ("elm", pictures) and lead.difference.value > 5
    found = lead.difference
    assert all(map(math.isnan, (found.low, found.high, found.p, lead.p_holm)))


def test_a_mean_of_few_pictures_has_no_interval_however_many_edits_it_is_of() -> None:
    [found] = rank(np.linspace(1, 5, 30), ["elm"] * 30, [*"abc"] * 10, n_boot=50).groups
    assert found.mean.value == 3 and math.isnan(found.mean.low)


@pytest.mark.parametrize("pictures", [10, 40])
def test_equal_editors_differ_as_often_as_p_says(pictures: int) -> None:
    rng = np.random.default_rng(3)
    p = [two_editors(rng, pictures).difference.p for _ in range(150)]
    assert np.mean(np.array(p) < 0.05) <= 0.10  # 0.05 and three standard deviations
    assert stats.kstest(p, "uniform").pvalue > 0.01


def test_p_of_a_few_pictures_is_exact() -> None:
    """Ten gaps of one sign: of the 1024 ways to choose the signs, two are as far from 0."""
    scores = [*(3 + np.arange(1, 11) / 10), *np.full(10, 3.0)]
    names = [f"s{number}" for number in range(10)]
    [lead] = rank(scores, ["elm"] * 10 + ["oak"] * 10, names * 2, n_boot=0).leads
    assert lead.difference.p == lead.p_holm == pytest.approx(2 / 1024)


def test_p_is_raised_by_holm_for_many_editors() -> None:
    """Elm is far ahead of three equals; yew shares too few pictures with them for a p."""
    rng = np.random.default_rng(4)
    editors, pictures = ["ash", "elm", "fir", "oak"], 20
    scores = rng.normal(0, 1, (4, pictures)) + np.array([[0], [3], [0], [0]])
    names = [f"s{number}" for number in range(pictures)]
    few = {"scores": [0.0] * 5, "editors": ["yew"] * 5, "sources": names[:5]}
    found = rank(
        [*scores.ravel(), *few["scores"]],
        [*np.repeat(editors, pictures), *few["editors"]],
        names * 4 + few["sources"],
        n_boot=0,
    )
    told = sorted((lead for lead in found.leads if lead.sources == pictures), key=lambda lead: lead.difference.p)
    assert len(told) == 6 and all(math.isnan(lead.p_holm) for lead in found.leads if lead.sources == 5)
    raised = [min(1.0, lead.difference.p * (6 - number)) for number, lead in enumerate(told)]
    assert [lead.p_holm for lead in told] == pytest.approx(np.maximum.accumulate(raised))
    assert [lead.better for lead in told if lead.p_holm < 0.05] == ["elm"] * 3


def test_the_interval_of_a_lead_holds_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(2)
    held = []
    for _ in range(200):
        lead = two_editors(rng, 40, lead=0.3)
        truth = 0.3 if lead.better == "elm" else -0.3
        held.append(lead.difference.low <= truth <= lead.difference.high)
    assert 0.90 <= np.mean(held) <= 0.985
