"""The benchmark counts what the model computes, and runs at a tiny size from its command line."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForImageTextToText, ProcessorMixin, Qwen2_5_VLConfig

from benchmarks import train_7b
from benchmarks.train_7b import (
    Batch,
    BenchmarkError,
    Weights,
    config_of,
    contract_of,
    count_weights,
    forward_flops,
    load_sections,
    one_token_words,
    parse,
    rollout_flops,
    update_flops,
)
from critic import params
from critic.checkpoints import load_processor
from critic.params import Lora, ParamsError
from critic.prompts import load_contract

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _from_the_top_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


@pytest.fixture
def tiny() -> Qwen2_5_VLConfig:
    return config_of("tiny")


@pytest.fixture
def processor() -> ProcessorMixin:
    return load_processor("assets/tiny-base", load_contract("tiny"))


def section(**changes: Any) -> params.Sft:
    """SFT of all weights, with changes."""
    return params.load(params.Sft, profile="full").model_copy(update=changes)


LORA = {"lora": Lora(r=8, lora_alpha=8, lora_dropout=0.0)}


# --- the arithmetic


def test_the_7b_has_as_many_weights_as_the_hubs_checkpoint() -> None:
    """model.safetensors.index.json of Qwen/Qwen2.5-VL-7B-Instruct names 16,584,333,312 bytes of bfloat16."""
    config = config_of("7b")
    weights = count_weights(config, section())
    embedding = config.text_config.vocab_size * config.text_config.hidden_size
    assert weights.language + weights.head + weights.vision + weights.merger + embedding == 16_584_333_312 // 2
    assert config.text_config.num_hidden_layers == len(config.text_config.layer_types) == 28


def test_lora_adds_adapters_to_seven_matrices_of_each_layer_and_changes_no_other_count() -> None:
    config = config_of("7b")
    text = config.text_config
    plain, adapted = count_weights(config, section()), count_weights(config, section(**LORA))
    kv = text.num_key_value_heads * text.hidden_size // text.num_attention_heads
    q_and_o, k_and_v = 2 * 2 * text.hidden_size, 2 * (text.hidden_size + kv)
    gate_up_and_down = 3 * (text.hidden_size + text.intermediate_size)
    assert adapted.adapters == 8 * (q_and_o + k_and_v + gate_up_and_down) * text.num_hidden_layers
    assert plain == Weights(**{**vars(adapted), "adapters": 0})


def test_for_text_alone_it_is_palms_formula(tiny: Qwen2_5_VLConfig) -> None:
    """6N + 12 L H Q T a token, forward and backward."""
    text, weights, length = tiny.text_config, count_weights(tiny, section()), 100
    a_token = 6 * (weights.language + weights.head)
    a_token += 12 * text.num_hidden_layers * text.hidden_size * length
    whole = update_flops(tiny, weights, Batch([0], [length], []), section())
    assert whole == pytest.approx(a_token * length)


@pytest.mark.parametrize("size", [(112, 112), (84, 140), (196, 252)], ids=str)
@pytest.mark.parametrize("backward", [False, True])
def test_it_counts_what_pytorch_counts(
    size: tuple[int, int], backward: bool, tiny: Qwen2_5_VLConfig, processor: Any
) -> None:
    """Within 1 %: biases and norms are counted as weights. The pixels require a gradient."""
    pictures = [Image.fromarray(np.zeros((*size, 3), np.uint8)), Image.new("RGB", (112, 56))]
    vision = "<|vision_start|><|image_pad|><|vision_end|>"
    inputs = processor(text=[f"{vision}{vision} done"], images=[pictures], return_tensors="pt")
    inputs["pixel_values"].requires_grad_(backward)
    model = AutoModelForImageTextToText.from_config(tiny, attn_implementation="eager")
    with FlopCounterMode(display=False) as counter, torch.set_grad_enabled(backward):
        logits = model(**inputs).logits
        if backward:
            logits.sum().backward()
    length, grids = inputs["input_ids"].shape[1], inputs["image_grid_thw"].tolist()
    weights = count_weights(tiny, section())
    if backward:
        expected = update_flops(tiny, weights, Batch([0], [length], grids), section())
    else:
        expected = sum(forward_flops(tiny, weights, length, length**2, length, grids))
    assert counter.get_total_flops() == pytest.approx(expected, rel=0.01)


def test_a_frozen_part_is_spared_its_gradients(tiny: Qwen2_5_VLConfig) -> None:
    batch = Batch([50], [30], [[1, 8, 8]])
    weights = count_weights(tiny, section(**LORA))
    passes = forward_flops(tiny, weights, 80, 80**2, 30, batch.grids)
    without = Weights(**{**vars(weights), "adapters": 0})
    everything = 3 * (passes.weights + passes.attention + passes.vision)
    assert update_flops(tiny, without, batch, section()) == pytest.approx(everything)
    frozen = update_flops(tiny, without, batch, section(freeze_vision=True))
    assert frozen == pytest.approx(everything - 2 * passes.vision)
    adapted = update_flops(tiny, weights, batch, section(**LORA))
    assert adapted == pytest.approx(everything - 2 * passes.vision - passes.weights + 3 * passes.adapters)


def test_a_group_reads_its_prompt_once_and_a_completion_attends_to_all_before_it(tiny: Qwen2_5_VLConfig) -> None:
    weights = count_weights(tiny, section())
    batch = Batch([50] * 4, [30] * 4, [[1, 8, 8]] * 4)
    prompt = sum(forward_flops(tiny, weights, 50, 50**2, 0, [[1, 8, 8]]))
    completion = sum(forward_flops(tiny, weights, 30, 30 * 80, 30, []))
    assert rollout_flops(tiny, weights, batch, group=4) == pytest.approx(prompt + 4 * completion)


# --- its settings


def test_values_of_the_profile_can_be_changed() -> None:
    changes = ["sft.lora=null", "sft.per_device_train_batch_size=2", "grpo.share_prompts=false"]
    sections = load_sections("single-gpu", [*changes, "model.attn_implementation=flash_attention_2"])
    assert (sections[params.Sft].lora, sections[params.Sft].per_device_train_batch_size) == (None, 2)
    assert sections[params.Model].attn_implementation == "flash_attention_2"
    unchanged = params.load(params.Grpo, profile="single-gpu")
    assert sections[params.Grpo] == unchanged.model_copy(update={"share_prompts": False})
    paper = load_sections("paper", ["grpo.use_vllm=false"])
    assert paper[params.Sft] == params.load(params.Sft, profile="paper")
    assert (paper[params.Grpo].use_vllm, paper[params.Grpo].loss_type) == (False, "bnpo")
    limits = [(c.min_pixels, c.max_pixels) for c in map(contract_of, (paper, load_sections("full", [])))]
    assert limits == [(262144, 1048576)] * 2
    lora = load_sections("full", ["grpo.lora={r: 4, lora_alpha: 8, lora_dropout: 0.1}"])[params.Grpo].lora
    assert lora == Lora(r=4, lora_alpha=8, lora_dropout=0.1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("sft.batch=2", r"profiles\.single-gpu\.sft\.batch: unknown key"),
        (
            "sft.per_device_train_batch_size=two",
            r"profiles\.single-gpu\.sft\.per_device_train_batch_size: .*not 'two'",
        ),
        ("trainer.steps=2", r"profiles\.single-gpu\.trainer: unknown key"),
    ],
)
def test_a_wrong_change_is_named_as_in_the_file(change: str, message: str) -> None:
    with pytest.raises(ParamsError, match=message):
        load_sections("single-gpu", [change])


@pytest.mark.parametrize(
    "change",
    [
        "seed=1",
        "sft.per_device_train_batch_size",
        "sft.per_device_train_batch_size=",
        "sft.num_train_epochs.all.of.it=1",
    ],
)
def test_what_is_no_change_says_how_one_looks(change: str) -> None:
    with pytest.raises(BenchmarkError, match=rf"--set {change}: .*such as sft\.per_device_train_batch_size=4"):
        load_sections("single-gpu", [change])


def test_the_7b_wants_a_gpu_and_the_tiny_shape_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(BenchmarkError, match="no GPU here for the 7b: --shape tiny"):
        train_7b.peak_flops(parse(["sft"]), "bfloat16")
    assert train_7b.peak_flops(parse(["sft", "--shape", "tiny"]), "bfloat16") is None


@pytest.mark.parametrize(
    ("name", "given", "tflops"),
    [
        ("NVIDIA H100 80GB HBM3", [], 989),
        ("NVIDIA H200", [], 989),
        ("NVIDIA A100-SXM4-80GB", [], 312),
        ("Some Card", ["--peak-tflops", "500"], 500),
    ],
)
def test_a_gpus_peak_is_known_by_its_name_or_given(
    name: str, given: list[str], tflops: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: name)
    assert train_7b.peak_flops(parse(["sft", *given]), "bfloat16") == tflops * 1e12


def test_a_gpu_of_unknown_speed_is_asked_about(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Some Card")
    with pytest.raises(BenchmarkError, match=r"peak of Some Card in bfloat16 .*--peak-tflops"):
        train_7b.peak_flops(parse(["sft"]), "bfloat16")


def test_another_number_of_processes_than_the_profiles_is_refused() -> None:
    given = parse(["sft", "--shape", "tiny", "--set", "launch.nproc_per_node=2"])
    with pytest.raises(
        BenchmarkError, match=r"asks for 2 processes, and this is 1: .*`torchrun --nproc-per-node 2`"
    ):
        train_7b.measure(given)


def test_its_words_are_one_token_each_in_any_row(processor: Any) -> None:
    words = one_token_words(processor)
    text = "".join(np.random.default_rng(0).choice(words, 512))
    assert len(processor.tokenizer.encode(text)) == 512


# --- a run


SMALL = [
    "sft.per_device_train_batch_size=2",
    "sft.gradient_accumulation_steps=2",
    "grpo.per_device_train_batch_size=4",
    "grpo.num_generations=4",
]


@pytest.mark.nightly
@pytest.mark.parametrize(("training", "completions"), [("sft", 4 * (24 + 2)), ("grpo", 4 * 24)])
def test_it_runs_at_a_tiny_size_on_a_cpu(training: str, completions: int, tmp_path: Path) -> None:
    """SFT's completions also end: two tokens more."""
    for name in ("assets", "params.yaml"):
        (tmp_path / name).symlink_to(ROOT / name)
    env = {**os.environ, "PYTHONPATH": str(ROOT), "HF_DATASETS_CACHE": str(tmp_path / "cache")}
    command = [
        sys.executable, str(ROOT / "benchmarks/train_7b.py"), training, "--shape", "tiny", "--set", *SMALL,
        "--steps", "2", "--warmup", "1", "--completion-tokens", "24",
        *(["--check-rollouts"] if training == "grpo" else []),
    ]  # fmt: skip
    run = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    result = json.loads((tmp_path / f"runs/train_7b/{training}.json").read_text())
    measured = result["measured"]
    assert result["device"] == "CPU" and measured["mfu"] is None
    assert measured["steps"] == 2 and measured["seconds_per_step"] > 0
    assert measured["completion_tokens_per_step"] == completions
    assert measured["prompt_tokens_per_step"] > completions
    assert measured["model_tflops_per_step"] > 0
    assert 0 < measured["peak_memory_gib"] < 16
    assert (measured["rollout_tokens_per_second"] is None) == (training == "sft")
    assert measured["rollout_seconds_per_step"] < measured["seconds_per_step"]
    assert 0 < measured["update_seconds_per_step"] <= measured["seconds_per_step"]
    assert (measured["sync_seconds_per_step"] > 0) == (training == "grpo")  # vLLM gets the weights of each step
    assert result["rollout_check"] == ("" if training == "grpo" else None)
    assert result["settings"][training]["gradient_accumulation_steps"] == (2 if training == "sft" else 1)
    assert f"| {training} on | 1 x CPU |" in run.stdout


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["--help"])
    said = capsys.readouterr().out
    for words in ("torchrun", "--set", "--shape tiny", "--peak-tflops", "gradient", "docs/gpu-results.md"):
        assert words in said
