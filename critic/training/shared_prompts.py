"""TRL's GRPO, but the prompt of a group and its pictures are prepared once, and read once by the model.

    trainer = SharedPromptGRPO(...)    # a `GRPOTrainer`

Losses and gradients are TRL's own, up to rounding (`critic.training.packing`). It calls internals of TRL 1.16
(`GRPOTrainer._get_per_token_logps_and_entropies`, `_tokenize_prompts`, `_prepare_inputs`); tests cover them.
"""

from itertools import accumulate, groupby
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import BatchFeature, PreTrainedModel, ProcessorMixin
from trl import GRPOTrainer
from trl.trainer import grpo_trainer

from critic.training.packing import IGNORED, Pack, attend_to_packs, pack_rows, select_pictures, unwrapped

_PICTURES = ("pixel_values", "image_grid_thw")


class SharedPromptGRPO(GRPOTrainer):
    """A `GRPOTrainer` whose micro-batches are whole groups, each tokenized, prepared and read once.

    A batch has the pictures of a group once, with its first completion: `num_images` is 0 for the others.

    Raises:
        ValueError: as `critic.training.packing.attend_to_packs`.
    """

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        for model in (self.model, self.ref_model):
            if model is not None:
                attend_to_packs(unwrapped(self.accelerator.unwrap_model(model)))

    def _prepare_inputs(self, generation_batch: Any) -> dict[str, Any]:
        def shuffle(batch: dict[str, Any]) -> dict[str, Any]:
            return shuffle_groups(batch, self.num_generations)

        with patch.object(grpo_trainer, "shuffle_sequence_dict", shuffle):
            return super()._prepare_inputs(generation_batch)

    def _generate_and_score_completions(self, inputs: Any) -> dict[str, Any]:
        with patch.object(self, "processing_class", GroupProcessor(self.processing_class, self.num_generations)):
            batch = super()._generate_and_score_completions(inputs)
        batch["num_images"] = self._of_first_rows(batch["num_images"])
        # TRL's figure is of the whole batch with `scale_rewards: batch`, and rounding hides equal rewards from it.
        logged = self._metrics["train" if self.model.training else "eval"]
        logged["frac_reward_zero_std"][-1] = self._without_spread
        return batch

    def _calculate_rewards(self, *given: Any) -> Tensor:
        rewards = super()._calculate_rewards(*given)
        groups = rewards.view(-1, self.num_generations, rewards.shape[-1])
        spread = groups.nan_to_num(-torch.inf).amax(1) - groups.nan_to_num(torch.inf).amin(1)
        self._without_spread = (spread <= 0).all(-1).float().mean().item()
        return rewards

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
        counts = [len(row) for row in images]
        if self.use_vllm:  # it prepares the pictures itself
            grids = fields["image_grid_thw"].split(counts)
            repeated["image_grid_thw"] = torch.cat([grids[row] for row in rows])
        else:
            repeated |= select_pictures(fields, counts, rows)
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
                    **pack.inputs(),
                    pixel_values=pixel_values[pixels],
                    image_grid_thw=image_grid_thw[first:end],
                    fused_lm_head=True,
                )
            written = read[:, -logits_to_keep:].sum(1).tolist()
            logps.append(of_completions(pack, outputs.log_probs, written, logits_to_keep))
            if compute_entropy:  # the reference model has none
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
