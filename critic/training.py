"""What SFT and GRPO give TRL alike.

SFTConfig(output_dir="runs/sft", num_train_epochs=1, **common_arguments(params.load(params.Sft), params.seed()))
"""

from typing import Any

import torch

from critic.params import Training


def common_arguments(section: Training, seed: int) -> dict[str, Any]:
    """Keyword arguments of `transformers.TrainingArguments`; curves are kept by `critic.curves`."""
    return {
        "learning_rate": section.learning_rate,
        "lr_scheduler_type": section.lr_schedule,
        "warmup_steps": section.warmup_fraction,
        "weight_decay": section.weight_decay,
        "max_grad_norm": section.max_grad_norm,
        "per_device_train_batch_size": section.batch_size,
        "gradient_accumulation_steps": section.gradient_accumulation,
        "gradient_checkpointing": section.gradient_checkpointing,
        "bf16": section.bf16,
        "use_cpu": not torch.cuda.is_available(),
        "save_strategy": "no",
        "report_to": "none",
        "seed": seed,
        "data_seed": seed,
    }
