"""`full` and `paper` train as upstream does, except where docs/full-run.md's table says otherwise."""

import re
from math import prod
from pathlib import Path
from typing import Any

import pytest
import yaml

from critic import params
from critic.data.readers.hub import Settings as Hub
from critic.prompts import load_contract

ROOT = Path(__file__).parents[1]
OWN = ROOT / "params.yaml"
PAGE = ROOT / "docs/full-run.md"

SFT: dict[str, Any] = {
    "model.base": "Qwen/Qwen2.5-VL-7B-Instruct",
    "model.dtype": "bfloat16",
    "launch.zero_stage": 3,
    "sft.num_train_epochs": 3.0,
    "sft.learning_rate": 1e-5,
    "sft.lr_scheduler_type": "cosine",
    "sft.warmup_steps": 0.1,
    "sft.weight_decay": 0.0,
    "sft.max_grad_norm": 1.0,
    "sft.per_device_train_batch_size": 4,
    "sft.gradient_accumulation_steps": 2,
    "sft.gradient_checkpointing": True,
    "sft.bf16": True,
    "sft.use_liger_kernel": False,
    "sft.freeze_vision": False,
    "sft.lora": None,
    "sft.token_mean": "micro_batch",
    "sft.share_prompts": False,
}
"""Coobiw/LLaMA-Factory-20250504, examples/ie4k/ie4k_merge_qwen25vl.yaml at 036b8a8, and the defaults there."""

GRPO: dict[str, Any] = {
    "download.hub.dataset": "Coobiw/IE-Bench-4k",
    "download.hub.split": "official",
    "prompt.contract": "learnt",
    "model.attn_implementation": "flash_attention_2",
    "launch.nnodes": 1,
    "launch.nproc_per_node": 8,
    "reward.kind": "l1",
    "reward.format_weight": 1.0,
    "reward.strict_format": False,
    "reward.r_min": 0.05,
    "reward.diff_at_rmin": 1.0,
    "reward.use_floor": True,
    "grpo.max_steps": 115,
    "grpo.learning_rate": 1e-6,
    "grpo.lr_scheduler_type": "constant_with_warmup",
    "grpo.warmup_steps": 0.0,
    "grpo.weight_decay": 1e-2,
    "grpo.max_grad_norm": 1.0,
    "grpo.per_device_train_batch_size": 8,
    "grpo.gradient_accumulation_steps": 16,
    "grpo.gradient_checkpointing": True,
    "grpo.bf16": True,
    "grpo.use_liger_kernel": False,
    "grpo.freeze_vision": False,
    "grpo.lora": None,
    "grpo.num_generations": 8,
    "grpo.num_iterations": 1,
    "grpo.temperature": 1.0,
    "grpo.top_p": 1.0,
    "grpo.max_completion_length": 4096,
    "grpo.beta": 0.0,
    "grpo.epsilon": 0.2,
    "grpo.epsilon_high": 0.28,
    "grpo.delta": 3.0,
    "grpo.loss_type": "bnpo",
    "grpo.scale_rewards": "group",
    "grpo.eval_steps": 1,
    "grpo.use_vllm": True,
    "grpo.vllm_mode": "colocate",
    "grpo.vllm_gpu_memory_utilization": 0.6,
    "grpo.vllm_tensor_parallel_size": 2,
    "grpo.vllm_enable_sleep_mode": True,
    "grpo.vllm_importance_sampling_correction": False,
    "grpo.share_prompts": False,
    "evaluate.failure_policy": "dropped",
    "seed": 42,
}
"""Coobiw/IE-Critic-R1, examples/config_ie_critic_r1.yaml at 357c239, and the code that reads it."""

UPSTREAM = SFT | GRPO
MARK = re.compile(r"\[[pdr]\]|ours: \w")
"""Where a value is from: the head of params.yaml says what it means."""
MARKED = (["sft"], ["reward"], ["grpo"], ["evaluate"])


def flat(values: dict[str, Any], place: str = "") -> dict[str, Any]:
    """Nested values by dotted keys; an empty mapping is a value."""
    leaves: dict[str, Any] = {}
    for key, value in values.items():
        leaves |= flat(value, f"{place}{key}.") if isinstance(value, dict) and value else {place + key: value}
    return leaves


def values_of(profile: str) -> dict[str, Any]:
    """All values of a profile by dotted keys, with the shared ones."""
    sections = {part.name: params.load(part, OWN, profile=profile) for part in params.SECTIONS}
    values = {name: section.model_dump() for name, section in sections.items()}
    download = sections["download"]
    assert isinstance(download, params.Download)
    values["download"]["hub"] = download.settings(Hub).model_dump()
    del values["download"]["learn_contract"]  # how a profile gets the prompt of `prompt.contract`
    return flat(values) | {"seed": params.seed(OWN)}


