"""How many bad raters the screening catches, and how many good ones: docs/ratings.md has what this prints.

    python benchmarks/raters.py

Studies of 300 ratings, 200 of each design. Honest raters have a bias, a spread and noise of their own and say
whole scores; contrary ones say the opposite of what they see; two careless ones say anything.
"""

from typing import Any

import numpy as np
import pandas as pd

from critic import params
from critic.ratings.screening import Study, pool

STUDIES, CARELESS = 200, 2
DESIGNS = (
    {"raters": 10, "per_edit": 5, "edits": 60, "contrary": 1},
    {"raters": 10, "per_edit": 3, "edits": 100, "contrary": 1},
    {"raters": 10, "per_edit": 10, "edits": 30, "contrary": 1},
    {"raters": 15, "per_edit": 15, "edits": 20, "contrary": 1},
    {"raters": 12, "per_edit": 5, "edits": 60, "contrary": 2},
)


def main() -> None:
    rules = params.load(params.Ratings)
    print("| raters, ratings an edit | contrary caught | careless caught | honest lost | error | of plain mean |")
    for design in DESIGNS:
        bad, number = design["contrary"], design["raters"]
        rows = []
        for seed in range(STUDIES):
            table, truth = simulate(seed, **design)
            study = pool(table, rules)
            plain = table.groupby("item")["score"].mean()
            rows.append(
                [
                    caught(study, 0, bad),
                    caught(study, bad, bad + CARELESS),
                    caught(study, bad + CARELESS, number),
                    error(study.items["mos"], truth),
                    error(plain, truth),
                ]
            )
        shares = np.nanmean(rows, axis=0)
        figures = [f"{share:.1%}" for share in shares[:3]] + [f"{points:.2f}" for points in shares[3:]]
        print(f"| {number}, {design['per_edit']}; contrary {bad} | {' | '.join(figures)} |")


def simulate(
    seed: int, *, raters: int, per_edit: int, edits: int, contrary: int
) -> "tuple[pd.DataFrame, pd.Series[float]]":
    """Ratings, and what each edit is worth."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(3.2, 0.95, edits).clip(1, 5)
    bias, gain = rng.normal(0, 0.25, raters), rng.normal(1, 0.12, raters).clip(0.6, 1.4)
    noise = rng.normal(0, 1, (edits, raters)) * rng.uniform(0.3, 0.6, raters)
    said = 3 + gain * (truth[:, None] - 3) + bias + noise
    said[:, :contrary] = 6 - said[:, :contrary]
    said[:, contrary : contrary + CARELESS] = rng.uniform(1, 5, (edits, CARELESS))
    chosen = rng.random((edits, raters)).argsort(axis=1)[:, :per_edit]
    rows: list[dict[str, Any]] = [
        {"rater": f"r{rater:02d}", "item": f"e{edit:03d}", "score": float(np.clip(round(said[edit, rater]), 1, 5))}
        for edit in range(edits)
        for rater in chosen[edit]
    ]
    return pd.DataFrame(rows), pd.Series(truth, index=[f"e{edit:03d}" for edit in range(edits)])


def caught(study: Study, start: int, end: int) -> float:
    """The share of those raters who don't count, of those who can be judged."""
    verdicts = [study.raters["verdict"].get(f"r{rater:02d}", "unproven") for rater in range(start, end)]
    judged = [verdict != "counted" for verdict in verdicts if verdict != "unproven"]
    return float(np.mean(judged)) if judged else np.nan


def error(mos: "pd.Series[float]", truth: "pd.Series[float]") -> float:
    """Root mean square, in points."""
    return float(np.sqrt(((mos - truth) ** 2).mean()))


if __name__ == "__main__":
    main()
