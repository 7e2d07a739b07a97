"""Pack rows that begin alike into one sequence: their common prefix once, and then the rest of each row.

    attend_to_packs(model)    # once
    pack = pack_rows(model, rows, labels, groups, image_grid_thw)
    outputs = model(**pack.inputs(), pixel_values=..., image_grid_thw=..., fused_lm_head=True)
    pack.of_tokens(outputs.log_probs)    # one tensor per row

A token sees the prefix and what precedes it in its own row, and has the position that it has in its own row. So
log-probabilities and gradients are those of separate rows, while the prefix and its pictures are read once. Prefix
Grouper (arXiv 2506.05433) describes this for texts.

The last token of a prompt is part of each row, not of the prefix, since what follows it differs. With that, each
token of a completion stands right after the one that predicts it, as in a sequence of its own.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate.utils import is_peft_model
from torch import Tensor
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from critic.backbones import is_recurrent

IGNORED = -100
"""The label of a token without a loss, as in PyTorch's cross_entropy."""
NAME = "sdpa_of_packs"


@dataclass(frozen=True)
class Layout:
    """Where the prefixes and the rests are in a pack; with padding on the right, which repeats the first token.

    Attributes:
        prefixes: [groups, longest prefix].
        rests: [rows, longest rest].
        keys: [rows, longest prefix + longest rest], what the tokens of a rest may see.
        seen: [rows, 1, longest rest, longest prefix + longest rest], which of `keys` each sees.
        order: [tokens], of each token in `prefixes` and then `rests`, both flattened.
    """

    prefixes: Tensor
    rests: Tensor
    keys: Tensor
    seen: Tensor
    order: Tensor


@dataclass(frozen=True)
class Pack:
    """The groups, one after the other, without padding: the prefix, and then the rest of each row.

    Attributes:
        input_ids: [1, tokens].
        position_ids: [3, 1, tokens], M-RoPE positions.
        labels: [1, tokens], the tokens that have a loss; -100 elsewhere.
        places: of each row's tokens in the pack.
        layout: what the attention needs.
    """

    input_ids: Tensor
    position_ids: Tensor
    labels: Tensor
    places: list[Tensor]
    layout: Layout

    def inputs(self) -> dict[str, Any]:
        """The model's arguments, without those of pictures."""
        return {
            "input_ids": self.input_ids,
            "position_ids": self.position_ids,
            "labels": self.labels,
            "layout": self.layout,
        }

    def of_tokens(self, predicted: Tensor) -> list[Tensor]:
        """What was predicted about the tokens of each row, whose first token has 0.

        Args:
            predicted: [1, tokens - 1], about the token after each place.
        """
        flat = pad(predicted, (1, 0)).flatten()
        return [flat[place] for place in self.places]


def attend_to_packs(model: PreTrainedModel) -> None:
    """Let the language model of a Qwen VL model use `attend`, which is SDPA for everything that isn't a pack.

    Raises:
        ValueError: the model has another attention than SDPA, or recurrent layers.
    """
    config = model.config.get_text_config()
    if is_recurrent(config):
        raise ValueError(
            f"share_prompts: true can't be used with a base that has recurrent layers ({config.model_type}), "
            "whose state can't go on from a prompt to several completions: set it to false"
        )
    if config._attn_implementation not in ("sdpa", NAME):
        raise ValueError(
            f"share_prompts: true needs model.attn_implementation: sdpa, not {config._attn_implementation}"
        )
    config._attn_implementation = NAME


def attend(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    layout: Layout | None = None,
    **arguments: Any,
) -> tuple[Tensor, None]:
    """SDPA with the arguments of transformers' interface; if there is a `layout`, in two calls.

    The prefixes are one batch, the rests another, in which the prefix of a group is a key of each of its rows.

    Args:
        query, key, value: [batch, heads, tokens, dimension]; of a pack, batch is 1.

    Returns:
        [batch, tokens, heads, dimension], and None for the weights.
    """
    if layout is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **arguments)

    def of(tensor: Tensor, places: Tensor) -> Tensor:
        return tensor[0].index_select(1, places.flatten()).unflatten(1, places.shape).transpose(0, 1)

    prefixes, rests, keys = layout.prefixes, layout.rests, layout.keys
    of_prefixes, _ = sdpa_attention_forward(
        module, of(query, prefixes), of(key, prefixes), of(value, prefixes), None, **arguments
    )
    of_rests, _ = sdpa_attention_forward(
        module, of(query, rests), of(key, keys), of(value, keys), layout.seen, **arguments
    )
    outputs = torch.cat([of_prefixes.flatten(0, 1), of_rests.flatten(0, 1)])
    return outputs.index_select(0, layout.order)[None], None


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, sdpa_mask)


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
    tokens, targets = [], []  # of prefixes and rests, in the pack's order
    prefixes, rests, keys, places = [], [], [], []  # where they are in the pack
    size = first = 0
    for count in groups:
        members = range(first, first + count)
        first += count
        length = _common_prefix([rows[row] for row in members], [labels[row] for row in members])
        prefixes.append(torch.arange(size, size + length))
        tokens.append(rows[members[0]][:length])
        targets.append(torch.full_like(tokens[-1], IGNORED))
        size += length
        for row in members:
            rests.append(torch.arange(size, size + len(rows[row]) - length))
            tokens.append(rows[row][length:])
            targets.append(labels[row][length:])
            size += len(rests[-1])
            if (tokens[-1] == model.config.image_token_id).any():
                raise ValueError("a picture comes after the first difference between prompts that share it")
            keys.append(prefixes[-1])
            places.append(torch.cat([prefixes[-1], rests[-1]]))
    input_ids = torch.cat(tokens)[None]
    device = input_ids.device
    return Pack(
        input_ids=input_ids,
        position_ids=_positions(model, input_ids, prefixes, groups, rests, image_grid_thw),
        labels=torch.cat(targets)[None],
        places=[place.to(device) for place in places],
        layout=lay_out(prefixes, keys, rests, device),
    )


