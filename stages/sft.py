"""model.base, data/sft -> models/sft: supervised fine-tuning on reasoning and direct-scoring samples.

    python -m stages.launch sft

If the training is killed, the next run resumes from the last checkpoint in runs/sft.
"""

import shutil
from pathlib import Path
from typing import Any

from trl import SFTConfig, SFTTrainer

from critic import params
from critic.checkpoints import load_processor
from critic.data.trl_datasets import load_samples
from critic.prompts import stage_contract
from critic.training.curves import Curves
from critic.training.resume import last_checkpoint, open_run
from critic.training.setup import (
    NoLastCheckpoint,
    adapters,
    common_arguments,
    join_processes,
    load_trainable,
    publish,
    save_weights,
)
from critic.training.shared_pictures import SharedPictureSFT
from critic.training.trackers import tracked


@tracked("sft")
def main() -> None:
    section, model, launch = params.load(params.Sft), params.load(params.Model), params.load(params.Launch)
    join_processes(launch)
    prompt = params.load(params.Prompt)
    contract = stage_contract(prompt.contract, "data/sft")
    processor = load_processor(model.base, contract, model.revision)
    seed, inputs = params.seed(), [Path(model.base), Path("data/sft")]
    run = open_run(Path("runs/sft"), inputs, [section, model, launch, prompt], seed=seed, contract=contract)
    checkpoint = last_checkpoint(run)
    args = arguments(section, launch, seed, run)
    curves = Curves(run / "curves")
    trainer = make_trainer(
        section,
        model=load_trainable(model.base, model, section, revision=model.revision, checkpoint=checkpoint),
        processing_class=processor,
        args=args,
        train_dataset=load_samples("data/sft/train.parquet", contract, keep=args.per_device_train_batch_size),
        eval_dataset=load_samples("data/sft/validation.parquet", contract),
        callbacks=[curves, NoLastCheckpoint()],
    )
    trainer.train(resume_from_checkpoint=checkpoint)
    trainer.evaluate()
    save_weights(trainer, run / "final")
    if trainer.accelerator.is_main_process:
        publish(run / "final", model.base, model, processor, contract, Path("models/sft"), model.revision)
        curves.finish(Path("reports/curves/sft"))
        shutil.rmtree(run)


def make_trainer(section: params.Sft, **arguments: Any) -> SFTTrainer:
    """TRL's trainer with the adapters and the loss of `section`; `arguments` are its other arguments."""
    kind = SharedPictureSFT if section.share_prompts else SFTTrainer
    trainer = kind(peft_config=adapters(section, arguments["model"]), **arguments)
    # Qwen2.5-VL's own loss doesn't accept the number of tokens in the update, but TRL's does. With it, the loss is
    # a mean over them for any number of processes and accumulation steps; without it, a mean of the micro-batches.
    trainer.model_accepts_loss_kwargs = section.token_mean == "update"
    return trainer


def arguments(section: params.Sft, launch: params.Launch, seed: int, run: Path) -> SFTConfig:
    """TRL's arguments."""
    return SFTConfig(
        **section.model_dump(exclude={"share_prompts", "freeze_vision", "lora", "token_mean"}),
        **common_arguments(launch, seed, run),
        per_device_eval_batch_size=section.per_device_train_batch_size,
        max_length=None,
        completion_only_loss=True,
        dataset_kwargs={"skip_prepare_dataset": True},
        remove_unused_columns=False,
        dataloader_num_workers=1,
    )


if __name__ == "__main__":
    main()
