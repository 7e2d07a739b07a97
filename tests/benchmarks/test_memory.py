"""The memory table of docs/full-run.md is what params.yaml and the 7B's shape give; its terms are measured."""

import copy
import re
from pathlib import Path

import pytest
import torch
from transformers import AutoModel

from benchmarks import duration, memory
from benchmarks.shapes import config_of
from critic import params

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/full-run.md").read_text()
FULL, SINGLE = ("full", "grpo"), ("single-gpu", "grpo")
NEWER = ("qwen3-vl-8b", "qwen3-vl-4b", "qwen3-5-9b")
GB = 1e9


@pytest.fixture(autouse=True)
def _from_the_top_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def gb(place: tuple[str, str], side: int = 768) -> dict[str, float]:
    return dict(zip(memory.ROWS, (part or 0.0 for part in memory.column(*place, side)), strict=True))


def row(start: str) -> str:
    (name,) = (name for name in memory.ROWS if name.startswith(start))
    return name


def test_the_page_has_the_table() -> None:
    assert memory.table() in PAGE


def test_the_page_on_bases_has_their_memory_and_time() -> None:
    page = (ROOT / "docs/bases.md").read_text()
    assert memory.table(NEWER) in page
    assert duration.table() in page


def test_a_completion_takes_the_work_that_the_page_says() -> None:
    full, single = duration.duration("full"), duration.duration("single-gpu")
    assert "113 TFLOPs to train on one such sample (LoRA: 70)" in PAGE
    assert (round(full.sample), round(single.sample)) == (113, 70)
    assert re.search(r"A completion takes\s+31 TFLOPs instead of 113 \(LoRA: 20 instead of 70\)", PAGE)
    assert (round(full.completion), round(single.completion)) == (31, 20)


def test_the_page_has_the_totals_for_the_largest_pictures() -> None:
    found = re.search(
        r"\(`--side 1024`\), `full` takes (\d+) in GRPO's\s+update and (\d+) while vLLM generates, "
        r"`single-gpu` (\d+) and (\d+)",
        PAGE,
    )
    assert found
    totals = [gb(place, 1024)[row(start)] for place in (FULL, SINGLE) for start in ("**in", "**while")]
    assert [int(number) for number in found.groups()] == [round(total) for total in totals]


def test_the_page_says_what_the_pixels_would_take_without_sharing() -> None:
    found = re.search(r"once for each completion: ([\d.]+) GB\s+in\s+`full` instead of (\d+\.\d+)", PAGE)
    assert found
    pixels = gb(FULL)[row("pixels")]
    assert found.groups() == (f"{8 * pixels:.1f}", f"{pixels:.1f}")


@pytest.mark.parametrize("place", [FULL, SINGLE, *((base, "grpo") for base in NEWER)])
@pytest.mark.parametrize("side", [768, 1024])
def test_grpo_fits_a_gpu_with_cuda_and_nccl(place: tuple[str, str], side: int) -> None:
    assert max(gb(place, side).values()) <= memory.GPU - 2


def test_the_terms_are_those_that_the_rows_name() -> None:
    """By hand: 8 completions share two pictures of 756 x 756 pixels, 54 x 54 patches each."""
    tokens, patches = 2 * 27 * 27 + 250 + 8 * 400, 2 * 54 * 54
    full, single = gb(FULL), gb(SINGLE)
    assert full[row("weights")] == pytest.approx(2 * 8_292_166_656 / 8 / GB)
    assert full[row("gradients")] == pytest.approx(2 * full[row("weights")])
    assert full[row("float32")] == pytest.approx(6 * full[row("weights")])
    assert single[row("weights")] == pytest.approx(8 * full[row("weights")])
    assert single[row("float32")] == pytest.approx(12 * 80_740_352 / GB)
    assert full[row("pixels")] == pytest.approx(3 * 16 * patches * 1176 * 4 / GB)
    assert single[row("pixels")] == pytest.approx(full[row("pixels")] / 2)
    assert single[row("kept")] == pytest.approx(2 * 3584 * 28 * tokens / GB)
    assert full[row("kept")] == pytest.approx(single[row("kept")] + 2 * 1280 * 32 * patches / GB)
    assert single[row("vLLM")] == pytest.approx(0.45 * 85)
    asleep = sum(full[name] for name in memory.ROWS[:7])
    assert full[row("**in")] == pytest.approx(asleep)
    assert single[row("**in")] == pytest.approx(sum(single[name] for name in memory.ROWS[:8]))
    states = sum(full[name] for name in memory.ROWS[:4])
    assert full[row("**while")] == pytest.approx(states + full[row("pixels")] / 3 + full[row("vLLM")])


def test_checkpointing_keeps_the_input_of_each_layer() -> None:
    """Measured on the tiny base's language model in bfloat16: 2 bytes x width x layers per token."""
    text = copy.deepcopy(config_of("tiny").text_config)
    model = AutoModel.from_config(text, dtype=torch.bfloat16).train()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    tokens, kept = 128, dict[int, int]()
    ours = {weight.untyped_storage()._cdata for weight in model.parameters()}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if tensor.shape == (1, tokens, text.hidden_size) and storage._cdata not in ours:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    embedded = torch.zeros(1, tokens, text.hidden_size, dtype=torch.bfloat16, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = model(inputs_embeds=embedded, use_cache=False).last_hidden_state
    layers = 2 * text.hidden_size * text.num_hidden_layers * tokens
    final_norm = 4 * text.hidden_size * tokens
    assert output.requires_grad and sum(kept.values()) <= layers + 3 * final_norm
    assert sum(kept.values()) >= layers


def test_a_layer_keeps_in_proportion_to_its_width_and_adapters_keep_more() -> None:
    config = config_of("7b")
    full, single = (params.load(params.Grpo, profile=profile) for profile in ("full", "single-gpu"))
    eighth, quarter = (memory.layer_bytes("7b", full, 1708, parts) for parts in (8, 4))
    assert eighth == pytest.approx(quarter, rel=0.02)
    assert memory.layer_bytes("7b", single, 1708) > 1.05 * eighth
    text = config.text_config
    least = 2 * (4 * text.intermediate_size + 6 * text.hidden_size)
    assert least < eighth < 1.5 * least
