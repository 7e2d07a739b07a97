"""TRL's trainers, but what rows of a batch share is read once: a prompt and its pictures.

    trainer = SharedPromptGRPO(...)    # a `GRPOTrainer`: the completions of a group share their prompt
    trainer = SharedPromptSFT(...)     # an `SFTTrainer`: the samples of an edit share its pictures

Losses and gradients are TRL's own, up to rounding (`critic.training.packing`). They call internals of TRL 1.16
(`GRPOTrainer._get_per_token_logps_and_entropies`, `_prepare_inputs`, `SFTTrainer.compute_loss`); tests cover them.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate, groupby
from operator import itemgetter
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from accelerate.utils import is_peft_model
from datasets import Dataset
from torch import Tensor
from torch.nn.functional import pad
from torch.utils.data import Sampler
from transformers import BatchFeature, PreTrainedModel, ProcessorMixin
from trl import GRPOTrainer, SFTTrainer
from trl.trainer import grpo_trainer

from critic.training.packing import IGNORED, Pack, pack_rows

_PICTURES = ("pixel_values", "image_grid_thw")


class SharedPromptGRPO(GRPOTrainer):
    """A `GRPOTrainer` whose micro-batches are whole groups, each tokenized, prepared and read once.

    A batch has the pictures of a group once, with its first completion: `num_images` is 0 for the others.
    """

    def _prepare_inputs(self, generation_batch: Any) -> dict[str, Any]:
        def shuffle(batch: dict[str, Any]) -> dict[str, Any]:
            return shuffle_groups(batch, self.num_generations)

        with patch.object(grpo_trainer, "shuffle_sequence_dict", shuffle):
            return super()._prepare_inputs(generation_batch)

    def _generate_and_score_completions(self, inputs: Any) -> dict[str, Any]:
        with patch.object(self, "processing_class", GroupProcessor(self.processing_class, self.num_generations)):
            batch = super()._generate_and_score_completions(inputs)
        batch["num_images"] = self._of_first_rows(batch["num_images"])
        return batch

    def _of_first_rows(self, num_images: list[int]) -> list[int]:
        return [0 if row % self.num_generations else count for row, count in enumerate(num_images)]

    def _tokenize_prompts(self, prompts: list[Any]) -> tuple[list[Any], list[Any], dict[str, Any]]:
        lengths = [len([*run]) for _, run in groupby(prompts)]
        firsts = [0, *accumulate(lengths[:-1])]
        ids, images, fields = super()._tokenize_prompts([prompts[first] for first in firsts])
        rows = np.repeat(np.arange(len(firsts)), lengths).tolist()
        repeated = {
            name: [values[row] for row in rows] for name, values in fields.items() if name not in _PICTURES
        }
        repeated |= select_pictures(fields, [len(row) for row in images], rows)
        return [ids[row] for row in rows], [images[row] for row in rows], repeated

    def _get_per_token_logps_and_entropies(
        self,
        model: PreTrainedModel,
        input_ids: Tensor,
        attention_mask: Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        compute_entropy: bool = False,
        compute_aux_loss: bool = False,
        *,
        pixel_values: Tensor,
        image_grid_thw: Tensor,
        num_images: list[int],
        **unused: Any,
    ) -> tuple[Tensor, Tensor | None, None]:
        """Log-probabilities and entropies of the completions, [rows, logits_to_keep]; 0 in their padding."""
        size, rows = self.num_generations, len(input_ids)
        labels = input_ids.masked_fill(attention_mask == 0, IGNORED)
        labels[:, :-logits_to_keep] = IGNORED
        bare = unwrapped(self.accelerator.unwrap_model(model))
        counts, patches = self._of_first_rows(num_images), image_grid_thw.prod(-1)
        logps, entropies = [], []
        for start in range(0, rows, batch_size or rows):
            chunk = slice(start, start + (batch_size or rows))
            first, end = sum(counts[:start]), sum(counts[: chunk.stop])
            pixels = slice(int(patches[:first].sum()), int(patches[:end].sum()))
            read = attention_mask[chunk].bool()
            pack = pack_rows(
                bare,
                [row[kept] for row, kept in zip(input_ids[chunk], read, strict=True)],
                [row[kept] for row, kept in zip(labels[chunk], read, strict=True)],
                [size] * (len(read) // size),
                image_grid_thw[first:end],
            )
            with self.accelerator.autocast():
                outputs = model(
                    **pack.inputs(bare.config.get_text_config()._attn_implementation),
                    pixel_values=pixel_values[pixels],
                    image_grid_thw=image_grid_thw[first:end],
                    fused_lm_head=True,
                )
            written = read[:, -logits_to_keep:].sum(1).tolist()
            logps.append(of_completions(pack, outputs.log_probs, written, logits_to_keep))
            entropies.append(of_completions(pack, outputs.entropy, written, logits_to_keep))
        return torch.cat(logps), torch.cat(entropies) if compute_entropy else None, None


class GroupProcessor:
    """A processor that prepares each `size` rows, which are the same, once.

    The texts are repeated for all rows, the pictures aren't.
    """

    def __init__(self, processor: ProcessorMixin, size: int):
        self.processor, self.size = processor, size

    def __getattr__(self, name: str) -> Any:
        return getattr(self.processor, name)

    def __call__(self, *, images: list[Any], text: list[str], **arguments: Any) -> BatchFeature:
        batch = self.processor(images=images[:: self.size], text=text[:: self.size], **arguments)
        for name in batch.keys() - {*_PICTURES}:
            batch[name] = batch[name].repeat_interleave(self.size, dim=0)
        return batch


class SharedPromptSFT(SFTTrainer):
    """An `SFTTrainer` whose batches hold the samples of an edit beside each other, and read them as one sequence.

    The data sets have the column `group`, the same number for samples with the same pictures. The edits are
    shuffled, not the samples; a batch that ends within an edit has a part of its samples.
    """

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.data_collator: GroupCollator = GroupCollator(self.data_collator)

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler[int]:
        return GroupSampler((train_dataset or self.train_dataset)["group"], self.args.data_seed)

    def compute_loss(
        self,
        model: PreTrainedModel,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | None = None,
    ) -> Any:
        bare = unwrapped(self.accelerator.unwrap_model(model))
        read = inputs["attention_mask"].bool()
        pack = pack_rows(
            bare,
            [row[kept] for row, kept in zip(inputs["input_ids"], read, strict=True)],
            [row[kept] for row, kept in zip(inputs["labels"], read, strict=True)],
            inputs["groups"].tolist(),
            inputs["image_grid_thw"],
        )
        packed = {
            **pack.inputs(bare.config.get_text_config()._attn_implementation),
            "pixel_values": inputs["pixel_values"],
            "image_grid_thw": inputs["image_grid_thw"],
        }
        tokens: int = self._total_train_tokens  # type: ignore[has-type]
        tokens += self.accelerator.gather((pack.segments >= 0).sum()).sum().item()
        result = super().compute_loss(model, packed, return_outputs, num_items_in_batch)
        if self.model.training:  # TRL has counted the pairs of the mask
            self._total_train_tokens = tokens
            self._metrics["train"]["num_tokens"] = [tokens]
        return result


class GroupCollator:
    """Makes TRL's batch, with the pictures of a group once, and `groups`: how many rows each has."""

    def __init__(self, collate: Callable[[list[dict[str, Any]]], dict[str, Any]]):
        self.collate = collate

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        groups = [len([*run]) for _, run in groupby(examples, key=itemgetter("group"))]
        batch = self.collate(examples)
        counts = [len(example["images"]) for example in examples]
        firsts = [0, *accumulate(groups[:-1])]
        return {**batch, **select_pictures(batch, counts, firsts), "groups": torch.tensor(groups)}


