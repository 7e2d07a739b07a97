"""The curves of a training: what the trainer logs at each step, written by DVCLive.

transformers' `DVCLiveCallback` doesn't fit: it also logs figures of the wall clock and the arguments with their
paths, counts calls instead of steps, and forgets the steps before a checkpoint that it resumes from. Curves here
depend on the training alone, so the same training gives the same files, interrupted or not.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path

from dvclive import Live
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from critic.files import move_folder

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
"""Words in names of figures that depend on the clock or the machine, or that restart when a run is resumed."""


class Curves(TrainerCallback):
    """Logs to a scratch folder during the training; `finish` moves the complete curves to their place.

    A folder of curves holds `plots/metrics/<name>.tsv`, one row per logged step, and `metrics.json`, the last
    values. A step has no row where TRL logs None, because a reward function gave no reward. A slash in a name
    becomes an underscore: DVCLive makes folders of slashes, and TRL logs both a name and names under it. A
    resumed run first logs the steps that its checkpoint holds. Of several processes the main one logs.
    """

    def __init__(self, scratch: Path):
        self.scratch = scratch
        self.live: Live | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
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
        logs: Mapping[str, float | None] | None = None,
        **kwargs: object,
    ) -> None:
        self._log(state.global_step, logs or {})

    def _log(self, step: int, logs: Mapping[str, float | None]) -> None:
        if self.live is not None:
            self.live.step = step
            for name, value in sorted(logs.items()):
                if name != "step" and value is not None and not any(word in name for word in _VOLATILE):
                    self.live.log_metric(name.replace("/", "_"), value)
            self.live.make_summary()

    def finish(self, folder: Path) -> None:
        """Move the curves to `folder`, in place of older ones; does nothing in the other processes."""
        if self.live is not None:
            self.live.end()
            move_folder(self.scratch, folder)
