"""Measure the time and memory of all metrics with their intervals, beside a loop over scipy's functions.

    python benchmarks/bootstrap.py                                     # 4,000 x 10,000 and 100,000 x 1,000
    python benchmarks/bootstrap.py --size 1000x200 --json runs/bootstrap.json

The loop is what the statistics stand for: each resample is written out as rows, and scipy computes its
correlations. It gets the same draws of source images, and its figures must be the same within 1e-9. Each way runs
in its own process. Seconds are CPU time of one thread, so that other work on the machine counts little, without
imports. The peak of memory is with them, some 100 MiB.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from tqdm import tqdm

from critic.evaluation.agreement import correlations
from critic.evaluation.bootstrap import Array, estimate, jsonable
from critic.evaluation.logistic_fit import fit_logistic
from critic.files import write_json

SIZES = ("4000x10000", "100000x1000")
EDITS = 6
"""Edits of a source image."""
TOLERANCE = 1e-9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--size", action="append", metavar="ROWSxRESAMPLES", help=f"May be repeated (default: {' '.join(SIZES)})."
    )
    parser.add_argument("--json", type=Path, help="Write all figures to this file.")
    parser.add_argument("--way", choices=WAYS, help="Measure only this way, and print JSON.")
    given = parser.parse_args()
    sizes = [tuple(map(int, size.split("x"))) for size in given.size or SIZES]
    if given.way:
        print(json.dumps(run(given.way, *sizes[0])))
        return
    rows = [compare(*size) for size in tqdm(sizes, desc="sizes")]
    print("| rows | resamples | critic | peak | scipy in a loop | peak | ratio |")
    print("|---:|---:|---:|---:|---:|---:|---:|")
    for row in rows:
        ways = " | ".join(f"{row[way]['seconds']:.1f} s | {row[way]['peak_mib']:,.0f} MiB" for way in WAYS)
        print(f"| {row['rows']:,} | {row['resamples']:,} | {ways} | {row['ratio']:.1f} |")
    if given.json:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        write_json(given.json, {"rows": rows})


def compare(rows: int, resamples: int) -> dict[str, Any]:
    """Both ways at one size.

    Raises:
        SystemExit: a process failed, or the figures differ.
    """
    found: dict[str, Any] = {"rows": rows, "resamples": resamples}
    for way in WAYS:
        command = [sys.executable, __file__, "--way", way, "--size", f"{rows}x{resamples}"]
        done = subprocess.run(
            command, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, text=True
        )
        if done.returncode:
            raise SystemExit(f"{way} at {rows} x {resamples} failed with exit status {done.returncode}")
        found[way] = json.loads(done.stdout)
    ours, theirs = (found[way].pop("figures") for way in WAYS)
    for name, figures in ours.items():
        if not np.allclose([*figures.values()], [*theirs[name].values()], rtol=0, atol=TOLERANCE):
            raise SystemExit(f"{name} at {rows} x {resamples} is {figures}, and in the loop {theirs[name]}")
    return found | {"ratio": found["loop"]["seconds"] / found["critic"]["seconds"]}


def run(way: str, rows: int, resamples: int) -> dict[str, Any]:
    """CPU seconds, peak of this process in MiB, and the figures of one way."""
    table = simulate(rows)
    began = time.process_time()
    figures = WAYS[way](*table, resamples)
    seconds = time.process_time() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"seconds": seconds, "peak_mib": peak, "figures": jsonable(figures)}


def simulate(rows: int) -> tuple[Array, Array, NDArray[np.intp]]:
    """Scores with two decimals, MOS and source images. One score in fifty is missing."""
    rng = np.random.default_rng(0)
    quality = rng.normal(size=rows)
    scores = np.clip(3 + quality + rng.normal(0, 0.7, rows), 1, 5).round(2)
    scores[rng.random(rows) < 0.02] = np.nan
    return scores, np.clip(3 + quality, 1, 5), np.arange(rows) // EDITS


def critic(scores: Array, mos: Array, sources: NDArray[np.intp], resamples: int) -> dict[str, Any]:
    """As `critic eval` and the report compute them."""
    return correlations(scores, mos, sources, n_boot=resamples)


def loop(scores: Array, mos: Array, sources: NDArray[np.intp], resamples: int) -> dict[str, Any]:
    """Every resample written out."""
    scored = np.isfinite(scores)
    fitted = np.full(len(scores), np.nan)
    fitted[scored] = fit_logistic(scores, mos)(scores[scored])
    images = int(sources.max()) + 1
    rng, shares = np.random.default_rng(0), np.full(images, 1 / images)
    samples = [measure(scores, fitted, mos)]
    for _ in range(resamples):
        drawn = np.repeat(np.arange(len(scores)), rng.multinomial(images, shares)[sources])
        samples.append(measure(scores[drawn], fitted[drawn], mos[drawn]))
    return {name: estimate(np.array([sample[name] for sample in samples])) for name in samples[0]}


def measure(scores: Array, fitted: Array, mos: Array) -> dict[str, float]:
    """Every metric of some rows."""
    scored = np.isfinite(scores)
    x, curve, y = scores[scored], fitted[scored], mos[scored]
    plcc, plcc_fitted = (float(stats.pearsonr(values, y).statistic) for values in (x, curve))
    srcc = float(stats.spearmanr(x, y).statistic)
    return {
        "plcc": plcc,
        "srcc": srcc,
        "krcc": float(stats.kendalltau(x, y).statistic),
        "plcc_fitted": plcc_fitted,
        "main_score": (plcc + srcc) / 2,
        "main_score_fitted": (plcc_fitted + srcc) / 2,
        "rmse": float(np.sqrt(np.mean((x - y) ** 2))),
        "mae": float(np.mean(np.abs(x - y))),
        "spread": float(x.std()),
        "coverage": float(scored.mean()),
    }


WAYS = {"critic": critic, "loop": loop}


if __name__ == "__main__":
    main()
