"""What people say of edits, and what of it can be believed: raters screened, the others' ratings pooled into MOS.

    study = pool(table, params.load(params.Ratings))     # a row a rating: rater, item, score
    study.items["mos"], study.raters["verdict"], study.agreement

1. Who rates an item again has thought again: the last rating counts.
2. A rater whose ratings surely correlate with the others' by less than `min_correlation` isn't counted: ITU-T
   P.913 (2021), annex A, asks for 0.75. "Surely" means by the upper bound of Fisher's z, so that few ratings
   condemn nobody; "others" are the mean of those still counted. The worst goes first, and then the others are
   looked at again, since the means were partly that one's own. In the end everybody, those who went first too, is
   held to those who stayed.
3. Of the rest, whoever strays often, and to both sides, isn't counted: the screening of ITU-R BT.500-14, annex 1.
4. The others' ratings are pooled by the model of Z. Li, C. Bampis et al., *A simple model for subject behavior in
   subjective experiments* (HVEI 2020; ITU-T P.910, 2022): a rating is the item's MOS, the rater's bias and noise
   of the rater's own size. Alternating projections give all three; a rater's weight is the inverse of that
   variance.

A rater of fewer than `min_ratings` items that others rate too can't be judged and isn't counted either; the
ratings stay, and count once there are enough.
"""

from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from critic.answers import HIGHEST, LOWEST
from critic.params import Ratings

Array = npt.NDArray[np.float64]
Result = Literal["counted", "unproven", "contrary", "careless", "erratic"]

ROUNDING = 1 / np.sqrt(12)
"""The standard deviation of what is lost when a score is rounded to a whole one: nobody is surer than that."""

_STRAYING, _SIDES = 0.05, 0.3
"""BT.500's bounds: a rater strays in more than a twentieth of all cases, and neither side has 65 % of them."""

_TURNS, _STILL = 1000, 1e-9
"""Of the alternating projections: at most, and the change of a MOS below which they end."""


class RatingsError(ValueError):
    """Ratings that can't be pooled; the message says which and what to do."""


@dataclass(frozen=True)
class Study:
    """Ratings, pooled.

    Attributes:
        items: a row an item that anybody counted has rated, by item: mos (1..5), low and high (its 95 % interval),
            ratings (how many), ratings_given (a list of them).
        raters: a row a rater, by rater: ratings, verdict, reason (a sentence, empty for the counted), correlation
            (with the others' means), bias and noise (points; missing unless counted).
        agreement: Krippendorff's alpha for interval data, of everybody and of those counted, -1..1; missing where
            no two have rated an item.
        thought_again: how many ratings were given for an item that the same rater had rated before.
    """

    items: pd.DataFrame
    raters: pd.DataFrame
    agreement: dict[str, float | None]
    thought_again: int


def pool(table: pd.DataFrame, rules: Ratings) -> Study:
    """MOS of rated items.

    Args:
        table: rater, item (any text) and score (1..5), a row a rating, the earlier before the later.

    Raises:
        RatingsError: there are no ratings, a value is missing, or a score isn't within 1..5.
    """
    check(table)
    last = table.drop_duplicates(["rater", "item"], keep="last")
    wide = last.pivot(index="item", columns="rater", values="score").sort_index().sort_index(axis=1)
    scores: Array = wide.to_numpy(float)
    raters = _screen(scores, rules)
    counted: npt.NDArray[np.bool_] = np.array([verdict == "counted" for verdict in raters["verdict"]])
    raters.index = wide.columns
    kept = scores[:, counted]
    rated = np.asarray(np.isfinite(kept).any(axis=1))
    items = pd.DataFrame(index=wide.index[rated])
    if counted.any():
        mos, bias, noise, error = _project(kept[rated])
        raters.loc[raters["verdict"] == "counted", ["bias", "noise"]] = np.column_stack([bias, noise])
        half = float(NormalDist().inv_cdf(0.975)) * error
        items["mos"] = mos.clip(LOWEST, HIGHEST)
        items["low"], items["high"] = (mos - half).clip(LOWEST, HIGHEST), (mos + half).clip(LOWEST, HIGHEST)
        items["ratings"] = np.isfinite(kept[rated]).sum(axis=1)
        items["ratings_given"] = [row[np.isfinite(row)].tolist() for row in kept[rated]]
    agreement = {"everybody": alpha(scores), "counted": alpha(kept)}
    return Study(items, raters, agreement, len(table) - len(last))


