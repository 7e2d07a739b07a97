"""Whether a critic looks: how often its score moves as it must when an edit is changed.

    for found in measure_probes(scores, probed.ids, probed.sources).probes: found.probe, found.rate, found.passed

`critic.scoring.probes` changes the edits and says how each score must move.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, nan
from typing import Any

import numpy as np

from critic.answers import SAME_SCORE
from critic.evaluation.bootstrap import Estimate, draw_counted, estimate, mean, resampled
from critic.scoring.probes import PROBES, UNCHANGED, Must

TOLERANCE = 0.5
"""Points by which the score of an edit may move and count as the same."""
LEAST_RATE = 0.5
"""A probe passes if the interval of its rate is above this: chance, for a score that must fall."""


@dataclass(frozen=True)
class Found:
    """What became of the scores under one probe.

    Attributes:
        n, failed: edits, and those without a score, changed or unchanged. They count as moved wrongly.
        rate: share of the edits whose score moved as it must, 0..1.
        change: mean change of the score, in points, of those with both scores.
        same: share of the edits whose score is the same, see `SAME_SCORE`.
        passed: whether the interval of the rate is above `LEAST_RATE`; None without an interval.
    """

    probe: str
    must: Must
    n: int
    failed: int
    rate: Estimate
    change: Estimate
    same: float
    passed: bool | None


@dataclass(frozen=True)
class Probing:
    """All probes of one critic.

    Attributes:
        edits, sources: how many unchanged edits, and source images.
        constant: the score of everything, changed or not; None if scores differ or there is but one.
    """

    edits: int
    sources: int
    constant: float | None
    probes: list[Found]

    @property
    def failed(self) -> list[str]:
        """The names of the probes that aren't passed."""
        return [found.probe for found in self.probes if found.passed is False]

    @property
    def verdict(self) -> str:
        """What the probes say, in one sentence."""
        if self.constant is not None:
            return (
                f"Every score is {self.constant:.2f}, whatever the pictures and the instruction are: this critic "
                "doesn't look. Check that it is the trained one."
            )
        if all(found.passed is None for found in self.probes):
            return "There are too few source images for a verdict."
        if self.failed:
            return f"The score doesn't move as it must under {', '.join(self.failed)}."
        return "The score moves as it must under every probe."


def measure_probes(
    scores: Mapping[str, float],
    ids: Sequence[str],
    sources: Sequence[str],
    *,
    tolerance: float = TOLERANCE,
    n_boot: int = 1000,
    seed: int = 0,
) -> Probing:
    """Compare the scores of changed edits with those of the same edits unchanged.

    A score must "fall": be lower; "stay": differ by `tolerance` points at most; or "not rise" by more than that.
    Intervals come from resampling source images.

    Args:
        scores: by the ids of `critic.scoring.probes.Probed`; NaN or missing where the critic failed.
        ids, sources: of the same.
    """
    before = {id.partition(":")[2]: scores.get(id, nan) for id in ids if id.startswith(f"{UNCHANGED}:")}
    rows: dict[str, list[tuple[float, str]]] = {}
    for id, source in zip(ids, sources, strict=True):
        name, _, edit = id.partition(":")
        if name != UNCHANGED:
            rows.setdefault(name, []).append((scores.get(id, nan) - before[edit], source))
    probes = [_found(name, rows[name], tolerance, n_boot, seed) for name in PROBES if name in rows]
    given = [score for id in ids if isfinite(score := scores.get(id, nan))]
    constant = given[0] if len(given) > 1 and max(given) - min(given) < SAME_SCORE else None
    return Probing(len(before), len({*sources}), constant, probes)


def _found(name: str, rows: list[tuple[float, str]], tolerance: float, n_boot: int, seed: int) -> Found:
    change, sources = np.array([change for change, _ in rows]), [source for _, source in rows]
    scored, must = np.isfinite(change), PROBES[name].must
    falls = change <= -SAME_SCORE
    right = {"fall": falls, "stay": np.abs(change) <= tolerance, "not rise": change <= tolerance}[must]

    def share(x: Any, counted: Any) -> Estimate:
        return estimate(resampled(lambda w: mean(x[counted], w), draw_counted(sources, counted, n_boot, seed)))

    rate = share(right.astype(float), np.full(len(rows), True))
    return Found(
        name,
        must,
        len(rows),
        int((~scored).sum()),
        rate,
        share(change, scored),
        float(np.mean(np.abs(change) < SAME_SCORE)),
        rate.low > LEAST_RATE if isfinite(rate.low) else None,
    )
