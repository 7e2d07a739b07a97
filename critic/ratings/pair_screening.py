"""Screening: which people's votes on pairs of edits count.

1. Who votes faster than one can look, by the median, doesn't count.
2. Who chooses one side nearly always doesn't count, unless the others prefer the edits on that side as often.
3. Who doesn't agree with the majority of the others significantly more often than by chance doesn't count. The
   worst is removed first and the rest is tested again, as in `critic.ratings.screening`. Who agrees significantly
   less often than by chance mistakes the question, or votes maliciously.

Ties, and pairs without a majority, aren't part of the tests. All tests are exact binomial tests (C. Clopper and
E. Pearson, Biometrika 26, 1934). Chance is one half.
"""

from functools import partial
from statistics import median
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.stats import binomtest

from critic.params import Ratings
from critic.ratings.screening import Agreement, Array, compare

Mask = npt.NDArray[np.bool_]
Status = Literal["counted", "insufficient_data", "inverted", "low_agreement", "one_sided", "too_fast"]

CHOICES = {"left": 1.0, "tie": 0.0, "right": -1.0}
_CHANCE = 0.5


def screen_votes(votes: pd.DataFrame, rules: Ratings) -> pd.DataFrame:
    """The status of each rater.

    Args:
        votes: one row per rater and pair: rater, pair, first (the id of the pair's first edit, the same for all
            raters), left (the id of the edit on the left), choice (of `CHOICES`), seconds (NaN if not known).

    Returns:
        One row per rater, by rater: votes (how many), status (a `Status`), reason (a sentence, "" for the
        counted), agreement (with the majority of the counted others, 0..1), left (share of the votes that aren't
        ties), seconds (the median; NaN if not known).
    """
    sides = votes["choice"].map(CHOICES)
    preferred = sides.where(votes["left"] == votes["first"], -sides)  # 1: the first edit
    table = votes.assign(side=sides, preferred=preferred)
    wide = table.pivot(index="pair", columns="rater", values=["side", "preferred"]).sort_index(axis=1)
    raters = [*wide["side"].columns]
    side, preference = (wide[name].to_numpy(float) for name in ("side", "preferred"))
    seconds = {name: rows.dropna() for name, rows in table.groupby("rater")["seconds"]}
    everybody = [*range(len(raters))]
    faults = [
        _too_fast([*seconds[name]], rules) or _one_sided(side, preference, rater, rules)
        for rater, name in enumerate(raters)
    ]
    trusted = [rater for rater in everybody if faults[rater] is None]
    found = compare(everybody, trusted, partial(_agree, preference, rules), 1, _CHANCE)
    rows = [faults[rater] or _status(found[rater], rules) for rater in everybody]
    return pd.DataFrame(
        {
            "votes": np.isfinite(side).sum(axis=0),
            "status": [status for status, _ in rows],
            "reason": [reason for _, reason in rows],
            "agreement": [found[rater].value for rater in everybody],
            "left": [_share(column == 1, column != 0, np.isfinite(column)) for column in side.T],
            "seconds": [median(seconds[name]) if len(seconds[name]) else np.nan for name in raters],
        },
        index=pd.Index(raters, name="rater"),
    )


def _too_fast(seconds: list[float], rules: Ratings) -> tuple[Status, str] | None:
    if len(seconds) < rules.min_votes or (middle := median(seconds)) >= rules.min_seconds:
        return None
    return "too_fast", f"half of the votes took less than {middle:.1f} s; {rules.min_seconds:.1f} s are needed"


def _one_sided(sides: Array, preferences: Array, rater: int, rules: Ratings) -> tuple[Status, str] | None:
    """A fault if nearly all votes are for one side and the majority of the others isn't on that side as often."""
    side, preferred = sides[:, rater], preferences[:, rater]
    others = np.nansum(np.delete(preferences, rater, axis=1), axis=1)
    decided = np.isfinite(side) & (side != 0)
    count = int(decided.sum())
    often = int(max((side[decided] == 1).sum(), (side[decided] == -1).sum()))
    if count < rules.min_votes or often / count <= rules.max_side:
        return None
    usual = 1.0 if (side[decided] == 1).sum() == often else -1.0
    known = decided & (others != 0)
    # The sign of `side` times that of `preferred` tells which edit is on the left.
    expected = _share(np.sign(others) * side * preferred == usual, known) if known.any() else _CHANCE
    if binomtest(often, count, max(expected, _CHANCE), "greater").pvalue >= 1 - rules.confidence:
        return None
    where = "left" if usual == 1 else "right"
    shares = f"chose the {where} edit in {often} of {count} votes; the others in {expected:.0%} of these"
    return "one_sided", shares


def _status(found: Agreement, rules: Ratings) -> tuple[Status, str]:
    if found.bound >= _CHANCE:
        return "counted", ""
    agreed = round(found.value * found.shared) if found.shared else 0
    figures = f"agreed with the majority of the others on {agreed} of {found.shared} pairs"
    if found.shared and binomtest(agreed, found.shared, _CHANCE, "less").pvalue < 1 - rules.confidence:
        return "inverted", f"{figures}: votes for the worse edit, or maliciously"
    if found.shared < rules.min_votes:
        return "insufficient_data", f"{figures}, too few to tell; {rules.min_votes} may be enough"
    return "low_agreement", f"{figures}, not significantly more than by chance: votes carelessly or at random"


def _agree(preferred: Array, rules: Ratings, rater: int, panel: list[int]) -> Agreement:
    """The share of pairs on which a rater votes as the majority of the rest of a panel, and its lower bound."""
    majority = np.sign(np.nansum(preferred[:, [other for other in panel if other != rater]], axis=1))
    own = preferred[:, rater]
    shared = np.isfinite(own) & (own != 0) & (majority != 0)
    count, agreed = int(shared.sum()), int((own == majority)[shared].sum())
    if not count:
        return Agreement(np.nan, 0, 0.0)
    bound = binomtest(agreed, count, alternative="greater").proportion_ci(rules.confidence).low
    return Agreement(agreed / count, count, float(bound))


def _share(events: Mask, *of: Mask) -> float:
    """The share of events among the rows that all of `of` hold, NaN without any."""
    rows = np.logical_and.reduce(of)
    return float(events[rows].mean()) if rows.any() else np.nan
