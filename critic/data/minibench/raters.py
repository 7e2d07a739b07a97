"""Simulated raters: what fifteen people would say of an edit whose worth is known."""

import numpy as np
from numpy.typing import NDArray

RATERS = 15
UNRELIABLE = 2


class Panel:
    """Fifteen raters with a bias, a spread of their own and noise, the last two of them unreliable.

    A rater says the true score, spread about 3 by their gain, moved by their bias and blurred by their noise,
    rounded to a whole score of 1 to 5. An unreliable one says anything at all, half of the time.
    """

    def __init__(self, rng: np.random.Generator):
        self.bias = rng.normal(0, 0.25, RATERS)
        self.gain = rng.normal(1, 0.12, RATERS).clip(0.6, 1.4)
        self.noise = rng.uniform(0.3, 0.6, RATERS)

    def rate(self, truth: float, rng: np.random.Generator) -> NDArray[np.float64]:
        """The ratings, whole scores of 1 to 5, one a rater, of an edit that is worth `truth`, 1 to 5."""
        said = 3 + self.gain * (truth - 3) + self.bias + rng.normal(0, self.noise)
        careless = (np.arange(RATERS) >= RATERS - UNRELIABLE) & (rng.random(RATERS) < 0.5)
        said = np.where(careless, rng.uniform(1, 5, RATERS), said)
        return said.round().clip(1, 5)