class GroupSampler(Sampler[int]):
    """Shuffles groups, with another order in each epoch, and yields the rows of each in their order.

    Args:
        groups: the group of each row.
        seed: of the order.
    """

    def __init__(self, groups: Iterable[int], seed: int):
        self.rows: dict[int, list[int]] = defaultdict(list)
        for row, group in enumerate(groups):
            self.rows[group].append(row)
        self.seed, self.epoch = seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return sum(map(len, self.rows.values()))

    def __iter__(self) -> Iterator[int]:
        groups = [*self.rows.values()]
        for number in np.random.default_rng([self.seed, self.epoch]).permutation(len(groups)):
            yield from groups[number]


def select_pictures(batch: dict[str, Any], counts: list[int], rows: Iterable[int]) -> dict[str, Tensor]:
    """The pictures of some rows of a batch, in that order; `counts` is how many each row has."""
    grids = batch["image_grid_thw"].split(counts)
    patches = batch["pixel_values"].split([int(grid.prod(-1).sum()) for grid in grids])
    return {
        "pixel_values": torch.cat([patches[row] for row in rows]),
        "image_grid_thw": torch.cat([grids[row] for row in rows]),
    }


def of_completions(pack: Pack, predicted: Tensor, written: list[int], width: int) -> Tensor:
    """[rows, width], what was predicted about the last `written` tokens of each row; then 0."""
    each = [row[len(row) - count :] for row, count in zip(pack.of_tokens(predicted), written, strict=True)]
    return torch.stack([pad(row, (0, width - len(row))) for row in each])


def shuffle_groups(batch: dict[str, Any], size: int) -> dict[str, Any]:
    """As TRL's `shuffle_sequence_dict`, but with whole groups of `size` rows."""
    groups = torch.randperm(len(batch["completion_ids"]) // size)
    order = (groups[:, None] * size + torch.arange(size)).flatten()

    def ordered(value: Any) -> Any:
        if isinstance(value, list):
            return [value[row] for row in order.tolist()]
        return value[order.to(value.device)] if isinstance(value, Tensor) and value.ndim else value

    return {name: ordered(value) for name, value in batch.items()}


def unwrapped(model: PreTrainedModel) -> PreTrainedModel:
    """The model without adapters' wrappers."""
    return model.get_base_model() if is_peft_model(model) else model
