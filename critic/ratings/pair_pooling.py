"""Pooling of votes on pairs: the strength of editors and of edits, and the MOS of edits if anchors give the scale.

Strengths are those of R. Bradley and M. Terry, *Rank analysis of incomplete block designs* (Biometrika 39, 1952).
The log-odds that an edit is preferred to another one are the difference of their strengths; a tie is half a vote
for each. Votes tell only differences, and only within a group that votes connect: the edits of one source and
instruction. So a strength is no MOS. Edits of the group with a MOS by ratings, *anchors*, put the others on its
scale:

    MOS = mean MOS of the group's anchors + slope * (strength - mean strength of the group's anchors)

The slope, points per unit of strength, is the same for all groups: least squares within the groups.
"""

from dataclasses import dataclass
from statistics import NormalDist

import choix
import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.sparse.csgraph import connected_components

from critic.answers import HIGHEST, LOWEST
from critic.evaluation.bootstrap import draw, enough, estimate
from critic.params import Ratings
from critic.ratings.pair_screening import CHOICES, screen_votes
from critic.ratings.pair_study import pair_id
from critic.ratings.screening import Array

_PRIOR = 0.1
"""The weight of a tie between any two that votes connect, so that one that always wins has a finite strength
(choix, `alpha` of Luce spectral ranking)."""
_N_BOOT = 1000


@dataclass(frozen=True)
class Scale:
    """How strengths become MOS.

    Attributes:
        anchors: edits with votes and a MOS by ratings; `spare` is their number beyond one a group.
        slope: points per unit of strength, and `low`, its lower bound; NaN if it can't be estimated.
        error: of an anchor's MOS by the formula, root mean square, in points.
        valid: whether the slope is significantly above 0 and the anchors are enough.
    """

    anchors: int
    spare: int
    slope: float
    low: float
    error: float
    valid: bool


@dataclass(frozen=True)
class PairResults:
    """Pooled votes.

    Attributes:
        pairs: the number of pairs with votes.
        raters: the result of `screen_votes`.
        editors: one row per editor, by editor, the strongest first within a group: group (those that votes
            connect), strength (the group's mean is 0), low and high (its 95 % interval, from resampling source
            images; NaN with too few), votes.
        without_editor: the number of counted votes that `editors` lacks, because an edit's editor isn't known.
        edits: one row per edit with counted votes, by edit id: group, raters (how many), strength, mos (NaN
            without a valid scale, an anchor in the group or enough raters).
        scale: see `Scale`.
    """

    pairs: int
    raters: pd.DataFrame
    editors: pd.DataFrame
    without_editor: int
    edits: pd.DataFrame
    scale: Scale


def pool_votes(votes: pd.DataFrame, edits: pd.DataFrame, mos: "pd.Series[float]", rules: Ratings) -> PairResults:
    """Screen the raters and compute the strengths.

    Args:
        votes: one row per vote, the earlier before the later: `critic.ratings.importers.VOTE_COLUMNS`. If a rater
            votes on a pair again, the last vote counts.
        edits: by id: source_id, and editor if known.
        mos: by edit id, those by ratings (1..5).
    """
    both = votes[["left", "right"]]
    paired = votes.assign(first=both.min(axis=1), pair=[*map(pair_id, votes["left"], votes["right"])])
    last = paired.drop_duplicates(["rater", "pair"], keep="last").reset_index(drop=True)
    raters = screen_votes(last, rules)
    kept = last[last["rater"].map(raters["status"]) == "counted"]
    of_left = (1 + kept["choice"].map(CHOICES).astype(float)) / 2
    graph = _Graph(kept["left"], kept["right"], of_left)
    strengths = graph.strengths()
    voters = pd.concat([kept[["rater", side]].set_axis(["rater", "edit"], axis=1) for side in ("left", "right")])
    strengths["raters"] = voters.groupby("edit")["rater"].nunique()
    anchored, scale = _anchor(strengths.assign(mos=mos.reindex(strengths.index)), rules)
    names = edits["editor"] if "editor" in edits else pd.Series(dtype=object)
    named = pd.DataFrame({side: kept[side].map(names) for side in ("left", "right")})
    named = named.assign(of_left=of_left, source=kept["left"].map(edits["source_id"])).dropna()
    return PairResults(
        pairs=last["pair"].nunique(),
        raters=raters,
        editors=_editors(named),
        without_editor=len(kept) - len(named),
        edits=strengths.assign(mos=anchored),
        scale=scale,
    )


