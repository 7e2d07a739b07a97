"""Rollouts of a GRPO trainer: vLLM that reads what transformers reads, and rollouts outside of the steps.

    trainer = make_trainer(model=model, args=args, ...)     # a `GRPOTrainer`
    with greedy(trainer):
        rollouts = roll_out(trainer, samples)

Validation and the rollout check use the code that samples the training's completions, with transformers or vLLM.
It calls internals of TRL 1.16 (`VLLMGeneration`, `GRPOTrainer._tokenize_prompts`, `_generate_single_turn`); tests
cover them.
"""

import os
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any
from unittest.mock import patch
from warnings import catch_warnings

import numpy as np
import torch
from accelerate.utils import is_peft_model, set_seed
from peft.tuners.lora import Linear
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from trl import GRPOTrainer
from trl.data_utils import prepare_multimodal_messages
from trl.generation import vllm_generation
from trl.generation.vllm_generation import VLLMGeneration
from trl.trainer import grpo_trainer

from critic.backbones import context_length, cpu_settings

_PROCESS = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


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


@contextmanager
def shared_memory() -> Iterator[None]:
    """A block in which a tensor-parallel vLLM on CPUs creates shared memory that no other training has.

    vLLM 0.31 names it by the ranks alone. A killed training leaves it, and the next one could not create it.
    """
    from vllm.distributed.device_communicators.cpu_communicator import _CPUSHMDistributed as memory

    named = memory.make_group_name

    def of_this_launch(communicator: Any) -> str:
        return f"{named(communicator)}-{os.environ.get('TORCHELASTIC_RUN_ID', '')}"

    with patch.object(memory, "make_group_name", staticmethod(of_this_launch)):
        yield


class PictureVllm(VLLMGeneration):
    """TRL's vLLM with pictures in their places, the trainer's dtype and seed, and on a CPU too.

    It differs from `VLLMGeneration` in colocate mode alone, apart from merged adapters:

    - Prompts have one placeholder per picture, as vLLM expects. TRL 1.16 sends one per patch, which vLLM 0.31
      expands again into a garbled prompt (TRL issue 6401). In server mode TRL sends features of pictures instead.
    - vLLM has the trainer's dtype. By itself it reads a float32 checkpoint as bfloat16.
    - Each sampled completion has a seed of its own, from `seed`, the step and its place. So a run that resumes at
      a step with new rollouts samples what an unbroken one does, and a tensor-parallel group agrees on it.
    - A sync also empties the cache of encoded pictures, which a trained vision tower makes stale.
    - Adapters are merged into copies of the weights, in float32, and rounded once. TRL adds them to the weights
      and subtracts them again, which moves a frozen bfloat16 base (TRL issue 6688).
    - On a CPU vLLM packs the weights of its linear layers, so that TRL can't overwrite them. There the sync goes
      through vLLM's own reload, layer by layer. That leaves out an output layer that is tied to the embedding.
    """

    trainer: GRPOTrainer
    """Whose rollouts these are; `make_trainer` sets it."""

    def _init_vllm(self) -> None:
        settings: dict[str, Any] = {
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "limit_mm_per_prompt": {"image": 2, "video": 0},
            "use_tqdm_on_load": False,
        }
        if not torch.cuda.is_available():
            settings |= cpu_settings(self.model.config, settings["dtype"])
            # A prompt is read whole, so it must fit in a batch of vLLM, to which TRL gives 4,096 tokens.
            given: int | None = self.max_model_length  # type: ignore[has-type]
            self.max_model_length = min(4096, given or context_length(self.model.config))
        with patch.object(vllm_generation, "LLM", partial(vllm_generation.LLM, **settings)), shared_memory():
            super()._init_vllm()
        if self.mode == "colocate":
            self.llm.generate = partial(self._generate_seeded, self.llm.generate)
            self._sampled = (-1, 0)

    def generate(self, prompts: list[list[int]], images: Any, num_generations: int, profiler: Any = None) -> Any:
        if self.mode == "colocate":
            placeholder = self.processing_class.image_token_id
            prompts = [
                [token for place, token in enumerate(ids) if token != placeholder or ids[place - 1] != placeholder]
                for ids in prompts
            ]
        return super().generate(prompts, images, num_generations, profiler)

    def _generate_seeded(
        self, generate: Callable[..., Any], prompts: list[Any], sampling_params: Any, use_tqdm: bool
    ) -> Any:
        sampling_params.detokenize = False  # TRL takes the ids alone
        if sampling_params.temperature == 0:
            return generate(prompts, sampling_params=sampling_params, use_tqdm=use_tqdm)
        step, calls = self.trainer.state.global_step, 0
        if self._sampled[0] == step:
            calls = self._sampled[1]
        self._sampled = (step, calls + 1)
        group = self.accelerator.process_index // self.tensor_parallel_size
        seeds = np.random.SeedSequence([self.trainer.args.seed, step, calls, group]).generate_state(len(prompts))
        each = []
        for seed in seeds.tolist():
            each.append(sampling_params.clone())
            each[-1].seed = seed
        return generate(prompts, sampling_params=each, use_tqdm=use_tqdm)

    def sync_weights(self) -> None:
        if self.mode == "server" or torch.cuda.is_available():
            super().sync_weights()
        else:
            self.llm.collective_rpc("reload_weights", kwargs={"weights_iterator": self._iter_named_params()})
            self.llm.apply_model(_pack_output_layer)
            self.llm.reset_prefix_cache()
        if self.mode == "colocate":
            self.llm.llm_engine.reset_encoder_cache()

    def _iter_named_params(self) -> Iterator[tuple[str, torch.Tensor]]:
        if not is_peft_model(self.model) or self._dist.is_fsdp:
            yield from super()._iter_named_params()
            return
        layers = [layer for layer in self.model.modules() if isinstance(layer, Linear)]
        adapted = {id(layer.get_base_layer().weight): layer for layer in layers}
        for name, weight in self.model.named_parameters():
            if self.model.prefix in name:
                continue
            layer = adapted.get(id(weight))
            parts = [] if layer is None else [*layer.lora_A.parameters(), *layer.lora_B.parameters()]
            with self._dist.gather_params([weight, *parts]):
                merged = weight.data
                if layer is not None:
                    (adapter,) = layer.active_adapters
                    merged = (merged.float() + layer.get_delta_weight(adapter).data.float()).to(merged.dtype)
                yield name.removeprefix("base_model.model.").replace(".base_layer", ""), merged


