"""Write a rationale from sub-scores, for chain-of-thought samples without a released set or a teacher.

Each axis of IE-Critic-R1 (arXiv 2511.18055: text alignment, fidelity, perceptual quality) gets one clause: a
wording for the band of its score, then the score. The axes are in the paper's order. A generated picture has no
fidelity, since there is no source image.
"""

import numpy as np

from critic.answers import AXES

_WORDINGS: dict[str, tuple[tuple[str, ...], ...]] = {
    "alignment": (
        ("Not done", "The instruction is ignored"),
        ("Barely done", "Little of what was asked is there"),
        ("Half done", "Only part of what was asked is there"),
        ("Mostly done", "Nearly all of what was asked is there"),
        ("All done", "It is just what was asked"),
    ),
    "fidelity": (
        ("The rest is lost", "Everything else changed"),
        ("The rest is quite different", "Much else changed"),
        ("The rest is half kept", "Some of the rest changed"),
        ("The rest is nearly as it was", "Little else changed"),
        ("The rest is as it was", "Nothing else changed"),
    ),
    "quality": (
        ("Badly damaged", "It looks broken"),
        ("Clearly damaged", "It looks poor"),
        ("Somewhat damaged", "It looks fair"),
        ("Slightly damaged", "It looks good"),
        ("Clean", "It looks flawless"),
    ),
}


def write_rationale(scores: dict[str, float], rng: np.random.Generator) -> str:
    """Write a rationale with a clause for each of the scores, 1..5, of axes; `rng` chooses one of the wordings."""
    axes = [axis for axis in AXES if axis in scores]
    return " ".join(f"{word(axis, scores[axis], rng)}, {axis} {scores[axis]:.1f}." for axis in axes)


def word(axis: str, score: float, rng: np.random.Generator) -> str:
    """One of the wordings of an axis for the integer that is nearest to the score; a `ValueError` outside 1..5."""
    if not 1 <= score <= 5:
        raise ValueError(f"{axis} is {score}: sub-scores are between 1 and 5")
    return str(rng.choice(_WORDINGS[axis][min(int(score - 0.5), 4)]))
