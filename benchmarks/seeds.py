"""Train with several seeds, with continued SFT as the control: how much of a gain is GRPO's, and how much luck.

    dvc repro && python benchmarks/seeds.py        # seeds 8 and 9 beside that of params.yaml; `tiny` takes an hour
    dvc repro                                      # scores the test split again, and quotes them in the report
    python benchmarks/seeds.py --seeds 8 9 10 --json runs/more-seeds.json

A seed decides the order of the samples and what is sampled; the data stay the same. For each seed SFT trains, GRPO
goes on from it, and so does the control: more SFT, for as long as GRPO took. All are scored on the test split as
`evaluate` does. Intervals are of one seed, from resampling source images, and leave out what another seed changes:
the spread over seeds. The models of params.yaml's seed are those in `models`. Everything is in a folder of
runs/seeds, a new one once the trainings' params, data or code change. A killed run goes on there, but counts only
the seconds of a training since its last start.
"""

import argparse
import json
import os
import shlex
import statistics
import subprocess
import time
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from tqdm import tqdm

from critic import params
from critic.evaluation.agreement import apply_failure_policy, measure, paired_bootstrap
from critic.evaluation.seeds import FILE, GAINS, METRICS, Gain, Run, Seeds
from critic.files import write_text
from critic.tables import read_parquet
from stages.evaluate import TEST, score_by_each
from stages.launch import stage_command, stage_environment, threads

ROOT = Path(__file__).parents[1]
RUNS = Path("runs/seeds")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[8, 9], help="Seeds to train (default: 8 9).")
    parser.add_argument(
        "--rate", type=float, default=1e-4, help="Learning rate at which SFT is continued (default: 1e-4)."
    )
    parser.add_argument("--json", type=Path, default=FILE, help=f"Default: {FILE}, which the report quotes.")
    given = parser.parse_args()
    own, runs_here = params.seed(), RUNS / identity()
    seconds: dict[str, float] = dict.fromkeys(("sft", "grpo"), 0.0)
    for seed in tqdm(given.seeds, desc="seeds"):
        for stage in seconds:
            seconds[stage] += train(runs_here / str(seed), stage, {"seed": seed})
    epochs = params.load(params.Sft).num_train_epochs * seconds["grpo"] / seconds["sft"]
    runs = []
    for seed in tqdm([own, *given.seeds], desc="controls"):
        trained = Path() if seed == own else runs_here / str(seed)
        base = {"base": os.path.abspath(trained / "models/sft"), "revision": None}
        sft = {"num_train_epochs": round(epochs, 3), "learning_rate": given.rate}
        folder = runs_here / str(seed) / f"continued-{epochs:.3f}-{given.rate:g}"
        train(folder, "sft", {"seed": seed}, model=base, sft=sft)
        checkpoints = {
            "sft": trained / "models/sft",
            "continued sft": folder / "models/sft",
            "grpo": trained / "models/grpo",
        }
        runs.append(compare(seed, {name: str(path) for name, path in checkpoints.items()}))
    seeds = Seeds(runs=runs, epochs=round(epochs, 3), rate=given.rate)
    given.json.parent.mkdir(parents=True, exist_ok=True)
    write_text(given.json, seeds.model_dump_json(indent=2) + "\n")
    print("\n".join(table(runs)))


def identity() -> str:
    """What tells this recipe, its data and its code from others: a hash of what both trainings depend on."""
    stages = yaml.safe_load(Path("dvc.lock").read_text())["stages"]
    trainings = {
        name: {"deps": stages[name]["deps"], "params": stages[name]["params"]} for name in ("sft", "grpo")
    }
    return sha256(json.dumps(trainings, sort_keys=True).encode()).hexdigest()[:12]


