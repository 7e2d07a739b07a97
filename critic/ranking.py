"""Order: does a critic put edits of the same picture in the right one, and which editor does it put first?

pairwise_accuracy(pred, mos, sources).accuracy    # Estimate(value=0.81, low=0.78, high=0.84)
rank(pred, editors, sources).leads                # each two editors, on the pictures that both have edited
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from critic import weighted
from critic.intervals import difference, estimate
from critic.metrics import Difference, Estimate
from critic.weighted import Array


@dataclass(frozen=True)
class Pairs:
    """How many pairs of edits of one source image there are, of how many sources, and the share ordered right."""

    n: int
    sources: int
    accuracy: Estimate


def pairwise_accuracy(
    pred: ArrayLike, mos: ArrayLike, sources: ArrayLike, *, min_gap: float = 0.0, n_boot: int = 1000, seed: int = 0
) -> Pairs:
    """The share, 0..1, of pairs of edits of the same source image that a critic orders as people do.

    A pair counts if its MOS differ by more than `min_gap` points and the critic has scored both; a tie of the
    critic counts half, so that 0.5 is chance. The interval is from resampling source images. Without a pair to
    count all of it is NaN.

    Args:
        pred, mos: scores (NaN where the answer failed) and mean opinion scores, [n] each.
        sources: the source image of each edit, [n].
        min_gap: in points of MOS; differences of opinion that small are noise.
    """
    pred, mos = np.asarray(pred, dtype=np.float64), np.asarray(mos, dtype=np.float64)
    tallies = []
    for rows in pd.Series(np.asarray(sources)).groupby(np.asarray(sources), sort=True).indices.values():
        i, j = (rows[side] for side in np.triu_indices(len(rows), 1))
        by_people, by_critic = np.round(mos[i] - mos[j], 9), pred[i] - pred[j]
        counted = (np.abs(by_people) > min_gap) & np.isfinite(by_critic)
        agreed = (1 + np.sign(by_people) * np.sign(by_critic)) / 2
        tallies.append((agreed[counted].sum(), counted.sum()))
    right, pairs = np.array(tallies, dtype=np.float64).T
    drawn = weighted.draw(None, len(pairs), n_boot, seed)
    with np.errstate(invalid="ignore"):
        shares: Array = drawn @ right / (drawn @ pairs)
    return Pairs(int(pairs.sum()), int(np.sum(pairs > 0)), estimate(shares))


@dataclass(frozen=True)
class Ranked:
    """A group of edits: how many there are, how many have a score, and the mean of those in points of MOS."""

    group: str
    n: int
    scored: int
    mean: Estimate


@dataclass(frozen=True)
class Lead:
    """By how many points the better of two groups leads, over the source images that both share.

    `difference` is NaN where they share none.
    """

    better: str
    worse: str
    sources: int
    difference: Difference


@dataclass(frozen=True)
class Ranking:
    """What `rank` found: the groups, the highest mean first, and the lead between every two."""

    groups: list[Ranked]
    leads: list[Lead]


def rank(
    pred: ArrayLike, groups: Sequence[str], sources: Sequence[str], *, n_boot: int = 1000, seed: int = 0
) -> Ranking:
    """Mean score of each group of edits (an editor's, say), and the differences between them on shared sources.

    A difference is the mean, over the source images of which both groups have a scored edit, of the group's mean
    score there less the other's: what is hard about a picture is hard for both. Resamples draw those sources.
    Failed answers (NaN) take no part; see `Ranked.scored`.

    Args:
        pred: scores, NaN where the answer failed, [n].
        groups, sources: of each edit, [n].
    """
    table = pd.DataFrame({"score": np.asarray(pred, dtype=np.float64), "group": [*groups], "source": [*sources]})
    ranked = []
    for group, rows in table.groupby("group"):
        scored = rows.dropna(subset="score")
        mean = Estimate(np.nan, np.nan, np.nan)
        if len(scored):
            weights = weighted.draw(scored["source"], len(scored), n_boot, seed)
            mean = estimate(weighted.mean(scored["score"].to_numpy(float), weights))
        ranked.append(Ranked(str(group), len(rows), len(scored), mean))
    ranked.sort(key=lambda found: (np.isnan(found.mean.value), -found.mean.value))
    means = table.pivot_table(index="source", columns="group", values="score", aggfunc="mean")
    return Ranking(ranked, [_lead(means, a.group, b.group, n_boot, seed) for a, b in combinations(ranked, 2)])


def _lead(means: pd.DataFrame, a: str, b: str, n_boot: int, seed: int) -> Lead:
    """Between two columns of [sources, groups]."""
    shared = means.reindex(columns=[a, b]).dropna()
    if shared.empty:
        return Lead(a, b, 0, Difference(np.nan, np.nan, np.nan, np.nan))
    gaps = (shared[a] - shared[b]).to_numpy(float)
    if gaps.mean() < 0:  # their order on shared sources may be another than on all
        a, b, gaps = b, a, -gaps
    drawn = weighted.draw(None, len(gaps), n_boot, seed)
    return Lead(a, b, len(gaps), difference(weighted.mean(gaps, drawn)))
