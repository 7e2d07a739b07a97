"""The pipeline at a smoke size, in a copy of the project: what several modules of tests train, score and serve.

Its critic has learnt to answer most edits in its format, and no more.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
PIPELINE = [
    *("assets", "critic", "stages", "data/preferences", "data/ratings", "reports/seeds.json"),
    *("dvc.yaml", "params.yaml", ".dvcignore"),
]
SIZES: dict[str, dict[str, Any]] = {
    "download": {"minibench": {"train_sources": 8, "validation_sources": 4, "test_sources": 16, "side": 112}},
    "build": {"rationale_fraction": 1.0, "samples_per_edit": 4},
    "sft": {"num_train_epochs": 8.0, "save_steps": 40},
    "grpo": {"max_steps": 2, "per_device_train_batch_size": 16, "eval_steps": 1, "max_eval_samples": 24},
    "evaluate": {"data_parallel_size": 1},
}


class Project:
    """A copy of the project in which no stage has run yet."""

    def __init__(self, folder: Path, trained: Path | None = None):
        """With the outputs of `trained/checkout`, if it has any, whose DVC cache is `trained/cache`.

        DVC then runs only the stages whose inputs differ from those of that checkout.
        """
        self.folder = folder
        for name in PIPELINE:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
            copy(ROOT / name, folder / name)
        params = yaml.safe_load((folder / "params.yaml").read_text())
        for section, values in SIZES.items():
            params["profiles"]["tiny"][section].update(values)
        params["evaluate"]["n_boot"] = 100
        (folder / "params.yaml").write_text(yaml.safe_dump(params))
        self.dvc("init", "--no-scm")
        if trained is not None and (trained / "checkout/dvc.lock").exists():
            self.dvc("cache", "dir", str(trained / "cache"))
            shutil.copy(trained / "checkout/dvc.lock", folder)
            for room in ("data", "models", "reports"):
                shutil.copytree(trained / "checkout" / room, folder / room, dirs_exist_ok=True)

    def run(self, *command: str) -> subprocess.Popen[str]:
        """Start a command in a process group of its own."""
        bin_folder = Path(sys.executable).parent
        env = {**os.environ, "PATH": f"{bin_folder}:{os.environ['PATH']}", "PYTHONPATH": str(self.folder)}
        return subprocess.Popen(
            command, cwd=self.folder, env=env, text=True, start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def dvc(self, *args: str) -> str:
        process = self.run(sys.executable, "-m", "dvc", *args)
        output, errors = process.communicate(timeout=900)
        assert process.returncode == 0, output + errors
        return output

    def lock(self) -> dict[str, dict[str, str]]:
        """stage -> output -> hash, from dvc.lock."""
        stages = yaml.safe_load((self.folder / "dvc.lock").read_text())["stages"]
        return {name: {out["path"]: out["md5"] for out in stage["outs"]} for name, stage in stages.items()}

    def status(self) -> dict[str, list[Any]]:
        """What has changed since the last run, by stage; nothing if all is as dvc.lock says."""
        return json.loads(self.dvc("status", "--json"))

    def output_states(self, stage: str) -> set[str]:
        """How the outputs of a stage differ from dvc.lock: "deleted", "modified"."""
        changes = [change for change in self.status().get(stage, []) if isinstance(change, dict)]
        return {state for change in changes for state in change.get("changed outs", {}).values()}
