"""Base models of each family, with a few random weights and the tiny base's tokenizer.

make_base("qwen3_5", folder)
"""

from pathlib import Path

import torch
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    AutoTokenizer,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

from critic.prompts import Contract, load_contract

TINY = Path(__file__).parents[1] / "assets/tiny-base"
TEXT = {
    "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 4, "num_attention_heads": 2,
    "num_key_value_heads": 1, "max_position_embeddings": 4096, "tie_word_embeddings": True,
}  # fmt: skip
VISION = {"depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "out_hidden_size": 64}
NEWER = {"patch_size": 16, "num_position_embeddings": 64}
HALVES = {"patch_size": 16, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
ROPE = {"rope_type": "default", "rope_theta": 10000.0}
FAMILIES = {
    "qwen2_5_vl": (
        TEXT | {"rope_parameters": ROPE | {"mrope_section": [4, 6, 6]}},
        VISION | {"window_size": 112, "fullatt_block_indexes": [1]},
    ),
    "qwen3_vl": (
        TEXT | {"head_dim": 32, "rope_parameters": ROPE | {"mrope_section": [6, 5, 5], "mrope_interleaved": True}},
        VISION | NEWER | {"deepstack_visual_indexes": [0, 1]},
    ),
    # vLLM on a CPU needs heads of 128 in its linear attention.
    "qwen3_5": (
        TEXT
        | {
            "head_dim": 32, "linear_num_key_heads": 1, "linear_num_value_heads": 2, "linear_key_head_dim": 128,
            "linear_value_head_dim": 128,
            "rope_parameters": ROPE
            | {"mrope_section": [2, 1, 1], "mrope_interleaved": True, "partial_rotary_factor": 0.25},
        },
        VISION | NEWER,
    ),
}  # fmt: skip


def make_base(family: str, folder: Path, *, dtype: torch.dtype = torch.float32) -> Path:
    """Write a base with random weights, always the same."""
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    token = tokenizer.convert_tokens_to_ids
    text, vision = FAMILIES[family]
    ends = {"eos_token_id": token("<|im_end|>"), "pad_token_id": token("<|endoftext|>"), "bos_token_id": None}
    config = AutoConfig.for_model(
        family,
        text_config=text | {"vocab_size": len(tokenizer)} | ends,
        vision_config=vision,
        image_token_id=token("<|image_pad|>"),
        video_token_id=token("<|video_pad|>"),
        vision_start_token_id=token("<|vision_start|>"),
        vision_end_token_id=token("<|vision_end|>"),
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(config).to(dtype)
    model.generation_config.eos_token_id = [token("<|im_end|>"), token("<|endoftext|>")]
    model.generation_config.pad_token_id = token("<|endoftext|>")
    model.save_pretrained(folder)
    limits = {"min_pixels": 4096, "max_pixels": 65536}
    tokenizer.image_token, tokenizer.video_token = "<|image_pad|>", "<|video_pad|>"
    if family == "qwen2_5_vl":
        processor = Qwen2_5_VLProcessor(
            Qwen2VLImageProcessor(**limits), tokenizer, Qwen2VLVideoProcessor(**limits), chat_template="unused"
        )
    else:
        images, videos = Qwen2VLImageProcessor(**limits, **HALVES), Qwen3VLVideoProcessor(**limits)
        processor = Qwen3VLProcessor(images, tokenizer, videos, chat_template="unused")
    processor.save_pretrained(folder)
    return folder


def contract_of(family: str) -> Contract:
    """The contract of the tiny critic for this family."""
    return load_contract("tiny" if family == "qwen2_5_vl" else "tiny-32")
