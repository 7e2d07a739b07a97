"""Accuracy on preferences: each protocol by hand, the critics that bound it, failures, and files with faults."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from critic.data.preferences.order import read_preferences
from critic.evaluation.preferences import (
    OWN,
    PROTOCOLS,
    best_threshold,
    compare_preferences,
    evaluate_preferences,
)
from critic.evaluation.published import load_published
from critic.tables import TableError

Make = Callable[..., pd.DataFrame]

PAIRS = """edited_a,edited_b,winner,group,source_id,subtask
a1,a2,a1,a,pa,add
b1,b2,tie,b,pb,add
c1,c2,c2,c,pc,remove
c1,c3,c3,c,pc,remove
c2,c3,c3,c,pc,remove
"""
SCORES = {"a1": 3.0, "a2": 3.0, "b1": 2.0, "b2": 2.5, "c1": 1.0, "c2": 2.0, "c3": 4.0}
"""A tie on a pair in order, a difference of 0.5 on a tie, and a group of three in the right order."""


def table(scores: dict[str, float | None]) -> pd.DataFrame:
    made = pd.DataFrame({"id": [*scores], "score": [*scores.values()]}).astype({"score": float})
    return made.assign(status=np.where(made["score"].notna(), "ok", "truncated"))


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def write(text: str = PAIRS, name: str = "pairs.csv") -> pd.DataFrame:
        (tmp_path / name).write_text(text)
        return read_preferences(tmp_path / name)

    return write


def accuracies(found: dict[str, Any]) -> dict[tuple[str, int | None], tuple[int, float]]:
    return {(row["protocol"], row["ways"]): (row["n"], row["accuracy"].value) for row in found["figures"]}


def named(pairs: pd.DataFrame, benchmark: str) -> pd.DataFrame:
    return pairs.assign(benchmark=benchmark)


def test_each_protocol_is_as_computed_by_hand(make: Make) -> None:
    found = accuracies(evaluate_preferences(table(SCORES), make()))
    assert found == {
        ("half", None): (4, 3.5 / 4),
        ("half", 2): (1, 0.5),
        ("half", 3): (3, 1),
        ("wrong", None): (4, 3 / 4),
        ("wrong", 2): (1, 0),
        ("wrong", 3): (3, 1),
        ("ties", None): (5, 3 / 5),
        ("ties", 2): (2, 0),
        ("ties", 3): (3, 1),
        ("calibrated", None): (5, 4 / 5),  # with a threshold of 0.5, b is a tie
        ("calibrated", 2): (2, 1 / 2),
        ("calibrated", 3): (3, 1),
        ("groups", None): (3, 1 / 3),
        ("groups", 2): (2, 0),
        ("groups", 3): (1, 1),
    }


def test_the_protocols_of_the_benchmarks_are_as_computed_by_hand(make: Make) -> None:
    found = evaluate_preferences(table(SCORES), named(make(), "editreward-bench"))
    groups = {ways: of for (name, ways), of in accuracies(found).items() if name == "groups-calibrated"}
    assert groups == {None: (3, 2 / 3), 2: (2, 1 / 2), 3: (1, 1)} and found["thresholds"]["groups-calibrated"] == {
        "overall": 0.5
    }
    found = evaluate_preferences(table(SCORES), named(make(), "editscore-bench"))
    assert accuracies(found)["subtasks", None] == (4, (0 + 1) / 2)  # add: 0 of 1, remove: 3 of 3
    assert [(row["subtask"], row["n"]) for row in found["subtasks"]] == [("add", 1), ("remove", 3)]


def test_a_threshold_does_not_undo_an_order_in_the_strict_ranking(make: Make) -> None:
    near = SCORES | {"a1": 3.1, "d1": 2.0, "d2": 2.5}  # a is within the threshold of 0.5, in the right order
    pairs = named(make(f"{PAIRS}d1,d2,tie,d,pd,add\n"), "editreward-bench")
    found = accuracies(evaluate_preferences(table(near), pairs))
    assert found["groups-calibrated", 2] == (3, 1) and found["calibrated", 2] == (3, 2 / 3)


@pytest.mark.parametrize(
    ("policy", "train_mean", "half", "groups"),
    [
        ("worst", None, (4, 1 / 4 + 0.5 / 4), (3, 0)),
        ("dropped", None, (2, 1.5 / 2), (2, 0)),
        ("train_mean", 1.5, (4, 2.5 / 4), (3, 0)),  # c2 > c3 = 1.5 > c1
    ],
)
def test_a_failed_score_counts_by_the_policy_and_is_told(
    make: Make, policy: Any, train_mean: float | None, half: tuple[int, float], groups: tuple[int, float]
) -> None:
    how = {"failure_policy": policy, "train_mean": train_mean}
    found = evaluate_preferences(table(SCORES | {"c3": None}), make(), **how)
    assert accuracies(found)["half", None] == half and accuracies(found)["groups", None] == groups
    assert (found["edits"], found["scored"], found["failed"], found["pairs_failed"]) == (7, 6, {"truncated": 1}, 2)
    assert len(found["policies"]["overall"]) == 2 + (train_mean is not None)


def test_axes_are_never_mixed(make: Make) -> None:
    pairs = make("edited_a,edited_b,winner,axis\na1,a2,a1,quality\na1,a2,a2,consistency\n")
    found = evaluate_preferences(table({"a1": 4.0, "a2": 2.0}), pairs)
    values = {row["axis"]: row["accuracy"].value for row in found["figures"] if row["protocol"] == "half"}
    assert values == {"quality": 1, "consistency": 0}


orders = st.lists(st.lists(st.integers(1, 3), min_size=2, max_size=4), min_size=1, max_size=8)
"""Groups of 2 to 4 edits, each edit with its place in people's order."""


