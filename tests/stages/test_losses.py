"""The losses that params.yaml asks for, as the installed libraries compute them: `paper` has upstream's."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from datasets import Dataset
from torch.nn.functional import cross_entropy
from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM, set_seed
from trl import GRPOConfig, GRPOTrainer, SFTTrainer

from critic import params
from critic.data.minibench import make_table
from critic.data.trl_datasets import write_samples
from critic.edits import normalise
from critic.prompts import load_contract
from stages import sft
from stages.build import sft_samples

ROOT = Path(__file__).parents[2]


# --- SFT


class Made(Exception):
    """Instead of a training: its trainer."""


@pytest.fixture
def made_trainer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes the trainer of the stage `sft` with `token_mean`: 4 samples per update, one at a time."""
    contract = load_contract("tiny")
    table = normalise(make_table("train", sources=1, side=56, seed=7), "train")
    samples = [*sft_samples(table[:4], contract, 0.5, np.random.default_rng(0))]
    (tmp_path / "data/sft").mkdir(parents=True)
    for split in ("train", "validation"):
        write_samples(samples, tmp_path / f"data/sft/{split}.parquet")
    (tmp_path / "assets").symlink_to(ROOT / "assets")
    monkeypatch.chdir(tmp_path)

    def train(self: SFTTrainer, **kwargs: Any) -> None:
        raise Made(self)

    monkeypatch.setattr(SFTTrainer, "train", train)

    def make(token_mean: str) -> SFTTrainer:
        content = yaml.safe_load((ROOT / "params.yaml").read_text())
        content["profiles"]["tiny"]["sft"] |= {
            "token_mean": token_mean, "per_device_train_batch_size": 1, "gradient_accumulation_steps": 4,
        }  # fmt: skip
        Path("params.yaml").write_text(yaml.safe_dump(content))
        with pytest.raises(Made) as made:
            sft.main()
        trainer = made.value.args[0]
        # Prefect's threads of an earlier test let a forked worker of the loader end with code 1.
        trainer.args.dataloader_num_workers = 0
        return trainer

    return make


def test_token_mean_says_what_the_loss_of_sft_is_a_mean_of(made_trainer: Any) -> None:
    """`micro_batch` is the loss of LLaMA-Factory, whose trainer sets `model_accepts_loss_kwargs` to false."""
    losses = {}
    for token_mean in ("update", "micro_batch"):
        trainer = made_trainer(token_mean)
        batches, tokens = trainer.get_batch_samples(iter(trainer.get_train_dataloader()), 4, torch.device("cpu"))
        trainer.current_gradient_accumulation_steps = len(batches)
        with torch.no_grad():
            answers = [negative_log_probs(trainer.model, batch) for batch in batches]
        steps = [trainer.training_step(trainer.model, batch, tokens) for batch in batches]
        losses[token_mean] = sum(step.item() for step in steps)
    lengths = [len(answer) for answer in answers]
    assert min(lengths) < 15 < max(lengths)
    assert losses["update"] == pytest.approx(torch.cat(answers).mean().item(), rel=1e-4)
    assert losses["micro_batch"] == pytest.approx(np.mean([answer.mean().item() for answer in answers]), rel=1e-4)
    assert losses["update"] != pytest.approx(losses["micro_batch"], rel=1e-3)


