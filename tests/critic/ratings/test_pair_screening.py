"""Careless, malicious, one-sided and hasty voters are excluded, and others aren't."""

import numpy as np
import pandas as pd
import pytest

from critic.params import Ratings, load
from critic.ratings.pair_screening import screen_votes

RULES = load(Ratings)
PAIRS = 40


def votes(ordered: bool = False, **changes: object) -> pd.DataFrame:
    """Five honest raters, who err on a tenth of the pairs, and `odd`, who votes on all pairs as `changes` say.

    If `ordered`, the better edit is always on the left.
    """
    rng, rows = np.random.default_rng(0), []
    for pair in range(PAIRS):
        for rater in ("ann", "bob", "cyn", "dan", "eve", "odd"):
            better_left = ordered or bool(rng.random() < 0.5)
            right = bool(rng.random() < 0.9) == better_left
            row = {
                "rater": rater,
                "pair": f"p{pair}",
                "first": f"a{pair}",
                "left": f"{'a' if better_left else 'b'}{pair}",
                "choice": "left" if right else "right",
                "seconds": 4.0,
            }
            if rater == "odd":
                row |= {
                    name: value(better_left, rng) if callable(value) else value for name, value in changes.items()
                }
            rows.append(row)
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("changes", "status", "reason"),
    [
        ({}, "counted", ""),
        ({"choice": lambda _, rng: rng.choice(["left", "right"])}, "low_agreement", "at random"),
        ({"choice": lambda left, _: "right" if left else "left"}, "inverted", "on 0 of 40 pairs"),
        ({"choice": "left"}, "one_sided", "chose the left edit in 40 of 40 votes"),
        ({"choice": "right"}, "one_sided", "chose the right edit in 40 of 40 votes"),
        ({"choice": "tie"}, "insufficient_data", "on 0 of 0 pairs"),
        ({"seconds": 0.4}, "too_fast", "took less than 0.4 s; 1.0 s are needed"),
        ({"seconds": float("nan")}, "counted", ""),
    ],
)
def test_the_odd_one_is_found_and_nobody_else(changes: dict[str, object], status: str, reason: str) -> None:
    found = screen_votes(votes(**changes), RULES)
    assert found.loc["odd", "status"] == status and reason in found.loc["odd", "reason"]
    assert (found["status"].drop("odd") == "counted").all()
    assert (found["votes"] == PAIRS).all()


def test_a_side_that_all_prefer_is_no_fault() -> None:
    found = screen_votes(votes(ordered=True, choice="left"), RULES)
    assert found.loc["odd", "status"] == "counted" and found.loc["odd", "left"] == 1


def test_with_few_votes_nobody_is_accused() -> None:
    few = votes(choice="left")[lambda table: table["pair"].isin([f"p{pair}" for pair in range(4)])]
    assert {*screen_votes(few, RULES)["status"]} == {"insufficient_data"}
