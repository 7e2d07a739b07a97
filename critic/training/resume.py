"""The scratch folder of a training, from which a killed run resumes.

    run = open_run(Path("runs/sft"), [Path("data/sft")], [section, model], seed=7, contract=contract)
    trainer.train(resume_from_checkpoint=last_checkpoint(run))
    shutil.rmtree(run)                            # a finished run leaves nothing

The folder records what its run depends on: settings, seed, prompt contract, input files, the commit of a base from
the hub, our code, and the number of processes. If any of these changes, the next run starts from the beginning.
"""

import json
import os
import shutil
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from accelerate import PartialState
from pydantic import BaseModel
from transformers import AutoConfig

from critic.files import sha256, write_json
from critic.params import Model
from critic.prompts import Contract

RECORD = "begun_with.json"
_STATE = "trainer_state.json"


def open_run(
    folder: Path, inputs: Iterable[Path], settings: Sequence[BaseModel], *, seed: int, contract: Contract
) -> Path:
    """Return the folder, emptied unless it holds a run with the same inputs, settings and code.

    Args:
        folder: the scratch folder of this training alone.
        inputs: files and folders that the training reads. A path equal to the base of a `Model` in `settings` may
            be a name on the hub; the commit that its revision points to is recorded.
        settings: the sections of params.yaml that the training reads.
        seed: of everything random in it.
        contract: of its prompts.
    """
    state = PartialState()
    if state.is_main_process:
        record = _record(inputs, settings, seed, contract)
        checkpoint = last_checkpoint(folder)
        if _read(folder / RECORD) != record:
            if checkpoint:
                print(f"{folder} holds checkpoints of another run (see its {RECORD}): starting from the beginning")
            shutil.rmtree(folder, ignore_errors=True)
            write_json(folder / RECORD, record)
        elif checkpoint:
            print(f"resuming from {checkpoint}")
    state.wait_for_everyone()
    return folder


def last_checkpoint(folder: Path) -> str | None:
    """The newest complete checkpoint in a folder, None without one.

    In `Trainer`, each process writes its random state last of its part, and then the main process writes the
    trainer's state. A checkpoint with all of these files is complete.
    """
    processes = PartialState().num_processes
    complete = (
        path
        for path in folder.glob("checkpoint-*")
        if _read(path / _STATE) is not None and len([*path.glob("rng_state*.pth")]) == processes
    )
    newest = max(complete, key=lambda path: int(path.name.rpartition("-")[2]), default=None)
    return None if newest is None else os.fspath(newest)


def _record(
    inputs: Iterable[Path], settings: Sequence[BaseModel], seed: int, contract: Contract
) -> dict[str, Any]:
    inputs = list(inputs)
    files = [file for path in inputs for file in ([path] if path.is_file() else sorted(path.rglob("*")))]
    modules = {name: getattr(module, "__file__", None) for name, module in sorted(sys.modules.items())}
    ours = {name: file for name, file in modules.items() if name.split(".")[0] in ("critic", "stages", "__main__")}
    models = [s for s in settings if isinstance(s, Model) and Path(s.base) in inputs and not Path(s.base).exists()]
    return {
        "seed": seed,
        "contract": contract.hash,
        "commits": {model.base: _commit(model) for model in models},
        "settings": {type(section).__name__: section.model_dump(mode="json") for section in settings},
        "files": {str(file): sha256(file) for file in files if file.is_file()},
        "code": {name: sha256(file) for name, file in ours.items() if file},
        "processes": PartialState().num_processes,
    }


def _commit(model: Model) -> str:
    return str(AutoConfig.from_pretrained(model.base, revision=model.revision or "main")._commit_hash)


def _read(file: Path) -> Any:
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError):
        return None