def negative_log_probs(model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Of the answer's tokens."""
    inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
    labels = batch["labels"][:, 1:].flatten()
    logits = model(**inputs).logits[:, :-1].flatten(0, 1)
    return cross_entropy(logits[labels != -100], labels[labels != -100], reduction="none")


# --- GRPO


def grpo_trainer(section: params.Grpo, folder: Path) -> GRPOTrainer:
    """Of a text model, with the settings of the loss: two micro-batches of 8 completions per update."""
    set_seed(3)
    tokenizer = AutoTokenizer.from_pretrained(ROOT / "assets/tiny-base")
    config = Qwen2Config(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=1, initializer_range=0.5,
    )  # fmt: skip
    of_the_loss = {
        "epsilon", "epsilon_high", "delta", "loss_type", "beta", "num_iterations", "num_generations",
        "temperature",
    }  # fmt: skip
    return GRPOTrainer(
        model=Qwen2ForCausalLM(config),
        processing_class=tokenizer,
        reward_funcs=lambda completions, **kwargs: [0.0] * len(completions),
        train_dataset=Dataset.from_dict({"prompt": ["rate it"]}),
        args=GRPOConfig(
            output_dir=str(folder),
            report_to="none",
            use_cpu=True,
            bf16=False,
            per_device_train_batch_size=8,
            gradient_accumulation_steps=2,
            **section.model_dump(include=of_the_loss),
        ),
    )


def log_probs(
    model: Qwen2ForCausalLM, prompts: torch.Tensor, answers: torch.Tensor, temperature: float
) -> torch.Tensor:
    """Of the answers' tokens, [completions, tokens]."""
    logits = model(torch.cat([prompts, answers], 1)).logits[:, prompts.shape[1] - 1 : -1] / temperature
    return logits.log_softmax(-1).gather(2, answers[:, :, None])[:, :, 0]


def token_losses(new: torch.Tensor, old: torch.Tensor, advantages: torch.Tensor) -> torch.Tensor:
    """Upstream's (verl/trainer/core_algos.py): ratios within 0.8..1.28, up to 3 for negative advantages."""
    ratio, advantages = (new - old).exp(), advantages[:, None]
    clipped = torch.max(-advantages * ratio, -advantages * ratio.clamp(0.8, 1.28))
    return torch.where(advantages < 0, torch.min(clipped, -advantages * 3.0), clipped)


@pytest.mark.parametrize("profile", ["full", "paper"])
def test_the_loss_of_grpo_is_upstreams_but_for_the_mean(profile: str, tmp_path: Path) -> None:
    """`paper` averages the means of the micro-batches, as upstream; `full` takes the mean over all tokens."""
    section = params.load(params.Grpo, ROOT / "params.yaml", profile=profile)
    trainer = grpo_trainer(section, tmp_path)
    trainer.current_gradient_accumulation_steps = 2
    generator = torch.Generator().manual_seed(0)
    prompts = torch.randint(100, (16, 5), generator=generator)
    answers = torch.randint(100, (16, 12), generator=generator)
    lengths = torch.tensor([2, 3, 4, 5] * 2 + [9, 10, 11, 12] * 2)
    mask = (torch.arange(12) < lengths[:, None]).long()
    advantages = torch.randn(16, generator=generator)
    with torch.no_grad():
        new = log_probs(trainer.model, prompts, answers, section.temperature)
    old = new - torch.randn(16, 12, generator=generator)
    expected = token_losses(new, old, advantages)
    ratio = (new - old).exp()
    assert ((ratio > 3) & (mask == 1) & (advantages[:, None] < 0)).any()

    total, parts = 0.0, (slice(0, 8), slice(8, 16))
    for part in parts:
        inputs = {
            "prompt_ids": prompts[part], "prompt_mask": torch.ones(8, 5, dtype=torch.long),
            "completion_ids": answers[part], "completion_mask": mask[part], "advantages": advantages[part],
            "old_per_token_logps": old[part], "num_items_in_batch": mask.sum(),
        }  # fmt: skip
        total += trainer._compute_loss(trainer.model, inputs).item()
    summed = expected * mask
    means = {
        "paper": sum((summed[part].sum() / mask[part].sum()).item() for part in parts) / 2,
        "full": (summed.sum() / mask.sum()).item(),
    }
    assert total == pytest.approx(means[profile], rel=1e-4)
    assert means["paper"] != pytest.approx(means["full"], rel=1e-2)


def test_the_trainer_decays_all_weights_but_norms_and_biases(tmp_path: Path) -> None:
    trainer = grpo_trainer(params.load(params.Grpo, ROOT / "params.yaml", profile="paper"), tmp_path)
    kept = {*dict(trainer.model.named_parameters())} - {*trainer.get_decay_parameter_names(trainer.model)}
    assert kept
    assert all("norm" in name or name.endswith(".bias") for name in kept)
