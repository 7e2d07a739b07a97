"""A critic's figures as IE-Critic-R1's own evaluation script counts, for comparison with what is published.

    upstream(raw, scores, mos)["main_score"]

That script (github.com/Coobiw/IE-Critic-R1, scripts/iebench_eval_vllm.py) leaves out what it can't read, which
flatters, and accepts what is off the scale. So this line is for comparison only.
"""

from collections.abc import Sequence
from typing import Any
from warnings import catch_warnings, simplefilter

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats
from scipy.optimize import OptimizeWarning, curve_fit
from scipy.special import expit

from critic.evaluation.bootstrap import Array

_OPEN, _CLOSE = "<answer>", "</answer>"
_PREFILL = "<think>"


def read_as_upstream(raw: str) -> float | None:
    """The number in a response as upstream's script reads it, None where it reads none.

    The text after the first `<answer>`, be it in the reasoning, up to the next `</answer>` or the end; all of the
    response if there is no such tag; whatever Python's `float` takes, 42 and nan too. A `<think>` at the start
    doesn't count: the prompt of a critic of this project writes it, which upstream's doesn't.
    """
    text = raw.removeprefix(_PREFILL).strip().rstrip(".")
    start = text.find(_OPEN)
    end = text.find(_CLOSE, start + len(_OPEN))
    if start >= 0 or end >= 0:
        text = text[start + len(_OPEN) : end if end >= 0 else None]
    try:
        return float(text)
    except ValueError:
        return None


def upstream(raw: Sequence[str] | None, scores: ArrayLike, mos: ArrayLike) -> dict[str, Any]:
    """Correlations by upstream's rules: failed answers dropped, PLCC after its one logistic fit, no interval.

    Args:
        raw: responses, [n], read by `read_as_upstream`; None where they weren't kept: then `scores` count.
        scores, mos: scores (NaN where the answer failed) and mean opinion scores, [n] each.

    Returns:
        read: "raw" or "score", what was counted.
        n, dropped: answers counted and left out.
        plcc, srcc, main_score: PLCC after the fit, SRCC, and their mean.
        plcc_unfitted, main_score_unfitted: the same without a fit.
        stopped: why there are no figures, where upstream's script stops with an error or gives nan; else "".
    """
    mos = np.asarray(mos, dtype=np.float64)
    if raw is None:
        x = np.asarray(scores, dtype=np.float64)
        read = np.isfinite(x)
    else:
        answers = [read_as_upstream(text) for text in raw]
        read = np.array([answer is not None for answer in answers])
        x = np.array(answers, dtype=np.float64)
    x, y = x[read], mos[read]
    counted = {"read": "score" if raw is None else "raw", "n": len(x), "dropped": len(mos) - len(x)}
    if not np.isfinite(x).all():
        return counted | {"stopped": "an answer reads as nan or inf"}
    if len(x) < 4 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return counted | {"stopped": "fewer than 4 answers, or all the same"}
    with catch_warnings():
        simplefilter("ignore", OptimizeWarning)  # the covariance, not used here, may be singular
        try:
            beta, _ = curve_fit(_logistic, x, y, p0=[y.max(), y.min(), x.mean(), 0.5], maxfev=100_000)
        except RuntimeError:
            return counted | {"stopped": "the logistic fit doesn't converge"}
    plcc, unfitted = (float(stats.pearsonr(pred, y).statistic) for pred in (_logistic(x, *beta), x))
    srcc = float(stats.spearmanr(x, y).statistic)
    return counted | {
        "plcc": plcc,
        "srcc": srcc,
        "main_score": (plcc + srcc) / 2,
        "plcc_unfitted": unfitted,
        "main_score_unfitted": (unfitted + srcc) / 2,
        "stopped": "",
    }


def _logistic(x: Array, b1: float, b2: float, b3: float, b4: float) -> Array:
    curve: Array = b2 + (b1 - b2) * expit((x - b3) / np.abs(b4))
    return curve