def check(table: pd.DataFrame) -> None:
    """Raises `RatingsError` as `pool` does."""
    if table.empty:
        raise RatingsError("there are no ratings")
    for name in ("rater", "item", "score"):
        if len(rows := np.flatnonzero(table[name].isna())):
            raise RatingsError(f"row {rows[0]} (from 0) has no {name}: give one, or leave the row out")
    scores = table["score"].to_numpy(float)
    if len(rows := np.flatnonzero(~((scores >= LOWEST) & (scores <= HIGHEST)))):
        raise RatingsError(
            f"row {rows[0]} (from 0) has the score {scores[rows[0]]:g}, and scores are from {LOWEST:g} to "
            f"{HIGHEST:g}: bring them to this scale"
        )


def alpha(scores: Array) -> float | None:
    """Krippendorff's alpha for interval data of ratings [items, raters], NaN where there is none.

    One minus the observed by the expected disagreement, the mean squared difference of two ratings of an item by
    that of any two ratings (K. Krippendorff, *Computing Krippendorff's alpha-reliability*, 2011). None where no
    item has two ratings; 1 where all ratings are equal.
    """
    pairable = scores[np.isfinite(scores).sum(axis=1) >= 2]
    values = pairable[np.isfinite(pairable)]
    if not len(values):
        return None
    counts = np.isfinite(pairable).sum(axis=1)
    within = np.nanvar(pairable, axis=1) * 2 * counts**2 / (counts - 1)  # of each item's ordered pairs
    between = values.var() * 2 * len(values) ** 2 / (len(values) - 1)
    return 1.0 if between == 0 else float(1 - within.sum() / between)


