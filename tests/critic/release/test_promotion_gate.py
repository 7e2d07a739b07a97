"""The gate lets a critic through that is sure to be better on the same test, and nothing else."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from critic.params import Gate
from critic.release.promotion_gate import GateError, TestResult, decide, record

RULES = Gate(
    margin=0.0,
    confidence=0.95,
    n_boot=300,
    min_main_score=0.5,
    min_coverage=0.98,
    coverage_margin=0.005,
    type_margin=0.02,
    length_factor=1.5,
    size_factor=1.1,
)
SOURCES, EDITS = 60, 5
KINDS = np.array(["add", "remove", "style"])


def exam(noise: float, seed: int = 0, label: str = "v1.0.0") -> TestResult:
    """A critic that is off by normal noise of that deviation on 300 edits."""
    mos = np.random.default_rng(99).uniform(1, 5, SOURCES * EDITS).round(2)
    rng = np.random.default_rng(seed)
    numbers = np.arange(SOURCES * EDITS)
    table = pd.DataFrame(
        {
            "id": [f"test-{number:03d}" for number in numbers],
            "source_id": [f"source-{number // EDITS}" for number in numbers],
            "edit_type": KINDS[numbers % 3],
            "mos": mos,
            "score": (mos + rng.normal(0, noise, len(mos))).clip(1, 5) if noise else mos,
            "tokens": 40,
        }
    )
    return TestResult(label, f"model-{noise}-{seed}", "test-1", 1000, table)


CHAMPION = exam(0.9)


def changed(of: TestResult, **columns: object) -> TestResult:
    return replace(of, predictions=of.predictions.assign(**columns))


def missed(champion: TestResult | None, challenger: TestResult, rules: Gate = RULES) -> list[str]:
    """The checks that it didn't pass; and that all of them passing is what promotes it."""
    decision = decide(champion, challenger, rules, seed=7)
    names = [check.name for check in decision.checks if not check.passed]
    assert decision.promote == (not names)
    return names


def test_one_that_is_clearly_better_is_promoted() -> None:
    decision = decide(CHAMPION, exam(0.5, 1, "the checkout"), RULES, seed=7)
    assert decision.promote
    assert decision.summary.startswith("Promote: Its main score is +0.")


def test_one_that_is_worse_is_refused_and_told_by_how_much() -> None:
    decision = decide(CHAMPION, exam(1.2, 1), RULES, seed=7)
    assert not decision.promote
    assert "Its sure gain in main score is -0." in decision.summary


def test_one_that_may_be_as_good_is_refused() -> None:
    assert missed(CHAMPION, exam(0.88, 1)) == ["sure gain in main score"]


def test_a_margin_asks_for_more_and_a_negative_one_for_less() -> None:
    better, like = exam(0.6, 1), exam(0.88, 1)
    assert missed(CHAMPION, better) == []
    assert missed(CHAMPION, better, RULES.model_copy(update={"margin": 0.2})) == ["sure gain in main score"]
    assert missed(CHAMPION, like, RULES.model_copy(update={"margin": -0.1})) == []


def test_the_champion_itself_is_nothing_new() -> None:
    decision = decide(CHAMPION, replace(CHAMPION, label="the checkout"), RULES, seed=7)
    assert not decision.promote and decision.reasons == ("It is v1.0.0 itself.",)


def test_another_test_compares_nothing() -> None:
    other = replace(exam(0.2, 1), test="test-2")
    assert "sat another test" in decide(CHAMPION, other, RULES, seed=7).summary
    fewer = replace(CHAMPION, predictions=CHAMPION.predictions.iloc[1:])
    assert "sat another test" in decide(fewer, exam(0.2, 1), RULES, seed=7).summary


def test_answers_without_a_score_count_as_the_worst_ones() -> None:
    good = exam(0.3, 1)
    scores = good.predictions["score"].where(np.arange(300) >= 30)
    assert "coverage" in missed(CHAMPION, changed(good, score=scores))
    lazy = changed(good, score=good.predictions["score"].where(np.arange(300) >= 200))
    assert {"sure gain in main score", "main score", "coverage"} <= {*missed(CHAMPION, lazy)}


def test_coverage_may_not_fall_behind_the_champions_though_it_is_high() -> None:
    good = exam(0.3, 1)
    assert missed(CHAMPION, changed(good, score=good.predictions["score"].where(np.arange(300) >= 3))) == [
        "coverage"
    ]


