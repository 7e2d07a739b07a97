"""The memory of a GPU in the trainings, by arithmetic: the tables of docs/full-run.md and docs/bases.md.

    python benchmarks/memory.py                    # pictures of 768 x 768 pixels
    python benchmarks/memory.py --side 1024        # the largest that the prompt contract lets through
    python benchmarks/memory.py --profiles qwen3-vl-8b qwen3-vl-4b qwen3-5-9b

The sizes of batches are those of params.yaml. What autograd keeps in a layer is measured on a layer of an eighth
of the width; on the largest kind, if there are several. A recurrent layer is measured without the kernels for
GPUs, which keep less. Not counted: the CUDA context and NCCL, about 2 GB, the logits, which TRL's fused head
computes in tiles, and what PyTorch's allocator can't use.
"""

import argparse
import re
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from peft import inject_adapter_in_model
from PIL import Image
from transformers import PreTrainedConfig, PreTrainedModel

from critic import params
from critic.prompts import load_contract
from critic.training.packing import NAME, lay_out
from critic.training.setup import adapters

sys.path.insert(0, str(Path(__file__).parent))

from shapes import BASES, config_of, without_memory

GPU = 85.0
"""GB of a GPU sold as "80 GB"."""
TEXT, COMPLETION = 250, 400
"""Tokens of a sample besides its two pictures."""
PROFILES = ("full", "single-gpu")
LIVE, BUCKET = 1e9, 5e8
"""DeepSpeed's defaults: gathered weights (`stage3_max_live_parameters`) and gradients reduced at a time
(`reduce_bucket_size`)."""
PIXEL_COPIES = 3
"""A generation batch's pixels in TRL 1.16: those of the batch before, and the new ones in order and shuffled."""
ROWS = (
    "weights in bfloat16: 2 bytes each, over all GPUs in `full`",
    "gradients in float32: 4 bytes for each trained weight",
    "float32 weights and two Adam states: 12 bytes for each trained weight",
    "ZeRO-3: 1 G gathered weights in bfloat16, 0.5 G gradients in reduction, twice in float32",
    "pixels in float32, of a micro-batch; in GRPO of three generation batches",
    "kept by checkpointing: 2 bytes x width x layers, per token and per patch",
    "the layer that is recomputed",
    "vLLM's share",
    "**in the update**",
    "**while vLLM generates**",
)


