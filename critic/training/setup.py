"""What SFT and GRPO share: processes, arguments of TRL, adapters, and the plain checkpoint at the end.

join_processes()
args = SFTConfig(**common_arguments(launch, seed, run), ...)        # before the model: ZeRO-3 needs it
trainable = load_trainable(model.base, model, section)
trainer = SFTTrainer(trainable, args=args, peft_config=adapters(section, trainable), ...)
trainer.train(resume_from_checkpoint=last_checkpoint(run))
save_weights(trainer, run / "final")
publish(run / "final", model.base, model, processor, contract, Path("models/sft"))
"""

import os
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

from critic.backbones import freeze_vision, lora_targets
from critic.checkpoints import load_model, save_checkpoint
from critic.files import move_folder
from critic.params import Launch, Model, Training
from critic.prompts import Contract
from critic.training.trackers import report_to

_ADAPTER = "adapter_config.json"


def join_processes(launch: Launch) -> None:
    """Join the process group of the launch: NCCL, or gloo without GPUs, which accelerate doesn't choose itself.

    The timeout is half an hour, because the others wait while one reads pictures or writes a checkpoint.
    """
    if "WORLD_SIZE" in os.environ:
        sharded, gpus = launch.zero_stage is not None, torch.cuda.is_available()
        os.environ["ACCELERATE_USE_DEEPSPEED"] = str(sharded).lower()
        # Without `cpu`, accelerate 1.15 takes processes without GPUs and DeepSpeed for separate ones.
        PartialState(cpu=not (gpus or sharded), backend=None if gpus else "gloo", timeout=timedelta(minutes=30))


def common_arguments(launch: Launch, seed: int, run: Path) -> dict[str, Any]:
    """Keyword arguments of `transformers.TrainingArguments` that aren't in params.yaml.

    Raises:
        TrackerError, MissingExtra: as `critic.training.trackers.report_to`.
    """
    alone = "WORLD_SIZE" not in os.environ
    return {
        "output_dir": os.fspath(run),
        "logging_steps": 1,
        "gradient_checkpointing_kwargs": {"use_reentrant": False},
        "use_cpu": alone and not torch.cuda.is_available(),
        "accelerator_config": {"use_configured_state": not alone},
        "deepspeed": None if launch.zero_stage is None else zero_config(launch.zero_stage),
        "save_strategy": "steps",
        "save_total_limit": 2,
        "report_to": report_to(run.name) or "none",
        "run_name": run.name,
        "seed": seed,
        "data_seed": seed,
    }


class NoLastCheckpoint(TrainerCallback):
    """Skips the checkpoint of the last step; add it after all callbacks that ask for a checkpoint.

    The weights of the last step are the result, and a `Trainer` that resumes there would take one step more.
    """

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.global_step >= state.max_steps:
            control.should_save = False


def zero_config(stage: int) -> dict[str, Any]:
    """DeepSpeed's configuration for a ZeRO stage; "auto" values come from the trainer's arguments.

    Gradients are reduced and accumulated in float32, as IE-Critic-R1's FSDP does; by default they have the dtype
    of the weights.
    """
    return {
        "zero_optimization": {
            "stage": stage,
            "contiguous_gradients": True,
            "stage3_gather_16bit_weights_on_model_save": True,
        },
        "bf16": {"enabled": "auto"},
        "communication_data_type": "fp32",
        "data_types": {"grad_accum_dtype": "fp32"},
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
    """Load the model to train, with its vision tower frozen if `freeze_vision` is set.

    With a `checkpoint` to resume from, its weights are loaded here. `Trainer` (transformers 5.17) would load them
    later, but silently skips those of Qwen2.5-VL, whose names differ between files and modules. It does load
    adapters. The generation settings are always those of `folder`: `Trainer` adds the end token at each start, and
    `publish` drops it again. So is the name, by which `GRPOTrainer` loads the reference model of `grpo.beta`.

    Raises:
        CheckpointError: as `critic.checkpoints.load_model`.
    """
    if checkpoint and section.lora is None:
        trainable = load_model(checkpoint, model)
        trainable.generation_config = _generation_config(trainable, folder, revision)
        trainable.config._name_or_path = os.fspath(folder)
    else:
        trainable = load_model(folder, model, revision)
    if section.freeze_vision:
        freeze_vision(trainable)
    return trainable


def adapters(section: Training, model: PreTrainedModel) -> LoraConfig | None:
    """LoRA on the linear layers of the language model, or None for full fine-tuning."""
    if section.lora is None:
        return None
    return LoraConfig(
        **section.lora.model_dump(),
        target_modules=lora_targets(model),
        task_type="CAUSAL_LM",
    )


def _generation_config(
    model: PreTrainedModel, folder: str | os.PathLike[str], revision: str | None
) -> GenerationConfig:
    """The generation settings in a folder or repository, or else those that follow from the model's config."""
    try:
        return GenerationConfig.from_pretrained(folder, revision=revision or "main")
    except OSError:
        return GenerationConfig.from_model_config(model.config)


def save_weights(trainer: Trainer, folder: Path) -> None:
    """Save the trained weights, or the adapters, in `folder`, whole or not at all; call it in all processes."""
    partial = folder.with_name(f".{folder.name}.partial")
    trainer.save_model(os.fspath(partial))
    if trainer.accelerator.is_main_process:
        move_folder(partial, folder)
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
    """Write `folder`, a plain checkpoint, from what `save_weights` saved; adapters are merged into `base`.

    The generation settings are those of `base`.

    Call it in one process, after the training: ZeRO-3 no longer shards models that are loaded from here on.
    """
    unset_hf_deepspeed_config()
    if (weights / _ADAPTER).exists():
        merged = PeftModel.from_pretrained(load_model(base, model, revision), weights).merge_and_unload()
    else:
        merged = load_model(weights, model)
        merged.generation_config = _generation_config(merged, base, revision)
    save_checkpoint(merged, processor, contract, folder)