def strays(scores: Array) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """How often each rater is far above and far below an item's mean: P and Q of BT.500-14, annex 1.

    Far is twice the standard deviation where the item's ratings are near to normal (a kurtosis of 2 to 4), and the
    root of 20 times it otherwise.

    Args:
        scores: [items, raters], NaN where there is no rating.
    """
    counts = np.isfinite(scores).sum(axis=1, keepdims=True)
    off = scores - np.nanmean(scores, axis=1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        deviation = np.sqrt(np.nansum(off**2, axis=1, keepdims=True) / (counts - 1))
        moments = [np.nansum(off**power, axis=1, keepdims=True) / counts for power in (2, 4)]
        kurtosis = moments[1] / moments[0] ** 2
    far = np.where((kurtosis >= 2) & (kurtosis <= 4), 2.0, np.sqrt(20)) * deviation
    spread = deviation > 0
    above, below = ((side >= far) & spread for side in (off, -off))
    return above.sum(axis=0), below.sum(axis=0)


@dataclass(frozen=True)
class _Agreement:
    """A rater's correlation with the mean of others, over how many items, and what it surely isn't above."""

    correlation: float
    shared: int
    bound: float


def _screen(scores: Array, rules: Ratings) -> pd.DataFrame:
    """A row a rater: see `Study`."""
    everybody = [*range(scores.shape[1])]
    panel = everybody.copy()
    while True:
        found = {rater: _agree(scores, rater, panel, rules) for rater in panel}
        few = [rater for rater in panel if found[rater].shared < rules.min_ratings]
        low = [rater for rater in panel if found[rater].bound < rules.min_correlation]
        if few:
            panel.remove(min(few, key=lambda rater: found[rater].shared))
        elif low:
            panel.remove(min(low, key=lambda rater: found[rater].bound))
        else:
            break
    rows = []
    for rater in everybody:
        found[rater] = _agree(scores, rater, panel, rules)
        rows.append(_judge(found[rater], rules))
    counted = [rater for rater, (verdict, _) in enumerate(rows) if verdict == "counted"]
    given = np.isfinite(scores).sum(axis=0)
    rated = np.isfinite(scores[:, counted]).any(axis=1)
    for rater, above, below in zip(counted, *strays(scores[rated][:, counted]), strict=True):
        share = (above + below) / given[rater]
        if share > _STRAYING and abs(above - below) / (above + below) < _SIDES:
            times = f"{above} times and far below {below} times in {given[rater]}"
            rows[rater] = ("erratic", f"is far above the others {times} (BT.500)")
    return pd.DataFrame(
        {
            "ratings": given,
            "verdict": [verdict for verdict, _ in rows],
            "reason": [reason for _, reason in rows],
            "correlation": [found[rater].correlation for rater in everybody],
            "bias": np.nan,
            "noise": np.nan,
        }
    )


def _judge(found: _Agreement, rules: Ratings) -> tuple[Result, str]:
    """What a rater's agreement with the panel means, and the reason in words."""
    if found.shared < rules.min_ratings:
        return (
            "unproven",
            f"has rated {found.shared} items that others who count have rated; {rules.min_ratings} are needed",
        )
    if found.bound >= rules.min_correlation:
        return "counted", ""
    numbers = (
        f"correlates with the others by {found.correlation:.2f}, at most {found.bound:.2f}, over {found.shared} "
        f"items, and {rules.min_correlation:.2f} is needed"
    )
    if found.bound < 0:
        return "contrary", f"{numbers}: has the scale the wrong way round, or means harm"
    return "careless", f"{numbers}: doesn't look, or guesses"


def _agree(scores: Array, rater: int, panel: list[int], rules: Ratings) -> _Agreement:
    """A rater's agreement with the rest of a panel; a constant correlates by 0."""
    others = scores[:, [other for other in panel if other != rater]]
    shared = np.isfinite(scores[:, rater]) & np.isfinite(others).any(axis=1)
    own, number = scores[shared, rater], int(shared.sum())
    means = np.array([np.nanmean(row) for row in others[shared]])
    if number <= 3:
        return _Agreement(0.0, number, 1.0)
    varies = own.std() > 0 and means.std() > 0
    r = float(np.corrcoef(own, means)[0, 1].clip(-1 + 1e-9, 1 - 1e-9)) if varies else 0.0
    bound = np.tanh(np.arctanh(r) + NormalDist().inv_cdf(rules.confidence) / np.sqrt(number - 3))
    return _Agreement(r, number, float(bound))


def _project(scores: Array) -> tuple[Array, Array, Array, Array]:
    """MOS of the items, bias and noise of the raters, and the standard errors of the MOS: see the module, 4.

    Of all raters' biases the mean is zero, since only what sets them apart can be seen.

    Args:
        scores: [items, raters], NaN where there is no rating; every item and every rater has one.
    """
    mos = np.nanmean(scores, axis=1)
    for _ in range(_TURNS):
        before = mos
        bias = np.nanmean(scores - mos[:, None], axis=0)
        residual = scores - mos[:, None] - bias
        noise = np.sqrt(np.nanmean(residual**2, axis=0)).clip(ROUNDING)
        weight = np.where(np.isfinite(scores), noise**-2, 0.0)
        mos = np.nansum(weight * np.nan_to_num(scores - bias), axis=1) / weight.sum(axis=1)
        if np.abs(mos - before).max() < _STILL:
            break
    return mos + bias.mean(), bias - bias.mean(), noise, weight.sum(axis=1) ** -0.5


def plain(value: Any) -> float | None:
    """A figure as JSON holds it: None for one that is missing."""
    return None if pd.isna(value) else round(float(value), 4)
