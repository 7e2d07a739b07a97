"""Order: does a critic put edits of the same picture in the right one, and which editor does it put first?

pairwise_accuracy(pred, mos, sources).accuracy    # Estimate(value=0.81, low=0.78, high=0.84)
rank(pred, editors, sources).leads                # each two editors, on the pictures that both have edited
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import stats

from critic.evaluation import bootstrap
from critic.evaluation.bootstrap import Array
from critic.evaluation.intervals import SMALLEST_GROUP, draw, enough, estimate
from critic.evaluation.metrics import Difference, Estimate

_FLIPS = 10_000


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

    A pair counts if its MOS differ by more than `min_gap` points. A tie of the critic counts half, so that 0.5 is
    chance, and a pair of which an edit has no score counts as wrong. The interval is from resampling source
    images; there is none if fewer than `SMALLEST_GROUP` have a pair. Without a pair to count all of it is NaN.

    Args:
        pred, mos: scores (NaN where the answer failed) and mean opinion scores (NaN: in no pair), [n] each.
        sources: the source image of each edit, [n].
        min_gap: in points of MOS; differences of opinion that small are noise.
    """
    pred, mos = np.asarray(pred, dtype=np.float64), np.asarray(mos, dtype=np.float64)
    tallies = []
    for rows in pd.Series(np.asarray(sources)).groupby(np.asarray(sources), sort=True).indices.values():
        i, j = (rows[side] for side in np.triu_indices(len(rows), 1))
        by_people, by_critic = np.round(mos[i] - mos[j], 9), pred[i] - pred[j]
        counted = np.abs(by_people) > min_gap
        agreed = np.where(np.isfinite(by_critic), (1 + np.sign(by_people) * np.sign(by_critic)) / 2, 0)
        tallies.append((agreed[counted].sum(), counted.sum()))
    right, pairs = np.array(tallies, dtype=np.float64).T
    with_pairs = int(np.sum(pairs > 0))
    drawn = bootstrap.draw(None, len(pairs), n_boot if with_pairs >= SMALLEST_GROUP else 0, seed)
    with np.errstate(invalid="ignore"):
        shares: Array = drawn @ right / (drawn @ pairs)
    return Pairs(int(pairs.sum()), with_pairs, estimate(shares))


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

    Attributes:
        sources: how many they share.
        difference: NaN where they share none; without interval and p where they share fewer than `SMALLEST_GROUP`.
        p_holm: its p by Holm's method ("A simple sequentially rejective multiple test procedure", 1979) for all
            leads that have one: were no two groups different, one of these would be below 0.05 in 5 % of rankings.
    """

    better: str
    worse: str
    sources: int
    difference: Difference
    p_holm: float


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
    score there less the other's: what is hard about a picture is hard for both. Resamples draw those sources. p is
    of a sign-flip test of that mean: were the groups alike, each difference might as well have the other sign. It
    is exact up to 13 sources, and from 10,000 flips or more beyond. Failed answers (NaN) take no part; see
    `Ranked.scored`.

    Args:
        pred: scores, NaN where the answer failed, [n].
        groups, sources: of each edit, [n].
    """
    table = pd.DataFrame({"score": np.asarray(pred, dtype=np.float64), "group": [*groups], "source": [*sources]})
    ranked = []
    for group, rows in table.groupby("group"):
        score = rows["score"].to_numpy(float)
        scored = np.isfinite(score)
        mean = estimate(bootstrap.mean(score[scored], draw(rows["source"], scored, n_boot, seed)))
        ranked.append(Ranked(str(group), len(rows), int(scored.sum()), mean))
    ranked.sort(key=lambda found: (np.isnan(found.mean.value), -found.mean.value))
    means = table.pivot_table(index="source", columns="group", values="score", aggfunc="mean")
    two = [*combinations([found.group for found in ranked], 2)]
    flips = max(_FLIPS, 100 * len(two))  # so that the smallest p that there can be is small after Holm, too
    return Ranking(ranked, _with_holm([_lead(means, a, b, n_boot, flips, seed) for a, b in two]))


def _lead(means: pd.DataFrame, a: str, b: str, n_boot: int, flips: int, seed: int) -> Lead:
    """Between two columns of [sources, groups]; `p_holm` is yet to be found."""
    shared = means.reindex(columns=[a, b]).dropna()
    if shared.empty:
        return Lead(a, b, 0, Difference(np.nan, np.nan, np.nan, np.nan), np.nan)
    gaps = (shared[a] - shared[b]).to_numpy(float)
    if gaps.sum() < 0:  # their order on shared sources may be another than on all
        a, b, gaps = b, a, -gaps
    mean = estimate(bootstrap.mean(gaps, draw(None, np.full(len(gaps), True), n_boot, seed)))
    p = _sign_flip(gaps, flips, seed) if enough(shared.index) else np.nan
    return Lead(a, b, len(gaps), Difference(mean.value, mean.low, mean.high, p), np.nan)


def _sign_flip(gaps: Array, flips: int, seed: int) -> float:
    """The two-sided p-value of a mean of `gaps` being 0, whatever is symmetric about it."""
    rng = np.random.default_rng(seed)
    found = stats.permutation_test(
        (gaps,), np.mean, permutation_type="samples", n_resamples=flips, batch=1000, vectorized=True, rng=rng
    )
    return float(found.pvalue)


def _with_holm(leads: Sequence[Lead]) -> list[Lead]:
    p = np.array([lead.difference.p for lead in leads])
    order = np.argsort(p)[: np.isfinite(p).sum()]  # NaN comes last
    raised = np.full(len(p), np.nan)
    raised[order] = np.minimum(1, np.maximum.accumulate(p[order] * np.arange(len(order), 0, -1)))
    return [replace(lead, p_holm=float(value)) for lead, value in zip(leads, raised, strict=True)]
