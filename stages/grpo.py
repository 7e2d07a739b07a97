"""models/sft, data/rl -> models/grpo, reports/curves/grpo: GRPO with the verifiable reward on the distance to MOS.

    python -m stages.launch grpo

Every `grpo.eval_steps` steps the critic scores a fixed sample of the validation split greedily. The step with the
best main score becomes models/grpo; the scores are in reports/curves/grpo/validation.parquet, and `evaluate` plots
them. If the training is killed, the next run resumes from the last checkpoint in runs/grpo.
"""

import shutil
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import ProcessorMixin
from trl import GRPOConfig, GRPOTrainer

from critic import params
from critic.answers import AXES
from critic.backbones import never_sampled
from critic.checkpoints import load_processor
from critic.data.trl_datasets import load_samples
from critic.prompts import Contract, stage_contract
from critic.training import rollouts
from critic.training.best_checkpoint import Validation
from critic.training.collapse import Monitor
from critic.training.curves import Curves
from critic.training.pairs import PairOrderReward, in_pairs
from critic.training.resume import last_checkpoint, open_run
from critic.training.rewards import AxesReward, CriticReward, accuracy, compute_score
from critic.training.rollout_check import RolloutCheck
from critic.training.setup import (
    NoLastCheckpoint,
    adapters,
    common_arguments,
    join_processes,
    load_trainable,
    publish,
)
from critic.training.shared_prompts import SharedPromptGRPO
from critic.training.trackers import tracked


@tracked("grpo")
def main() -> None:
    section, model, launch = params.load(params.Grpo), params.load(params.Model), params.load(params.Launch)
    join_processes(launch)
    prompt, reward = params.load(params.Prompt), params.load(params.Reward)
    contract = stage_contract(prompt.contract, "models/sft")
    processor = load_processor("models/sft", contract)
    seed, inputs = params.seed(), [Path("models/sft"), Path("data/rl")]
    settings = [section, model, launch, prompt, reward]
    run = open_run(Path("runs/grpo"), inputs, settings, seed=seed, contract=contract)
    checkpoint = last_checkpoint(run)
    args = arguments(section, launch, seed, run, processor)
    curves = Curves(run / "curves")
    validation = load_samples("data/rl/validation.parquet", contract).shuffle(seed=seed)
    validation = validation.select(range(min(section.max_eval_samples, len(validation))))
    trainer = make_trainer(
        section,
        reward,
        contract,
        model=load_trainable("models/sft", model, section, checkpoint=checkpoint),
        processing_class=processor,
        args=args,
        train_dataset=train_dataset(reward, contract, args),
        callbacks=[curves, NoLastCheckpoint(), Monitor(section.collapse)],
    )
    checked = [validation[number] for number in range(min(section.rollout_check.prompts, len(validation)))]
    if args.log_multimodal:
        trainer.add_callback(rollouts.CompletionTable(trainer))
    trainer.add_callback(RolloutCheck(trainer, checked, contract, section.rollout_check))
    validated = Validation(trainer, validation, contract, section.eval_steps, run)
    trainer.add_callback(validated)
    trainer.train(resume_from_checkpoint=checkpoint)
    if trainer.accelerator.is_main_process:
        print(f"best step on validation: {validated.best_step}")
        validated.table().to_parquet(curves.scratch / "validation.parquet")
        publish(validated.weights, "models/sft", model, processor, contract, Path("models/grpo"))
        curves.finish(Path("reports/curves/grpo"))
        shutil.rmtree(run)


