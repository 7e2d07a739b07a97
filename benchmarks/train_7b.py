"""Time training steps of a Qwen2.5-VL of 7B, or another base, with random weights: tokens a second, MFU, memory.

    python benchmarks/train_7b.py sft                            # one GPU of 80 GB, LoRA: profile single-gpu
    python benchmarks/train_7b.py grpo
    torchrun --nproc-per-node 8 benchmarks/train_7b.py sft --profile full    # all weights on 8 GPUs: ZeRO-3
    python benchmarks/train_7b.py sft --set model.attn_implementation=flash_attention_2 grpo.share_prompts=false
    python benchmarks/train_7b.py grpo --set grpo.share_prompts=false        # each completion reads its prompt
    torchrun --nproc-per-node 8 benchmarks/train_7b.py grpo --shape qwen3.5-9b
    python benchmarks/train_7b.py sft --shape tiny               # on any CPU: does it run?

Run it from the top folder of the project, after `make setup LOCK=gpu`, with the environment's Python. It needs no
hub and no data: weights, pictures and texts are random, and the tokenizer is that of assets/tiny-base. Everything
else is the pipeline's: params.yaml, `critic.training.setup`, `arguments` of stages/sft.py and stages/grpo.py,
TRL's trainers. The table goes to the terminal and, with all settings, to runs/train_7b/<training>.json;
docs/gpu-results.md keeps results.

MFU is the model's FLOPs divided by the peak FLOPs of the GPUs in that time. `forward_flops`, `update_flops` and
`rollout_flops` give the FLOPs, for all tokens except padding. The recomputation of gradient checkpointing doesn't
count, nor does the pass that compares the trainer's probabilities with vLLM's.
"""