def _common_prefix(rows: Sequence[Tensor], labels: Sequence[Tensor]) -> int:
    """How many tokens all rows begin with, without the last one of a prompt."""
    prompts = [int((torch.cat([label, label.new_zeros(1)]) != IGNORED).nonzero()[0]) for label in labels]
    limit = min(prompts) - 1
    heads = torch.stack([row[:limit] for row in rows])
    differences = (heads != heads[0]).any(0).nonzero()
    return int(differences[0]) if len(differences) else limit


def lay_out(
    prefixes: list[Tensor], seen: list[Tensor], rests: list[Tensor], device: torch.device | str = "cpu"
) -> Layout:
    """The layout of a pack.

    Args:
        prefixes: [tokens], the places of each group's prefix.
        seen: [tokens], for each row, the places of the prefix that it has.
        rests: [tokens], the places of each row's rest.
        device: of the layout.
    """
    padded_prefixes, of_prefixes = _padded(prefixes)
    padded_seen, of_seen = _padded(seen)
    padded_rests, of_rests = _padded(rests)
    longest = padded_rests.shape[1]
    causal = torch.ones(longest, longest, dtype=torch.bool).tril().expand(len(rests), 1, -1, -1)
    real = torch.cat([of_prefixes.flatten(), of_rests.flatten()])
    places = torch.cat([padded_prefixes.flatten(), padded_rests.flatten()])[real]
    return Layout(
        prefixes=padded_prefixes.to(device),
        rests=padded_rests.to(device),
        keys=torch.cat([padded_seen, padded_rests], 1).to(device),
        seen=torch.cat([of_seen[:, None, None].expand(-1, -1, longest, -1), causal], 3).to(device),
        order=real.nonzero()[:, 0][places.argsort()].to(device),
    )


def _padded(places: list[Tensor]) -> tuple[Tensor, Tensor]:
    """[rows, longest], the places, padded with 0 on the right, and which are real."""
    lengths = torch.tensor([len(place) for place in places])
    padded = pad_sequence(places, batch_first=True)
    return padded, torch.arange(padded.shape[1]) < lengths[:, None]


def _positions(
    model: PreTrainedModel,
    input_ids: Tensor,
    prefixes: list[Tensor],
    groups: Sequence[int],
    rests: list[Tensor],
    image_grid_thw: Tensor | None,
) -> Tensor:
    """[3, 1, tokens]: the model's own positions in the prefixes; those of text follow in each rest."""
    padded, real = (tensor.to(input_ids.device) for tensor in _padded(prefixes))
    ids = input_ids[0, padded]
    of_prefixes, _ = model.base_model.get_rope_index(
        ids,
        mm_token_type_ids=((ids == model.config.image_token_id) & real).long(),
        image_grid_thw=image_grid_thw,
        attention_mask=real.long(),
    )
    next_of_text = (of_prefixes.masked_fill(~real, -1).amax(dim=(0, 2)) + 1).tolist()
    parts, remaining = [], iter(rests)
    for number, count in enumerate(groups):
        parts.append(of_prefixes[:, number, real[number]])
        for _ in range(count):
            rest = torch.arange(len(next(remaining)), device=input_ids.device)
            parts.append((next_of_text[number] + rest).expand(3, -1))
    return torch.cat(parts, 1)[:, None]


def select_pictures(batch: dict[str, Any], counts: list[int], rows: Iterable[int]) -> dict[str, Tensor]:
    """The pictures of some rows of a batch, in that order; `counts` is how many each row has."""
    grids = batch["image_grid_thw"].split(counts)
    patches = batch["pixel_values"].split([int(grid.prod(-1).sum()) for grid in grids])
    return {
        "pixel_values": torch.cat([patches[row] for row in rows]),
        "image_grid_thw": torch.cat([grids[row] for row in rows]),
    }


def unwrapped(model: PreTrainedModel) -> PreTrainedModel:
    """The model without adapters' wrappers."""
    return model.get_base_model() if is_peft_model(model) else model
