"""models/sft, data/rl -> models/grpo, reports/curves/grpo: GRPO with the verifiable reward on the distance to MOS.

    python -m stages.launch grpo

Every `grpo.validation_every` steps the critic scores a fixed sample of the validation split greedily; the step
with the best main score there becomes models/grpo. The scores are kept in reports/curves/grpo/validation.parquet;
`evaluate` draws them. Killed, the next run goes on from the last checkpoint in runs/grpo.
"""

import shutil
from functools import partial
from pathlib import Path
from typing import Any

from transformers import ProcessorMixin
from trl import GRPOConfig, GRPOTrainer

from critic import params
from critic.checkpoints import load_processor
from critic.data.trl_datasets import load_samples
from critic.prompts import load_contract
from critic.training.best_checkpoint import Validation
from critic.training.collapse import Monitor
from critic.training.curves import Curves
from critic.training.resume import last_checkpoint, open_run
from critic.training.rewards import CriticReward, compute_score
from critic.training.rollout_check import Preflight, never_sampled
from critic.training.rollouts import let_vllm_place_pictures
from critic.training.setup import (
    NoLastCheckpoint,
    adapters,
    common_arguments,
    join_processes,
    load_trainable,
    publish,
)


def main() -> None:
    section, model, launch = params.load(params.Grpo), params.load(params.Model), params.load(params.Launch)
    join_processes(launch)
    prompt, reward = params.load(params.Prompt), params.load(params.Reward)
    contract = load_contract(prompt.contract)
    processor = load_processor("models/sft", contract)
    seed, inputs = params.seed(), [Path("models/sft"), Path("data/rl")]
    settings = [section, model, launch, prompt, reward]
    run = open_run(Path("runs/grpo"), inputs, settings, seed=seed, contract=contract)
    checkpoint = last_checkpoint(run)
    args = arguments(section, launch, seed, run, processor)
    curves = Curves(run / "curves")
    validation = load_samples("data/rl/validation.parquet", contract).shuffle(seed=seed)
    validation = validation.select(range(min(section.validation_edits, len(validation))))
    trainer = GRPOTrainer(
        model=load_trainable("models/sft", model, section, checkpoint=checkpoint),
        processing_class=processor,
        reward_funcs=CriticReward(partial(compute_score, **reward.model_dump()), contract.prefill, reward.r_min),
        args=args,
        train_dataset=load_samples("data/rl/train.parquet", contract),
        peft_config=adapters(section),
        callbacks=[curves, NoLastCheckpoint(), Monitor(section.collapse)],
    )
    let_vllm_place_pictures(trainer)
    checked = [validation[number] for number in range(min(section.preflight.prompts, len(validation)))]
    trainer.add_callback(Preflight(trainer, checked, contract, section.preflight.max_logprob_gap))
    watch = Validation(trainer, validation, contract, section.validation_every, run)
    trainer.add_callback(watch)
    trainer.train(resume_from_checkpoint=checkpoint)
    if trainer.accelerator.is_main_process:
        print(f"the best step on validation: {watch.best_step}")
        watch.table().to_parquet(curves.scratch / "validation.parquet")
        publish(watch.weights, "models/sft", model, processor, contract, Path("models/grpo"))
        curves.finish(Path("reports/curves/grpo"))
        shutil.rmtree(run)


def arguments(
    section: params.Grpo, launch: params.Launch, seed: int, run: Path, processor: ProcessorMixin
) -> GRPOConfig:
    """TRL's settings of one run."""
    return GRPOConfig(
        max_steps=section.steps,
        num_generations=section.num_generations,
        max_completion_length=section.max_completion_tokens,
        temperature=section.temperature,
        top_p=section.top_p,
        top_k=0,
        beta=section.beta,
        num_iterations=section.num_iterations,
        epsilon=section.epsilon_low,
        epsilon_high=section.epsilon_high,
        delta=section.delta,
        loss_type=section.loss_type,
        scale_rewards=section.scale_rewards,
        logging_steps=1,
        **engine_arguments(section, never_sampled(processor)),
        **common_arguments(section, launch, seed, run),
    )


def engine_arguments(section: params.Grpo, suppressed: list[int]) -> dict[str, Any]:
    """What makes the rollouts, in TRL's terms; the suppressed tokens are never sampled."""
    if section.vllm is None or section.rollouts == "transformers":
        return {"generation_kwargs": {"suppress_tokens": suppressed}}
    return {
        "use_vllm": True,
        "vllm_mode": section.vllm.mode,
        "vllm_server_base_url": section.vllm.server_url,
        "vllm_gpu_memory_utilization": section.vllm.gpu_memory_utilization,
        "vllm_tensor_parallel_size": section.vllm.tensor_parallel_size,
        "vllm_enable_sleep_mode": section.vllm.sleep,
        "generation_kwargs": {"logit_bias": dict.fromkeys(suppressed, -100.0)},
    }


if __name__ == "__main__":
    main()