import argparse
import json
import os
import resource
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial, wraps
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import yaml
from accelerate import PartialState
from accelerate.utils import gather_object
from peft import get_peft_model
from PIL import Image
from transformers import (
    AutoModelForImageTextToText,
    PreTrainedConfig,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from trl import GRPOTrainer, SFTTrainer
from trl.trainer.utils import get_peak_flops

from critic import params
from critic.checkpoints import load_processor, save_checkpoint
from critic.data.trl_datasets import load_samples, write_samples
from critic.edits import Edit
from critic.prompts import LEARNT, Contract, load_contract
from critic.training.rollout_check import RolloutMismatch, check_rollouts
from critic.training.setup import adapters, join_processes, load_trainable
from stages import grpo, sft

sys.path.insert(0, str(Path(__file__).parent))

from shapes import SHAPES, TINY, config_of, tiny_base, without_memory

RUN = Path("runs/train_7b")
PROFILES = {shape: shape.replace(".", "-") for shape in (*SHAPES, *TINY)} | {"7b": "single-gpu"}
"""The profile of params.yaml for each shape."""


class BenchmarkError(ValueError):
    """The benchmark can't run like this; the message says what to change."""


# --- the arithmetic


@dataclass(frozen=True)
class Weights:
    """Numbers of weights in a forward pass.

    Attributes:
        language: for each token.
        head: for each token with logits.
        vision: for each patch.
        merger: for each square of patches that becomes one token.
        adapters: LoRA's, for each token; 0 without.
    """

    language: int
    head: int
    vision: int
    merger: int
    adapters: int


@dataclass(frozen=True)
class Batch:
    """Samples without their padding.

    Attributes:
        prompts, completions: tokens of each sample.
        grids: [pictures, 3], in patches, of the pictures that the update reads.
        group: how many samples in a row have the same prompt and pictures, which the update reads once.
    """

    prompts: list[int]
    completions: list[int]
    grids: list[list[int]]
    group: int = 1


class Flops(NamedTuple):
    """FLOPs of a forward pass: the language model's weights, its attention, the adapters and the vision tower."""

    weights: float
    attention: float
    adapters: float
    vision: float


def count_weights(config: PreTrainedConfig, section: params.Training) -> Weights:
    """Count the weights on a model without memory, because ZeRO-3 shards the trained one.

    Call this before the trainer's arguments are made; after that, ZeRO-3 shards every new model.
    """

    def count(module: torch.nn.Module) -> int:
        return sum(weight.numel() for weight in module.parameters())

    model = without_memory(config)
    language, visual = model.get_decoder(), model.get_encoder(modality="image")
    mergers = count(visual.merger) + sum(map(count, getattr(visual, "deepstack_merger_list", [])))
    looked_up = count(visual.pos_embed) if hasattr(visual, "pos_embed") else 0  # not multiplied
    counted = {
        "language": count(language) - count(language.embed_tokens),
        "head": count(model.lm_head),
        "vision": count(visual) - mergers - looked_up,
        "merger": mergers,
    }
    lora = adapters(section, model)
    adapted = 0 if lora is None else get_peft_model(model, lora).get_nb_trainable_parameters()[0]
    return Weights(**counted, adapters=adapted)


def forward_flops(
    config: PreTrainedConfig, weights: Weights, tokens: float, pairs: float, scored: float, grids: Sequence[Any]
) -> Flops:
    """A forward pass by PaLM's formula (arXiv 2204.02311, appendix B), for language model and vision tower apart.

    With N weights, L layers, H heads of size Q and T tokens that attend to each other, PaLM counts 6N + 12 L H Q T
    per token for forward and backward; forward alone is a third. T includes tokens that the causal mask hides. In
    the vision tower of a Qwen2.5-VL, T is the picture in some layers and a window in the others, smaller at the
    edges; elsewhere it is the picture. The state of a recurrent layer isn't counted: 1 % of what its weights are.

    Args:
        tokens: that go through the language model.
        pairs: pairs of a token and one that it attends to, itself included: T^2 for a whole sequence.
        scored: tokens with logits.
        grids: time (1), height and width of each picture in patches.
    """
    text, vision = config.text_config, config.vision_config
    kinds = getattr(text, "layer_types", None) or ["full_attention"] * text.num_hidden_layers
    attending = text.num_hidden_layers - kinds.count("linear_attention")
    width_of_heads = text.num_attention_heads * (
        getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    )
    patches = sum(height * width for _, height, width in grids)
    whole = sum((height * width) ** 2 for _, height, width in grids)
    full, windowed = vision.depth, 0
    if hasattr(vision, "window_size"):
        full, side = len(vision.fullatt_block_indexes), vision.window_size // vision.patch_size
        windowed = sum(_squares(height, side) * _squares(width, side) for _, height, width in grids)
    merged = patches / vision.spatial_merge_size**2
    return Flops(
        weights=2 * (weights.language * tokens + weights.head * scored),
        attention=4 * attending * width_of_heads * pairs,
        adapters=2 * weights.adapters * tokens,
        vision=2 * (weights.vision * patches + weights.merger * merged)
        + 4 * vision.hidden_size * (full * whole + (vision.depth - full) * windowed),
    )


def _squares(length: int, part: int) -> int:
    """The sum of squared lengths of the parts of a length; the last part may be shorter."""
    return length // part * part**2 + (length % part) ** 2


def update_flops(config: PreTrainedConfig, weights: Weights, batch: Batch, section: params.Training) -> float:
    """Forward and backward over a batch. As in `forward_flops`, pairs that the causal mask hides count.

    Backward costs a forward pass for the gradients of the inputs, and another for the gradients of the weights. A
    frozen language model needs no second one, a frozen vision tower neither; LoRA freezes both.
    """
    prompts, written = batch.prompts[:: batch.group], sum(batch.completions)
    pairs = sum(length**2 for length in prompts)
    pairs += sum(new * (2 * old + new) for old, new in zip(batch.prompts, batch.completions, strict=True))
    passes = forward_flops(config, weights, sum(prompts) + written, pairs, written, batch.grids)
    return (
        (3 if section.lora is None else 2) * passes.weights
        + 3 * passes.attention
        + 3 * passes.adapters
        + (1 if section.lora or section.freeze_vision else 3) * passes.vision
    )


def rollout_flops(config: PreTrainedConfig, weights: Weights, batch: Batch, group: int) -> float:
    """Generation of a batch's completions: a pass over each prompt, once per group, and over each completion."""
    lengths = batch.prompts
    *prompts, vision = forward_flops(
        config, weights, sum(lengths), sum(length**2 for length in lengths), 0, batch.grids
    )
    written = sum(batch.completions)
    pairs = sum(new * (old + new) for old, new in zip(batch.prompts, batch.completions, strict=True))
    reading = (sum(prompts) + batch.group * vision) / group
    return reading + sum(forward_flops(config, weights, written, pairs, written, []))


# --- what is trained, and on what


def load_sections(profile: str, changes: Sequence[str]) -> dict[type[params.Section], Any]:
    """Load the sections of a profile of params.yaml with changed values ("sft.lora=null", in YAML).

    Raises:
        ParamsError: there is no such profile or key, or a value is wrong.
        BenchmarkError: a change has no key or value.
    """
    params.load(params.Launch, profile=profile)
    content = yaml.safe_load(params.FILE.read_text(encoding="utf-8"))
    for change in changes:
        key, _, value = change.partition("=")
        *folders, name = key.split(".")
        part: Any = content["profiles"][profile]
        for folder in folders:
            part = part.setdefault(folder, {}) if isinstance(part, dict) else None
        if not folders or not value or not isinstance(part, dict):
            raise BenchmarkError(
                f"--set {change}: give a section's key and its value, such as sft.per_device_train_batch_size=4"
            )
        part[name] = yaml.safe_load(value)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "params.yaml"
        file.write_text(yaml.safe_dump(content))
        return {section: params.load(section, file, profile=profile) for section in params.SECTIONS}


def make_base(shape: str, model: params.Model, contract: Contract, seed: int) -> Path:
    """A checkpoint with random weights and the tiny base's tokenizer, made once."""
    folder = RUN / f"{shape}-{contract.name}"
    state = PartialState()
    if state.is_main_process and not folder.exists():
        torch.manual_seed(seed)
        with torch.device(state.device):
            made = AutoModelForImageTextToText.from_config(config_of(shape), dtype=getattr(torch, model.dtype))
        save_checkpoint(made, load_processor(tiny_base(shape), contract), contract, folder)
        del made
        torch.cuda.empty_cache()  # vLLM looks at what is free
    state.wait_for_everyone()
    return folder


def make_samples(
    path: Path, number: int, tokens: int | None, sides: tuple[int, int], contract: Contract, words: list[str]
) -> None:
    """Write random samples: two pictures, an instruction, and a completion of `tokens` or, for RL, a MOS."""
    rng = np.random.default_rng(0)

    def text(length: int) -> str:
        return "".join(rng.choice(words, length))

    def picture() -> dict[str, Any]:
        blobs = rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)
        width, height = rng.integers(sides[0], sides[1], 2, endpoint=True)
        file = BytesIO()
        Image.fromarray(blobs).resize((int(width), int(height)), Image.Resampling.BICUBIC).save(file, "JPEG")
        return {"bytes": file.getvalue(), "path": None}

    blank = Image.new("RGB", (56, 56))
    samples = []
    for n in range(number):
        edit = Edit(f"random-{n}", blank, blank, text(12))
        sample: dict[str, Any] = {
            "id": edit.id,
            "prompt": contract.messages(edit),
            "images": [picture(), picture()],
        }
        if tokens is None:
            sample |= {"mos": 3.0}
        else:
            content = [{"type": "text", "text": text(tokens)}]
            sample |= {"mode": "reasoning", "completion": [{"role": "assistant", "content": content}]}
        samples.append(sample)
    write_samples(samples, path)