def _editors(votes: pd.DataFrame) -> pd.DataFrame:
    """The editors' strengths; `votes` has left and right (editors), of_left (0..1) and source."""
    table = votes[votes["left"] != votes["right"]]
    graph = _Graph(table["left"], table["right"], table["of_left"])
    found = graph.strengths().assign(low=np.nan, high=np.nan)
    found["votes"] = pd.concat([table["left"], table["right"]]).value_counts()
    if enough(table["source"]):
        draws = draw(table["source"], len(table), _N_BOOT, seed=0)
        samples = [graph.fit(weights) for block in draws for weights in block]
        # A resample in which votes connect other editors has other zeros.
        alike = [strength for groups, strength in samples if np.array_equal(groups, found["group"])]
        for name, values in zip(found.index, np.array(alike).T, strict=True):
            interval = estimate(values)
            found.loc[name, ["low", "high"]] = interval.low, interval.high
    return found.sort_values(["group", "strength"], ascending=[True, False])


class _Graph:
    """Votes between names; `of_left` is each vote's share for the left one, 0..1."""

    def __init__(self, left: "pd.Series[str]", right: "pd.Series[str]", of_left: "pd.Series[float]"):
        numbers, names = pd.factorize(pd.concat([left, right]).to_numpy(object), sort=True)
        self._names = pd.Index(names, dtype=object)
        self._cells = np.concatenate([numbers, np.roll(numbers, len(left))]).reshape(2, -1)
        self._share = np.concatenate([of_left, 1 - of_left]).astype(float)

    def strengths(self) -> pd.DataFrame:
        """group and strength, by name."""
        groups, strength = self.fit(np.ones(len(self._share) // 2))
        return pd.DataFrame({"group": groups, "strength": strength}, index=self._names)

    def fit(self, weights: Array) -> tuple[npt.NDArray[np.int32], Array]:
        """The group and the strength of each name, with a weight for each vote; a group's mean strength is 0."""
        wins = np.zeros((len(self._names), len(self._names)))
        np.add.at(wins, (*self._cells,), np.tile(weights, 2) * self._share)
        strength, (count, groups) = np.zeros(len(wins)), connected_components(wins + wins.T, directed=False)
        for group in range(count):
            members = np.flatnonzero(groups == group)
            if len(members) > 1:
                found = choix.ilsr_pairwise_dense(wins[np.ix_(members, members)], _PRIOR, max_iter=1000)
                strength[members] = found - found.mean()
        return groups, strength


def _anchor(edits: pd.DataFrame, rules: Ratings) -> tuple["pd.Series[float]", Scale]:
    """The MOS of edits that aren't anchors, and the scale; `edits` has group, strength, raters and mos."""
    anchors = edits[edits["mos"].notna()]
    means = anchors.groupby("group")[["strength", "mos"]].mean()
    x, y = (anchors[name] - anchors["group"].map(means[name]) for name in ("strength", "mos"))
    spare, spread = len(anchors) - len(means), float((x**2).sum())
    slope = low = error = np.nan
    if spare > 1 and spread > 0:
        slope = float((x * y).sum() / spread)
        error = float(np.sqrt(((y - slope * x) ** 2).sum() / (spare - 1)))
        low = slope - NormalDist().inv_cdf(rules.confidence) * error / np.sqrt(spread)
    valid = spare >= rules.min_anchors and low > 0
    of_group = {name: edits["group"].map(means[name]) for name in ("strength", "mos")}
    values = (of_group["mos"] + slope * (edits["strength"] - of_group["strength"])).clip(LOWEST, HIGHEST)
    fits = edits["mos"].isna() & (edits["raters"] >= rules.min_raters) & valid
    return values.where(fits), Scale(len(anchors), spare, slope, float(low), error, bool(valid))