def judged(places: list[list[int]]) -> pd.DataFrame:
    rows = [
        (f"{g}-{i}", f"{g}-{j}", float(np.sign(group[i] - group[j])), "overall", f"{g}", len(group), f"p{g}", "x")
        for g, group in enumerate(places)
        for i in range(len(group))
        for j in range(i)
    ]
    columns = ["edited_a", "edited_b", "order", "axis", "group", "ways", "source_id", "subtask"]
    return pd.DataFrame(rows, columns=columns)


@settings(max_examples=30)
@given(orders, st.sampled_from([None, *OWN]), st.data())
def test_who_knows_the_order_is_always_right_and_a_constant_gets_what_ties_give(
    places: list[list[int]], benchmark: str | None, data: st.DataObject
) -> None:
    pairs = judged(places).assign(benchmark=benchmark)
    known = {f"{g}-{i}": float(place) for g, group in enumerate(places) for i, place in enumerate(group)}
    shuffled = pairs.sample(frac=1, random_state=data.draw(st.integers(0, 9)))
    for row in evaluate_preferences(table(known), shuffled, n_boot=0)["figures"]:
        assert row["accuracy"].value == 1 or row["n"] == 0
    ties = pairs["order"] == 0
    all_tied = ties.groupby(pairs["group"]).all()
    constant = evaluate_preferences(table(dict.fromkeys(known, 3.0)), shuffled, n_boot=0)
    given_by_ties = {"half": 0.5, "wrong": 0, "subtasks": 0, "ties": ties.mean(), "calibrated": ties.mean()}
    given_by_ties |= dict.fromkeys(("groups", "groups-calibrated"), all_tied.mean())
    for row in constant["figures"]:
        if row["ways"] is None and row["n"]:
            assert row["accuracy"].value == pytest.approx(given_by_ties[row["protocol"]]), row


numbers = st.lists(st.tuples(st.integers(-6, 6), st.sampled_from([-1, 0, 1])), min_size=1, max_size=12)


