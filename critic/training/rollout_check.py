"""The check before GRPO that the rollout engine reads the same prompts and pictures as the trainer.

An engine that resizes pictures differently, or places them elsewhere in the prompt, still writes fluent
completions, but the training learns from noise (TRL issues 6401, 6294 and 5785). So rollouts of prompts with two
pictures of different sizes are compared with the prompts, grids and probabilities of transformers.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from trl import GRPOTrainer

from critic import params
from critic.backbones import never_sampled
from critic.prompts import Contract
from critic.training.rollouts import Rollout, greedy, roll_out


class RolloutMismatch(RuntimeError):
    """Rollouts differ from transformers; the message names the sample and the difference."""


class RolloutCheck(TrainerCallback):
    """Runs `check_rollouts` when the training begins, once its processes hold the model."""

    def __init__(
        self,
        trainer: GRPOTrainer,
        samples: Sequence[dict[str, Any]],
        contract: Contract,
        limits: params.RolloutCheck,
    ):
        self.check = partial(check_rollouts, trainer, samples, contract, limits)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.check()


def check_rollouts(
    trainer: GRPOTrainer,
    samples: Sequence[dict[str, Any]],
    contract: Contract,
    limits: params.RolloutCheck,
) -> None:
    """Compare prompt ids, picture grids and greedy completions of the rollouts with transformers' own.

    A token's gap is how much less likely it is under transformers than the likeliest token there, in nats. It is 0
    for most tokens of a greedy rollout. In bfloat16, kernels decide close calls differently: logits of 16 to 32
    are rounded to eighths, so that the largest gap of thousands of tokens passes half a nat, but their mean stays
    near 0. Pictures in the wrong place, or other weights, move many tokens.

    Args:
        samples: `id`, `prompt` and `images`; the last picture of each is resized, so that the sizes differ.
        limits: of the mean and the largest gap of each completion.

    Raises:
        RolloutMismatch: something differs.
    """
    samples = [{**sample, "images": _of_two_sizes(sample["images"], contract)} for sample in samples]
    with greedy(trainer):
        for sample, rollout in zip(samples, roll_out(trainer, samples), strict=True):
            _compare(trainer, sample, rollout, contract, limits)


def _of_two_sizes(images: Sequence[Any], contract: Contract) -> list[Any]:
    """The pictures, the last one resized to about two thirds of its width."""
    *others, last = images
    return [*others, contract.resize(last.resize((max(contract.pixel_unit, last.width * 2 // 3), last.height)))]


def _compare(
    trainer: GRPOTrainer,
    sample: dict[str, Any],
    rollout: Rollout,
    contract: Contract,
    limits: params.RolloutCheck,
) -> None:
    name = f"rollout check, sample {sample['id']}"
    inputs = trainer.processing_class(
        text=[contract.render(sample["prompt"])], images=[sample["images"]], return_tensors="pt"
    ).to(trainer.accelerator.device)
    expected = inputs["input_ids"][0].tolist()
    if rollout.prompt_ids != expected:
        place = next(
            (i for i, (a, b) in enumerate(zip(rollout.prompt_ids, expected, strict=False)) if a != b),
            min(len(rollout.prompt_ids), len(expected)),
        )
        raise RolloutMismatch(
            f"{name}: the engine read {len(rollout.prompt_ids)} prompt tokens where transformers has "
            f"{len(expected)}; they differ from position {place} on. Don't train with this engine: "
            "set grpo.use_vllm to false or try another version of TRL or vLLM"
        )
    if rollout.grids != inputs["image_grid_thw"].tolist():
        raise RolloutMismatch(
            f"{name}: the engine's pictures are {rollout.grids} patches, transformers' are "
            f"{inputs['image_grid_thw'].tolist()}: the pixel limits differ"
        )
    gaps = _logprob_gaps(trainer, inputs, rollout.completion_ids)
    mean, widest, place = float(gaps.mean()), float(gaps.max()), int(gaps.argmax())
    if mean > limits.mean_logprob_gap or widest > limits.max_logprob_gap:
        raise RolloutMismatch(
            f"{name}: tokens of the engine's greedy completion are {mean:.3f} nats less likely than the best "
            f"under transformers in the mean (grpo.rollout_check.mean_logprob_gap is {limits.mean_logprob_gap}), "
            f"and token {place} is {widest:.2f} (max_logprob_gap is {limits.max_logprob_gap}): their pictures or "
            "their weights differ"
        )


def _logprob_gaps(trainer: GRPOTrainer, inputs: dict[str, torch.Tensor], completion: list[int]) -> torch.Tensor:
    """[tokens], the gap of log-probability between the best token and the completion's, in nats."""
    device = inputs["input_ids"].device
    written = torch.tensor([completion], device=device)
    extended = dict(inputs)
    extended["input_ids"] = torch.cat([inputs["input_ids"], written], dim=1)
    extended["attention_mask"] = torch.ones_like(extended["input_ids"])
    if "mm_token_type_ids" in inputs:
        extended["mm_token_type_ids"] = torch.cat([inputs["mm_token_type_ids"], torch.zeros_like(written)], dim=1)
    with torch.no_grad(), trainer.accelerator.autocast():
        logits = trainer.model_wrapped(**extended).logits[0, -len(completion) - 1 : -1].float()
    logits[:, never_sampled(trainer.processing_class)] = -torch.inf
    logprobs = logits.log_softmax(dim=-1)
    return logprobs.max(dim=-1).values - logprobs.gather(1, written[0][:, None])[:, 0]