def test_one_edit_type_that_collapses_is_named() -> None:
    good, bad = exam(0.1, 1), exam(4.0, 2)
    style = good.predictions["edit_type"] == "style"
    mixed = good.predictions["score"].where(~style, bad.predictions["score"])
    lenient = RULES.model_copy(update={"margin": -1.0})
    assert missed(CHAMPION, changed(good, score=mixed), lenient) == ["main score of style"]


def test_types_of_few_source_images_are_not_judged() -> None:
    one = CHAMPION.predictions["source_id"] == "source-1"
    rare = CHAMPION.predictions["edit_type"].where(~one, "rare")
    decision = decide(changed(CHAMPION, edit_type=rare), changed(exam(0.5, 1), edit_type=rare), RULES, seed=7)
    assert [check.name for check in decision.checks if "rare" in check.name] == []
    without = [replace(e, predictions=e.predictions.drop(columns="edit_type")) for e in (CHAMPION, exam(0.5, 1))]
    assert missed(*without) == []


def test_few_source_images_judge_nobody() -> None:
    few = CHAMPION.predictions["source_id"].isin([f"source-{number}" for number in range(9)])
    champion, good = (replace(e, predictions=e.predictions[few]) for e in (CHAMPION, exam(0.1, 1)))
    assert missed(champion, good) == ["source images"]


def test_noise_seldom_trips_the_types() -> None:
    """Two critics as good as each other: a type is said to have fallen in 5 of 100 cases at most."""
    rules = RULES.model_copy(update={"type_margin": 0.0, "n_boot": 200})
    alarms = 0
    for seed in range(40):
        names = missed(exam(0.9, seed), exam(0.9, seed + 1000), rules)
        alarms += any(name.startswith("main score of") for name in names)
    assert alarms <= 6  # 40 draws of 5 % are more than 6 once in 160 times


def test_longer_answers_and_larger_weights_are_refused() -> None:
    good = exam(0.3, 1)
    assert missed(CHAMPION, changed(good, tokens=61)) == ["tokens an answer"]
    assert missed(CHAMPION, replace(good, size=1101)) == ["bytes of the critic"]
    assert missed(CHAMPION, replace(changed(good, tokens=60), size=1100)) == []


def test_the_first_critic_needs_no_champion_but_must_be_some_good() -> None:
    assert missed(None, exam(0.3)) == []
    assert missed(None, exam(4.0)) == ["main score"]


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), noise=st.floats(0.3, 2.0), share=st.floats(0.0, 0.5))
def test_a_critic_that_only_got_worse_is_never_promoted(seed: int, noise: float, share: float) -> None:
    """Some of the champion's answers are replaced by the farthest from the MOS."""
    champion = exam(noise, seed)
    spoilt = np.random.default_rng(seed).random(300) < share
    worst = np.where(champion.predictions["mos"] <= 3, 5.0, 1.0)
    challenger = changed(champion, score=np.where(spoilt, worst, champion.predictions["score"]))
    assert not decide(champion, replace(challenger, model="another"), RULES, seed=7).promote


def test_the_order_of_rows_means_nothing() -> None:
    good = exam(0.5, 1)
    shuffled = replace(good, predictions=good.predictions.sample(frac=1, random_state=3))
    assert decide(CHAMPION, shuffled, RULES, seed=7) == decide(CHAMPION, good, RULES, seed=7)


def test_an_exam_without_rows_or_with_an_id_twice_is_an_error() -> None:
    with pytest.raises(GateError, match="are none"):
        decide(None, replace(CHAMPION, predictions=CHAMPION.predictions.iloc[:0]), RULES, seed=7)
    twice = pd.concat([CHAMPION.predictions, CHAMPION.predictions.iloc[:1]])
    with pytest.raises(GateError, match="an id twice"):
        decide(None, replace(CHAMPION, predictions=twice), RULES, seed=7)


def test_decisions_are_numbered_pages_and_json_beside_each_other(tmp_path: Path) -> None:
    refused = record(tmp_path, decide(CHAMPION, exam(1.2, 1), RULES, seed=7))
    promoted = record(tmp_path, decide(CHAMPION, exam(0.3, 1), RULES, seed=7))
    assert [page.name for page in (refused, promoted)] == ["0001-refused.md", "0002-promoted.md"]
    told = json.loads(promoted.with_suffix(".json").read_text())
    assert told["promote"] and told["checks"][0]["passed"]
    page = refused.read_text()
    assert page.startswith("# Refuse\n") and "300 edits of 60 source images, test-1" in page and "**no**" in page
