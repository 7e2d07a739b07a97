"""Each step of the way with a base of each family, a few random weights; the table of docs/bases.md.

python -m pytest -m "slow or nightly" tests/stages/test_bases.py
PYTHONPATH=.:tests python tests/stages/test_bases.py      # print the table
"""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from bases import FAMILIES, contract_of, make_base
from safetensors.torch import load_file
from small_project import ROOT, curve, kill_at, make_project, outputs, teach_format, train

from critic.data.minibench import make_table
from critic.edits import TYPES, edits_from_table, normalise
from critic.engines.load import open_engine
from critic.scoring.parity import compare_engines
from critic.scoring.scorer import Scorer
from critic.tables import write_parquet

NAMES = {"qwen2_5_vl": "Qwen2.5-VL", "qwen3_vl": "Qwen3-VL", "qwen3_5": "Qwen3.5"}
LORA = {
    "lora": {"r": 4, "lora_alpha": 8, "lora_dropout": 0.0},
    "freeze_vision": True,
    "gradient_checkpointing": True,
}
STEPS = {
    "sft": "SFT, all weights",
    "sft_lora": "SFT: LoRA, frozen vision tower, gradient checkpointing",
    "sft_resumed": "SFT, killed and resumed: the same bytes",
    "sft_zero": "SFT on two processes under ZeRO-3",
    "grpo": "GRPO, all weights: vLLM's rollouts, their check, validation",
    "grpo_lora": "GRPO: LoRA, frozen vision tower, gradient checkpointing",
    "grpo_zero": "GRPO on two processes under ZeRO-3",
    "shared": "`share_prompts`: a prompt is read once",
    "parity": "the same texts from transformers, vLLM, and vLLM behind HTTP",
    "expected": "expected scores",
}
TOLERANCE = 0.25
"""Nats between two tokens that bfloat16 may swap: logits of 16 to 32 are rounded to eighths."""
RECURRENT = "no: recurrent layers"
NOT_RUNNABLE = {("shared", "qwen3_5"): RECURRENT, ("grpo_zero", "qwen3_5"): "no: needs a GPU"}
CELLS = {
    (step, family): NOT_RUNNABLE.get((step, family), "yes, in bfloat16" if needs_bfloat16 else "yes")
    for step in STEPS
    for family in FAMILIES
    for needs_bfloat16 in [
        family == "qwen3_5" and step in ("grpo", "grpo_lora", "grpo_zero", "parity", "expected")
    ]
}


def table() -> str:
    """The table in Markdown."""
    rows = [["", *NAMES.values()], ["---"] * (1 + len(NAMES))]
    rows += [[title, *(CELLS[step, family] for family in NAMES)] for step, title in STEPS.items()]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def test_the_table_of_the_documentation_is_the_one_that_is_tested() -> None:
    assert table() in (ROOT / "docs/bases.md").read_text()
    assert {name.removeprefix("test_step_") for name in globals() if name.startswith("test_step_")} == {*STEPS}


def by_family(step: str, ci: tuple[str, ...] = ()) -> Callable[[Any], Any]:
    """Run a test for each family that its step runs with; for those of `ci`, also in `make test`."""
    cases = [
        pytest.param(family, marks=pytest.mark.slow if family in ci else pytest.mark.nightly)
        for family in FAMILIES
        if (step, family) not in NOT_RUNNABLE
    ]
    return pytest.mark.parametrize("family", cases)


# --- the steps

