"""What differs between families of vision-language models, read from the files and modules of a model itself.

    check_contract(processor, contract)       # the base reads prompts as the contract writes them, or why not
    model = model_class(folder).from_pretrained(folder)
    freeze_vision(model)
    LoraConfig(target_modules=lora_targets(model))

There is no table of models. One of another kind is refused with what it lacks. Qwen2.5-VL, Qwen3-VL and Qwen3.5
are tested; docs/bases.md has what was run with each.
"""

import os
import re
from typing import Any

import torch
import transformers
from PIL import Image
from transformers import AutoModelForImageTextToText, PreTrainedConfig, PreTrainedModel, ProcessorMixin

from critic.edits import Edit
from critic.prompts import MODES, Contract

_TAGS = "<think></think><answer></answer>"
_NEVER_SAMPLED = ("<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>")
_RECURRENT = "linear_attention"
"""The name in a config's `layer_types` of layers that keep a state instead of keys and values (Gated DeltaNet)."""


class BackboneError(ValueError):
    """A base model can't be used as it is asked to; the message says what it lacks, and what to do."""


def pixel_unit(processor: ProcessorMixin) -> int:
    """Side in pixels of the square of a picture that one token covers: patches of 14 or 16, merged by 2 x 2.

    Raises:
        BackboneError: the processor doesn't cut pictures into merged patches, such as those of Gemma or InternVL.
    """
    image_processor = getattr(processor, "image_processor", None)
    patch, merged = (getattr(image_processor, name, None) for name in ("patch_size", "merge_size"))
    if not isinstance(patch, int) or not isinstance(merged, int):
        raise BackboneError(
            f"{type(processor).__name__} has no image processor with patch_size and merge_size: choose a base "
            "that reads pictures of any size, such as Qwen2.5-VL, Qwen3-VL or Qwen3.5"
        )
    return patch * merged


def check_contract(processor: ProcessorMixin, contract: Contract) -> None:
    """Check that a base reads a contract's prompts, pictures and answers as the contract means them.

    Raises:
        BackboneError: pictures would be resized again, a prompt has another number of placeholders than pictures,
            or the tokenizer drops the tags of answers or joins the digits of a score.
    """
    unit = pixel_unit(processor)
    if unit != contract.pixel_unit:
        raise BackboneError(
            f"the base reads pictures in squares of {unit} pixels, and contract {contract.name} version "
            f"{contract.version} resizes them to multiples of {contract.pixel_unit}, so that the base would "
            f"resize them again: choose a prompt.contract with `unit: {unit}` in its pixels"
        )
    placeholder = getattr(processor, "image_token", None)
    blank = Image.new("RGB", (unit, unit))
    for mode in MODES:
        messages = contract.messages(Edit("", blank, blank, "?"), mode)
        text = contract.render(messages)
        answer = {"role": "assistant", "content": [{"type": "text", "text": contract.answer("Fine.", 3.0)}]}
        if not contract.render([*messages, answer], generate=False).startswith(text):
            raise BackboneError(
                f"the chat template of contract {contract.name} writes another prompt before an answer than to "
                "generate one, so that the critic would learn from other prompts than it gets: correct it"
            )
        if placeholder is None or text.count(placeholder) != len(contract.images):
            raise BackboneError(
                f"a prompt of contract {contract.name} hasn't the placeholder {placeholder} of the base once "
                "for each picture: choose a contract for this base"
            )
    tokenizer = processor.tokenizer

    def read_back(text: str) -> str:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        return str(tokenizer.decode(ids, skip_special_tokens=True))

    if read_back(_TAGS) != _TAGS:
        raise BackboneError(
            f"the tokenizer of the base turns {_TAGS} into {read_back(_TAGS)!r}, so that no answer could be read: "
            "take the tags from its special tokens"
        )
    if len(tokenizer("1234567890", add_special_tokens=False)["input_ids"]) < 10:
        raise BackboneError(
            "the tokenizer of the base has tokens of several digits, which expected scores can't be read from: "
            "choose a base with one token for each digit"
        )


