"""model.base, data/sft -> models/sft: supervised fine-tuning on reasoning and direct-scoring samples.

python -m stages.sft
"""

from pathlib import Path

from trl import SFTConfig, SFTTrainer

from critic import params
from critic.checkpoints import load_model, load_processor, save_checkpoint
from critic.curves import Curves
from critic.prompts import load_contract
from critic.samples import load_samples
from critic.training import common_arguments


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
        per_device_eval_batch_size=section.batch_size,
        max_length=None,
        completion_only_loss=True,
        dataset_kwargs={"skip_prepare_dataset": True},
        remove_unused_columns=False,
        dataloader_num_workers=1,
        logging_steps=5,
        **common_arguments(section, seed),
    )


if __name__ == "__main__":
    main()
