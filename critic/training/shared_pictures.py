"""TRL's SFT, but the samples of an edit share a batch, in which its pictures are read once.

    trainer = SharedPictureSFT(...)    # an `SFTTrainer`

Losses and gradients are TRL's own, up to rounding (`critic.training.packing`). It calls internals of TRL 1.16
(`SFTTrainer.compute_loss`); tests cover them.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate, groupby
from operator import itemgetter
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor
from torch.utils.data import Sampler
from transformers import PreTrainedModel
from trl import SFTTrainer

from critic.training.packing import attend_to_packs, pack_rows, select_pictures, unwrapped


class SharedPictureSFT(SFTTrainer):
    """An `SFTTrainer` whose batches hold the samples of an edit beside each other, and read them as one sequence.

    The data sets have the column `group`, the same number for samples with the same pictures. The edits are
    shuffled, not the samples; a batch that ends within an edit has a part of its samples.

    Raises:
        ValueError: as `critic.training.packing.attend_to_packs`.
    """

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        attend_to_packs(unwrapped(self.model))
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
            **pack.inputs(),
            "pixel_values": inputs["pixel_values"],
            "image_grid_thw": inputs["image_grid_thw"],
        }
        tokens: int = self._total_train_tokens  # type: ignore[has-type]
        read_here = torch.tensor(pack.input_ids.numel(), device=pack.input_ids.device)
        tokens += self.accelerator.gather(read_here).sum().item()
        result = super().compute_loss(model, packed, return_outputs, num_items_in_batch)
        if self.model.training:  # TRL has counted sequences, of which a pack is one
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