def never_sampled(processor: ProcessorMixin) -> list[int]:
    """The ids of the placeholders of pictures and videos: a completion with one would have no picture for it.

    Their names are those of all Qwen VL models, and the processor's own.
    """
    known = processor.tokenizer.get_vocab()
    names = dict.fromkeys([*_NEVER_SAMPLED, getattr(processor, "image_token", None)])
    return [known[name] for name in names if name in known]


def model_class(folder: str | os.PathLike[str], revision: str | None = None) -> Any:
    """The class that a checkpoint's config names.

    `AutoConfig` isn't asked: an imported vLLM registers a class of its own for Qwen3.5 there, which transformers'
    model can't use.

    Raises:
        OSError: there is no such checkpoint.
    """
    fields, _ = PreTrainedConfig.get_config_dict(folder, revision=revision or "main")
    (name,) = fields.get("architectures") or [""]
    return getattr(transformers, name, AutoModelForImageTextToText)


def freeze_vision(model: PreTrainedModel) -> None:
    """Freeze the vision tower, and run no backward pass in it.

    Its embedding of patches is hidden from `enable_input_require_grads`, which PEFT and TRL call for gradient
    checkpointing, and which would let the outputs require gradients.
    """
    tower = model.get_encoder(modality="image")
    tower.requires_grad_(False)
    tower.get_input_embeddings = lambda: None


def lora_targets(model: PreTrainedModel) -> str:
    """The regular expression of all linear layers of the language model, for PEFT's `target_modules`.

    Raises:
        BackboneError: the model has experts, whose weights aren't in linear layers.
    """
    decoder = model.get_decoder()
    if any(weight.ndim > 2 and "experts" in name for name, weight in decoder.named_parameters()):
        raise BackboneError(
            f"{model.config.model_type} has experts, which LoRA on linear layers would leave out: choose a base "
            "without experts, or set lora to null"
        )
    (path,) = [name for name, module in model.named_modules() if module is decoder]
    linear = [name for name, module in decoder.named_modules() if isinstance(module, torch.nn.Linear)]
    layers = {name.rpartition(".")[2] for name in linear}
    return rf"(.*\.)?{re.escape(path)}\..*\.({'|'.join(sorted(layers))})"


def is_recurrent(config: PreTrainedConfig) -> bool:
    """Whether some layers of the language model keep a state, as three of four do in Qwen3.5.

    Such a model reads each sample by itself: a state can't go on from a prompt to several completions.
    """
    return _RECURRENT in (getattr(config.get_text_config(), "layer_types", None) or ())


def cpu_settings(config: PreTrainedConfig, dtype: str) -> dict[str, Any]:
    """Arguments of vLLM 0.31 on a CPU: without a compiler, with small blocks, and with prompts read whole.

    It crashes on a CPU when the prompt of a seeded sample is read in two chunks: it resets the offset of the
    random generator, which only a GPU's generator has. The prefix cache keeps whole blocks, of 128 tokens by
    default, and prompts of the tiny critic are shorter. With recurrent layers, the cache would need prompts in
    chunks.

    Raises:
        BackboneError: on a CPU, vLLM can't run such a model with this dtype.
    """
    if is_recurrent(config) and dtype != "bfloat16":
        raise BackboneError(
            f"vLLM on a CPU runs the recurrent layers of {config.model_type} in bfloat16 alone, not in {dtype}: "
            "set the dtype to bfloat16, or choose transformers"
        )
    cached = {"enable_prefix_caching": False} if is_recurrent(config) else {"block_size": 32}
    return {"enforce_eager": True, "enable_chunked_prefill": False, **cached}


def context_length(config: PreTrainedConfig) -> int:
    """The most tokens of prompt, pictures and completion."""
    return int(config.get_text_config().max_position_embeddings)