def rows() -> dict[str, dict[str, Any]]:
    """The table's rows that name a key of params.yaml: the values of the profiles' columns by key."""
    text = PAGE.read_text().split("## Deviations from upstream")[1]
    lines = [line for line in text.splitlines() if line.startswith("|")]
    header, _, *body = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    assert header == ["setting", "upstream", "`full`", "`paper`", "why"]
    found: dict[str, dict[str, Any]] = {}
    for setting, _, full, paper, _ in body:
        if key := re.fullmatch(r"`(.+)`", setting):
            assert key[1] not in found
            found[key[1]] = {"full": yaml.safe_load(full.strip("`")), "paper": yaml.safe_load(paper.strip("`"))}
    return found


@pytest.mark.parametrize("profile", ["full", "paper"])
def test_the_table_has_the_values_of_params_yaml(profile: str) -> None:
    values = values_of(profile)
    assert {key: row[profile] for key, row in rows().items()} == {key: values.get(key) for key in rows()}


@pytest.mark.parametrize("profile", ["full", "paper"])
def test_every_value_that_differs_from_upstreams_is_in_the_table(profile: str) -> None:
    values = values_of(profile)
    differ = {key for key, value in UPSTREAM.items() if values[key] != value}
    assert differ
    assert differ <= {*rows()}


def test_every_value_in_which_paper_differs_from_full_is_upstreams_and_in_the_table() -> None:
    full, paper = values_of("full"), values_of("paper")
    differ = {key for key in full if full[key] != paper.get(key)}
    assert differ
    assert {key: paper[key] for key in differ} == {key: UPSTREAM.get(key) for key in differ}
    assert differ == {key for key, row in rows().items() if row["full"] != row["paper"]}
    assert {*full} == {*paper}


def test_no_row_of_the_table_is_as_upstream_in_both_profiles() -> None:
    known = {key: row for key, row in rows().items() if key in UPSTREAM}
    assert known
    assert not {key for key, row in known.items() if row["full"] == row["paper"] == UPSTREAM[key]}


@pytest.mark.parametrize("profile", ["full", "paper"])
def test_an_update_has_upstreams_number_of_samples(profile: str) -> None:
    values = values_of(profile)

    def size(training: str) -> int:
        factors = ("per_device_train_batch_size", "gradient_accumulation_steps")
        processes = values["launch.nnodes"] * values["launch.nproc_per_node"]
        return int(prod(values[f"{training}.{factor}"] for factor in factors) * processes)

    assert size("sft") == 64
    assert size("grpo") == 128 * values["grpo.num_generations"] == 1024


def test_pictures_have_upstreams_pixel_limits() -> None:
    full = load_contract(params.load(params.Prompt, OWN, profile="full").contract)
    assert (full.min_pixels, full.max_pixels, full.prefill) == (262144, 1048576, "<think>")
    paper = params.load(params.Download, OWN, profile="paper").learn_contract
    assert paper is not None
    assert (paper.min_pixels, paper.max_pixels) == (262144, 1048576)


def unmarked(text: str, profile: str) -> list[str]:
    """The lines of a profile's trainings, reward and evaluation without the source of their value.

    A line has it in its comment, or a line above does whose mapping it is part of; merged keys keep theirs.
    """
    path: dict[int, tuple[str, bool]] = {}
    found = []
    for line in text.splitlines():
        if not (match := re.fullmatch(r"( *)([\w<]+):(?: ([^#]*?))?(?: *#(.*))?", line)):
            continue
        indent, key, value, comment = len(match[1]), match[2], match[3] or "", match[4] or ""
        path = {place: above for place, above in path.items() if place < indent}
        marked = MARK.search(comment) is not None or any(has for _, has in path.values())
        path[indent] = key, marked
        above = [name for name, _ in path.values()]
        is_value = key != "<<" and value and not re.match(r"&|\{<<: \*\w+\}$", value)
        if above[:2] == ["profiles", profile] and above[2:3] in MARKED and is_value and not marked:
            found.append(line.strip())
    return found


def test_a_line_without_the_source_of_its_value_is_found() -> None:
    lines = [
        "profiles:",
        "  full:",
        "    sft: &sft",
        "      <<: *other",
        "      bf16: true",
        "      lora: {<<: *lora}",
    ]
    lines += [
        "      a: 1  # [d]",
        "      b: 2  # ours: why",
        "      c: # [r]",
        "        d: 4",
        "      e: 5  # why",
    ]
    lines += ["    launch:", "      f: 6"]
    assert unmarked("\n".join(lines), "full") == ["bf16: true", "e: 5  # why"]
    assert unmarked("\n".join(lines), "paper") == []


@pytest.mark.parametrize("profile", ["full", "paper", "single-gpu", "agiqa"])
def test_every_value_of_the_recipe_has_its_source(profile: str) -> None:
    assert unmarked(OWN.read_text(), profile) == []
