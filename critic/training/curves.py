"""The curves of a training: what the trainer logs, step by step, through DVCLive.

Wall-clock figures are left out, and the sums that start anew with each start (`train_loss`, `num_tokens`), so that
the same training gives the same files, interrupted or not.
"""

import shutil
from pathlib import Path
from typing import Any

from dvclive import Live
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

_VOLATILE = (
    "runtime",
    "per_second",
    "step_time",
    "flos",
    "profiling",
    "epoch",
    "memory",
    "train_loss",
    "num_tokens",
)


class Curves(TrainerCallback):
    """Logs to a scratch folder while training; `finish` moves the finished curves to their place.

    A folder of curves holds `plots/metrics/<name>.tsv`, one row a logged step, and `metrics.json`, the last
    values. A slash in a name becomes an underscore: DVCLive nests by it, and TRL logs both a name and names
    under it. A run that goes on from a checkpoint logs anew what the checkpoint remembers. Of several processes
    the first one logs.
    """

    def __init__(self, scratch: Path):
        self.scratch = scratch
        self.live: Live | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.is_world_process_zero:
            shutil.rmtree(self.scratch, ignore_errors=True)
            self.live = Live(str(self.scratch), save_dvc_exp=False, dvcyaml=None, report=None)
            for logs in state.log_history:
                self._log(logs["step"], logs)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        if self.live is not None:
            self._log(state.global_step, logs or {})

    def _log(self, step: int, logs: dict[str, float]) -> None:
        assert self.live is not None
        self.live.step = step
        for name, value in sorted(logs.items()):
            if name != "step" and not any(word in name for word in _VOLATILE):
                self.live.log_metric(name.replace("/", "_"), value)
        self.live.make_summary()

    def finish(self, folder: Path) -> None:
        """Move the curves to `folder`, in place of older ones; on the process that logged."""
        if self.live is not None:
            self.live.end()
            shutil.rmtree(folder, ignore_errors=True)
            folder.parent.mkdir(parents=True, exist_ok=True)
            self.scratch.rename(folder)
