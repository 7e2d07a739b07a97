"""A checkpoint holds its contract, is saved with the same bytes twice, and its errors say what to do."""

import re
from pathlib import Path

import pytest
from transformers import PreTrainedModel, ProcessorMixin

from critic import vision_tower
from critic.checkpoints import CheckpointError, load_model, load_processor, save_checkpoint
from critic.params import Model
from critic.prompts import Contract, load_contract

BASE = Path(__file__).parents[2] / "assets/tiny-base"
MODEL = Model(base=str(BASE), revision=None, attn_implementation="sdpa", dtype="float32")


@pytest.fixture(scope="module")
def contract() -> Contract:
    return load_contract("tiny")


@pytest.fixture(scope="module")
def base(contract: Contract) -> tuple[PreTrainedModel, ProcessorMixin]:
    return load_model(BASE, MODEL), load_processor(BASE, contract)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_saved_twice_it_is_the_same_files(
    tmp_path: Path, base: tuple[PreTrainedModel, ProcessorMixin], contract: Contract
) -> None:
    for name in ("once", "twice"):
        save_checkpoint(*base, contract, tmp_path / name)
    assert files(tmp_path / "once") == files(tmp_path / "twice")
    assert (tmp_path / "once/contract.yaml").read_text() == contract.text


def test_an_older_checkpoint_is_replaced_whole(
    tmp_path: Path, base: tuple[PreTrainedModel, ProcessorMixin], contract: Contract
) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model/left-over.safetensors").touch()
    save_checkpoint(*base, contract, tmp_path / "model")
    assert "left-over.safetensors" not in files(tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_checkpoint_of_another_contract_is_refused(
    tmp_path: Path, base: tuple[PreTrainedModel, ProcessorMixin], contract: Contract
) -> None:
    save_checkpoint(*base, contract, tmp_path / "model")
    with pytest.raises(CheckpointError, match=r"another prompt contract.*prompt\.contract"):
        load_processor(tmp_path / "model", load_contract("ie-critic"))


def test_a_missing_checkpoint_is_named(tmp_path: Path, contract: Contract) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="empty"):
        load_processor(tmp_path / "empty", contract)
    with pytest.raises(CheckpointError, match="empty"):
        load_model(tmp_path / "empty", MODEL)


def test_the_contract_sets_the_template_and_the_pixel_limits(
    base: tuple[PreTrainedModel, ProcessorMixin], contract: Contract
) -> None:
    _, processor = base
    assert processor.chat_template == processor.tokenizer.chat_template == contract.chat_template
    size = processor.image_processor.size
    assert (size["shortest_edge"], size["longest_edge"]) == (contract.min_pixels, contract.max_pixels)


def test_prompts_are_padded_on_the_left(
    base: tuple[PreTrainedModel, ProcessorMixin],
) -> None:
    """TRL 1.16's GRPOTrainer joins left-padded prompts with the processor's own token types."""
    _, processor = base
    inputs = processor(text=["a", "a long prompt"], padding=True, return_tensors="pt")
    assert inputs["attention_mask"][0].tolist() == sorted(inputs["attention_mask"][0].tolist())
    assert inputs["attention_mask"][0, 0] == 0


@pytest.mark.parametrize(
    ("attention", "package"),
    [
        ("flash_attention_2", "flash-attn, which needs a CUDA compiler"),
        ("flash_attention_4", "flash-attn-4"),
        ("kernels-community/flash-attn2", "kernels>=0.16,<0.17"),
    ],
)
def test_attention_without_its_package_says_what_to_install(attention: str, package: str) -> None:
    model = MODEL.model_copy(update={"attn_implementation": attention})
    with pytest.raises(
        CheckpointError, match=re.escape(f"attn_implementation is {attention}, which can't be")
    ) as e:
        load_model(BASE, model)
    assert f"Set it to sdpa, or install {package} (docs/full-run.md)" in str(e.value)


def test_sdpa_takes_all_windows_of_a_length_at_once_which_no_file_says(
    base: tuple[PreTrainedModel, ProcessorMixin], contract: Contract, tmp_path: Path
) -> None:
    model, _ = base
    assert model.config._attn_implementation == model.model.language_model.config._attn_implementation == "sdpa"
    assert model.model.visual.config._attn_implementation == vision_tower.NAME
    save_checkpoint(*base, contract, tmp_path / "model")
    assert vision_tower.NAME not in (tmp_path / "model/config.json").read_text()
    eager = load_model(BASE, MODEL.model_copy(update={"attn_implementation": "eager"}))
    assert eager.model.visual.config._attn_implementation == "eager"


def test_the_tiny_base_is_small_and_a_real_qwen(base: tuple[PreTrainedModel, ProcessorMixin]) -> None:
    model, processor = base
    assert type(model).__name__ == "Qwen2_5_VLForConditionalGeneration"
    assert sum(path.stat().st_size for path in BASE.iterdir()) <= 12e6
    for token in ("<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>"):
        assert len(processor.tokenizer.encode(token)) == 1
