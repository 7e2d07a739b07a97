"""Pack rows that begin alike into one sequence: their common prefix once, and then the rest of each row.

    pack = pack_rows(model, rows, labels, groups, image_grid_thw)
    outputs = model(**pack.inputs(implementation), pixel_values=..., image_grid_thw=..., fused_lm_head=True)
    pack.of_tokens(outputs.log_probs)    # one tensor per row

A token sees the prefix and what precedes it in its own row, and has the position that it has in its own row. So
log-probabilities and gradients are those of separate rows, while the prefix and its pictures are read once. Prefix
Grouper (arXiv 2506.05433) describes this for texts.

The last token of a prompt is part of each row, not of the prefix, since what follows it differs. With that, each
token of a completion stands right after the one that predicts it, as in a sequence of its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

IGNORED = -100
"""The label of a token without a loss, as in PyTorch's cross_entropy."""
_PADDING = -1


@dataclass(frozen=True)
class Pack:
    """Groups of rows, each as one sequence, padded on the right.

    Attributes:
        input_ids: [groups, length].
        segments: [groups, length], 0 in the prefix, k in the rest of row k of the group (from 1), -1 in padding.
        position_ids: [3, groups, length], M-RoPE positions.
        labels: [groups, length], the tokens that have a loss; -100 elsewhere.
        places: of each row's tokens in a flattened [groups, length].
    """

    input_ids: Tensor
    segments: Tensor
    position_ids: Tensor
    labels: Tensor
    places: list[Tensor]

    def inputs(self, implementation: str) -> dict[str, Any]:
        """The model's arguments, without those of pictures.

        Raises:
            ValueError: as `attention_mask`.
        """
        return {
            "input_ids": self.input_ids,
            "attention_mask": attention_mask(self.segments, implementation),
            "position_ids": self.position_ids,
            "labels": self.labels,
        }

    def of_tokens(self, predicted: Tensor) -> list[Tensor]:
        """What was predicted about the tokens of each row, whose first token has 0.

        Args:
            predicted: [groups, length - 1], about the token after each place.
        """
        flat = pad(predicted, (1, 0)).flatten()
        return [flat[place] for place in self.places]


def pack_rows(
    model: PreTrainedModel,
    rows: Sequence[Tensor],
    labels: Sequence[Tensor],
    groups: Sequence[int],
    image_grid_thw: Tensor | None,
) -> Pack:
    """Pack the rows of each group.

    Args:
        model: a Qwen VL model, which gives the positions of tokens.
        rows: [tokens], the tokens of each row, without padding.
        labels: [tokens], of each row, -100 for the prompt.
        groups: how many rows each group has, in their order. Their pictures are the same.
        image_grid_thw: [pictures, 3], the grids of pictures, those of a group once.

    Raises:
        ValueError: a picture comes after the first difference between rows of a group.
    """
    prefixes, sequences, segments, targets, places = [], [], [], [], []
    start = 0
    for count in groups:
        members = slice(start, start + count)
        start += count
        length = _common_prefix(rows[members], labels[members])
        prefix, *rests = rows[start - count][:length], *(row[length:] for row in rows[members])
        if any((rest == model.config.image_token_id).any() for rest in rests):
            raise ValueError("a picture comes after the first difference between prompts that share it")
        sizes = torch.tensor([length, *map(len, rests)], device=prefix.device)
        prefixes.append(prefix)
        sequences.append(torch.cat([prefix, *rests]))
        segments.append(torch.arange(count + 1, device=prefix.device).repeat_interleave(sizes))
        targets.append(torch.cat([torch.full_like(prefix, IGNORED), *(row[length:] for row in labels[members])]))
        bounds = sizes.cumsum(0).tolist()
        tokens = torch.arange(bounds[-1], device=prefix.device)
        places.append([torch.cat([tokens[:length], tokens[begin:end]]) for begin, end in pairwise(bounds)])
    input_ids = pad_sequence(sequences, batch_first=True)
    packed = pad_sequence(segments, batch_first=True, padding_value=_PADDING)
    return Pack(
        input_ids=input_ids,
        segments=packed,
        position_ids=_positions(model, prefixes, packed, image_grid_thw),
        labels=pad_sequence(targets, batch_first=True, padding_value=IGNORED),
        places=[place + number * input_ids.shape[1] for number, group in enumerate(places) for place in group],
    )


def _common_prefix(rows: Sequence[Tensor], labels: Sequence[Tensor]) -> int:
    """How many tokens all rows begin with, without the last one of a prompt."""
    prompts = [int((torch.cat([label, label.new_zeros(1)]) != IGNORED).nonzero()[0]) for label in labels]
    limit = min(prompts) - 1
    heads = torch.stack([row[:limit] for row in rows])
    differences = (heads != heads[0]).any(0).nonzero()
    return int(differences[0]) if len(differences) else limit


def _positions(
    model: PreTrainedModel, prefixes: Sequence[Tensor], segments: Tensor, image_grid_thw: Tensor | None
) -> Tensor:
    """[3, groups, length]: the model's own positions in the prefix, and then those of text."""
    ids = pad_sequence(list(prefixes), batch_first=True)
    is_prefix = segments[:, : ids.shape[1]] == 0
    of_prefix, _ = model.base_model.get_rope_index(
        ids,
        mm_token_type_ids=(ids == model.config.image_token_id).long(),
        image_grid_thw=image_grid_thw,
        attention_mask=is_prefix.long(),
    )
    first = of_prefix.masked_fill(~is_prefix, -1).amax(dim=(0, 2)) + 1
    places = torch.arange(segments.shape[1], device=segments.device).expand_as(segments)
    begins = (segments != segments.roll(1, dims=1)) * places
    of_text = first[:, None] + places - begins.cummax(dim=1).values
    positions = of_text.repeat(3, 1, 1)
    positions[:, :, : ids.shape[1]] = torch.where(is_prefix, of_prefix, positions[:, :, : ids.shape[1]])
    return positions


def attention_mask(segments: Tensor, implementation: str) -> Tensor:
    """The mask in which a token sees, up to itself, the prefix and its own row; padding sees padding.

    Args:
        segments: [groups, length], as in `Pack`.
        implementation: transformers' name of the attention, such as "sdpa".

    Returns:
        [groups, 1, length, length], true where a token sees another.

    Raises:
        ValueError: the attention takes no mask of this kind.
    """

    if implementation not in ("sdpa", "eager"):
        raise ValueError(f"share_prompts: true needs model.attn_implementation: sdpa, not {implementation}")
    places = torch.arange(segments.shape[1], device=segments.device)
    of_query, of_key = segments[:, :, None], segments[:, None, :]
    return ((places <= places[:, None]) & ((of_key == 0) | (of_key == of_query)))[:, None]
