"""Validation during GRPO, which keeps the weights of the best step.

Every `grpo.eval_steps` steps the critic scores a fixed sample of the validation split greedily, with the rollouts
of the training. The step with the best main score is the result of the training. The test split is not read.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from accelerate.utils import gather_object
from datasets import Dataset
from scipy.stats import pearsonr, spearmanr
from tqdm import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from trl import GRPOTrainer

from critic.answers import parse_critique
from critic.files import replacing
from critic.prompts import Contract
from critic.training.rollouts import greedy, roll_out
from critic.training.setup import save_weights

COLUMNS = ["step", "id", "mos", "score", "status", "tokens"]


class Validation(TrainerCallback):
    """Scores the sample before the first step, every `every` steps and after the last; keeps the best weights.

    Args:
        trainer: makes the rollouts; add this callback to it.
        samples: `id`, `prompt`, `images` and `mos`, as `critic.data.trl_datasets.load_samples` reads them.
        run: the training's scratch folder. The tables of the steps are in `run`/validation, for a resumed run, and
            the best weights in `run`/best-<step>.
    """

    def __init__(self, trainer: GRPOTrainer, samples: Dataset, contract: Contract, every: int, run: Path):
        self.trainer, self.samples, self.contract, self.every, self.run = trainer, samples, contract, every, run
        self.tables: dict[int, pd.DataFrame] = {}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        for file in (self.run / "validation").glob("*.parquet"):
            if int(file.stem) <= state.global_step:
                self.tables[int(file.stem)] = pd.read_parquet(file)
        if state.global_step == 0:
            self._score(0)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.global_step % self.every == 0 or state.global_step == state.max_steps:
            self._score(state.global_step)
            if self.best_step == state.global_step:
                save_weights(self.trainer, self.weights)

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Remove weights that are no longer the best, now that a later checkpoint exists."""
        if state.is_world_process_zero:
            for folder in self.run.glob("best-*"):
                if folder != self.weights:
                    shutil.rmtree(folder)

    @property
    def best_step(self) -> int:
        """The step after the start with the best main score, the first of equals; 0 if none was validated yet."""
        trained = {step: main_score(table) for step, table in sorted(self.tables.items()) if step > 0}
        return max(trained, key=lambda step: trained[step], default=0)

    @property
    def weights(self) -> Path:
        """The folder of the weights of `best_step`."""
        return self.run / f"best-{self.best_step}"

    def table(self) -> pd.DataFrame:
        """The scores of all steps: step, id, mos, score (1..5, null if the answer failed), status, tokens."""
        files = [self.run / f"validation/{step}.parquet" for step in sorted(self.tables)]
        return pd.concat([pd.read_parquet(file) for file in files], ignore_index=True)

    def _score(self, step: int) -> None:
        accelerator = self.trainer.accelerator
        rows: list[dict[str, Any]] = []
        with accelerator.split_between_processes(list(range(len(self.samples))), apply_padding=True) as mine:
            rows = self._rows(mine, f"validation at step {step}")
        table = pd.DataFrame(gather_object(rows)).drop_duplicates("row").sort_values("row", ignore_index=True)
        self.tables[step] = table.assign(step=step).astype({"score": "Float64"})[COLUMNS]
        if accelerator.is_main_process:
            with replacing(self.run / f"validation/{step}.parquet") as partial:
                self.tables[step].to_parquet(partial)

    def _rows(self, numbers: Sequence[int], title: str) -> list[dict[str, Any]]:
        rows = []
        size = self.trainer.args.per_device_train_batch_size * self.trainer.args.steps_per_generation
        hidden = not self.trainer.accelerator.is_main_process
        with greedy(self.trainer), tqdm(total=len(numbers), desc=title, unit=" edits", disable=hidden) as bar:
            for start in range(0, len(numbers), size):
                chosen = numbers[start : start + size]
                samples = [self.samples[number] for number in chosen]
                for number, sample, rollout in zip(chosen, samples, roll_out(self.trainer, samples), strict=True):
                    text = self.trainer.processing_class.decode(rollout.completion_ids, skip_special_tokens=True)
                    critique = parse_critique(self.contract.prefill + text, finished=rollout.finished)
                    rows.append(
                        {
                            "row": number,
                            "id": sample["id"],
                            "mos": sample["mos"],
                            "score": critique.score,
                            "status": str(critique.status),
                            "tokens": len(rollout.completion_ids),
                        }
                    )
                bar.update(len(chosen))
        return rows


def main_score(table: pd.DataFrame) -> float:
    """The mean of PLCC and SRCC, -1..1, of `score` against `mos`; a failed answer counts as the mean MOS.

    0 where it is undefined, because all scores or all MOS are equal.
    """
    mos = table["mos"].to_numpy(float)
    scores = table["score"].to_numpy(float, na_value=np.nan)
    scores = np.where(np.isnan(scores), mos.mean(), scores)
    if np.ptp(scores) == 0 or np.ptp(mos) == 0:
        return 0.0
    return float((pearsonr(scores, mos).statistic + spearmanr(scores, mos).statistic) / 2)
