"""Strengths are Bradley-Terry's, and a MOS comes from votes only where anchors give its scale."""

from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from critic.params import Ratings, load
from critic.ratings import pair_pooling
from critic.ratings.pair_pooling import PairResults, pool_votes

RULES = load(Ratings)
SOURCES, LEVELS = 12, np.array([1.4, 0.5, -0.4, -1.5])
RATERS = 24
NO_MOS = pd.Series(dtype=float)
EDITS = pd.DataFrame(
    [{"id": f"{s:02d}-{e}", "source_id": f"s{s}", "editor": "abcd"[e]} for s in range(SOURCES) for e in range(4)]
).set_index("id")
"""Four editors' edits of twelve sources; an editor's edits have the strength of `LEVELS`."""
TRUTH = pd.Series({f"{s:02d}-{e}": 3 + 0.2 * (s % 3 - 1) + LEVELS[e] for s in range(SOURCES) for e in range(4)})
"""The MOS: a point a unit of strength, at another level for each source."""


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pair_pooling, "_N_BOOT", 100)


@pytest.fixture(scope="module")
def votes() -> pd.DataFrame:
    """Each rater votes on all pairs of each source, as the strengths say."""
    rng, rows = np.random.default_rng(3), []
    for source in range(SOURCES):
        for (one, other), rater in ((pair, r) for pair in combinations(range(4), 2) for r in range(RATERS)):
            left, right = (one, other) if rng.random() < 0.5 else (other, one)
            wins = rng.random() < 1 / (1 + np.exp(LEVELS[right] - LEVELS[left]))
            sides = {"left": f"{source:02d}-{left}", "right": f"{source:02d}-{right}"}
            rows.append({"rater": f"r{rater}"} | sides | {"choice": "left" if wins else "right", "seconds": 3.0})
    return pd.DataFrame(rows)


def pooled(votes: pd.DataFrame, anchored: list[str]) -> PairResults:
    return pool_votes(votes, EDITS, TRUTH[anchored], RULES)


def test_the_strengths_of_editors_are_recovered_with_intervals(votes: pd.DataFrame) -> None:
    found = pooled(votes, []).editors
    assert [*found.index] == ["a", "b", "c", "d"]
    assert found["strength"].to_numpy() == pytest.approx(LEVELS - LEVELS.mean(), abs=0.2)
    assert ((found["low"] < found["strength"]) & (found["strength"] < found["high"])).all()


def test_without_anchors_there_is_no_mos(votes: pd.DataFrame) -> None:
    few = [f"{source:02d}-0" for source in range(SOURCES)]
    for anchored in ([], few, [*few, "00-1"]):
        found = pooled(votes, anchored)
        assert not found.scale.valid and found.edits["mos"].isna().all()


def test_anchors_put_the_others_of_their_source_on_the_scale(votes: pd.DataFrame) -> None:
    anchored = [id for id in TRUTH.index if id[-1] in "03" and id[:2] != "11"]
    found = pooled(votes, anchored)
    assert found.scale.valid and found.scale.slope == pytest.approx(1, abs=0.25)
    assert found.edits.loc[anchored, "mos"].isna().all()
    assert found.edits.filter(like="11-", axis=0)["mos"].isna().all()
    mos = found.edits["mos"].dropna()
    assert len(mos) == 2 * (SOURCES - 1)
    assert np.sqrt(((mos - TRUTH[mos.index]) ** 2).mean()) < 0.4


def test_anchors_that_contradict_the_votes_give_no_scale(votes: pd.DataFrame) -> None:
    found = pool_votes(votes, EDITS, 6 - TRUTH[[id for id in TRUTH.index if id[-1] in "03"]], RULES)
    assert found.scale.slope < 0 and not found.scale.valid and found.edits["mos"].isna().all()


def test_a_later_vote_replaces_an_earlier_one(votes: pd.DataFrame) -> None:
    wrong = votes.head(30).assign(choice="tie")
    again = pooled(pd.concat([wrong, votes], ignore_index=True), [])
    pd.testing.assert_frame_equal(again.edits, pooled(votes, []).edits)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4), st.sampled_from([0.0, 0.5, 1.0])), max_size=30))
def test_strengths_are_finite_and_swapping_the_sides_changes_nothing(rows: list[tuple[int, int, float]]) -> None:
    rows = [row for row in rows if row[0] != row[1]]
    left, right, share = (pd.Series([row[place] for row in rows], dtype=object) for place in range(3))
    found = pair_pooling._Graph(left, right, share.astype(float)).strengths()
    swapped = pair_pooling._Graph(right, left, 1 - share.astype(float)).strengths()
    assert np.isfinite(found["strength"]).all()
    assert found["strength"].to_numpy() == pytest.approx(swapped["strength"].to_numpy(), abs=1e-6)
    assert found.groupby("group")["strength"].sum().to_numpy() == pytest.approx(0, abs=1e-6)