def one_token_words(processor: Any) -> list[str]:
    """Words, each with a leading space, that are one token: n of them in a row are n tokens."""
    tokenizer = processor.tokenizer
    texts = (tokenizer.decode([token]) for token in range(len(tokenizer)))
    return [text for text in texts if text[:1] == " " and text[1:].isalpha() and len(tokenizer.encode(text)) == 1]


# --- what is timed


class Clock(TrainerCallback):
    """Records when each step ends, with its work on the GPU, and the memory in use."""

    def __init__(self) -> None:
        self.ends: list[float] = []
        self.memory_in_use = 0

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.ends.append(now())
        if torch.cuda.is_available():
            free, total = torch.cuda.mem_get_info()
            self.memory_in_use = max(self.memory_in_use, total - free)


def now() -> float:
    """Seconds on the clock, after the GPU finished its work."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


class Meter:
    """Times the parts of a trainer's steps, and keeps the masks and grids of its micro-batches.

    Attributes:
        spent: part, step and seconds of each call: "rollout" includes "sync", of the weights to vLLM; "logprob" is
            the pass before the update that gives the trainer's own log-probabilities.
    """

    def __init__(self, trainer: SFTTrainer | GRPOTrainer) -> None:
        self.seen: list[dict[str, torch.Tensor]] = []
        self.spent: list[tuple[str, int, float]] = []
        self.trainer = trainer
        trainer.compute_loss = self._keeping(trainer.compute_loss)
        if isinstance(trainer, GRPOTrainer):
            trainer._generate_single_turn = self._timed("rollout", trainer._generate_single_turn)
            logprobs = trainer._get_per_token_logps_and_entropies
            timed = self._timed("logprob", logprobs)
            trainer._get_per_token_logps_and_entropies = lambda *args, **kwargs: (
                logprobs if torch.is_grad_enabled() else timed
            )(*args, **kwargs)
            if trainer.use_vllm:
                trainer.vllm_generation.sync_weights = self._timed("sync", trainer.vllm_generation.sync_weights)

    def seconds(self, part: str, warmup: int) -> float:
        """Of a part in all steps after the warm-up."""
        return sum(seconds for name, step, seconds in self.spent if name == part and step >= warmup)

    def _keeping(self, compute_loss: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(compute_loss)
        def kept(model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
            names = ("attention_mask", "labels", "prompt_mask", "completion_mask", "image_grid_thw")
            self.seen.append({name: inputs[name] for name in names if name in inputs})
            return compute_loss(model, inputs, *args, **kwargs)

        return kept

    def _timed(self, part: str, call: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(call)
        def timed(*args: Any, **kwargs: Any) -> Any:
            step, began = self.trainer.state.global_step, now()
            result = call(*args, **kwargs)
            self.spent.append((part, step, now() - began))
            return result

        return timed


def batch_of(seen: dict[str, torch.Tensor], group: int) -> Batch:
    """What a micro-batch of either training held; `group` as in `Batch`."""
    if "labels" in seen:
        completions = (seen["labels"] != -100).sum(dim=1)
        prompts = seen["attention_mask"].sum(dim=1) - completions
    else:
        prompts, completions = seen["prompt_mask"].sum(dim=1), seen["completion_mask"].sum(dim=1)
    return Batch(prompts.tolist(), completions.tolist(), seen["image_grid_thw"].tolist(), group)


def contract_of(sections: dict[type[params.Section], Any]) -> Contract:
    """The profile's. A learnt one needs `download`; ie-critic, of the same pixel limits, takes its place."""
    name = sections[params.Prompt].contract
    return load_contract("ie-critic" if name == LEARNT else name)