@given(numbers)
def test_no_threshold_is_better_than_the_best(pairs: list[tuple[int, int]]) -> None:
    gap, order = np.array(pairs, dtype=float).T
    right = PROTOCOLS["calibrated"].right
    best = right(gap, order, best_threshold(gap, order)).mean()
    assert best == max(right(gap, order, threshold).mean() for threshold in [0, *np.abs(gap)])


def test_the_interval_comes_from_source_images(make: Make) -> None:
    """All pairs of one picture are right or wrong together: with more of them the interval stays as wide."""
    widths = []
    for copies in (1, 20):
        rows = [f"s{s}-{k}a,s{s}-{k}b,s{s}-{k}a,s{s}" for s in range(20) for k in range(copies)]
        pairs = make("edited_a,edited_b,winner,source_id\n" + "\n".join(rows))
        ids = [*pairs["edited_a"], *pairs["edited_b"]]
        scores = {id: 3 + (1 if id[-1] == "a" else -1) * (-1.0) ** int(id[1:].partition("-")[0]) for id in ids}
        accuracy = evaluate_preferences(table(scores), pairs)["figures"][0]["accuracy"]
        assert accuracy.value == 0.5
        widths.append(accuracy.high - accuracy.low)
    assert widths[0] == pytest.approx(widths[1])


def test_critics_are_compared_on_the_same_pairs_and_resamples(make: Make) -> None:
    rows = [f"s{s}a,s{s}b,s{s}a,p{s}" for s in range(40)]
    pairs = make("edited_a,edited_b,winner,source_id\n" + "\n".join(rows))
    right = {f"s{s}{side}": 3.0 + (side == "a") for s in range(40) for side in "ab"}
    often = right | {f"s{s}a": 1.0 for s in range(8)} | {"s9a": None}
    found = compare_preferences({"right": table(right), "often": table(often)}, pairs, failure_policy="dropped")
    assert [(row["n"], round(row["accuracy"].value, 4)) for row in found["critics"]] == [(40, 1), (39, 0.7949)]
    (difference,) = found["differences"]
    gain = difference["accuracy"]
    assert difference["n"] == 39 and gain.value == pytest.approx(8 / 39) and gain.low > 0 and gain.p < 0.05
    same = compare_preferences({"a": table(often), "b": table(often)}, pairs)["differences"][0]["accuracy"]
    assert (same.value, same.low, same.high, same.p) == (0, 0, 0, 1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("edited_a,edited_b\na,b\n", "has no column winner"),
        ("edited_a,edited_b,winner\n", "has no rows"),
        ("edited_a,edited_b,winner\na,b,a\na,b,\n", "line 3 has no winner"),
        ("edited_a,edited_b,winner\na,b,c\n", "line 2 has another winner .edited_a 'a', edited_b 'b', winner 'c'"),
        ("edited_a,edited_b,winner\na,a,a\n", "line 2 compares an edit with itself"),
        (
            "edited_a,edited_b,winner,benchmark\na,b,a,mine\n",
            "column benchmark has mine: give one of editreward-bench",
        ),
        (
            "edited_a,edited_b,winner,group,source_id\na,b,a,g,p\na,c,a,g,q\n",
            "line 2: its group has several source",
        ),
    ],
)
def test_a_fault_is_named_with_its_line(make: Make, text: str, message: str) -> None:
    with pytest.raises(TableError, match=message):
        make(text)


def test_an_edit_without_a_line_among_the_scores_is_named(make: Make) -> None:
    with pytest.raises(TableError, match="the scores lack 1 edits of the pairs, first 'c3'"):
        evaluate_preferences(table({id: 3.0 for id in SCORES if id != "c3"}), make())


def test_each_protocol_with_published_figures_is_one_of_ours() -> None:
    catalogue = load_published()
    for name, protocol in OWN.items():
        published = {one.protocol for one in catalogue.figures if one.benchmark == name}
        assert catalogue.benchmarks[name].pairs and published
        assert protocol in published or published == {"of-axes"}
        assert protocol in PROTOCOLS and protocol in catalogue.protocols
