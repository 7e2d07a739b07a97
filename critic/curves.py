"""The curves of a training: what the trainer logs, step by step, through DVCLive.

Wall-clock figures are left out, so that the same training twice gives the same files.
"""

import shutil
from pathlib import Path
from typing import Any

from dvclive import Live
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

_VOLATILE = ("runtime", "per_second", "step_time", "flos", "profiling", "epoch", "memory")


class Curves(TrainerCallback):
    """Logs to a scratch folder while training; `finish` moves the finished curves to their place.

    A folder of curves holds `plots/metrics/<name>.tsv`, one row a logged step, and `metrics.json`, the last
    values. A slash in a name becomes an underscore: DVCLive nests by it, and TRL logs both a name and names
    under it.
    """

    def __init__(self, scratch: Path):
        shutil.rmtree(scratch, ignore_errors=True)
        self.scratch = scratch
        self.live = Live(str(scratch), save_dvc_exp=False, dvcyaml=None, report=None)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        kept = {k: v for k, v in (logs or {}).items() if not any(word in k for word in _VOLATILE)}
        self.live.step = state.global_step
        for name, value in kept.items():
            self.live.log_metric(name.replace("/", "_"), value)
        self.live.make_summary()

    def finish(self, folder: Path) -> None:
        """Move the curves to `folder`, in place of older ones."""
        self.live.end()
        shutil.rmtree(folder, ignore_errors=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        self.scratch.rename(folder)
