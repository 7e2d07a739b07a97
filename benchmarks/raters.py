"""Measure how many bad and good raters the screening excludes; docs/ratings.md has the output.

    python benchmarks/raters.py

200 simulated studies of each design, 300 ratings each. Honest raters have their own bias, gain and noise and give
whole scores; inverted raters give the opposite score; two careless raters give random scores.
"""

from typing import Any

import numpy as np
import pandas as pd

from critic import params
from critic.ratings.pooling import Study, pool

STUDIES, CARELESS = 200, 2
DESIGNS = (
    {"raters": 10, "per_edit": 5, "edits": 60, "inverted": 1},
    {"raters": 10, "per_edit": 3, "edits": 100, "inverted": 1},
    {"raters": 10, "per_edit": 10, "edits": 30, "inverted": 1},
    {"raters": 15, "per_edit": 15, "edits": 20, "inverted": 1},
    {"raters": 12, "per_edit": 5, "edits": 60, "inverted": 2},
)


def main() -> None:
    rules = params.load(params.Ratings)
    print("| raters, ratings per edit | inverted out | careless out | honest out | error | error of the mean |")
    for design in DESIGNS:
        bad, number = design["inverted"], design["raters"]
        rows = []
        for seed in range(STUDIES):
            table, truth = simulate(seed, **design)
            study = pool(table, rules)
            plain = table.groupby("item")["score"].mean()
            rows.append(
                [
                    excluded(study, 0, bad),
                    excluded(study, bad, bad + CARELESS),
                    excluded(study, bad + CARELESS, number),
                    error(study.items["mos"], truth),
                    error(plain, truth),
                ]
            )
        shares = np.nanmean(rows, axis=0)
        figures = [f"{share:.1%}" for share in shares[:3]] + [f"{points:.2f}" for points in shares[3:]]
        print(f"| {number}, {design['per_edit']}; inverted {bad} | {' | '.join(figures)} |")


def simulate(
    seed: int, *, raters: int, per_edit: int, edits: int, inverted: int
) -> "tuple[pd.DataFrame, pd.Series[float]]":
    """Ratings, and the true score of each edit."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(3.2, 0.95, edits).clip(1, 5)
    bias, gain = rng.normal(0, 0.25, raters), rng.normal(1, 0.12, raters).clip(0.6, 1.4)
    noise = rng.normal(0, 1, (edits, raters)) * rng.uniform(0.3, 0.6, raters)
    scores = 3 + gain * (truth[:, None] - 3) + bias + noise
    scores[:, :inverted] = 6 - scores[:, :inverted]
    scores[:, inverted : inverted + CARELESS] = rng.uniform(1, 5, (edits, CARELESS))
    scores = scores.round().clip(1, 5)
    chosen = rng.random((edits, raters)).argsort(axis=1)[:, :per_edit]
    rows: list[dict[str, Any]] = [
        {"rater": f"r{rater:02d}", "item": f"e{edit:03d}", "score": float(scores[edit, rater])}
        for edit in range(edits)
        for rater in chosen[edit]
    ]
    return pd.DataFrame(rows), pd.Series(truth, index=[f"e{edit:03d}" for edit in range(edits)])


def excluded(study: Study, start: int, end: int) -> float:
    """The share of raters from `start` to `end` that don't count, of those with enough ratings."""
    statuses = [study.raters["status"].get(f"r{rater:02d}", "insufficient_data") for rater in range(start, end)]
    tested = [status != "counted" for status in statuses if status != "insufficient_data"]
    return float(np.mean(tested)) if tested else np.nan


def error(mos: "pd.Series[float]", truth: "pd.Series[float]") -> float:
    """Root mean square error, in points."""
    return float(np.sqrt(((mos - truth) ** 2).mean()))


if __name__ == "__main__":
    main()
