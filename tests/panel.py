"""A simulated study: edits outside of the benchmark, and ratings of honest, careless and malicious raters."""

import csv
from pathlib import Path

import numpy as np

from critic.data.minibench import make_table

AXES = ("alignment", "fidelity", "quality")


def write_study(
    folder: Path,
    *,
    benchmark_sources: int,
    edits: int,
    per_edit: int = 5,
    honest: int = 9,
    careless: int = 2,
    malicious: int = 1,
    side: int = 112,
    seed: int = 7,
    raters_seed: int = 0,
) -> Path:
    """Write pictures and ratings.csv to a folder.

    The edits are those that minibench would make next, from sources after the benchmark's. Honest raters give the
    true score with their own bias and noise, careless raters random scores, malicious raters the opposite score.
    """
    sources = benchmark_sources + -(-edits // 6)
    table = make_table("train", sources, side, seed).iloc[benchmark_sources * 6 :].head(edits)
    rng = np.random.default_rng(raters_seed)
    kinds = ["honest"] * honest + ["careless"] * careless + ["malicious"] * malicious
    names = [f"{kind}-{number}" for number, kind in enumerate(kinds)]
    bias, noise = rng.normal(0, 0.25, len(names)), rng.uniform(0.3, 0.6, len(names))
    given = np.zeros(len(names))
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "ratings.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["rater", "source", "edited", "instruction", "edit_type", "score", *AXES])
        for number, row in enumerate(table.to_dict("records")):
            paths = [f"{number:03d}-{role}.jpg" for role in ("source", "edited")]
            for path, image in zip(paths, row["images"], strict=True):
                (folder / path).write_bytes(image["bytes"])
            truth = np.array([row["answer"], *(row[f"mos_{axis}"] for axis in AXES)])
            turns = np.argsort(given + rng.random(len(names)))[:per_edit]  # those with the fewest ratings
            given[turns] += 1
            for rater in turns:
                scores = truth + bias[rater] + rng.normal(0, noise[rater], len(truth))
                if kinds[rater] == "careless":
                    scores = rng.uniform(1, 5, len(truth))
                elif kinds[rater] == "malicious":
                    scores = 6 - scores
                whole = scores.round().clip(1, 5).astype(int)
                rows.writerow([names[rater], *paths, row["edit_inst"], row["edit_type"], *whole])
    return folder / "ratings.csv"
