"""What people say of edits, and what of it can be believed: raters screened, the others' ratings pooled into MOS.

    study = pool(table, params.load(params.Ratings))     # a row a rating: rater, item, score
    study.items["mos"], study.raters["verdict"], study.agreement

1. Who rates an item again has thought again: the last rating counts. 2. A rater whose ratings surely correlate
with the others' by less than `min_correlation` isn't counted: ITU-T P.913
   (2021), annex A, asks for 0.75. "Surely" means by the upper bound of Fisher's z, so that few ratings condemn
   nobody; "others" are the mean of those still counted. The worst goes first, and then the others are looked at
   again, since the means were partly that one's own.
3. Of the rest, whoever strays often, and to both sides, isn't counted: the screening of ITU-R BT.500-14, annex 1.
4. The others' ratings are pooled by the model of Z. Li, C. Bampis et al., *A simple model for subject behavior in
   subjective experiments* (HVEI 2020; ITU-T P.910, 2022): a rating is the item's MOS, the rater's bias and noise
   of the rater's own size. Alternating projections give all three; a rater's weight is the inverse of that
   variance.

A rater of fewer than `min_ratings` items that others rate too can't be judged and isn't counted either; the
ratings stay, and count once there are enough.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.stats import norm

from critic.answers import HIGHEST, LOWEST
from critic.params import Ratings

Array = npt.NDArray[np.float64]
Verdict = Literal["counted", "unproven", "contrary", "careless", "erratic"]

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
            mean (of the counted ratings as they are), ratings (how many), ratings_given (a list of them).
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
        half = float(norm.ppf(0.975)) * error
        items["mos"] = mos.clip(LOWEST, HIGHEST)
        items["low"], items["high"] = (mos - half).clip(LOWEST, HIGHEST), (mos + half).clip(LOWEST, HIGHEST)
        items["mean"] = np.nanmean(kept[rated], axis=1)
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


def _screen(scores: Array, rules: Ratings) -> pd.DataFrame:
    """A row a rater: see `Study`."""
    number = scores.shape[1]
    verdicts: list[Verdict] = ["counted"] * number
    reasons = [""] * number
    correlations = np.full(number, np.nan)
    given = np.isfinite(scores).sum(axis=0)

    def dismiss(rater: int, verdict: Verdict, reason: str) -> None:
        verdicts[rater], reasons[rater] = verdict, reason

    while True:
        active = [rater for rater in range(number) if verdicts[rater] == "counted"]
        bounds = {}
        for rater in active:
            r, shared = _correlation(scores, rater, active)
            correlations[rater] = r
            if shared < rules.min_ratings:
                dismiss(
                    rater,
                    "unproven",
                    f"has rated {shared} items that counted others have rated too; {rules.min_ratings} are needed",
                )
                break
            bounds[rater] = np.tanh(np.arctanh(r) + norm.ppf(rules.confidence) / np.sqrt(shared - 3))
        else:
            worst = min(bounds, key=lambda rater: correlations[rater], default=None)
            low = [rater for rater in bounds if bounds[rater] < rules.min_correlation]
            if worst is None or not low:
                break
            worst = min(low, key=lambda rater: bounds[rater])
            contrary = correlations[worst] < 0
            dismiss(
                worst,
                "contrary" if contrary else "careless",
                f"correlates with the others by {correlations[worst]:.2f} (at most {bounds[worst]:.2f}) over "
                f"{given[worst]} items, and {rules.min_correlation:.2f} is needed: "
                + ("has the scale the wrong way round, or means harm" if contrary else "doesn't look, or guesses"),
            )
    active = [rater for rater in range(number) if verdicts[rater] == "counted"]
    rated = np.isfinite(scores[:, active]).any(axis=1)
    above, below = strays(scores[rated][:, active])
    for rater, p, q in zip(active, above, below, strict=True):
        if (p + q) / given[rater] > _STRAYING and abs(p - q) / (p + q) < _SIDES:
            dismiss(
                rater,
                "erratic",
                f"is far above the others {p} times and far below {q} times in {given[rater]} (BT.500)",
            )
    return pd.DataFrame(
        {
            "ratings": given,
            "verdict": verdicts,
            "reason": reasons,
            "correlation": correlations,
            "bias": np.nan,
            "noise": np.nan,
        }
    )


def _correlation(scores: Array, rater: int, active: list[int]) -> tuple[float, int]:
    """Pearson's r of a rater with the mean of the other active ones, and over how many items; 0 for a constant."""
    others = scores[:, [other for other in active if other != rater]]
    shared = np.isfinite(scores[:, rater]) & np.isfinite(others).any(axis=1)
    own, means = scores[shared, rater], np.array([np.nanmean(row) for row in others[shared]])
    if len(own) < 2 or own.std() == 0 or means.std() == 0:
        return 0.0, int(shared.sum())
    return float(np.corrcoef(own, means)[0, 1].clip(-1 + 1e-9, 1 - 1e-9)), int(shared.sum())


def _project(scores: Array) -> tuple[Array, Array, Array, Array]:
    """MOS of the items, bias and noise of the raters, and the standard errors of the MOS: see the module, 4.

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
    return mos, bias, noise, weight.sum(axis=1) ** -0.5


def plain(value: Any) -> float | None:
    """A figure as JSON holds it: None for one that is missing."""
    return None if pd.isna(value) else round(float(value), 4)