def _pack_output_layer(model: torch.nn.Module) -> None:
    from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead

    for layer in model.modules():
        if isinstance(layer, ParallelLMHead):
            layer.quant_method.process_weights_after_loading(layer)


def make_trainer(kind: type[GRPOTrainer] = GRPOTrainer, **arguments: Any) -> GRPOTrainer:
    """A `GRPOTrainer` whose vLLM, if it uses one, is a `PictureVllm`.

    Args:
        kind: the class, `GRPOTrainer` or one that inherits from it.
        arguments: of `kind`.
    """
    # For a colocated vLLM, TRL sets what torchrun would, and vLLM seeds the process by its rank.
    before = {name: os.environ.get(name) for name in _PROCESS}
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    try:
        with (
            patch.object(grpo_trainer, "VLLMGeneration", PictureVllm),
            catch_warnings(action="ignore", category=FutureWarning),  # from torch, about vLLM's code
        ):
            trainer = kind(**arguments)
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
    # TRL 1.16 keeps the prompts, and so the pictures, of the last generation batch of all processes for its log of
    # completions, even if it writes none. `CompletionTable` takes a group of them.
    kept = trainer.num_generations if trainer.log_multimodal else 0
    trainer._logs |= {name: deque(maxlen=kept) for name in ("images", "prompt", "completion", "advantages")}
    trainer._logs["rewards"] = defaultdict(lambda: deque(maxlen=kept))
    if trainer.use_vllm:
        trainer.vllm_generation.trainer = trainer
        set_seed(trainer.args.seed, device_specific=True)
    return trainer


class CompletionTable(TrainerCallback):
    """Logs the last completions of a step to W&B, with their pictures and rewards.

    TRL's `log_completions` can't: W&B 0.31 takes neither prompts of parts nor several pictures in a cell.
    """

    def __init__(self, trainer: GRPOTrainer):
        self.trainer = trainer

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        if not state.is_world_process_zero or "reward" not in (logs or {}):
            return
        import wandb

        made = self.trainer._logs
        pictures = [f"picture {number}" for number, _ in enumerate(made["images"][0], 1)]
        table = wandb.Table(columns=[*pictures, "prompt", "completion", *made["rewards"], "advantage"])
        for images, prompt, completion, *numbers in zip(
            made["images"],
            made["prompt"],
            made["completion"],
            *made["rewards"].values(),
            made["advantages"],
            strict=True,
        ):
            shown = [wandb.Image(image) for image in images]
            table.add_data(*shown, _text(prompt), _text(completion), *numbers)
        wandb.log({"completions": table, "train/global_step": state.global_step})


def _text(messages: list[dict[str, Any]]) -> str:
    """What a conversation says, without its pictures."""
    contents = [message["content"] for message in messages]
    parts = [[{"text": content}] if isinstance(content, str) else content for content in contents]
    return "\n".join(part["text"] for some in parts for part in some if part.get("text"))


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
