"""Rollouts of a GRPO trainer outside of its steps: greedy, and with the prompt ids that its engine read.

    with greedy(trainer):
        rollouts = roll_out(trainer, samples)

Validation and the rollout check use the code that samples the training's completions, with transformers or vLLM.
It calls internals of TRL 1.16 (`GRPOTrainer._tokenize_prompts`, `_generate_single_turn`); tests cover them.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from trl import GRPOTrainer
from trl.data_utils import prepare_multimodal_messages


@dataclass(frozen=True)
class Rollout:
    """A prompt as the engine read it, and its completion.

    Attributes:
        prompt_ids: the prompt's tokens, with the placeholders of pictures.
        grids: [pictures, 3], time, height and width of each picture in patches.
        completion_ids: the generated tokens, with the end token.
        finished: whether the completion ends with the end token.
    """

    prompt_ids: list[int]
    grids: list[list[int]]
    completion_ids: list[int]
    finished: bool


def let_vllm_place_pictures(trainer: GRPOTrainer) -> None:
    """Send a colocated vLLM prompts with one placeholder per picture, as vLLM expects.

    TRL 1.16 sends one placeholder per patch, from the processor. vLLM 0.31 expands placeholders itself, so it
    would read garbled prompts (TRL issue 6401). Server mode needs no change: there TRL sends features of the
    pictures.
    """
    if not trainer.use_vllm or trainer.vllm_generation.mode != "colocate":
        return
    placeholder = trainer.processing_class.image_token_id
    generate = trainer.vllm_generation.generate

    def with_single_placeholders(prompts: list[list[int]], *args: Any, **kwargs: Any) -> Any:
        single = [
            [token for place, token in enumerate(ids) if token != placeholder or ids[place - 1] != placeholder]
            for ids in prompts
        ]
        return generate(single, *args, **kwargs)

    trainer.vllm_generation.generate = with_single_placeholders


@contextmanager
def greedy(trainer: GRPOTrainer) -> Iterator[None]:
    """Make rollouts greedy, and turn dropout off."""
    if trainer.use_vllm:
        engine, name, value = trainer.vllm_generation, "temperature", 0.0
    else:
        engine, name, value = trainer.generation_config, "do_sample", False
    before, training = getattr(engine, name), trainer.model.training
    setattr(engine, name, value)
    trainer.model.eval()
    try:
        yield
    finally:
        setattr(engine, name, before)
        trainer.model.train(training)


def roll_out(trainer: GRPOTrainer, samples: Sequence[dict[str, Any]]) -> list[Rollout]:
    """One completion for each sample (`prompt`, `images`), as one batch; call it in all processes."""
    prompts = [prepare_multimodal_messages(sample["prompt"], images=sample["images"]) for sample in samples]
    prompt_ids, images, fields = trainer._tokenize_prompts(prompts)
    if trainer.use_vllm:
        if trainer.state.global_step != trainer._last_loaded_step:
            trainer.vllm_generation.sync_weights()
            trainer._last_loaded_step = trainer.state.global_step
        read, completions, _, _ = trainer.vllm_generation.generate(
            prompts=prompt_ids, images=images, num_generations=1
        )
    else:
        read = prompt_ids
        completions, _ = trainer._generate_single_turn(prompt_ids, images, fields, 1)
    grids = iter(fields["image_grid_thw"].tolist())
    return [
        Rollout(
            list(ids), [next(grids) for _ in sample["images"]], list(written), written[-1] in trainer.eos_token_ids
        )
        for ids, sample, written in zip(read, samples, completions, strict=True)
    ]
