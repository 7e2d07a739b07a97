"""Pooling: the MOS of rated items, from the ratings of the raters that count.

If a rater rates an item again, the last rating counts. `critic.ratings.screening` decides which raters count.
Their ratings are pooled by the model of Z. Li, C. Bampis et al., *A simple model for subject behavior in
subjective experiments* (HVEI 2020; ITU-T P.910, 2022): a rating is the item's MOS plus the rater's bias plus noise
with the rater's own standard deviation. Alternating projections estimate all three; a rater's weight is the
inverse variance.
"""

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import pandas as pd

from critic.answers import HIGHEST, LOWEST
from critic.params import Ratings
from critic.ratings.screening import Array, alpha, screen
from critic.tables import TableError, filled, number_rows, numbers

MIN_NOISE = 1 / np.sqrt(12)
"""The standard deviation of rounding to whole scores: no rater is more precise than that."""

_MAX_ITERATIONS, _TOLERANCE = 1000, 1e-9
"""The alternating projections stop when no MOS changes by more than the tolerance."""


@dataclass(frozen=True)
class Study:
    """Pooled ratings.

    Attributes:
        items: one row per item with a counted rating, by item: mos (1..5), low and high (its 95 % interval),
            ratings (how many), ratings_given (their scores).
        raters: one row per rater, by rater: the columns of `screen`, bias and noise (points; NaN unless counted).
        agreement: Krippendorff's alpha of "everybody" and of the "counted", see `alpha`.
        repeated: the number of ratings that a later one of the same rater and item replaces.
    """

    items: pd.DataFrame
    raters: pd.DataFrame
    agreement: dict[str, float | None]
    repeated: int


NOTHING = Study(
    pd.DataFrame(columns=["mos", "low", "high", "ratings", "ratings_given"]),
    pd.DataFrame(columns=["ratings", "status", "reason", "correlation", "bias", "noise"]),
    {"everybody": None, "counted": None},
    0,
)
"""The study without ratings."""


def pool(ratings: pd.DataFrame, rules: Ratings) -> Study:
    """Screen the raters and compute the MOS of the rated items.

    Args:
        ratings: one row per rating, the earlier before the later: rater and item (any text), score (1..5).

    Raises:
        TableError: there are no ratings, a value is missing, or a score isn't within 1..5.
    """
    check(ratings)
    last = ratings.drop_duplicates(["rater", "item"], keep="last")
    wide = last.pivot(index="item", columns="rater", values="score").sort_index().sort_index(axis=1)
    scores: Array = wide.to_numpy(float)
    raters = screen(scores, rules).set_axis(wide.columns).assign(bias=np.nan, noise=np.nan)
    counted = (raters["status"] == "counted").to_numpy()
    kept = scores[:, counted]
    rated = np.asarray(np.isfinite(kept).any(axis=1))
    items = pd.DataFrame(index=wide.index[rated])
    if counted.any():
        mos, bias, noise, error = _project(kept[rated])
        raters.loc[counted, ["bias", "noise"]] = np.column_stack([bias, noise])
        half = float(NormalDist().inv_cdf(0.975)) * error
        items["mos"] = mos.clip(LOWEST, HIGHEST)
        items["low"], items["high"] = (mos - half).clip(LOWEST, HIGHEST), (mos + half).clip(LOWEST, HIGHEST)
        items["ratings"] = np.isfinite(kept[rated]).sum(axis=1)
        items["ratings_given"] = [row[np.isfinite(row)].tolist() for row in kept[rated]]
    agreement = {"everybody": alpha(scores), "counted": alpha(kept)}
    return Study(items, raters, agreement, len(ratings) - len(last))


def check(ratings: pd.DataFrame) -> None:
    """Raise a `TableError` for ratings that `pool` can't use."""
    if ratings.empty:
        raise TableError("there are no ratings")
    numbered = number_rows(ratings, "ratings")
    filled(numbered, ("rater", "item", "score"))
    numbers(numbered, "score", LOWEST, HIGHEST)


def _project(scores: Array) -> tuple[Array, Array, Array, Array]:
    """The items' MOS, the raters' bias and noise, and the standard errors of the MOS.

    Every item and every rater has a rating. The mean bias is zero: only differences of raters can be estimated.
    """
    mos = np.nanmean(scores, axis=1)
    for _ in range(_MAX_ITERATIONS):
        before = mos
        bias = np.nanmean(scores - mos[:, None], axis=0)
        residual = scores - mos[:, None] - bias
        noise = np.sqrt(np.nanmean(residual**2, axis=0)).clip(MIN_NOISE)
        weight = np.where(np.isfinite(scores), noise**-2, 0.0)
        mos = np.nansum(weight * np.nan_to_num(scores - bias), axis=1) / weight.sum(axis=1)
        if np.abs(mos - before).max() < _TOLERANCE:
            break
    return mos + bias.mean(), bias - bias.mean(), noise, weight.sum(axis=1) ** -0.5