def train(folder: Path, stage: str, top: Mapping[str, Any], **sections: Mapping[str, Any]) -> float:
    """Run a training in a folder with the project's data and changed params, once; returns its seconds.

    Raises:
        SystemExit: the training failed; its output is in the folder.
    """
    took = folder / f"{stage}.seconds"
    if took.exists():
        return float(took.read_text())
    (folder / "models").mkdir(parents=True, exist_ok=True)
    (folder / "reports").mkdir(exist_ok=True)
    for shared in ("data", "assets"):
        if not (folder / shared).exists():
            (folder / shared).symlink_to(os.path.abspath(shared))
    content = yaml.safe_load(params.FILE.read_text()) | top
    profile = content["profiles"][content["profile"]]
    for name, values in sections.items():
        profile[name] = {**profile[name], **values}
    (folder / params.FILE).write_text(yaml.safe_dump(content, sort_keys=False))
    launch = params.load(params.Launch)
    command = stage_command(stage, launch, os.environ)
    environment = {"OMP_NUM_THREADS": str(threads(launch)), **os.environ, "PYTHONPATH": str(ROOT)}
    began = time.perf_counter()
    with (folder / f"{stage}.log").open("ab") as log:
        done = subprocess.run(
            command,
            cwd=folder,
            env=stage_environment(stage, command, environment),
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    if done.returncode:
        raise SystemExit(f"{shlex.join(command)} failed: see {folder / f'{stage}.log'}")
    seconds = time.perf_counter() - began
    took.write_text(f"{seconds:.1f}\n")
    return seconds


def compare(seed: int, checkpoints: dict[str, str]) -> Run:
    """The metrics of each critic on the test split, and the gains with their intervals."""
    section = params.load(params.Evaluate)
    truth = read_parquet(TEST, ["id", "source_id", "mos"])
    mean = float(read_parquet("data/validated/train.parquet", ["mos"])["mos"].mean())
    mos = truth["mos"].to_numpy(float)
    scores = {
        name: found["score"].to_numpy(float, na_value=np.nan)
        for name, (found,) in score_by_each(checkpoints, [TEST], section)
    }
    counted = {name: apply_failure_policy(one, mos, section.failure_policy, mean) for name, one in scores.items()}
    boot = {"n_boot": section.n_boot, "seed": params.seed()}
    measured = {name: measure(one, mos, section.failure_policy, mean) for name, one in scores.items()}

    def gain(new: str, old: str, metric: str) -> Gain:
        found = paired_bootstrap(counted[new], counted[old], mos, truth["source_id"], metric=metric, **boot)
        return Gain(value=found.value, low=found.low, high=found.high)

    return Run(
        seed=seed,
        models={name: {metric: found[metric] for metric in METRICS} for name, found in measured.items()},
        gains={title: {metric: gain(*pair, metric) for metric in METRICS} for title, pair in GAINS.items()},
    )


def table(runs: list[Run]) -> list[str]:
    """Lines of Markdown: each metric by seed, the median and the spread; and each gain with its interval."""
    heads = [*(f"seed {run.seed}" for run in runs), "median", "spread"]
    lines = [f"| | {' | '.join(heads)} |", f"|---|{'---:|' * len(heads)}"]
    for metric in METRICS:
        for name in runs[0].models:
            values = [run.models[name][metric] for run in runs]
            cells = [f"{value:.3f}" for value in (*values, statistics.median(values), max(values) - min(values))]
            lines.append(f"| {name}, {metric.replace('_', ' ')} | {' | '.join(cells)} |")
    for title in GAINS:
        for metric in METRICS:
            gains = [run.gains[title][metric] for run in runs]
            cells = [f"{gain.value:+.3f} ({gain.low:+.3f} to {gain.high:+.3f})" for gain in gains]
            values = [gain.value for gain in gains]
            cells += [f"{statistics.median(values):+.3f}", f"{max(values) - min(values):.3f}"]
            lines.append(f"| {title}, {metric.replace('_', ' ')} | {' | '.join(cells)} |")
    return lines


if __name__ == "__main__":
    main()
