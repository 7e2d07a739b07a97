"""Rollouts of a GRPO trainer under our hand: greedy, and with the prompt ids that its engine read.

    with greedy(trainer):
        rollouts = roll_out(trainer, samples)

Validation and preflight see the very path that samples the training's completions, transformers or vLLM. It goes
through internals of TRL 1.16 (`GRPOTrainer._tokenize_prompts`, `_generate_single_turn`), which the tests hold.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from trl import GRPOTrainer
from trl.data_utils import prepare_multimodal_messages


@dataclass(frozen=True)
class Rollout:
    """What the engine read and wrote.

    Attributes:
        prompt_ids: the prompt's tokens as the engine had them, pictures' placeholders included.
        grids: [pictures, 3], time, height and width of each picture in patches.
        completion_ids: the tokens written, the end token included.
        finished: whether it came to its end.
    """

    prompt_ids: list[int]
    grids: list[list[int]]
    completion_ids: list[int]
    finished: bool


def let_vllm_place_pictures(trainer: GRPOTrainer) -> None:
    """Hand a colocated vLLM prompts with one placeholder a picture, as it wants them.

    TRL 1.16 sends prompts in which the processor has put as many placeholders as the picture has patches, beside
    the pictures; vLLM 0.31 puts its own in as well, and the completions are those of garbled prompts (TRL issue
    6401). Its server mode sends the pictures' features for the places that are there, and is left alone.
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
    """Rollouts take the likeliest token at each place, and the model drops nothing out."""
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
    """One completion of each sample (`prompt`, `images`), as one batch; all processes take part."""
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