def make_trainer(
    training: str, sections: dict[type[params.Section], Any], base: Path, samples: Path, tokens: int, seed: int
) -> SFTTrainer | GRPOTrainer:
    """The trainer of a stage, on the random base."""
    section, launch = sections[params.Sft if training == "sft" else params.Grpo], sections[params.Launch]
    contract = contract_of(sections)
    processor = load_processor(base, contract)
    folder = RUN / training
    args: Any  # before the model, as ZeRO-3 needs it
    if training == "sft":
        args = sft.arguments(section, launch, seed, folder)
        keep, make = args.per_device_train_batch_size, partial(sft.make_trainer, section)
    else:
        args = grpo.arguments(section, launch, seed, folder, processor)
        args.generation_kwargs["min_tokens" if args.use_vllm else "min_new_tokens"] = tokens
        keep = grpo.pictures_of_a_batch(args)
        make = partial(grpo.make_trainer, section, sections[params.Reward], contract)
    args.save_strategy = "no"
    return make(
        model=load_trainable(base, sections[params.Model], section),
        processing_class=processor,
        args=args,
        train_dataset=load_samples(samples, contract, keep=keep),
    )


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """Train for some steps and measure them, without the warm-up.

    Raises:
        BenchmarkError: there is no GPU for the 7B, or one of unknown speed, or the number of processes
            isn't that of `launch`.
        ParamsError: as `load_sections`.
    """
    started = [f"launch.nproc_per_node={os.environ.get('WORLD_SIZE', 1)}"] if given.shape in TINY else []
    sections = load_sections(given.profile or PROFILES[given.shape], [*started, *given.set])
    launch, model, seed = sections[params.Launch], sections[params.Model], params.seed()
    peak = peak_flops(given, model.dtype)
    join_processes(launch)
    state = PartialState()
    if state.num_processes != (asked := launch.nnodes * launch.nproc_per_node):
        raise BenchmarkError(
            f"launch asks for {asked} processes, and this is {state.num_processes}: start it with `torchrun "
            f"--nproc-per-node {launch.nproc_per_node}`, or --set launch.nproc_per_node={state.num_processes}"
        )
    steps = given.warmup + given.steps
    tokens = given.completion_tokens
    if given.training == "sft":
        section = sections[params.Sft] = sections[params.Sft].model_copy(update={"num_train_epochs": 1.0})
        group = 1
    else:
        update = {"max_steps": steps, "max_completion_length": tokens}
        section = sections[params.Grpo] = sections[params.Grpo].model_copy(update=update)
        group = section.num_generations
    contract = contract_of(sections)
    base = make_base(given.shape, model, contract, seed)
    number = (
        steps
        * section.per_device_train_batch_size
        * section.gradient_accumulation_steps
        * state.num_processes
        // group
    )
    samples = RUN / f"{given.training}.parquet"
    if state.is_main_process:
        words = one_token_words(load_processor(base, contract))
        make_samples(samples, number, None if group > 1 else tokens, given.sides, contract, words)
    state.wait_for_everyone()
    config = config_of(given.shape)
    weights = count_weights(config, section)
    trainer = make_trainer(given.training, sections, base, samples, tokens, seed)
    clock, meter = Clock(), Meter(trainer)
    trainer.add_callback(clock)
    trainer.train()
    measured = figures(meter, clock, config, weights, section, given.warmup, group, peak)
    return {
        "training": given.training,
        "command": shlex.join(["python", *sys.argv]),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU",
        "processes": state.num_processes,
        "peak_tflops": None if peak is None else peak / 1e12,
        "versions": {name: version(name) for name in ("torch", "transformers", "trl", "deepspeed", "peft")},
        "settings": {part.name: part.model_dump() for part in (model, launch, section)},
        "measured": measured,
        "rollout_check": check(trainer, sections, contract, samples) if given.check_rollouts else None,
    }


