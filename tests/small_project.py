"""A folder with params and data for eight steps of each training on a tiny base, without a pipeline.

folder = make_project(tmp_path, base=make_base("qwen3_vl", tmp_path / "base"), contract="tiny-32")
train(folder, "sft")
"""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from critic.data.minibench import make_table
from critic.data.trl_datasets import write_samples
from critic.edits import normalise
from critic.params import Launch
from critic.params import load as load_params
from critic.prompts import load_contract
from stages.build import rl_samples, sft_samples
from stages.launch import stage_command

ROOT = Path(__file__).parents[1]
SMALL: dict[str, Any] = {
    "launch": {"nproc_per_node": 1},
    "sft": {"per_device_train_batch_size": 4, "save_steps": 2, "bf16": False},
    "grpo": {
        "max_steps": 8,
        "per_device_train_batch_size": 8,
        "eval_steps": 4,
        "max_eval_samples": 4,
        "save_steps": 2,
        "max_completion_length": 16,
        "collapse": {"min_format_rate": 0.0, "min_score_entropy": 0.0, "patience": 10},
    },
}


DONE = "publish"
"""Killed here, all steps are done and models/ has nothing yet."""

DIE_AT = """
import os, runpy, signal, sys
import critic.training.setup
from transformers import Trainer

step = Trainer.training_step
def training_step(self, *args, **kwargs):
    result = step(self, *args, **kwargs)
    if str(self.state.global_step) == sys.argv[1]:
        os.kill(os.getpid(), signal.SIGKILL)
    return result
Trainer.training_step = training_step

if sys.argv[1] == "{done}":
    critic.training.setup.publish = lambda *args: os.kill(os.getpid(), signal.SIGKILL)
runpy.run_module("stages.{stage}", run_name="__main__", alter_sys=True)
"""


def make_project(
    folder: Path,
    base: Path = ROOT / "assets/tiny-base",
    contract_name: str = "tiny",
    dtype: str = "float32",
    **sections: dict[str, Any],
) -> Path:
    """Write the folder, without models yet."""
    contract = load_contract(contract_name)
    table = normalise(make_table("train", sources=6, side=56, seed=7), "train")
    samples = [*sft_samples(table[:32], contract, 0.25, np.random.default_rng(0))]
    for name in ("data/sft", "data/rl", "models", "reports"):
        (folder / name).mkdir(parents=True)
    for split, some in (("train", slice(0, 32)), ("validation", slice(32, 36))):
        write_samples(samples[some] if split == "train" else samples[:4], folder / f"data/sft/{split}.parquet")
        write_samples(rl_samples(table[some], contract), folder / f"data/rl/{split}.parquet")
    (folder / "assets").symlink_to(ROOT / "assets")
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    chosen = {"prompt": {"contract": contract_name}, "model": {"base": str(base), "dtype": dtype}}
    for section, values in [*SMALL.items(), *chosen.items(), *sections.items()]:
        params["profiles"]["tiny"][section].update(values)
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    return folder


def run(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    env = {
        **os.environ,
        "PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}",
        "DS_ACCELERATOR": "cpu",
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.run([sys.executable, *command], cwd=folder, env=env, capture_output=True, text=True)


def train(folder: Path, stage: str) -> str:
    """As its launcher does, without a record: this folder has no pipeline."""
    command = stage_command(stage, load_params(Launch, folder / "params.yaml"), os.environ)
    finished = run(folder, *command[1:])
    assert finished.returncode == 0, finished.stdout[-2000:] + finished.stderr[-4000:]
    return finished.stdout


def kill_at(folder: Path, stage: str, step: int | str) -> None:
    """Train until a step is done, or `DONE`, and die there."""
    killed = run(folder, "-c", DIE_AT.format(stage=stage, done=DONE), str(step))
    assert killed.returncode == -signal.SIGKILL, killed.stderr[-4000:]


def curve(folder: Path, stage: str, name: str) -> pd.DataFrame:
    return pd.read_csv(folder / f"reports/curves/{stage}/plots/metrics/{name}.tsv", sep="\t")


def outputs(folder: Path, stage: str) -> dict[str, bytes]:
    """Every file that a training leaves, by path."""
    files = [*(folder / f"models/{stage}").rglob("*"), *(folder / f"reports/curves/{stage}").rglob("*")]
    return {str(file.relative_to(folder)): file.read_bytes() for file in files if file.is_file()}


def teach_format(folder: Path, contract_name: str = "tiny") -> None:
    """Give SFT direct answers to the prompts that ask for reasoning: a critic that answers in the format soon."""
    contract = load_contract(contract_name)
    table = normalise(make_table("train", sources=6, side=56, seed=7), "train")
    direct = sft_samples(table, contract, 1.0, np.random.default_rng(0))
    samples = [
        sample | {"prompt": asked["prompt"]}
        for sample, asked in zip(direct, rl_samples(table, contract), strict=True)
    ]
    write_samples(samples, folder / "data/sft/train.parquet")
