"""A vision tower with fewer and faster calls than transformers makes, and the same outputs.

    pack_windows(model)        # loaded with attn_implementation="sdpa"
    multiply_patches(model)

A vision tower attends within windows, or within pictures, that are packed into one sequence. For SDPA,
transformers 5.17 splits the sequence and calls the attention once for each: for 16 pictures of 756 x 756 pixels,
784 times in each of 28 layers. For an implementation with "flash" in its name, it makes one call with the whole
sequence and the boundaries (`cu_seq_lens_q`). `attend` takes that call. On a CPU, its outputs and gradients equal
those of the loop to the bit.
"""

from collections import defaultdict
from itertools import pairwise
from typing import Any

import torch
from torch.nn.functional import linear, scaled_dot_product_attention
from transformers import AttentionInterface, PreTrainedModel

NAME = "sdpa_by_flash_interface"


def pack_windows(model: PreTrainedModel) -> None:
    """Let the vision tower of a model use `attend`.

    The name goes straight into the config: `set_attn_implementation` looks for a package of any "flash".
    """
    model.get_encoder(modality="image").config._attn_implementation = NAME


class WholePatch(torch.nn.Conv3d):
    """A convolution with inputs as large as its kernel: a matrix product, which is several times faster.

    `fusion_config={"patch_embeddings": True}` of transformers does the same, but renames the weight, so that vLLM
    couldn't be sent it.
    """

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        """Of patches [patches, channels, frames, height, width]: [patches, dimension, 1, 1, 1]."""
        embedded = linear(patches.flatten(1), self.weight.flatten(1), self.bias)
        return embedded[:, :, None, None, None]


def multiply_patches(model: PreTrainedModel) -> None:
    """Let the vision tower of a Qwen VL model embed patches by `WholePatch`."""
    model.get_encoder(modality="image").patch_embed.proj.__class__ = WholePatch


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: None,
    *,
    scaling: float,
    cu_seq_lens_q: torch.Tensor,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention without a mask inside each sequence of a pack, with the arguments of transformers' interface.

    Args:
        query, key, value: [1, heads, tokens, dimension].
        cu_seq_lens_q: [sequences + 1], where sequences begin, then the number of tokens.

    Returns:
        [1, tokens, heads, dimension], and None for the weights.
    """
    bounds = cu_seq_lens_q.tolist()
    starts: dict[int, list[int]] = defaultdict(list)
    for start, end in pairwise(bounds):
        starts[end - start].append(start)
    places = [torch.tensor(begun)[:, None] + torch.arange(length) for length, begun in starts.items()]
    order = torch.cat([place.flatten() for place in places]).to(query.device)
    sizes = [place.numel() for place in places]
    grouped = [tensor[0].index_select(1, order).split(sizes, dim=1) for tensor in (query, key, value)]
    outputs = []
    for place, *parts in zip(places, *grouped, strict=True):
        q, k, v = (part.unflatten(1, place.shape).transpose(0, 1) for part in parts)
        output = scaled_dot_product_attention(q, k, v, dropout_p=dropout, scale=scaling)
        outputs.append(output.transpose(1, 2).flatten(0, 1))
    return torch.cat(outputs).index_select(0, order.argsort())[None], None


AttentionInterface.register(NAME, attend)