BF16 = {"qwen3_5": "bfloat16"}
"""The dtype of what vLLM runs on a CPU, where it isn't float32."""


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Makes a project for a base of a family, with values of its params."""

    def made(family: str, dtype: str = "float32", **sections: dict[str, Any]) -> Path:
        folder = tmp_path_factory.mktemp(family)
        base = make_base(family, folder / "base", dtype=getattr(torch, dtype))
        alone = {"share_prompts": (("shared", family)) not in NOT_RUNNABLE}
        sections["grpo"] = alone | sections.get("grpo", {})
        return make_project(folder / "project", base, contract_of(family).name, dtype=dtype, **sections)

    return made


@pytest.fixture(scope="module")
def critic(make: Callable[..., Path]) -> Callable[[str], Path]:
    """Trains a poor critic of a family once, which answers in the format; gives its folder."""

    @cache
    def trained(family: str) -> Path:
        sft = {"num_train_epochs": 60.0, "learning_rate": 3e-3, "per_device_train_batch_size": 8}
        sft["save_steps"] = 1000  # no checkpoint: nothing resumes from one
        project = make(family, BF16.get(family, "float32"), sft=sft)
        teach_format(project, contract_of(family).name)
        train(project, "sft")
        return project / "models/sft"

    return trained


def changed(project: Path, stage: str) -> set[str]:
    """The names of the weights that a training has changed."""
    base = yaml.safe_load((project / "params.yaml").read_text())["profiles"]["tiny"]["model"]["base"]
    before = load_file(Path(base if stage == "sft" else project / "models/sft") / "model.safetensors")
    trained = load_file(project / f"models/{stage}/model.safetensors")
    assert trained.keys() == before.keys()
    return {name for name, tensor in trained.items() if not torch.equal(tensor, before[name])}


def assert_adapted(names: set[str]) -> None:
    """Linear layers of the language model have changed, and nothing else: the vision tower is the same bits."""
    assert names and all("proj" in name and "visual" not in name for name in names)


@by_family("sft", ci=("qwen3_5",))
def test_step_sft(family: str, make: Callable[..., Path]) -> None:
    project = make(family)
    train(project, "sft")
    names = changed(project, "sft")
    assert any("visual" in name for name in names) and any("layers" in name for name in names)


@by_family("sft_lora")
def test_step_sft_lora(family: str, make: Callable[..., Path]) -> None:
    project = make(family, sft=LORA)
    train(project, "sft")
    assert_adapted(changed(project, "sft"))


@by_family("sft_resumed")
def test_step_sft_resumed(family: str, make: Callable[..., Path]) -> None:
    whole, broken = make(family), make(family)
    train(whole, "sft")
    kill_at(broken, "sft", 5)
    assert "resuming from runs/" in train(broken, "sft")
    assert outputs(broken, "sft") == outputs(whole, "sft")


@by_family("sft_zero")
def test_step_sft_zero(family: str, make: Callable[..., Path]) -> None:
    one = make(family)
    two = make(family, sft={"per_device_train_batch_size": 2}, launch={"nproc_per_node": 2, "zero_stage": 3})
    losses = []
    for project in (one, two):
        train(project, "sft")
        losses.append(curve(project, "sft", "loss")["loss"].to_numpy())
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    assert changed(two, "sft")


def run_grpo(family: str, make: Callable[..., Path], critic: Path, **sections: dict[str, Any]) -> Path:
    project = make(family, BF16.get(family, "float32"), **sections)
    (project / "models/sft").symlink_to(critic)
    train(project, "grpo")
    assert (curve(project, "grpo", "grad_norm")["grad_norm"] > 0).any()
    return project


@by_family("grpo")
def test_step_grpo(family: str, make: Callable[..., Path], critic: Callable[[str], Path]) -> None:
    names = changed(run_grpo(family, make, critic(family)), "grpo")
    assert any("visual" in name for name in names) and any("layers" in name for name in names)


@by_family("grpo_lora")
def test_step_grpo_lora(family: str, make: Callable[..., Path], critic: Callable[[str], Path]) -> None:
    assert_adapted(changed(run_grpo(family, make, critic(family), grpo=LORA), "grpo"))


@by_family("grpo_zero")
def test_step_grpo_zero(family: str, make: Callable[..., Path], critic: Callable[[str], Path]) -> None:
    launch = {"nproc_per_node": 2, "zero_stage": 3}
    assert changed(run_grpo(family, make, critic(family), launch=launch), "grpo")


@by_family("shared")
def test_step_shared(family: str, make: Callable[..., Path], critic: Callable[[str], Path]) -> None:
    """The first update has the gradients of separate rows."""
    norms = []
    for share in (True, False):
        grpo = {"share_prompts": share, "max_steps": 1, "eval_steps": 1}
        project = run_grpo(family, make, critic(family), grpo=grpo)
        norms.append(curve(project, "grpo", "grad_norm")["grad_norm"].to_numpy())
    assert norms[0] == pytest.approx(norms[1], rel=1e-4)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("pairs") / "test.parquet"
    write_parquet(normalise(make_table("test", sources=2, side=112, seed=7), "test"), file, TYPES)
    return file


@by_family("parity")
def test_step_parity(family: str, critic: Callable[[str], Path], pairs: Path) -> None:
    """In float32 all texts are the same. In bfloat16 texts may differ where two tokens are nearly as likely."""
    dtype: Any = BF16.get(family, "float32")
    for way in compare_engines(str(critic(family)), None, pairs, dtype, 12, 8, 24, print):
        gaps = [difference.gap for difference in way.differences]
        assert not gaps or (dtype == "bfloat16" and max(gap or 0.0 for gap in gaps) <= TOLERANCE), way


@by_family("expected", ci=("qwen3_vl",))
def test_step_expected(family: str, critic: Callable[[str], Path]) -> None:
    folder, contract = critic(family), contract_of(family)
    edits = [*edits_from_table(normalise(make_table("train", sources=1, side=56, seed=7), "train"))]
    dtype: Any = BF16.get(family, "float32")
    found = []
    for kind in ("transformers", "vllm"):
        engine: Any = open_engine(kind, str(folder), contract, max_tokens=24, dtype=dtype)
        found.append([result.score for result in Scorer(engine, contract, mode="expected")(edits)])
        engine.close()
    by_transformers, by_vllm = (np.array(scores, float) for scores in found)
    assert np.isfinite(by_transformers).any()
    assert by_vllm == pytest.approx(by_transformers, abs=1e-3 if dtype == "float32" else 0.1, nan_ok=True)


if __name__ == "__main__":
    print(table())
