"""Whether what the service is asked, or what it answers, has moved away from what its critic was tested on.

    moved = compare("scores", tested=histogram(predictions), served=served_scores(metrics))
    if moved.is_drift(0.25): print(moved)

The population stability index of two histograms with shares p and q is the sum of (q - p) ln(q / p) over their
bins: 0 where they are equal. By the rule of thumb of N. Siddiqi, *Credit Risk Scorecards* (2006), it is small
below 0.1 and asks for action from 0.25 on. By chance alone it is about (1/n + 1/m) times a chi-squared variable of
one degree less than there are bins, n and m being the counts (B. Yurdakul, J. Naranjo, *Statistical properties of
the population stability index*, Journal of Risk Model Validation 14(4), 2020): a small count drifts by chance.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from prometheus_client.parser import text_string_to_metric_families
from scipy.stats import chi2

SCORE_EDGES = (1.5, 2, 2.5, 3, 3.5, 4, 4.5, 5)
"""Upper edges of the bins of scores, which the service's metrics have too; the lowest bin begins at 1."""

_CONFIDENCE = 0.99

Counts = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Drift:
    """How far one thing has moved.

    Attributes:
        what: scores, say.
        psi: from 0.
        by_chance: what chance alone stays below, 99 times in 100.
        tested, served: how many were counted.
    """

    what: str
    psi: float
    by_chance: float
    tested: int
    served: int

    def is_drift(self, threshold: float) -> bool:
        """Whether it is far, and no chance."""
        return self.psi >= threshold and self.psi > self.by_chance

    def __str__(self) -> str:
        return (
            f"{self.what}: population stability index {self.psi:.3f}, by chance below {self.by_chance:.3f} "
            f"({self.tested} tested, {self.served} served)"
        )


def compare(what: str, *, tested: Counts, served: Counts) -> Drift | None:
    """Two histograms over the same bins; None if either is empty.

    Half an observation is added to each bin, so that an empty one doesn't make the index infinite.
    """
    if not tested.sum() or not served.sum():
        return None
    p, q = ((counts + 0.5) / (counts + 0.5).sum() for counts in (tested, served))
    chance = (1 / tested.sum() + 1 / served.sum()) * float(chi2.ppf(_CONFIDENCE, len(tested) - 1))
    return Drift(what, float(np.sum((q - p) * np.log(q / p))), chance, int(tested.sum()), int(served.sum()))


def histogram(values: Sequence[float] | npt.NDArray[np.float64], edges: Sequence[float] = SCORE_EDGES) -> Counts:
    """How many values are up to each edge and above the one before; those that are no number aren't counted."""
    finite = np.asarray(values, float)
    finite = finite[np.isfinite(finite)]
    return np.bincount(np.searchsorted(edges, finite, side="left"), minlength=len(edges))[: len(edges)].astype(
        float
    )


def deciles(values: Sequence[float] | npt.NDArray[np.float64]) -> tuple[float, ...]:
    """Upper edges of bins that hold a tenth of the values each, or more where many are equal; the last is open."""
    return (*np.unique(np.quantile(values, np.linspace(0.1, 0.9, 9))).tolist(), np.inf)


def served_scores(metrics: str, mode: str = "greedy") -> Counts:
    """The histogram of scores that the service has given since its start, from what its `/metrics` says.

    Raises:
        ValueError: that is no text of Prometheus, or the service counts by other bins.
    """
    upto = {
        float(sample.labels["le"]): sample.value
        for family in text_string_to_metric_families(metrics)
        for sample in family.samples
        if sample.name == "critic_score_bucket" and sample.labels["mode"] == mode
    }
    if not upto:
        return np.zeros(len(SCORE_EDGES))
    if missing := [edge for edge in SCORE_EDGES if edge not in upto]:
        raise ValueError(
            f"critic_score has no bin up to {', '.join(map(str, missing))}: a service of another version"
        )
    return np.diff([0.0, *(upto[edge] for edge in SCORE_EDGES)])
