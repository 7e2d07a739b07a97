"""Time steps of SFT and GRPO beside TRL's own trainers, with the data and the settings of the pipeline.

    dvc repro sft && python benchmarks/training_steps.py        # the active profile of params.yaml
    python benchmarks/training_steps.py grpo --steps 3 --json runs/training_steps.json

TRL's own trainers, with transformers' own model, read a prompt once for each completion, prepare a picture once
for each micro-batch, and on a CPU generate with transformers. The project's read a prompt once per group, prepare
a picture once per step, and generate with vLLM. SFT is timed with `share_prompts` on as well, and four samples of
each edit. Each way has one process of one thread, with the batch of all processes of the launch; seconds are
medians of the steps after the first. Nothing is written but the JSON.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from critic import params
from critic.data.trl_datasets import load_samples, write_samples
from critic.files import write_json
from critic.prompts import Contract, stage_contract
from critic.tables import read_parquet
from stages.build import sft_samples

WAYS = {
    "sft": {"TRL": {"share_prompts": False}, "shared": {"share_prompts": True}},
    "grpo": {"TRL": {"share_prompts": False, "use_vllm": False}, "shared": {}},
}
"""The values of `sft` and `grpo` that each way changes."""
EDITS = 400
"""Of which SFT gets samples."""
PARTS = {"sft": ("step",), "grpo": ("rollout", "update", "step")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("training", nargs="?", choices=WAYS, help="One of them (default: both).")
    parser.add_argument("--steps", type=int, default=5, help="Steps to time after the first (default: 5).")
    parser.add_argument("--json", type=Path, help="Write all figures to this file.")
    parser.add_argument("--way", choices=("TRL", "shared"), help="Measure only this way, and print JSON.")
    given = parser.parse_args()
    trainings = [given.training] if given.training else [*WAYS]
    if given.way:
        print(json.dumps(measure(trainings[0], given.way, given.steps)))
        return
    needed = [
        "data/validated/train.parquet",
        *(["data/rl/train.parquet", "models/sft"] if "grpo" in trainings else []),
    ]
    if missing := [path for path in needed if not Path(path).exists()]:
        raise SystemExit(f"There is no {' and no '.join(missing)} here. Run `dvc repro sft` first.")
    runs = [(training, way) for training in trainings for way in WAYS[training]]
    found: dict[str, dict[str, Any]] = defaultdict(dict)
    for training, way in tqdm(runs, desc="ways"):
        command = [sys.executable, __file__, training, "--way", way, "--steps", str(given.steps)]
        one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=one_thread)
        found[training][way] = json.loads(done.stdout.splitlines()[-1])
    print("| | TRL | shared | ratio |\n|---|---:|---:|---:|")
    for training, ways in found.items():
        for part in PARTS[training]:
            trl, shared = (ways[way][part] for way in ("TRL", "shared"))
            print(f"| {training}, {part} | {trl:.2f} s | {shared:.2f} s | {trl / shared:.1f} |")
    if given.json:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        write_json(given.json, found)


def measure(training: str, way: str, steps: int) -> dict[str, float]:
    """Median seconds of each part of a step."""
    import torch
    from transformers import AutoModelForImageTextToText

    from critic.checkpoints import load_processor
    from critic.training.setup import load_trainable
    from stages import grpo, sft

    model, launch, prompt = params.load(params.Model), params.load(params.Launch), params.load(params.Prompt)
    kind = params.Sft if training == "sft" else params.Grpo
    section: Any = params.load(kind).model_copy(update=WAYS[training][way])
    rows = section.per_device_train_batch_size * launch.nnodes * launch.nproc_per_node
    section = section.model_copy(update={"per_device_train_batch_size": rows})
    base = model.base if training == "sft" else "models/sft"
    contract = stage_contract(prompt.contract, "data/sft" if training == "sft" else base)
    processor = load_processor(base, contract)
    if way == "TRL":
        dtype = getattr(torch, model.dtype)
        load = AutoModelForImageTextToText.from_pretrained
        trainable = load(base, dtype=dtype, attn_implementation=model.attn_implementation)
    else:
        trainable = load_trainable(base, model, section)
    with tempfile.TemporaryDirectory() as folder:
        if training == "sft":
            args: Any = sft.arguments(section, launch, params.seed(), Path(folder))
            trainer: Any = sft.make_trainer(
                section,
                model=trainable,
                processing_class=processor,
                args=args,
                train_dataset=load_samples(write_sft_samples(Path(folder), contract), contract),
            )
        else:
            args = grpo.arguments(section, launch, params.seed(), Path(folder), processor)
            trainer = grpo.make_trainer(
                section,
                params.load(params.Reward),
                contract,
                model=trainable,
                processing_class=processor,
                args=args,
                train_dataset=load_samples(
                    "data/rl/train.parquet",
                    contract,
                    keep=0 if way == "TRL" else grpo.pictures_of_a_batch(args),
                ),
            )
        trainer.args.max_steps, trainer.args.save_strategy = steps + 1, "no"
        spent: dict[str, list[float]] = defaultdict(list)
        trainer.training_step = timed(trainer.training_step, spent["step"])
        if training == "grpo":
            trainer._generate_and_score_completions = timed(
                trainer._generate_and_score_completions, spent["rollout"]
            )
        trainer.train()
    size = args.gradient_accumulation_steps
    steps_spent = [sum(spent["step"][start : start + size]) for start in range(0, len(spent["step"]), size)][1:]
    found = {"step": statistics.median(steps_spent)}
    if rollouts := spent["rollout"][1:]:
        found["rollout"] = statistics.median(rollouts)
        updates = [step - rollout for step, rollout in zip(steps_spent, rollouts, strict=True)]
        found["update"] = statistics.median(updates)
    return found


def write_sft_samples(folder: Path, contract: Contract) -> Path:
    """Four samples of each edit, as `build` writes them."""
    edits = read_parquet("data/validated/train.parquet").head(EDITS)
    build = params.load(params.Build)
    samples = sft_samples(edits, contract, build.direct_fraction, np.random.default_rng(params.seed()), each=4)
    write_samples(samples, folder / "train.parquet")
    return folder / "train.parquet"


def timed(call: Callable[..., Any], spent: list[float]) -> Callable[..., Any]:
    """`call`, which adds its seconds to `spent`."""

    def measured(*args: Any, **kwargs: Any) -> Any:
        began = time.perf_counter()
        result = call(*args, **kwargs)
        spent.append(time.perf_counter() - began)
        return result

    return measured


if __name__ == "__main__":
    main()
