"""The scratch folder of a training: where a killed run goes on from.

    run = open_run(Path("runs/sft"), inputs=[Path("data/sft")], settings=[section, model])
    trainer.train(resume_from_checkpoint=last_checkpoint(run))
    shutil.rmtree(run)                            # a finished run leaves nothing

A run may go on only as the same run. Its folder records what it was begun with (settings, input files, our code,
number of processes); begun with anything else, it starts anew.
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

RECORD = "begun_with.json"
_STATE = "trainer_state.json"


def open_run(folder: Path, inputs: Iterable[Path], settings: Sequence[BaseModel]) -> Path:
    """The folder, emptied unless a run with the same inputs, settings and code was begun in it.

    Args:
        folder: of this training alone.
        inputs: files and folders that the training reads; what is no file here (a name on the hub) is left to
            the settings, which hold its revision.
        settings: the sections of params.yaml that it reads.
    """
    state = PartialState()
    if state.is_main_process:
        now = _record(inputs, settings)
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

    `Trainer` writes its state last, so a checkpoint with a whole state is whole.
    """
    whole = (path for path in folder.glob("checkpoint-*") if _read(path / _STATE) is not None)
    newest = max(whole, key=lambda path: int(path.name.rpartition("-")[2]), default=None)
    return None if newest is None else os.fspath(newest)


def _record(inputs: Iterable[Path], settings: Sequence[BaseModel]) -> dict[str, Any]:
    files = [file for path in inputs for file in ([path] if path.is_file() else sorted(path.rglob("*")))]
    ours = [
        module for name, module in sys.modules.items() if name.split(".")[0] in ("critic", "stages", "__main__")
    ]
    code = {Path(file) for module in ours if (file := getattr(module, "__file__", None))}
    return {
        "settings": {type(section).__name__: section.model_dump(mode="json") for section in settings},
        "files": {str(file): _sha256(file) for file in files if file.is_file()},
        "code": {"/".join(file.parts[-2:]): _sha256(file) for file in sorted(code)},
        "processes": PartialState().num_processes,
    }


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return file_digest(stream, "sha256").hexdigest()


def _read(file: Path) -> Any:
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError):
        return None