def make_trainer(
    section: params.Grpo, reward: params.Reward, contract: Contract, *, args: GRPOConfig, **arguments: Any
) -> GRPOTrainer:
    """TRL's trainer with the adapters of `section` and the rewards; `arguments` are its other arguments."""
    shape = reward.model_dump(include={"kind", "r_min", "diff_at_rmin", "use_floor"})
    score = partial(compute_score, **reward.model_dump(exclude={"distance", "axes", "pairs"}))
    rewards: dict[Any, float] = {CriticReward(score, contract.prefill, reward.r_min): reward.distance}
    if reward.axes:
        rewards[AxesReward(partial(accuracy, **shape), contract.prefill)] = reward.axes
    if reward.pairs:
        rewards[PairOrderReward(section.num_generations, contract.prefill)] = reward.pairs
        args.shuffle_dataset = False
    if len(rewards) > 1 or reward.distance != 1:
        args.reward_weights = [*rewards.values()]
    return rollouts.make_trainer(
        SharedPromptGRPO if section.share_prompts else GRPOTrainer,
        reward_funcs=[*rewards],
        args=args,
        peft_config=adapters(section, arguments["model"]),
        **arguments,
    )


def train_dataset(reward: params.Reward, contract: Contract, args: GRPOConfig) -> Dataset:
    """The samples of data/rl, in pairs if their order is rewarded, else without those of preferences.

    Raises:
        SystemExit: they lack what the rewards need.
    """
    samples = load_samples("data/rl/train.parquet", contract, keep=pictures_of_a_batch(args))
    if reward.axes and not any(f"mos_{axis}" in samples.column_names for axis in AXES):
        raise SystemExit(
            f"reward.axes is {reward.axes:g}, but data/rl/train.parquet has no MOS of an axis "
            f"({', '.join(f'mos_{axis}' for axis in AXES)}): set reward.axes to 0, or give a benchmark with some"
        )
    plain = samples.with_format(None)
    pairs = plain["pair"] if "pair" in samples.column_names else [None] * len(samples)
    if not reward.pairs:
        if (others := sum(pair is not None for pair in pairs)) and args.process_index == 0:
            print(f"reward.pairs is 0, so GRPO leaves out the {others} samples of preferences")
        return samples.select([row for row, pair in enumerate(pairs) if pair is None]) if others else samples
    prompts = args.generation_batch_size // args.num_generations
    batches = args.max_steps * args.gradient_accumulation_steps // args.steps_per_generation
    sources = [pair or names[0] for pair, names in zip(pairs, plain["images"], strict=True)]
    try:
        rows = in_pairs(sources, prompts * batches, args.seed)
    except ValueError as error:
        raise SystemExit(str(error)) from None
    many = {source for source, number in Counter(sources).items() if number > 1}
    rated = [source in many for source, mos in zip(sources, plain["mos"], strict=True) if mos is not None]
    if (alone := rated.count(False)) and args.process_index == 0:
        print(f"GRPO leaves out {alone} of {len(rated)} edits with a MOS: their source image has no second one")
    if (reward.distance or reward.axes) and not any(rated):
        raise SystemExit(
            f"reward.distance is {reward.distance:g} and reward.axes {reward.axes:g}, but with reward.pairs no "
            "edit with a MOS is left, since no source image has two: set both to 0, or give two of a source image"
        )
    return samples.select(rows)


def arguments(
    section: params.Grpo, launch: params.Launch, seed: int, run: Path, processor: ProcessorMixin
) -> GRPOConfig:
    """TRL's arguments. Rollouts never sample the placeholders of pictures."""
    suppressed = never_sampled(processor)
    if section.use_vllm:
        generation: dict[str, Any] = {"logit_bias": dict.fromkeys(suppressed, -100.0)}
    else:
        generation = {"suppress_tokens": suppressed}
    common = common_arguments(launch, seed, run)
    ours = {"share_prompts", "freeze_vision", "lora", "max_eval_samples", "rollout_check", "collapse"}
    return GRPOConfig(
        **section.model_dump(exclude=ours, exclude_none=True),
        **common,
        top_k=0,
        generation_kwargs=generation,
        log_multimodal="wandb" in common["report_to"],
    )


def pictures_of_a_batch(args: GRPOConfig) -> int:
    """The most pictures in a generation batch of a process, whose first and last group may be incomplete."""
    completions = args.per_device_train_batch_size * args.steps_per_generation
    return 2 * (completions // args.num_generations + 2)


if __name__ == "__main__":
    main()
