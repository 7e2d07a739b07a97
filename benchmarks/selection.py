"""Measure what probing, picking and filtering do: the figures of docs/probe.md and docs/choose.md.

    python benchmarks/selection.py models/grpo probe pick filter    # 5,000 edits are scored: an hour on two cores
    python benchmarks/selection.py models/grpo simulate             # without the critic

The edits are of minibench, with seeds that no training has. In `simulate`, scores are MOS with noise.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from tqdm import tqdm

from critic.cli.tables import cell
from critic.data.minibench.benchmark import make_table
from critic.edits import TYPES, normalise
from critic.evaluation.probing import measure_probes
from critic.evaluation.score_tables import read_scores
from critic.evaluation.selection import SelectionError, find_threshold
from critic.scoring.inputs import read_pairs
from critic.scoring.probes import probe as changed
from critic.tables import read_parquet, write_parquet

SIDE, SEED = 112, 90210
CLEAN = ("--edits", 100_000, "--ignore-mos", "--probe", "unedited", "--probe", "other_edit")


def critic(*arguments: object) -> int:
    """Run a command of `critic` that may end with 1: a failed probe, or a refused precision."""
    code = subprocess.run([Path(sys.executable).parent / "critic", *map(str, arguments)]).returncode
    if code not in (0, 1):
        raise SystemExit(f"critic {arguments[0]} ended with {code}")
    return code


def make(folder: Path, sources: int, seed: int) -> Path:
    """A table of six edits, three of each of two instructions, of each source image."""
    path = folder / f"edits-{seed}.parquet"
    write_parquet(normalise(make_table("test", sources, SIDE, seed), "test"), path, TYPES)
    return path


def score(model: str, table: Path) -> Path:
    critic("score", "-m", model, table, "--out", out := table.with_suffix(".jsonl"))
    return out


def probe(model: str, folder: Path) -> list[str]:
    table = make(folder, 60, SEED)
    mos, sources = (read_parquet(table)[name].to_list() for name in ("mos", "source_id"))
    probed = changed(read_pairs(table), mos, sources, edits=75, seed=0)
    judges = [dict.fromkeys(probed.ids, 3.0)]
    for number, judge in enumerate((("--judge", "ssim"), ("-m", model))):
        critic("probe", *judge, table, "--out", out := folder / f"{number}.jsonl", "--edits", 75)
        judges.insert(0, read_scores(out))
    found = [measure_probes(scores, probed.ids, probed.sources).probes for scores in judges]
    lines = ["| probe | score must | the critic | SSIM | always 3 |", "|---|---|---|---|---|"]
    for of_judges in zip(*found, strict=True):
        cells = [cell(one.rate, 2) if one.passed else f"**{cell(one.rate, 2)}**" for one in of_judges]
        lines.append(f"| `{of_judges[0].probe}` | {of_judges[0].must} | {' | '.join(cells)} |")
    return lines


def pick(model: str, folder: Path) -> list[str]:
    table = make(folder, 250, SEED + 1)
    best, clean, probes = (folder / name for name in ("best.parquet", "clean.parquet", "probes.jsonl"))
    asked = ("pick", score(model, table), "--pairs", table, "--out")
    critic(*asked, best)
    critic("probe", "-m", model, best, "--out", probes, *CLEAN)
    critic(*asked, clean, "--probes", probes)
    edits, picked, kept = map(read_parquet, (table, best, clean))
    by_people = edits.groupby(["source_id", "instruction"])["mos"].max().mean()
    return [
        f"mean MOS of {len(edits):,} edits {edits['mos'].mean():.2f}, of the best by people {by_people:.2f}, "
        f"of the {len(picked)} picked {picked['mos'].mean():.2f}; {len(picked) - len(kept)} dropped by their "
        f"probes, the rest {kept['mos'].mean():.2f}"
    ]


def keep(model: str, folder: Path) -> list[str]:
    rated, new = (make(folder, 250, SEED + number) for number in (2, 3))
    (of_rated, scores), mos = (score(model, table) for table in (rated, new)), read_parquet(new)["mos"]
    out, figures = folder / "kept.parquet", folder / "kept.json"
    files = ("--pairs", new, "--rated", rated, "--rated-scores", of_rated, "--out", out, "--json", figures)
    lines = [
        "| good from MOS | asked | threshold | precision, recall | of the other set |",
        "|---|---|---|---|---|",
    ]
    for least, asked in ((2.5, 0.9), (3, 0.8), (3.5, 0.8), (3, 0.9)):
        told = "refused | | |"
        if not critic("filter", scores, *files, "--mos", least, "--precision", asked):
            found, kept = json.loads(figures.read_text()), read_parquet(out)["mos"]
            good, reached = (kept >= least).sum(), found["precision"]["value"]
            told = f"{found['score']:.1f} | {reached:.3f} (at least {found['at_least']:.3f}), "
            told += f"{found['recall']['value']:.2f} | {good / len(kept):.3f}, {good / (mos >= least).sum():.2f} |"
        lines.append(f"| {least:g} | {asked:.2f} | {told}")
    return lines


def simulated(sources: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores, MOS and sources: MOS of one source are alike, and a score is the MOS with noise."""
    source = np.repeat(np.arange(sources), 3)
    mos = np.clip(rng.normal(3.4, 0.8, sources)[source] + rng.normal(0, 0.5, len(source)), 1, 5)
    return np.clip(mos + rng.normal(0, 0.45, len(mos)), 1, 5), mos, source


def simulate(runs: int = 600) -> tuple[float, float]:
    """Thresholds from 700 source images: the share that holds 0.9 on 600,000 new edits, and the median recall."""
    rng = np.random.default_rng(0)
    scores, mos, _ = simulated(200_000, rng)
    held, recalls = [], []
    for _ in tqdm(range(runs), desc="simulations", disable=None):
        try:
            threshold = find_threshold(*simulated(700, rng), least_mos=4, precision=0.9, n_boot=0).score
        except SelectionError:
            recalls.append(0.0)
            continue
        kept = scores >= threshold
        held.append((mos[kept] >= 4).mean() >= 0.9)
        recalls.append(kept[mos >= 4].mean())
    return float(np.mean(held)), float(np.median(recalls))


PARTS: dict[str, Callable[[str, Path], list[str]]] = {"probe": probe, "pick": pick, "filter": keep}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="The critic; `simulate` needs none.")
    parser.add_argument("parts", nargs="+", choices=[*PARTS, "simulate"])
    given: Any = parser.parse_args()
    for part in given.parts:
        if part == "simulate":
            held, recall = simulate()
            print(f"{held:.0%} of the thresholds hold 0.9 on new edits; recall {recall:.2f} at the median")
            continue
        with TemporaryDirectory() as folder:
            print(*PARTS[part](given.model, Path(folder)), sep="\n")


if __name__ == "__main__":
    main()
