"""Checkpoints of the critic: plain transformers folders that also hold their prompt contract.

model, processor = load_checkpoint("models/sft", contract, Model(...))
save_checkpoint(model, processor, contract, Path("models/grpo"))
"""

import json
import os
from pathlib import Path

import torch
from transformers import AutoProcessor, PreTrainedModel, ProcessorMixin

from critic.backbones import BackboneError, check_contract, model_class
from critic.files import replacing_folder
from critic.params import Model
from critic.prompts import CONTRACT_FILE, Contract, without_notice
from critic.vision_tower import multiply_patches, pack_windows

_PACKAGES = {
    "flash_attention_2": "flash-attn, which needs a CUDA compiler",
    "flash_attention_4": "flash-attn-4",
    "kernels-community/flash-attn2": "kernels>=0.16,<0.17",
}
"""The package of each implementation of flash attention."""


class CheckpointError(ValueError):
    """A checkpoint can't be used; the message says what to do."""


def load_processor(
    folder: str | os.PathLike[str], contract: Contract, revision: str | None = None
) -> ProcessorMixin:
    """The checkpoint's processor with the contract's chat template and pixel limits.

    Raises:
        CheckpointError: there is no such checkpoint, it was trained with another contract, or the contract isn't
            one for such a model (`critic.backbones.check_contract`).
    """
    recorded = Path(folder) / CONTRACT_FILE
    text = recorded.read_text(encoding="utf-8") if recorded.exists() else contract.text
    if without_notice(text) != without_notice(contract.text):
        raise CheckpointError(
            f"{folder} was trained with another prompt contract than {contract.name} version {contract.version}: "
            f"set prompt.contract to {recorded}, or train it again"
        )
    try:
        processor = AutoProcessor.from_pretrained(folder, revision=revision or "main")
    except (OSError, ValueError) as error:
        raise CheckpointError(f"no checkpoint {folder}: {error}") from error
    try:
        check_contract(processor, contract)
    except BackboneError as error:
        raise CheckpointError(f"{folder}: {error}") from None
    processor.tokenizer.padding_side = "left"  # GRPOTrainer expects this of the processor
    processor.chat_template = contract.chat_template
    processor.tokenizer.chat_template = contract.chat_template
    processor.image_processor.size = {
        "shortest_edge": contract.min_pixels,
        "longest_edge": contract.max_pixels,
    }
    return processor


def load_model(folder: str | os.PathLike[str], model: Model, revision: str | None = None) -> PreTrainedModel:
    """The checkpoint's model, with the dtype and the attention implementation of `model`.

    Raises:
        CheckpointError: there is no such checkpoint, or the attention implementation's package isn't installed.
    """
    attention = model.attn_implementation
    try:
        loaded = model_class(folder, revision).from_pretrained(
            folder,
            revision=revision or "main",
            dtype=getattr(torch, model.dtype),
            attn_implementation=attention,
        )
    except (OSError, ValueError) as error:
        raise CheckpointError(f"no checkpoint {folder}: {error}") from error
    except ImportError as error:
        if attention not in _PACKAGES:
            raise
        raise CheckpointError(
            f"model.attn_implementation is {attention}, which can't be loaded: {error}. Set it to sdpa, or "
            f"install {_PACKAGES[attention]} (docs/full-run.md)"
        ) from error
    if attention == "sdpa":
        pack_windows(loaded)
    multiply_patches(loaded)
    return loaded


def save_checkpoint(model: PreTrainedModel, processor: ProcessorMixin, contract: Contract, folder: Path) -> None:
    """Write weights, processor and contract to `folder`, whole or not at all; equal weights give equal bytes.

    Raises:
        OutputError: the folder can't be written.
    """
    with replacing_folder(folder) as partial:
        model.save_pretrained(partial)
        processor.save_pretrained(partial)
        (partial / CONTRACT_FILE).write_text(contract.text, encoding="utf-8")
        config = partial / "config.json"
        fields = json.loads(config.read_text())
        config.write_text(json.dumps(fields, indent=2, sort_keys=True) + "\n")
