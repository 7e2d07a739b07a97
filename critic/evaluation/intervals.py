"""From a statistic of a sample and of its bootstrap resamples (`critic.evaluation.bootstrap`) to what is reported.

samples = bootstrap.mean(error[scored], draw(sources, scored, n_boot=1000, seed=0))
estimate(samples)      # Estimate(value=0.12, low=0.07, high=0.16)
plain(found)           # as JSON holds it
"""

from collections.abc import Mapping
from dataclasses import is_dataclass
from math import isfinite
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from critic.evaluation import bootstrap
from critic.evaluation.bootstrap import Array
from critic.evaluation.metrics import Estimate

SMALLEST_GROUP = 10
"""Of fewer source images there is no interval: resamples draw these, and those of few are too much alike."""


def enough(sources: ArrayLike) -> bool:
    """Whether the rows with these source images are of at least `SMALLEST_GROUP` different ones."""
    return len(np.unique(sources)) >= SMALLEST_GROUP


def draw(sources: ArrayLike | None, counted: NDArray[np.bool_], n_boot: int, seed: int) -> Array:
    """`critic.evaluation.bootstrap.draw` of all rows, and of it the counted ones, [1 + n_boot, counted].

    There are no resamples, so that what is made of them has no interval, where the counted rows are not `enough`.

    Args:
        sources: the source image of each row, [n]; None: each is its own.
        counted: which rows a statistic is of, [n].
    """
    labels = np.arange(len(counted)) if sources is None else np.asarray(sources)
    return bootstrap.draw(labels, len(counted), n_boot if enough(labels[counted]) else 0, seed)[:, counted]


def estimate(samples: Array) -> Estimate:
    """The first sample's value, and the 95 % percentile interval of the others, [1 + n_boot].

    Resamples where the statistic is not defined (NaN) take no part; without any other the interval is NaN.
    """
    resampled = samples[1:][np.isfinite(samples[1:])]
    low, high = np.quantile(resampled, [0.025, 0.975]) if len(resampled) else (np.nan, np.nan)
    return Estimate(float(samples[0]), float(low), float(high))


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
