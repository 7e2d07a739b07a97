"""The shapes of the hub's models, from their config.json, for benchmarks with random weights.

config_of("qwen3-vl-8b")
"""

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForImageTextToText, PreTrainedConfig, PreTrainedModel

_QWEN3_TEXT = {
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 151936,
    "max_position_embeddings": 262144,
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 5e6,
        "mrope_section": [24, 20, 20],
        "mrope_interleaved": True,
    },
}
_QWEN3_VISION = {"depth": 27, "hidden_size": 1152, "intermediate_size": 4304, "num_heads": 16}
SHAPES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "7b": (  # Qwen/Qwen2.5-VL-7B-Instruct
        "assets/tiny-base",
        {
            "hidden_size": 3584,
            "intermediate_size": 18944,
            "num_hidden_layers": 28,
            "num_attention_heads": 28,
            "num_key_value_heads": 4,
            "vocab_size": 152064,
            "max_position_embeddings": 128000,
            "max_window_layers": 28,
            "rms_norm_eps": 1e-6,
            "tie_word_embeddings": False,
            "layer_types": None,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
        },
        {
            "depth": 32,
            "hidden_size": 1280,
            "intermediate_size": 3420,
            "num_heads": 16,
            "out_hidden_size": 3584,
            "fullatt_block_indexes": [7, 15, 23, 31],
        },
    ),
    "qwen3-vl-8b": (  # Qwen/Qwen3-VL-8B-Instruct
        "assets/tiny-base-qwen3-vl",
        _QWEN3_TEXT | {"hidden_size": 4096, "intermediate_size": 12288, "tie_word_embeddings": False},
        _QWEN3_VISION
        | {"out_hidden_size": 4096, "num_position_embeddings": 2304, "deepstack_visual_indexes": [8, 16, 24]},
    ),
    "qwen3-vl-4b": (  # Qwen/Qwen3-VL-4B-Instruct
        "assets/tiny-base-qwen3-vl",
        _QWEN3_TEXT | {"hidden_size": 2560, "intermediate_size": 9728, "tie_word_embeddings": True},
        _QWEN3_VISION
        | {"depth": 24, "hidden_size": 1024, "intermediate_size": 4096, "out_hidden_size": 2560}
        | {"num_position_embeddings": 2304, "deepstack_visual_indexes": [5, 11, 17]},
    ),
    "qwen3.5-9b": ("assets/tiny-base-qwen3-vl", {}, {"out_hidden_size": 4096}),  # the defaults of Qwen3_5Config
}
"""The tiny base of the same processor, and what differs in the text's and the vision tower's config. Tests compare
the numbers of weights with the hub's: 8,292,166,656 (of Qwen2.5-VL-7B), 8,767,123,696 and 4,437,815,808."""
BASES = {
    "Qwen/Qwen2.5-VL-7B-Instruct": "7b",
    "Qwen/Qwen3-VL-8B-Instruct": "qwen3-vl-8b",
    "Qwen/Qwen3-VL-4B-Instruct": "qwen3-vl-4b",
    "Qwen/Qwen3.5-9B": "qwen3.5-9b",
}
"""The shape of a base of params.yaml."""
TINY = {"tiny": "assets/tiny-base", "tiny-qwen3-vl": "assets/tiny-base-qwen3-vl"}
FAMILIES = {"qwen3.5-9b": "qwen3_5"}
"""Shapes of another family than their tiny base."""


def tiny_base(shape: str) -> str:
    """The base whose processor and special tokens a shape has."""
    return TINY.get(shape) or SHAPES[shape][0]


def config_of(shape: str) -> PreTrainedConfig:
    """The config of a shape of `SHAPES` or `TINY`, with the tiny tokenizer's special tokens."""
    fields = AutoConfig.from_pretrained(tiny_base(shape)).to_dict()
    if shape not in SHAPES:
        return AutoConfig.for_model(**fields)
    _, text, vision = SHAPES[shape]
    if shape not in FAMILIES:
        fields["text_config"] |= text
        fields["vision_config"] |= vision
        fields["tie_word_embeddings"] = text["tie_word_embeddings"]
        return AutoConfig.for_model(**fields)
    tokens = {name: value for name, value in fields.items() if name.endswith("_token_id")}
    ends = {name: fields["text_config"][name] for name in ("eos_token_id", "pad_token_id")}
    return AutoConfig.for_model(
        FAMILIES[shape], text_config=text | ends, vision_config=vision, tie_word_embeddings=False, **tokens
    )


def without_memory(config: PreTrainedConfig) -> PreTrainedModel:
    """A model on the meta device."""
    with torch.device("meta"):
        return AutoModelForImageTextToText.from_config(config)
