"""Sub-scores to words: the rationales of the chain-of-thought samples when none were released.

Each axis of IE-Critic-R1 (arXiv 2511.18055: text alignment, fidelity, perceptual quality) gets one clause,
worded by its band and closed by its value, in the paper's order.
"""

import numpy as np

_WORDINGS: dict[str, tuple[tuple[str, ...], ...]] = {
    "alignment": (
        (
            "The instruction is ignored",
            "Nothing that was asked for is there",
            "It does not do what was asked",
        ),
        ("Little of the instruction is carried out", "Only a hint of what was asked is there"),
        ("The instruction is half carried out", "About half of what was asked is there"),
        ("Most of the instruction is carried out", "It nearly does what was asked"),
        ("The instruction is followed", "It does exactly what was asked", "All that was asked for is there"),
    ),
    "fidelity": (
        ("The rest is ruined", "What should have stayed is lost"),
        ("Much of the rest has changed", "A lot that should have stayed is different"),
        ("Some of the rest has changed", "Part of what should have stayed is different"),
        ("The rest is nearly as it was", "Little else has changed"),
        ("The rest is as it was", "Nothing else has changed", "All the rest is kept"),
    ),
    "quality": (
        ("The picture is badly damaged", "It looks broken"),
        ("The damage to the picture is plain", "It looks poor"),
        ("The picture is somewhat damaged", "It looks fair"),
        ("The picture is slightly damaged", "It looks good"),
        ("The picture is clean", "It looks flawless"),
    ),
}


def write_rationale(scores: dict[str, float], rng: np.random.Generator) -> str:
    """Put the sub-scores into words.

    Args:
        scores: "alignment", "fidelity" and "quality", each 1 to 5.
        rng: picks among the wordings of each band (bands are the nearest whole scores).

    Raises:
        ValueError: a score is outside 1..5.
    """
    clauses = []
    for axis, wordings in _WORDINGS.items():
        score = scores[axis]
        if not 1 <= score <= 5:
            raise ValueError(f"{axis} is {score}: sub-scores are between 1 and 5")
        band = wordings[min(int(score - 0.5), 4)]
        clauses.append(f"{rng.choice(band)}, {axis} {score:.1f}.")
    return " ".join(clauses)