def column(profile: str, training: str, side: int) -> list[float | None]:
    """GB of 10^9 bytes on one GPU, in the order of `ROWS`, None for what isn't there.

    Args:
        side: of the pictures before the contract resizes them, in pixels.

    Raises:
        ParamsError: as `critic.params.load`.
    """
    launch = params.load(params.Launch, profile=profile)
    section = params.load(params.Sft if training == "sft" else params.Grpo, profile=profile)
    shape = BASES[params.load(params.Model, profile=profile).base]
    config = config_of(shape)
    vision, text = config.vision_config, config.text_config
    contract = load_contract(params.load(params.Prompt, profile=profile).contract)
    width, height = contract.resize(Image.new("RGB", (side, side))).size
    patches = 2 * (width // vision.patch_size) * (height // vision.patch_size)
    rows = reads = section.per_device_train_batch_size
    if isinstance(section, params.Grpo) and section.share_prompts:
        reads //= section.num_generations
    patches *= reads
    prompt = patches // vision.spatial_merge_size**2 // reads + TEXT
    tokens = reads * prompt + rows * COMPLETION
    shards = launch.nnodes * launch.nproc_per_node if launch.zero_stage == 3 else 1

    everything, trained = count(shape, section)
    pixels = patches * vision.in_channels * vision.temporal_patch_size * vision.patch_size**2 * 4
    vllm = None
    if isinstance(section, params.Grpo):
        pixels *= section.steps_per_generation or section.gradient_accumulation_steps
        vllm = GPU * (section.vllm_gpu_memory_utilization or 0)
    kept = tokens * 2 * text.hidden_size * text.num_hidden_layers
    if not section.freeze_vision:
        kept += patches * 2 * vision.hidden_size * vision.depth
    weights, gradients, states = 2 * everything / shards, 4 * trained / shards, 12 * trained / shards
    sharding = 2 * LIVE + 2 * 4 * BUCKET if launch.zero_stage == 3 else None
    base = [weights, gradients, states, sharding]
    update = [PIXEL_COPIES * pixels if vllm else pixels, kept, tokens * layer_bytes(shape, section, prompt)]
    gb = [None if size is None else size / 1e9 for size in [*base, *update]]
    asleep = isinstance(section, params.Grpo) and section.vllm_enable_sleep_mode
    in_update = sum(filter(None, gb)) + (0 if asleep else vllm or 0)
    generating = None if vllm is None else sum(filter(None, gb[:4])) + pixels / 1e9 + vllm
    return [*gb, vllm, in_update, generating]


@cache
def model_of(shape: str) -> PreTrainedModel:
    """A model of this shape without memory."""
    return without_memory(config_of(shape))


def count(shape: str, section: params.Training) -> tuple[int, int]:
    """All weights, and those that are trained: of adapters, (inputs + outputs) x r for a matrix."""
    sizes = {name.removesuffix(".weight"): size.shape for name, size in model_of(shape).named_parameters()}
    everything = sum(size.numel() for size in sizes.values())
    if (lora := adapters(section, model_of(shape))) is None:
        vision = model_of(shape).get_encoder(modality="image").parameters() if section.freeze_vision else ()
        return everything, everything - sum(weight.numel() for weight in vision)
    adapted = [size for name, size in sizes.items() if re.fullmatch(str(lora.target_modules), name)]
    return everything, sum(sum(size) * lora.r for size in adapted)


def layer_bytes(shape: str, section: params.Training, prompt: int, parts: int = 8) -> float:
    """Bytes per token that autograd keeps for the backward pass of one layer of the language model, in bfloat16.

    They are proportional to the width, so a layer of a part of it is measured, with its adapters, of each kind of
    layer that the model has. If GRPO shares prompts, it reads a group of rows that are as much shorter.
    """
    config = config_of(shape)
    text = type(config.get_text_config())(**config.get_text_config().to_dict())
    text.hidden_size //= parts
    text.intermediate_size //= parts
    for name in ("num_attention_heads", "num_key_value_heads", "linear_num_key_heads", "linear_num_value_heads"):
        if getattr(text, "head_dim", None):  # else the width of a head follows from that of the layer
            setattr(text, name, max(1, getattr(text, name, 0) // parts))
    kinds = getattr(text, "layer_types", None) or ["full_attention"]
    return max(_layer_bytes(shape, section, text, kinds.index(kind), prompt, parts) for kind in {*kinds})


def _layer_bytes(
    shape: str, section: params.Training, text: PreTrainedConfig, number: int, prompt: int, parts: int
) -> float:
    if isinstance(section, params.Grpo) and section.share_prompts:
        prefix = torch.arange(prompt // parts)
        rests = list(torch.arange(section.num_generations * (COMPLETION // parts)).split(COMPLETION // parts))
        layout = lay_out([prefix], [prefix] * len(rests), [rest + len(prefix) for rest in rests])
        tokens, attention = len(layout.order), {"attention_mask": None, "layout": layout}
        text._attn_implementation = NAME
    else:
        tokens, attention = 64, {"attention_mask": torch.ones(1, 1, 64, 64, dtype=torch.bool).tril()}
        if getattr(text, "layer_types", None) and text.layer_types[number] == "linear_attention":
            attention = {"attention_mask": None}
        text._attn_implementation = "sdpa"
    kind = type(model_of(shape).get_decoder().layers[number])
    layer = kind(text, number).to(torch.bfloat16)
    model = torch.nn.ModuleDict({"model": torch.nn.ModuleDict({"language_model": layer})})
    if (lora := adapters(section, model_of(shape))) is not None:
        inject_adapter_in_model(lora, model)
        for name, weight in model.named_parameters():
            weight.requires_grad_("lora_" in name)
            weight.data = weight.data.float() if "lora_" in name else weight.data
    ours = {weight.untyped_storage()._cdata for weight in model.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in ours:
            kept[storage._cdata] = storage
        return tensor

    hidden = torch.zeros(1, tokens, text.hidden_size, dtype=torch.bfloat16, requires_grad=True)
    head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    rotary = int(head * (text.rope_parameters or {}).get("partial_rotary_factor", 1.0))
    turns = (torch.zeros(1, tokens, rotary, dtype=torch.bfloat16),) * 2
    with torch.autocast("cpu", torch.bfloat16), torch.autograd.graph.saved_tensors_hooks(keep, lambda kept: kept):
        layer(hidden, position_embeddings=turns, **attention)
    return parts * sum(storage.nbytes() for storage in kept.values()) / tokens


def table(profiles: Sequence[str] = PROFILES, side: int = 768) -> str:
    """The table in Markdown."""
    places = [(profile, training) for profile in profiles for training in ("sft", "grpo")]
    columns = [column(*place, side) for place in places]
    titles = [f"`{profile}`, {training.upper()}" for profile, training in places]
    lines = [["on one GPU, in GB", *titles], ["---", *["---:"] * len(titles)]]
    for number, name in enumerate(ROWS):
        lines.append([name, *("-" if part[number] is None else f"{part[number]:.1f}" for part in columns)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python benchmarks/memory.py", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--profiles", nargs="+", default=PROFILES, help="of params.yaml (default: the two)")
    parser.add_argument("--side", type=int, default=768, help="of a picture, in pixels (default: 768)")
    given: Any = parser.parse_args()
    print(table(given.profiles, given.side))


if __name__ == "__main__":
    main()