def check(
    trainer: GRPOTrainer, sections: dict[type[params.Section], Any], contract: Contract, samples: Path
) -> str:
    """Compare rollouts with transformers after the steps, as GRPO does before the first; "" if they agree.

    With `vllm_enable_sleep_mode` vLLM has slept during the update before, and wakes for them.
    """
    limits = sections[params.Grpo].rollout_check
    chosen = load_samples(samples, contract)
    number = min(limits.prompts, len(chosen))
    try:
        check_rollouts(trainer, [chosen[n] for n in range(number)], contract, limits)
    except RolloutMismatch as error:
        return str(error)
    return ""


def figures(
    meter: Meter,
    clock: Clock,
    config: PreTrainedConfig,
    weights: Weights,
    section: params.Training,
    warmup: int,
    group: int,
    peak: float | None,
) -> dict[str, Any]:
    """Figures of the steps after the warm-up, over all processes; memory is the largest of a process."""
    sharing = group if section.share_prompts else 1
    batches = [batch_of(seen, sharing) for seen in meter.seen[warmup * section.gradient_accumulation_steps :]]
    mine = {
        "prompts": sum(sum(batch.prompts) for batch in batches),
        "completions": sum(sum(batch.completions) for batch in batches),
        "updates": sum(update_flops(config, weights, batch, section) for batch in batches),
        "rollouts": sum(rollout_flops(config, weights, batch, group) for batch in batches) if group > 1 else 0,
    }
    everyone = gather_object([mine])
    total = {name: sum(process[name] for process in everyone) for name in mine}
    steps = len(clock.ends) - warmup
    seconds = clock.ends[-1] - clock.ends[warmup - 1]
    generating, syncing, scoring = (meter.seconds(part, warmup) for part in ("rollout", "sync", "logprob"))
    rolling = generating - syncing

    def mfu(flops: float, seconds: float) -> float | None:
        return None if peak is None else flops / (seconds * len(everyone) * peak)

    return {
        "steps": steps,
        "seconds_per_step": seconds / steps,
        "rollout_seconds_per_step": rolling / steps,
        "logprob_seconds_per_step": scoring / steps,
        "update_seconds_per_step": (seconds - generating - scoring) / steps,
        "sync_seconds_per_step": syncing / steps,
        "prompt_tokens_per_step": total["prompts"] / steps,
        "completion_tokens_per_step": total["completions"] / steps,
        "tokens_per_second": (total["prompts"] + total["completions"]) / seconds,
        "rollout_tokens_per_second": total["completions"] / rolling if rolling else None,
        "model_tflops_per_step": (total["updates"] + total["rollouts"]) / steps / 1e12,
        "mfu": mfu(total["updates"] + total["rollouts"], seconds),
        "mfu_of_updates": mfu(total["updates"], seconds - generating),
        "peak_memory_gib": max(gather_object([peak_memory()])),
        "device_memory_gib": max(gather_object([clock.memory_in_use])) / 2**30 or None,
    }


