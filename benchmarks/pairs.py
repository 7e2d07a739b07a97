"""Train GRPO on the order of edits alone, from models/sft: the figures of docs/grpo.md.

    dvc repro && python benchmarks/pairs.py            # `tiny` takes six minutes
    python benchmarks/pairs.py --set pairs=1.0 distance=1.0

The critics score new edits of minibench, of source images that no training has seen. Pairs are edits of one source
image and instruction whose MOS differ. Intervals are from resampling source images; another seed changes more.
"""

import argparse
import json
import os
from itertools import combinations
from pathlib import Path

import pandas as pd
from seeds import train

from critic import params
from critic.data.minibench import make_table
from critic.data.preferences.order import read_preferences
from critic.edits import TYPES, normalise
from critic.evaluation.agreement import measure, paired_bootstrap
from critic.evaluation.bootstrap import jsonable
from critic.evaluation.preferences import compare_preferences
from critic.files import write_json
from critic.tables import write_parquet
from stages.evaluate import score_by_each

FOLDER, SEED, SOURCES = Path("runs/pairs"), 20261130, 300


def make_edits(file: Path) -> pd.DataFrame:
    """Write six edits, three of each of two instructions, of each source image."""
    table = normalise(make_table("test", SOURCES, 112, SEED), "test")
    write_parquet(table, file, TYPES)
    return table


def make_pairs(edits: pd.DataFrame, file: Path) -> pd.DataFrame:
    """Write a row for every two edits of a source and an instruction that people like differently."""
    rows = []
    for (source, _), group in edits.groupby(["source_id", "instruction"], sort=False):
        rated = [(float(mos), id) for mos, id in zip(group["mos"], group["id"], strict=True)]
        for a, b in combinations(rated, 2):
            if a[0] != b[0]:
                rows.append({"edited_a": a[1], "edited_b": b[1], "winner": max(a, b)[1], "source_id": source})
    file.write_text("\n".join(map(json.dumps, rows)) + "\n")
    return read_preferences(file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", nargs="+", default=["distance=0.0", "axes=0.0", "pairs=1.0"], help="of `reward`")
    parser.add_argument("--json", type=Path, default=FOLDER / "pairs.json")
    given = parser.parse_args()
    weights = {name: float(value) for name, _, value in (change.partition("=") for change in given.set)}
    title = "-".join(f"{name}-{value:g}" for name, value in sorted(weights.items()))
    folder = FOLDER / title
    (folder / "models").mkdir(parents=True, exist_ok=True)
    if not (folder / "models/sft").exists():
        (folder / "models/sft").symlink_to(os.path.abspath("models/sft"))
    train(folder, "grpo", {"seed": params.seed()}, reward=weights)
    table = FOLDER / "edits.parquet"
    edits = make_edits(table)
    pairs = make_pairs(edits, FOLDER / "pairs.jsonl")
    models = {"sft": "models/sft", title: str(folder / "models/grpo"), "grpo": "models/grpo"}
    scores = {name: found for name, (found,) in score_by_each(models, [table], params.load(params.Evaluate))}
    found = compare_preferences(scores, pairs)
    mos = edits["mos"].to_numpy(float)
    values = {name: one["score"].to_numpy(float, na_value=float("nan")) for name, one in scores.items()}
    metrics = {name: measure(one, mos, "worst", None) for name, one in values.items()}
    gains = {
        metric: paired_bootstrap(values[title], values["sft"], mos, edits["source_id"], metric=metric)
        for metric in ("main_score", "mae")
    }
    FOLDER.mkdir(parents=True, exist_ok=True)
    write_json(given.json, jsonable({"preferences": found, "metrics": metrics, "gains": gains}))
    for row in found["critics"]:
        one, measured = row["accuracy"], metrics[row["critic"]]
        print(
            f"| {row['critic']} | {one.value:.3f} ({one.low:.3f} to {one.high:.3f}) | {row['n']} | "
            f"{measured['main_score']:.3f} | {measured['mae']:.3f} |"
        )
    for row in found["differences"]:
        one = row["accuracy"]
        print(f"{row['a']} - {row['b']}: {one.value:+.3f} ({one.low:+.3f} to {one.high:+.3f})")
    for metric, one in gains.items():
        print(f"{title} - sft, {metric}: {one.value:+.3f} ({one.low:+.3f} to {one.high:+.3f})")


if __name__ == "__main__":
    main()
