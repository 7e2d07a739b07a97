"""What vLLM gets of a model with adapters: the merged weights, rounded once, from a base that stays as it was."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import Linear
from trl.generation.vllm_generation import VLLMGeneration

from critic.checkpoints import load_model, load_processor
from critic.params import Model
from critic.prompts import load_contract
from critic.training.rollouts import PictureVllm
from critic.training.setup import publish

BASE = Path(__file__).parents[3] / "assets/tiny-base"
MODEL = Model(base=str(BASE), revision=None, attn_implementation="sdpa", dtype="bfloat16")
TARGETS = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"


class WithoutEngine(PictureVllm):
    """Its weights are synced to nothing."""

    def _init_vllm(self) -> None:
        self.mode = "colocate"


@pytest.fixture
def adapted() -> PeftModel:
    lora = LoraConfig(r=32, lora_alpha=32, target_modules=TARGETS)
    torch.manual_seed(0)
    return get_peft_model(load_model(BASE, MODEL), lora)


def updates(model: PeftModel) -> Iterator[int]:
    """Ten steps of Adam at a learning rate of 1e-5, each followed by the caller's sync."""
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-5)
    for step in range(10):
        for weight in trained:
            weight.grad = torch.randn_like(weight)
        optimizer.step()
        yield step


def frozen(model: PeftModel) -> dict[str, torch.Tensor]:
    weights = {name: weight for name, weight in model.named_parameters() if "lora_" not in name}
    return {name.removeprefix("base_model.model.").replace(".base_layer", ""): w for name, w in weights.items()}


def test_the_policy_that_samples_is_the_adapters_to_one_rounding_and_the_base_stays(adapted: PeftModel) -> None:
    vllm = WithoutEngine(adapted, Accelerator(cpu=True), None)
    base = {name: weight.clone() for name, weight in frozen(adapted).items()}
    for _ in updates(adapted):
        synced = dict(vllm._iter_named_params())
    assert synced.keys() == base.keys()
    assert all(torch.equal(weight, base[name]) for name, weight in frozen(adapted).items())
    layers = {name: layer for name, layer in adapted.named_modules() if isinstance(layer, Linear)}
    changed = 0
    for name, layer in layers.items():
        name = f"{name.removeprefix('base_model.model.')}.weight"
        delta = layer.lora_B["default"].weight @ layer.lora_A["default"].weight * layer.scaling["default"]
        assert delta.dtype == torch.float32 and delta.any()
        assert torch.equal(synced[name], (base[name].float() + delta).bfloat16())
        changed += int((synced.pop(name) != base[name]).sum())
    assert changed > 0
    assert all(torch.equal(weight, base[name]) for name, weight in synced.items())


def test_trl_alone_moves_the_frozen_base(adapted: PeftModel) -> None:
    """When this fails, TRL has fixed it, and `PictureVllm._iter_named_params` can be removed."""
    vllm = WithoutEngine(adapted, Accelerator(cpu=True), None)
    base = {name: weight.clone() for name, weight in frozen(adapted).items()}
    for _ in updates(adapted):
        list(VLLMGeneration._iter_named_params(vllm))
    assert any(not torch.equal(weight, base[name]) for name, weight in frozen(adapted).items())


def test_the_published_model_is_the_one_that_was_validated(adapted: PeftModel, tmp_path: Path) -> None:
    vllm = WithoutEngine(adapted, Accelerator(cpu=True), None)
    for _ in updates(adapted):
        pass
    validated = {name: weight.clone() for name, weight in vllm._iter_named_params()}
    adapted.save_pretrained(tmp_path / "best")
    contract = load_contract("tiny")
    publish(tmp_path / "best", BASE, MODEL, load_processor(BASE, contract), contract, tmp_path / "grpo")
    published = load_model(tmp_path / "grpo", MODEL).state_dict()
    assert all(torch.equal(published[name], weight) for name, weight in validated.items())
