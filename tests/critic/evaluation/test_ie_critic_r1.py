"""Upstream's way of counting, with what is lenient and what is strict about it."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from critic.evaluation.agreement import measure
from critic.evaluation.ie_critic_r1 import read_as_upstream, upstream


@pytest.mark.parametrize(
    ("raw", "read"),
    [
        ("<think>Fine.</think><answer>3.75</answer>", 3.75),
        ("<think>Fine.</think><answer>\n 3.75 </answer>.", 3.75),
        ("<think><answer>2</answer></think><answer>4</answer>", 2.0),
        ("<answer>3.5", 3.5),
        ("4.5.", 4.5),
        ("<answer>42</answer>", 42.0),
        ("<answer>1e0</answer>", 1.0),
        ("<think>3.5", 3.5),  # of which the critic wrote "3.5"
        ("<answer>3.75/5</answer>", None),
        ("<answer>**3.75**</answer>", None),
        ("<think>It is good", None),
        ("", None),
    ],
)
def test_what_it_reads(raw: str, read: float | None) -> None:
    assert read_as_upstream(raw) == read


def test_it_reads_nan() -> None:
    answer = read_as_upstream("<answer>nan</answer>")
    assert answer is not None and math.isnan(answer)


@given(st.text())
def test_it_reads_any_text(raw: str) -> None:
    read_as_upstream(raw)


def test_failures_are_dropped_and_the_rest_is_scipys() -> None:
    rng = np.random.default_rng(0)
    mos = rng.uniform(1, 5, 100)
    pred = np.clip(mos + rng.normal(0, 0.8, 100), 1, 5).round(2)
    raw = [f"<answer>{score}</answer>" for score in pred]
    raw[0] = "<answer>?</answer>"
    found = upstream(raw, pred, mos)
    assert (found["read"], found["n"], found["dropped"], found["stopped"]) == ("raw", 99, 1, "")
    assert found["srcc"] == pytest.approx(stats.spearmanr(pred[1:], mos[1:]).statistic)
    assert found["plcc_unfitted"] == pytest.approx(stats.pearsonr(pred[1:], mos[1:]).statistic)
    assert found["plcc"] == pytest.approx(measure(pred[1:], mos[1:])["plcc_fitted"], abs=1e-4)
    assert found["main_score"] == pytest.approx((found["plcc"] + found["srcc"]) / 2)
    assert found["main_score_unfitted"] == pytest.approx((found["plcc_unfitted"] + found["srcc"]) / 2)


def test_without_responses_the_scores_count() -> None:
    mos = np.linspace(1, 5, 30)
    found = upstream(None, [math.nan, *mos[1:]], mos)
    assert (found["read"], found["n"], found["dropped"]) == ("score", 29, 1)


@pytest.mark.parametrize(
    ("answers", "why"),
    [
        (["nan", "1", "2", "3", "4"], "an answer reads as nan or inf"),
        (["3"] * 5, "all the same"),
        (["1", "2", "", "", ""], "fewer than 4 answers"),
    ],
)
def test_where_its_script_stops(answers: list[str], why: str) -> None:
    found = upstream([f"<answer>{a}</answer>" for a in answers], np.full(5, 3.0), np.arange(1.0, 6.0))
    assert why in found["stopped"]
    assert "main_score" not in found
