"""What SFT and GRPO share: processes, settings of TRL, adapters, and the plain checkpoint at the end.

join_processes()
args = SFTConfig(**common_arguments(section, launch, seed, run))    # before the model: ZeRO-3 needs it
trainer = SFTTrainer(load_trainable(model.base, model, section), args=args, peft_config=adapters(section), ...)
trainer.train(resume_from_checkpoint=last_checkpoint(run))
save_weights(trainer, run / "final")
publish(run / "final", model.base, model, processor, contract, Path("models/sft"))
"""

import os
import shutil
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from peft import LoraConfig, PeftModel
from transformers import (
    GenerationConfig,
    PreTrainedModel,
    ProcessorMixin,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.integrations import unset_hf_deepspeed_config

from critic.checkpoints import load_model, save_checkpoint
from critic.params import Launch, Model, Training
from critic.prompts import Contract

_ADAPTER = "adapter_config.json"


def join_processes(launch: Launch) -> None:
    """Meet the other processes of the launch, over NCCL or, without GPUs, gloo, which accelerate can't guess.

    They wait half an hour for each other: one of them may be reading pictures or writing a checkpoint.
    """
    if "WORLD_SIZE" in os.environ:
        os.environ["ACCELERATE_USE_DEEPSPEED"] = str(launch.zero_stage is not None).lower()
        backend = None if torch.cuda.is_available() else "gloo"
        PartialState(backend=backend, timeout=timedelta(minutes=30))


def common_arguments(section: Training, launch: Launch, seed: int, run: Path) -> dict[str, Any]:
    """Keyword arguments of `transformers.TrainingArguments`; curves are kept by `critic.training.curves`."""
    alone = "WORLD_SIZE" not in os.environ
    return {
        "output_dir": os.fspath(run),
        "learning_rate": section.learning_rate,
        "lr_scheduler_type": section.lr_schedule,
        "warmup_steps": section.warmup_fraction,
        "weight_decay": section.weight_decay,
        "max_grad_norm": section.max_grad_norm,
        "per_device_train_batch_size": section.batch_size,
        "gradient_accumulation_steps": section.gradient_accumulation,
        "gradient_checkpointing": section.gradient_checkpointing,
        "gradient_checkpointing_kwargs": {"use_reentrant": False},
        "bf16": section.bf16,
        "use_liger_kernel": section.liger,
        "use_cpu": alone and not torch.cuda.is_available(),
        "accelerator_config": {"use_configured_state": not alone},
        "deepspeed": None if launch.zero_stage is None else zero_config(launch.zero_stage),
        "save_strategy": "steps",
        "save_steps": section.save_every,
        "save_total_limit": 2,
        "report_to": "none",
        "seed": seed,
        "data_seed": seed,
    }


class NoLastCheckpoint(TrainerCallback):
    """Leaves out the checkpoint of the last step; add it after all callbacks that ask for one.

    The weights of the last step are the result, and `Trainer`, going on from there, would do one step more.
    """

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.global_step >= state.max_steps:
            control.should_save = False


def zero_config(stage: int) -> dict[str, Any]:
    """DeepSpeed's configuration; "auto" is filled in from the trainer's arguments."""
    return {
        "zero_optimization": {
            "stage": stage,
            "contiguous_gradients": True,
            "stage3_gather_16bit_weights_on_model_save": True,
        },
        "bf16": {"enabled": "auto"},
        "gradient_clipping": "auto",
        "gradient_accumulation_steps": "auto",
        "train_batch_size": "auto",
        "train_micro_batch_size_per_gpu": "auto",
    }


def load_trainable(
    folder: str | os.PathLike[str],
    model: Model,
    section: Training,
    *,
    revision: str | None = None,
    checkpoint: str | None = None,
) -> PreTrainedModel:
    """The model to train, its vision tower frozen if `freeze_vision` says so.

    With a `checkpoint` to go on from, the weights are that one's. `Trainer` would load them later, but not those
    of Qwen2.5-VL: files and modules name them differently, and what it doesn't find it leaves as it is (seen in
    transformers 5.17). Adapters it does load. The generation settings stay those of `folder`: `Trainer` adds the
    end token to them at each start.

    Raises:
        CheckpointError: as `critic.checkpoints.load_model`.
    """
    if checkpoint and section.lora is None:
        trainable = load_model(checkpoint, model)
        trainable.generation_config = GenerationConfig.from_pretrained(folder, revision=revision or "main")
    else:
        trainable = load_model(folder, model, revision)
    if section.freeze_vision:
        trainable.model.visual.requires_grad_(False)
    return trainable


def adapters(section: Training) -> LoraConfig | None:
    """LoRA on the linear layers of the language model, or None to train the weights themselves."""
    if section.lora is None:
        return None
    return LoraConfig(
        r=section.lora.rank,
        lora_alpha=section.lora.alpha,
        lora_dropout=section.lora.dropout,
        target_modules=r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)",
        task_type="CAUSAL_LM",
    )


def save_weights(trainer: Trainer, folder: Path) -> None:
    """Gather the trained weights, or the adapters, in `folder`, whole or not at all; all processes take part."""
    partial = folder.with_name(f".{folder.name}.partial")
    trainer.save_model(os.fspath(partial))
    if trainer.accelerator.is_main_process:
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
    trainer.accelerator.wait_for_everyone()


def publish(
    weights: Path,
    base: str | os.PathLike[str],
    model: Model,
    processor: ProcessorMixin,
    contract: Contract,
    folder: Path,
    revision: str | None = None,
) -> None:
    """Write `folder`, a plain checkpoint, from what `save_weights` left: adapters are merged into `base`.

    One process does it when the training is over; ZeRO-3 no longer splits what is loaded from here on.
    """
    unset_hf_deepspeed_config()
    if (weights / _ADAPTER).exists():
        merged = PeftModel.from_pretrained(load_model(base, model, revision), weights).merge_and_unload()
    else:
        merged = load_model(weights, model)
    save_checkpoint(merged, processor, contract, folder)
