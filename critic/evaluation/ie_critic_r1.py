"""A critic's figures by the rules of IE-Critic-R1's evaluation script, for comparison with published ones.

That script (github.com/Coobiw/IE-Critic-R1, scripts/iebench_eval_vllm.py) drops answers that it can't read, which
flatters a critic, and accepts numbers outside the scale. So use these figures for comparison only.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from critic.evaluation.logistic_fit import converge
from critic.evaluation.metrics import main_score

_OPEN, _CLOSE = "<answer>", "</answer>"
_PREFILL = "<think>"


def read_as_upstream(raw: str) -> float | None:
    """The number in a response as upstream's script reads it, None if it reads none.

    It takes the text after the first `<answer>`, even inside the reasoning, up to the next `</answer>` or the end,
    or the whole response without such a tag, and converts it by Python's `float`, which accepts 42 and nan. A
    `<think>` at the start is removed: this project's prompts end with it, upstream's don't.
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
    """Correlations by upstream's rules: failed answers dropped, PLCC after one logistic fit, no interval.

    Args:
        raw: responses, [n], read by `read_as_upstream`; None if they were not kept: `scores` are used instead.
        scores, mos: scores (NaN where the answer failed) and mean opinion scores, [n] each.

    Returns:
        read: "raw" or "score", which was used.
        n, dropped: answers counted and left out.
        plcc, srcc, main_score: PLCC after the fit, SRCC, and their mean.
        plcc_unfitted, main_score_unfitted: the same without a fit.
        stopped: why there are no figures, if upstream's script stops with an error or gives nan; else "".
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
    fitted = converge(x, y, width=0.5, maxfev=100_000)
    if fitted is None:
        return counted | {"stopped": "the logistic fit doesn't converge"}
    plcc, unfitted = (float(stats.pearsonr(pred, y).statistic) for pred in (fitted(x), x))
    srcc = float(stats.spearmanr(x, y).statistic)
    return counted | {
        "plcc": plcc,
        "srcc": srcc,
        "main_score": main_score(plcc, srcc),
        "plcc_unfitted": unfitted,
        "main_score_unfitted": main_score(unfitted, srcc),
        "stopped": "",
    }
