"""models/sft, data/rl -> models/grpo, reports/curves/grpo: GRPO with the verifiable reward on the distance to MOS.

    python -m stages.grpo

Every `grpo.validation_every` steps the critic scores a fixed sample of the validation split greedily. The scores
are kept in reports/curves/grpo/validation.parquet; `evaluate` draws their main score.
"""

from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from datasets import Dataset
from transformers import ProcessorMixin, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from trl import GRPOConfig, GRPOTrainer

from critic import params
from critic.checkpoints import load_model, load_processor, save_checkpoint
from critic.curves import Curves
from critic.engines import Request, TransformersEngine, predict
from critic.prompts import Contract, load_contract
from critic.rewards import CriticReward, compute_score
from critic.samples import load_samples
from critic.training import common_arguments

CURVES = Path("reports/curves/grpo")


def main() -> None:
    section, model = params.load(params.Grpo), params.load(params.Model)
    contract = load_contract(params.load(params.Prompt).contract)
    processor = load_processor("models/sft", contract)
    curves = Curves(Path("runs/grpo/curves"))
    validation = load_samples("data/rl/validation.parquet", contract).shuffle(seed=params.seed())
    validation = validation.select(range(min(section.validation_edits, len(validation))))
    reward = params.load(params.Reward)
    trainer = GRPOTrainer(
        model=load_model("models/sft", model),
        processing_class=processor,
        reward_funcs=CriticReward(partial(compute_score, **reward.model_dump()), contract.prefill),
        args=arguments(section, params.seed(), vision_tokens(processor)),
        train_dataset=load_samples("data/rl/train.parquet", contract),
        callbacks=[curves],
    )
    watch = Validation(validation, processor, contract, section)
    trainer.add_callback(watch)
    trainer.train()
    watch.table().to_parquet(curves.scratch / "validation.parquet")
    save_checkpoint(trainer.accelerator.unwrap_model(trainer.model), processor, contract, Path("models/grpo"))
    curves.finish(CURVES)


class Validation(TrainerCallback):
    """Scores the validation sample before the first step, at every `validation_every`th and after the last."""

    def __init__(self, samples: Dataset, processor: ProcessorMixin, contract: Contract, section: params.Grpo):
        self.samples, self.processor, self.contract, self.section = samples, processor, contract, section
        self.facts = samples.select_columns(["id", "mos"]).to_pandas()
        self.tables: dict[int, pd.DataFrame] = {}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._score(state.global_step, kwargs["model"])

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.global_step % self.section.validation_every == 0 or state.global_step == state.max_steps:
            self._score(state.global_step, kwargs["model"])

    def _score(self, step: int, model: Any) -> None:
        engine = TransformersEngine(model, self.processor, self.section.max_completion_tokens)
        requests = (Request(self.contract.render(s["prompt"]), s["images"]) for s in self.samples)
        table = predict(
            engine,
            list(self.facts["id"]),
            requests,
            prefill=self.contract.prefill,
            batch_size=self.section.batch_size,
            title=f"validation at step {step}",
        )
        self.tables[step] = table.assign(step=step, mos=self.facts["mos"])

    def table(self) -> pd.DataFrame:
        """All the scores: step, id, mos, score, status, tokens."""
        table = pd.concat(self.tables.values(), ignore_index=True)
        return table[["step", "id", "mos", "score", "status", "tokens"]]


def vision_tokens(processor: ProcessorMixin) -> list[int]:
    """The placeholders of pictures: a rollout must not sample them, since no picture would belong to them."""
    names = ("<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>")
    return list(processor.tokenizer.convert_tokens_to_ids(list(names)))


def arguments(section: params.Grpo, seed: int, never_sampled: list[int]) -> GRPOConfig:
    """TRL's settings of one run."""
    return GRPOConfig(
        output_dir="runs/grpo",
        max_steps=section.steps,
        num_generations=section.num_generations,
        max_completion_length=section.max_completion_tokens,
        temperature=section.temperature,
        top_p=section.top_p,
        top_k=0,
        generation_kwargs={"suppress_tokens": never_sampled},
        beta=section.beta,
        num_iterations=section.num_iterations,
        epsilon=section.epsilon_low,
        epsilon_high=section.epsilon_high,
        delta=section.delta,
        loss_type=section.loss_type,
        scale_rewards=section.scale_rewards,
        logging_steps=1,
        **common_arguments(section, seed),
    )


if __name__ == "__main__":
    main()
