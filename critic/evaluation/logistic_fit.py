"""The logistic curve from scores to the MOS scale, behind the fitted metrics."""

from collections.abc import Callable
from warnings import catch_warnings, simplefilter

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import OptimizeWarning, curve_fit
from scipy.special import expit

from critic.evaluation.bootstrap import Array


def fit_logistic(pred: ArrayLike, mos: ArrayLike) -> Callable[[ArrayLike], Array]:
    """The curve from scores to the MOS scale that corrects a critic's own use of the scale.

    Least squares of y = b2 + (b1 - b2) / (1 + exp(-(x - b3) / |b4|)), as IE-Critic-R1 evaluates and from its
    start, [max(mos), min(mos), mean(pred), 0.5]. A second start has the standard deviation of the scores in place
    of 0.5, for other scales than 1..5. The least-squares straight line, a limit of that family, is used if neither
    converges or both fit worse: then plcc_fitted is |plcc|. If the scores are all the same, it is level at the
    mean MOS.

    Raises:
        ValueError: as `critic.evaluation.agreement.measure`; no score is finite.
    """
    pred, mos = aligned(pred, mos)
    x, y = pred[np.isfinite(pred)], mos[np.isfinite(pred)]
    if len(x) == 0:
        raise ValueError("no score to fit a curve to: apply a failure policy first")
    centred = x - x.mean()
    slope = centred @ y / (centred @ centred) if np.ptp(x) > 0 else 0.0

    def line(at: ArrayLike) -> Array:
        values: Array = y.mean() + slope * (np.asarray(at, dtype=np.float64) - x.mean())
        return values

    curves = [line, *filter(None, (converge(x, y, width) for width in (0.5, x.std())))]
    return min(curves, key=lambda curve: float(np.sum((curve(x) - y) ** 2)))


def converge(x: Array, y: Array, width: float, maxfev: int = 5000) -> Callable[[ArrayLike], Array] | None:
    """The curve of `fit_logistic` from a start of |b4| at `width`; None if the fit does not converge."""
    start = [y.max(), y.min(), x.mean(), width]
    if len(x) < len(start) or np.ptp(x) == 0:
        return None
    with catch_warnings():
        simplefilter("ignore", OptimizeWarning)  # the covariance, not used here, may be singular
        try:
            beta, _ = curve_fit(_logistic, x, y, p0=start, maxfev=maxfev)
        except RuntimeError:
            return None
    return lambda at: _logistic(np.asarray(at, dtype=np.float64), *beta)


def _logistic(x: Array, b1: float, b2: float, b3: float, b4: float) -> Array:
    values: Array = b2 + (b1 - b2) * expit((x - b3) / max(abs(b4), 1e-12))
    return values


def aligned(pred: ArrayLike, mos: ArrayLike) -> tuple[Array, Array]:
    """Scores and MOS as arrays of one length, at least 1, every MOS finite; a `ValueError` if they aren't."""
    pred, mos = np.asarray(pred, dtype=np.float64), np.asarray(mos, dtype=np.float64)
    if pred.shape != mos.shape or pred.ndim != 1 or len(mos) == 0:
        raise ValueError(f"pred and mos must have one length, at least 1, not {[*pred.shape]} and {[*mos.shape]}")
    if len(broken := np.flatnonzero(~np.isfinite(mos))):
        raise ValueError(f"row {broken[0]} has MOS {mos[broken[0]]}: leave rows without a MOS out")
    return pred, mos
