"""Rankings by a critic: how often it orders edits of one picture as people do, and which editor is better.

pairwise_accuracy(pred, mos, sources).accuracy    # Estimate(value=0.81, low=0.78, high=0.84)
rank(pred, editors, sources).leads                # every two editors, on the pictures that both have edited
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import stats

from critic.evaluation import bootstrap
from critic.evaluation.bootstrap import (
    SMALLEST_GROUP,
    Array,
    Difference,
    Estimate,
    draw_counted,
    enough,
    estimate,
    resampled,
)

_FLIPS = 10_000


@dataclass(frozen=True)
class Pairs:
    """The number of pairs of edits of one source image, that of such images, and the share ordered right."""

    n: int
    sources: int
    accuracy: Estimate


def pairwise_accuracy(
    pred: ArrayLike, mos: ArrayLike, sources: ArrayLike, *, min_gap: float = 0.0, n_boot: int = 1000, seed: int = 0
) -> Pairs:
    """The share, 0..1, of pairs of edits of the same source image that a critic orders as people do.

    A pair counts if its MOS differ by more than `min_gap` points: smaller differences are noise. A tie of the
    critic counts half, so that 0.5 is chance, and a pair in which an edit has no score counts as wrong. The
    interval comes from resampling source images; there is none if fewer than `SMALLEST_GROUP` have a pair. Without
    pairs, all is NaN.

    Args:
        pred, mos: scores (NaN where the answer failed) and mean opinion scores (NaN: in no pair), [n] each.
        sources: the source image of each edit, [n].
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
    draws = bootstrap.draw(None, len(pairs), n_boot if with_pairs >= SMALLEST_GROUP else 0, seed)
    with np.errstate(invalid="ignore"):
        shares = resampled(lambda w: w @ right / (w @ pairs), draws)
    return Pairs(int(pairs.sum()), with_pairs, estimate(shares))


@dataclass(frozen=True)
class Ranked:
    """A group of edits: how many there are, how many have a score, and the mean score in points of MOS."""

    group: str
    n: int
    scored: int
    mean: Estimate


@dataclass(frozen=True)
class Lead:
    """By how many points the better of two groups leads, over the source images that both share.

    Attributes:
        difference: NaN if they share none; without interval and p if they share fewer than `SMALLEST_GROUP`.
        wins, losses: the shares of these source images on which the better, or the worse, has the higher mean.
        p_holm: p adjusted for all leads by Holm's method ("A simple sequentially rejective multiple test
            procedure", 1979): if no two groups differ, any is below 0.05 in 5 % of rankings.
    """

    better: str
    worse: str
    sources: int
    difference: Difference
    p_holm: float
    wins: float
    losses: float


@dataclass(frozen=True)
class Ranking:
    """The groups, the highest mean first, and the lead between every two."""

    groups: list[Ranked]
    leads: list[Lead]


def rank(
    pred: ArrayLike, groups: Sequence[str], sources: Sequence[str], *, n_boot: int = 1000, seed: int = 0
) -> Ranking:
    """Mean score of each group of edits (an editor's, say), and the differences between them on shared sources.

    A difference is the mean, over the source images with a scored edit of both groups, of the first group's mean
    score minus the other's: a hard picture is hard for both. Resamples draw those source images. p comes from a
    sign-flip test of that mean: if the groups are alike, each difference has either sign equally often. It is
    exact up to 13 source images; for more, it takes 10,000 random flips or more. Failed answers (NaN) are left
    out; see `Ranked.scored`.
    """
    table = pd.DataFrame({"score": np.asarray(pred, dtype=np.float64), "group": [*groups], "source": [*sources]})
    ranked = []
    for group, rows in table.groupby("group"):
        score = rows["score"].to_numpy(float)
        scored = np.isfinite(score)
        mean = _mean(score[scored], draw_counted(rows["source"], scored, n_boot, seed))
        ranked.append(Ranked(str(group), len(rows), int(scored.sum()), mean))
    ranked.sort(key=lambda found: (np.isnan(found.mean.value), -found.mean.value))
    means = table.pivot_table(index="source", columns="group", values="score", aggfunc="mean")
    two = [*combinations([found.group for found in ranked], 2)]
    flips = max(_FLIPS, 100 * len(two))  # so that the smallest possible p stays small after Holm's method
    return Ranking(ranked, _with_holm([_lead(means, a, b, n_boot, flips, seed) for a, b in two]))


def _mean(x: Array, draws: Iterator[Array]) -> Estimate:
    return estimate(resampled(lambda w: bootstrap.mean(x, w), draws))


def _lead(means: pd.DataFrame, a: str, b: str, n_boot: int, flips: int, seed: int) -> Lead:
    """The lead between two columns of [sources, groups], with `p_holm` NaN."""
    shared = means.reindex(columns=[a, b]).dropna()
    if shared.empty:
        return Lead(a, b, 0, Difference(np.nan, np.nan, np.nan, np.nan), np.nan, np.nan, np.nan)
    gaps = (shared[a] - shared[b]).to_numpy(float)
    if gaps.sum() < 0:  # the order on shared sources may differ from that on all
        a, b, gaps = b, a, -gaps
    mean = _mean(gaps, draw_counted(None, np.full(len(gaps), True), n_boot, seed))
    p = np.nan
    if enough(shared.index):
        how = {"n_resamples": flips, "batch": 1000, "vectorized": True, "rng": np.random.default_rng(seed)}
        p = float(stats.permutation_test((gaps,), np.mean, permutation_type="samples", **how).pvalue)
    won, lost = float(np.mean(gaps > 0)), float(np.mean(gaps < 0))
    return Lead(a, b, len(gaps), Difference(**vars(mean), p=p), np.nan, won, lost)


def _with_holm(leads: Sequence[Lead]) -> list[Lead]:
    p = np.array([lead.difference.p for lead in leads])
    order = np.argsort(p)[: np.isfinite(p).sum()]  # NaN comes last
    raised = np.full(len(p), np.nan)
    raised[order] = np.minimum(1, np.maximum.accumulate(p[order] * np.arange(len(order), 0, -1)))
    return [replace(lead, p_holm=float(value)) for lead, value in zip(leads, raised, strict=True)]
