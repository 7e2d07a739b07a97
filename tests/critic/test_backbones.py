"""What is read from a base itself, for each family; the refusals; and that no picture is resized twice."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bases import FAMILIES, contract_of, make_base
from peft import get_peft_model
from PIL import Image
from tokenizers import AddedToken
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from critic import backbones
from critic.backbones import BackboneError, check_contract, cpu_settings, lora_targets
from critic.checkpoints import CheckpointError, load_model, load_processor, save_checkpoint
from critic.params import Lora, Model
from critic.prompts import load_contract, parse_contract
from critic.training.setup import adapters

NAMES = [*FAMILIES]
FULL = {
    "qwen2_5_vl": 7 * 80,  # the defaults of transformers' configs, which are those of a large model of each family
    "qwen3_vl": 7 * 32,
    "qwen3_5": 24 * 5 + 8 * 4 + 32 * 3,  # of four layers one attends, the others are Gated DeltaNet
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("bases")
    return lambda family: folder / family if (folder / family).exists() else make_base(family, folder / family)


def model_of(folder: Path) -> Model:
    return Model(base=str(folder), revision=None, attn_implementation="sdpa", dtype="float32")


@pytest.mark.parametrize("family", NAMES)
def test_no_picture_is_resized_twice(base: Any, family: str) -> None:
    contract = contract_of(family)
    processor = load_processor(base(family), contract)
    side = processor.image_processor.patch_size
    rng = np.random.default_rng(0)
    for width, height in rng.integers(20, 700, (60, 2)).tolist():
        picture = contract.resize(Image.new("RGB", (width, height)))
        assert contract.resize(picture).size == picture.size
        (grid,) = processor.image_processor([picture], return_tensors="pt")["image_grid_thw"].tolist()
        assert (grid[2] * side, grid[1] * side) == picture.size


@pytest.mark.parametrize("family", NAMES)
def test_lora_adapts_every_linear_layer_of_the_decoder_at_full_shape(family: str) -> None:
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(AutoConfig.for_model(family))
    decoder = model.get_decoder()
    linear = [name for name, module in decoder.named_modules() if isinstance(module, torch.nn.Linear)]
    section: Any = type("Section", (), {"lora": Lora(r=1, lora_alpha=1, lora_dropout=0.0)})
    config = adapters(section, model)
    assert config is not None
    config.init_lora_weights = False
    adapted = get_peft_model(model, config)
    names = {
        name.partition(".language_model.")[2].removesuffix(".lora_A.default")
        for name, _ in adapted.named_modules()
        if name.endswith(".lora_A.default")
    }
    assert names == {*linear}
    assert len(names) == FULL[family]


@pytest.mark.parametrize("family", NAMES)
def test_a_frozen_vision_tower_has_no_gradients(base: Any, family: str) -> None:
    model = load_model(base(family), model_of(base(family)))
    backbones.freeze_vision(model)
    trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert trained and not any("visual" in name for name in trained)


@pytest.mark.parametrize(("family", "recurrent"), [("qwen2_5_vl", False), ("qwen3_vl", False), ("qwen3_5", True)])
def test_recurrent_layers_are_found_and_need_bfloat16_of_vllm(base: Any, family: str, recurrent: bool) -> None:
    config = AutoConfig.from_pretrained(base(family))
    assert backbones.is_recurrent(config) == recurrent
    assert cpu_settings(config, "bfloat16").get("enable_prefix_caching", True) != recurrent
    if recurrent:
        with pytest.raises(BackboneError, match=r"qwen3_5.*bfloat16 alone, not in float32: set the dtype"):
            cpu_settings(config, "float32")


def test_the_class_is_the_one_that_the_checkpoint_names(base: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """vLLM registers a class of its own for qwen3_5 in `AutoConfig`, which transformers' model can't use."""
    folder = base("qwen3_5")
    monkeypatch.setattr(AutoConfig, "from_pretrained", lambda *args, **kwargs: pytest.fail("AutoConfig was asked"))
    assert type(load_model(folder, model_of(folder))).__name__ == "Qwen3_5ForConditionalGeneration"


@pytest.mark.parametrize("family", NAMES)
def test_a_saved_checkpoint_is_loaded_again(base: Any, family: str, tmp_path: Path) -> None:
    contract = contract_of(family)
    model, processor = load_model(base(family), model_of(base(family))), load_processor(base(family), contract)
    save_checkpoint(model, processor, contract, tmp_path / "model")
    again = load_model(tmp_path / "model", model_of(tmp_path / "model"))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    load_processor(tmp_path / "model", contract)


def test_a_contract_of_another_pixel_unit_is_refused(base: Any) -> None:
    with pytest.raises(CheckpointError, match=r"squares of 32 pixels.*multiples of 28.*`unit: 32`"):
        load_processor(base("qwen3_vl"), load_contract("tiny"))


def test_a_base_without_merged_patches_is_refused(base: Any) -> None:
    processor = AutoProcessor.from_pretrained(base("qwen3_vl"))
    processor.image_processor.merge_size = None
    with pytest.raises(BackboneError, match=r"no image processor with patch_size and merge_size: choose a base"):
        check_contract(processor, contract_of("qwen3_vl"))


def test_a_tokenizer_that_drops_the_tags_is_refused(base: Any) -> None:
    processor = AutoProcessor.from_pretrained(base("qwen3_vl"))
    processor.tokenizer.add_tokens([AddedToken("<think>", special=True)], special_tokens=True)
    with pytest.raises(BackboneError, match=r"'</think><answer></answer>', so that no answer could be read"):
        check_contract(processor, contract_of("qwen3_vl"))


def test_a_tokenizer_that_joins_digits_is_refused(base: Any) -> None:
    processor = AutoProcessor.from_pretrained(base("qwen3_vl"))
    processor.tokenizer.add_tokens(["56"])
    with pytest.raises(BackboneError, match="tokens of several digits"):
        check_contract(processor, contract_of("qwen3_vl"))


def test_another_placeholder_is_refused(base: Any) -> None:
    processor = AutoProcessor.from_pretrained(base("qwen3_vl"))
    processor.image_token = "<img>"
    with pytest.raises(BackboneError, match=r"placeholder <img> of the base once for each picture"):
        check_contract(processor, contract_of("qwen3_vl"))


def test_a_template_that_writes_another_prompt_before_an_answer_is_refused(base: Any) -> None:
    """As a prefill in the template's generation prompt that no answer begins with."""
    contract = contract_of("qwen3_vl")
    other = replace(contract, chat_template=contract.chat_template.replace("<think>", "<think>{{ '\n' }}"))
    with pytest.raises(BackboneError, match="another prompt before an answer"):
        check_contract(AutoProcessor.from_pretrained(base("qwen3_vl")), other)


def test_a_prefill_with_a_line_break_begins_the_answers_too(base: Any) -> None:
    text = load_contract("tiny-32").text
    broken = text.replace('prefill: "<think>"', 'prefill: "<think>\\n"').replace(
        "<think>\n", "<think>{{ '\\n' }}\n"
    )
    contract = parse_contract(broken, "broken")
    check_contract(AutoProcessor.from_pretrained(base("qwen3_vl")), contract)
    assert contract.answer("Fine.", 3.0) == "<think>\nFine.</think>\n<answer>3.00</answer>"


def test_lora_targets_name_the_decoder_alone(base: Any) -> None:
    model = load_model(base("qwen3_5"), model_of(base("qwen3_5")))
    assert lora_targets(model).startswith(r"(.*\.)?model\.language_model\.")


def test_lora_on_experts_is_refused() -> None:
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(AutoConfig.for_model("qwen3_vl_moe"))
    with pytest.raises(BackboneError, match=r"qwen3_vl_moe has experts, which LoRA .* would leave out"):
        lora_targets(model)
