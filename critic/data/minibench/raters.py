"""Simulate fifteen raters of an edit whose true score is known."""

import numpy as np
from numpy.typing import NDArray

RATERS = 15
UNRELIABLE = 2


class Panel:
    """Fifteen raters, each with a bias, a gain and a noise; the last two are unreliable.

    A rating is 3 + gain * (true score - 3) + bias + noise, rounded and clipped to an integer from 1 to 5. Half of
    an unreliable rater's ratings are random.
    """

    def __init__(self, rng: np.random.Generator):
        self.bias = rng.normal(0, 0.25, RATERS)
        self.gain = rng.normal(1, 0.12, RATERS).clip(0.6, 1.4)
        self.noise = rng.uniform(0.3, 0.6, RATERS)

    def rate(self, truth: float, rng: np.random.Generator) -> NDArray[np.float64]:
        """One rating per rater, integers from 1 to 5, of an edit with the true score `truth`, 1 to 5."""
        ratings = 3 + self.gain * (truth - 3) + self.bias + rng.normal(0, self.noise)
        careless = (np.arange(RATERS) >= RATERS - UNRELIABLE) & (rng.random(RATERS) < 0.5)
        ratings = np.where(careless, rng.uniform(1, 5, RATERS), ratings)
        return ratings.round().clip(1, 5)