def peak_flops(given: argparse.Namespace, dtype: str) -> float | None:
    """Peak FLOP/s of a GPU: as given, or TRL's figure for its name; None on a CPU.

    Raises:
        BenchmarkError: there is no GPU for the 7B, or TRL doesn't know it.
    """
    if not torch.cuda.is_available():
        if given.shape not in TINY:
            raise BenchmarkError(f"there is no GPU here for the {given.shape}: --shape tiny runs on any machine")
        return None
    name = torch.cuda.get_device_name()
    known = given.peak_tflops * 1e12 if given.peak_tflops else get_peak_flops(name, dtype)
    if known is None:
        raise BenchmarkError(f"the peak of {name} in {dtype} is unknown: set its dense TFLOP/s by --peak-tflops")
    return known


def peak_memory() -> float:
    """Peak GiB that PyTorch allocated on the GPU, or without a GPU the process's peak resident memory."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def table(result: dict[str, Any]) -> str:
    """The result as a Markdown table."""
    measured = result["measured"]
    rows = [
        (f"{result['training']} on", f"{result['processes']} x {result['device']}"),
        ("---", "---:"),
        ("seconds per step", f"{measured['seconds_per_step']:.2f}"),
        ("of these, rollouts", f"{measured['rollout_seconds_per_step']:.2f}"),
        ("log-probabilities before the update", f"{measured['logprob_seconds_per_step']:.2f}"),
        ("updates", f"{measured['update_seconds_per_step']:.2f}"),
        ("weights to vLLM", f"{measured['sync_seconds_per_step']:.2f}"),
        ("prompt tokens per step", f"{measured['prompt_tokens_per_step']:,.0f}"),
        ("completion tokens per step", f"{measured['completion_tokens_per_step']:,.0f}"),
        ("tokens per second", f"{measured['tokens_per_second']:,.0f}"),
        ("tokens per second of rollouts", _shown("{:,.0f}", measured["rollout_tokens_per_second"])),
        ("model TFLOPs per step", f"{measured['model_tflops_per_step']:,.2f}"),
        ("MFU", _shown("{:.1%}", measured["mfu"])),
        ("MFU without rollouts", _shown("{:.1%}", measured["mfu_of_updates"])),
        ("peak memory, GiB", f"{measured['peak_memory_gib']:.1f}"),
        ("device memory in use, GiB", _shown("{:.1f}", measured["device_memory_gib"])),
    ]
    return "\n".join(f"| {name} | {value} |" for name, value in rows)


def _shown(how: str, value: float | None) -> str:
    return "-" if value is None else how.format(value)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    summary, examples = (__doc__ or "").split("\n\n", 1)
    parser = argparse.ArgumentParser(
        prog="python benchmarks/train_7b.py",
        description=summary,
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("training", choices=("sft", "grpo"))
    parser.add_argument(
        "--shape", choices=(*SHAPES, *TINY), default="7b", help="model size (default: 7b); tiny: assets/tiny-base"
    )
    parser.add_argument("--profile", help="profile of params.yaml (default: single-gpu for 7b, else the shape's)")
    parser.add_argument(
        "--set", metavar="KEY=VALUE", nargs="+", action="extend", default=[],
        help="change values of the profile, such as sft.lora=null sft.use_liger_kernel=false",
    )  # fmt: skip
    parser.add_argument("--steps", type=int, default=5, help="steps to measure (default: 5)")
    parser.add_argument("--warmup", type=int, default=2, help="unmeasured steps before, at least 1 (default: 2)")
    parser.add_argument("--completion-tokens", type=int, help="of each sample (default: 512; tiny: 48)")
    parser.add_argument(
        "--sides", type=int, nargs=2, metavar=("MIN", "MAX"),
        help="range of a picture's sides in pixels (default: 768 1024; tiny: 84 112). The prompt contract's pixel "
        "limits apply afterwards",
    )  # fmt: skip
    parser.add_argument(
        "--check-rollouts", action="store_true", help="of grpo: compare rollouts with transformers after the steps"
    )
    parser.add_argument(
        "--peak-tflops", type=float, help="dense peak of one GPU (default: TRL's figure for its name)"
    )
    given = parser.parse_args(arguments)
    if given.check_rollouts and given.training != "grpo":
        parser.error("--check-rollouts goes with grpo")
    if min(given.steps, given.warmup) < 1:
        parser.error("--steps and --warmup are at least 1")
    given.completion_tokens = given.completion_tokens or (48 if given.shape in TINY else 512)
    given.sides = tuple(given.sides or ((84, 112) if given.shape in TINY else (768, 1024)))
    return given


def main() -> None:
    given = parse()
    try:
        result = measure(given)
    except (BenchmarkError, params.ParamsError) as error:
        raise SystemExit(str(error)) from None
    if PartialState().is_main_process:
        print(table(result))
        file = RUN / f"{given.training}.json"
        file.write_text(json.dumps(result, indent=2) + "\n")
        print(f"\nwith all settings: {file}")


if __name__ == "__main__":
    main()
