"""model.base, data/sft -> models/sft: supervised fine-tuning on reasoning and direct-scoring samples.

python -m stages.sft
"""

from pathlib import Path

import torch
from trl import SFTConfig, SFTTrainer

from critic import params
from critic.checkpoints import load_model, load_processor, save_checkpoint
from critic.curves import Curves
from critic.prompts import load_contract
from critic.samples import load_samples


def main() -> None:
    section, model = params.load(params.Sft), params.load(params.Model)
    contract = load_contract(params.load(params.Prompt).contract)
    processor = load_processor(model.base, contract, model.revision)
    curves = Curves(Path("runs/sft/curves"))
    trainer = SFTTrainer(
        model=load_model(model.base, model, model.revision),
        processing_class=processor,
        args=arguments(section, params.seed()),
        train_dataset=load_samples("data/sft/train.parquet", contract),
        eval_dataset=load_samples("data/sft/validation.parquet", contract),
        callbacks=[curves],
    )
    trainer.train()
    trainer.evaluate()
    save_checkpoint(trainer.accelerator.unwrap_model(trainer.model), processor, contract, Path("models/sft"))
    curves.finish(Path("reports/curves/sft"))


def arguments(section: params.Sft, seed: int) -> SFTConfig:
    """TRL's settings of one run."""
    return SFTConfig(
        output_dir="runs/sft",
        num_train_epochs=section.epochs,
        learning_rate=section.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=section.warmup_fraction,
        weight_decay=section.weight_decay,
        max_grad_norm=section.max_grad_norm,
        per_device_train_batch_size=section.batch_size,
        per_device_eval_batch_size=section.batch_size,
        gradient_accumulation_steps=section.gradient_accumulation,
        gradient_checkpointing=section.gradient_checkpointing,
        bf16=section.bf16,
        use_cpu=not torch.cuda.is_available(),
        max_length=None,
        completion_only_loss=True,
        dataset_kwargs={"skip_prepare_dataset": True},
        remove_unused_columns=False,
        dataloader_num_workers=1,
        logging_steps=5,
        save_strategy="no",
        report_to="none",
        seed=seed,
        data_seed=seed,
    )


if __name__ == "__main__":
    main()
