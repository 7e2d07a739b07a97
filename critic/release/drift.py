"""Drift: whether the service's requests or scores differ from those of its critic's test split.

The population stability index of two histograms with shares p and q is the sum of (q - p) ln(q / p) over their
bins, 0 if they are equal. N. Siddiqi, *Credit Risk Scorecards* (2006), calls values below 0.1 small and asks for
action from 0.25. Without any drift, it is distributed as (1/n + 1/m) times a chi-squared variable with one degree
of freedom less than there are bins, where n and m are the counts (B. Yurdakul, J. Naranjo, *Statistical properties
of the population stability index*, Journal of Risk Model Validation 14(4), 2020): small counts exceed 0.25 by
chance.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from prometheus_client.parser import text_string_to_metric_families
from scipy.stats import chi2

SCORE_EDGES = (1.5, 2, 2.5, 3, 3.5, 4, 4.5, 5)
"""Upper edges of the bins of scores, the same as in the service's metrics; the lowest bin starts at 1."""

_CONFIDENCE = 0.99

Counts = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Drift:
    """The population stability index `psi` of a quantity, such as "scores", and its 99 % quantile without drift.

    `tested` and `served` are the numbers of observations.
    """

    name: str
    psi: float
    critical: float
    tested: int
    served: int

    def exceeds(self, threshold: float) -> bool:
        """Whether the index reaches a threshold, and isn't explained by chance."""
        return self.psi >= threshold and self.psi > self.critical

    def __str__(self) -> str:
        return (
            f"{self.name}: population stability index {self.psi:.3f}, critical value {self.critical:.3f} "
            f"({self.tested} tested, {self.served} served)"
        )


def measure_drift(name: str, *, tested: Counts, served: Counts) -> Drift | None:
    """The drift between two histograms over the same bins; None if either is empty.

    Half an observation is added to each bin, so that an empty one doesn't make the index infinite.
    """
    if not tested.sum() or not served.sum():
        return None
    p, q = ((counts + 0.5) / (counts + 0.5).sum() for counts in (tested, served))
    critical = (1 / tested.sum() + 1 / served.sum()) * float(chi2.ppf(_CONFIDENCE, len(tested) - 1))
    return Drift(name, float(np.sum((q - p) * np.log(q / p))), critical, int(tested.sum()), int(served.sum()))


def histogram(values: Sequence[float] | npt.NDArray[np.float64], edges: Sequence[float] = SCORE_EDGES) -> Counts:
    """The number of values up to each edge and above the one before; NaN isn't counted."""
    values = np.asarray(values, float)
    bins = np.searchsorted(edges, values[np.isfinite(values)], side="left")
    return np.bincount(bins, minlength=len(edges))[: len(edges)].astype(float)


def deciles(values: Sequence[float] | npt.NDArray[np.float64]) -> tuple[float, ...]:
    """Upper edges of bins with a tenth of the values each, or more where many are equal; the last bin is open."""
    return (*np.unique(np.quantile(values, np.linspace(0.1, 0.9, 9))).tolist(), np.inf)


def served_scores(metrics: str, mode: str = "greedy") -> Counts:
    """The histogram of the service's scores since its start, from the text of its `/metrics`.

    Raises a `ValueError` if the text isn't in Prometheus' format, or the service uses other bins.
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
        none = ", ".join(map(str, missing))
        raise ValueError(f"critic_score has no bin up to {none}: the service is another version")
    return np.diff([0.0, *(upto[edge] for edge in SCORE_EDGES)])
