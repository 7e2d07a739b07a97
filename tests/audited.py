"""A checkout whose pipeline has run: real git, DVC, launcher and data stages, and trainings that take no time.

What the trainings and `evaluate` write depends on their inputs and the seed, as with the real ones.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from critic.audit import manifests
from critic.engines.load import identify
from critic.release.git import git

ROOT = Path(__file__).parents[1]
PROJECT = (
    *(
        "critic",
        "stages",
        "assets/tiny-base",
        "assets/tiny-base-qwen3-vl",
        "data/preferences",
        "data/ratings",
        "reports/seeds.json",
        "requirements",
    ),
    *("docs/serve.md", "LICENSE", "bentofile.yaml", "dvc.yaml", "params.yaml", ".dvcignore", ".gitignore"),
    "pyproject.toml",
)
SIZES = {"train_sources": 8, "validation_sources": 3, "test_sources": 4, "side": 112}

TRAIN = '''
"""Stands in for a training: "weights" that are a hash of what it reads."""
import shutil
from hashlib import sha256
from pathlib import Path
from critic import params
from critic.audit import manifests

def main() -> None:
    model, inputs = Path("models/{stage}"), {inputs}
    section = params.load(params.{section})
    read = "".join(manifests.fingerprint(Path(path)).sha256 for path in inputs)
    shutil.rmtree(model, ignore_errors=True)
    model.mkdir(parents=True)
    weights = sha256(f"{{read}} {{params.seed()}} {{section.learning_rate}}".encode()).hexdigest()
    (model / "model.safetensors").write_text(weights)
    (model / "config.json").write_text("{{}}")
    (model / "tokenizer.json").write_text('{{"vocabulary": 2048}}')
    shutil.copy("critic/contracts/tiny.yaml", model / "contract.yaml")
    curves = Path("reports/curves/{stage}")
    curves.mkdir(parents=True, exist_ok=True)
    (curves / "loss.tsv").write_text("step\\\\tloss\\\\n1\\\\t0.5\\\\n")

if __name__ == "__main__":
    main()
'''

EVALUATE = '''
"""Stands in for the evaluation: scores that are a hash of the model and the edit, and their real metrics."""
import json
from hashlib import sha256
from pathlib import Path
import numpy as np
import pandas as pd
from critic.evaluation.agreement import measure
from critic.tables import read_parquet

def main() -> None:
    test, metrics = read_parquet("data/validated/test.parquet"), {}
    for folder in ("predictions", "plots"):
        Path("reports", folder).mkdir(parents=True, exist_ok=True)
    for name, model in {"base": "assets/tiny-base", "sft": "models/sft", "grpo": "models/grpo"}.items():
        weights = next(Path(model).glob("*.safetensors")).read_bytes()
        shifts = [sha256(weights + id.encode()).digest()[0] / 255 - 0.5 for id in test["id"]]
        scores = np.clip(test["mos"].to_numpy(float) + shifts, 1, 5)
        table = pd.DataFrame({"id": test["id"], "score": scores})
        table.to_parquet(f"reports/predictions/{name}.parquet")
        measured = measure(scores, test["mos"].to_numpy(float)) | {"coverage": 1.0}
        values = {key: float(value) for key, value in measured.items()}
        metrics[name] = {key: {"value": v, "low": v - 0.01, "high": v + 0.01} for key, v in values.items()}
    Path("reports/metrics.json").write_text(json.dumps(metrics))
    Path("reports/benchmarks.json").write_text("{}")
    Path("reports/sub_scores.json").write_text("{}")
    Path("reports/probes.json").write_text('{"probes": []}')
    Path("reports/plots/predictions.csv").write_text("id\\\\n")
    Path("reports/report.html").write_text("<html>")

if __name__ == "__main__":
    main()
'''


def commit(folder: Path, message: str) -> None:
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "-m", message)


def dvc(folder: Path, *command: str) -> str:
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(folder),
    }
    done = subprocess.run(
        [sys.executable, "-m", "dvc", *command], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def make_checkout(folder: Path) -> None:
    """The checkout, its record committed, in a new folder."""
    for name in PROJECT:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        copy: Callable[..., Any] = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, folder / name)
    trainings = {"sft": ("Sft", ["assets/tiny-base", "data/sft"]), "grpo": ("Grpo", ["models/sft", "data/rl"])}
    for stage, (section, inputs) in trainings.items():
        (folder / f"stages/{stage}.py").write_text(TRAIN.format(stage=stage, section=section, inputs=inputs))
    (folder / "stages/evaluate.py").write_text(EVALUATE)
    params = yaml.safe_load((folder / "params.yaml").read_text())
    params["profiles"]["tiny"]["download"]["minibench"].update(SIZES)
    params["profiles"]["tiny"]["launch"]["nproc_per_node"] = 1
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    git(folder, "init", "--quiet", "--initial-branch", "main")
    git(folder, "config", "user.name", "Ann")
    git(folder, "config", "user.email", "ann@example.org")
    dvc(folder, "init", "--quiet")
    commit(folder, "Begin")
    dvc(folder, "repro")
    commit(folder, "Train")


def write_answer(checkout: Path, path: Path, **changes: str) -> Path:
    """An answer of the service."""
    manifest = manifests.read(checkout, "grpo")
    assert manifest.contract is not None
    fields = {"id": "a", "score": 3.4, "model": identify(str(checkout / "models/grpo"))}
    path.write_text(json.dumps(fields | {"contract": manifest.contract.sha256} | changes))
    return path
