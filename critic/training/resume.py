"""The scratch folder of a training: where a killed run goes on from.

    run = open_run(Path("runs/sft"), [Path("data/sft")], [section, model], seed=7, contract=contract)
    trainer.train(resume_from_checkpoint=last_checkpoint(run))
    shutil.rmtree(run)                            # a finished run leaves nothing

A run may go on only as the same run. Its folder records what it was begun with (settings, seed, prompt contract,
input files, the commit of a base from the hub, our code, number of processes); begun with anything else, it starts
anew.
"""

import json
import os
import shutil
import sys
from collections.abc import Iterable, Sequence
from hashlib import file_digest
from pathlib import Path
from typing import Any

from accelerate import PartialState
from pydantic import BaseModel
from transformers import AutoConfig

from critic.params import Model
from critic.prompts import Contract

RECORD = "begun_with.json"
_STATE = "trainer_state.json"


def open_run(
    folder: Path, inputs: Iterable[Path], settings: Sequence[BaseModel], *, seed: int, contract: Contract
) -> Path:
    """The folder, emptied unless a run with the same inputs, settings and code was begun in it.

    Args:
        folder: of this training alone.
        inputs: files and folders that the training reads, or the base of a `Model` in settings as a name on the
            hub, of which the commit counts that its revision stands for now.
        settings: the sections of params.yaml that it reads.
        seed: of everything random in it.
        contract: the prompts it trains on.
    """
    state = PartialState()
    if state.is_main_process:
        now = _record(inputs, settings, seed, contract)
        if _read(folder / RECORD) != now:
            if last_checkpoint(folder):
                print(f"{folder} holds checkpoints of another run (see its {RECORD}): starting anew")
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            (folder / RECORD).write_text(json.dumps(now, indent=2) + "\n")
        elif checkpoint := last_checkpoint(folder):
            print(f"going on from {checkpoint}")
    state.wait_for_everyone()
    return folder


def last_checkpoint(folder: Path) -> str | None:
    """The newest complete checkpoint in a folder; one that a kill left half written doesn't count.

    Each process of `Trainer` writes its random state after its part of everything else, and the first one then
    writes the trainer's state.
    """
    processes = PartialState().num_processes
    whole = (
        path
        for path in folder.glob("checkpoint-*")
        if _read(path / _STATE) is not None and len([*path.glob("rng_state*.pth")]) == processes
    )
    newest = max(whole, key=lambda path: int(path.name.rpartition("-")[2]), default=None)
    return None if newest is None else os.fspath(newest)


def _record(
    inputs: Iterable[Path], settings: Sequence[BaseModel], seed: int, contract: Contract
) -> dict[str, Any]:
    inputs = list(inputs)
    files = [file for path in inputs for file in ([path] if path.is_file() else sorted(path.rglob("*")))]
    ours = [
        module for name, module in sys.modules.items() if name.split(".")[0] in ("critic", "stages", "__main__")
    ]
    code = {Path(file) for module in ours if (file := getattr(module, "__file__", None))}
    models = [s for s in settings if isinstance(s, Model) and Path(s.base) in inputs and not Path(s.base).exists()]
    return {
        "seed": seed,
        "contract": contract.hash,
        "commits": {model.base: _commit(model) for model in models},
        "settings": {type(section).__name__: section.model_dump(mode="json") for section in settings},
        "files": {str(file): _sha256(file) for file in files if file.is_file()},
        "code": {"/".join(file.parts[-2:]): _sha256(file) for file in sorted(code)},
        "processes": PartialState().num_processes,
    }


def _commit(model: Model) -> str:
    return str(AutoConfig.from_pretrained(model.base, revision=model.revision or "main")._commit_hash)


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return file_digest(stream, "sha256").hexdigest()


def _read(file: Path) -> Any:
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError):
        return None
