"""From a statistic of a sample and of its bootstrap resamples (`critic.weighted`) to what is reported.

samples = weighted.mean(error, weighted.draw(sources, len(error), n_boot=1000, seed=0))
estimate(samples)      # Estimate(value=0.12, low=0.07, high=0.16)
difference(samples)    # the same with the p-value of there being none
plain(found)           # as JSON holds it
"""

from collections.abc import Mapping
from dataclasses import is_dataclass
from math import isfinite
from typing import Any

import numpy as np

from critic.metrics import Difference, Estimate
from critic.weighted import Array

SMALLEST_GROUP = 10
"""Fewer edits than these get no interval: it would be too narrow, for resamples of few are alike."""


def estimate(samples: Array, confidence: float = 0.95) -> Estimate:
    """The first sample's value, and the percentile interval of the others, [1 + n_boot].

    Resamples where the statistic is not defined (NaN) take no part; without any other the interval is NaN.
    """
    resampled = samples[1:][np.isfinite(samples[1:])]
    tail = (1 - confidence) / 2
    low, high = np.quantile(resampled, [tail, 1 - tail]) if len(resampled) else (np.nan, np.nan)
    return Estimate(float(samples[0]), float(low), float(high))


def difference(samples: Array, confidence: float = 0.95) -> Difference:
    """The `estimate` of a difference and its two-sided p-value, as `critic.metrics.paired_bootstrap` has it."""
    resampled = samples[1:][np.isfinite(samples[1:])]
    smaller_side = min(np.sum(resampled <= 0), np.sum(resampled >= 0))
    p = min(1.0, float(2 * (1 + smaller_side) / (1 + len(resampled))))
    found = estimate(samples, confidence)
    return Difference(found.value, found.low, found.high, p)


def plain(found: Any) -> Any:
    """Mappings, lists and dataclasses as JSON holds them; a number that is not defined is None."""
    if is_dataclass(found):
        return plain(vars(found))
    match found:
        case Mapping():
            return {key: plain(value) for key, value in found.items()}
        case list():
            return [plain(value) for value in found]
        case float():
            return found if isfinite(found) else None
    return found
