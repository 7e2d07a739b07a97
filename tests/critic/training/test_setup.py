"""What a training's set-up spares: pictures, pixels, a backward pass; and DeepSpeed's float32 sums."""

import gc
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import get_peft_model
from PIL import Image
from trl import GRPOTrainer
from trl.trainer import grpo_trainer

from benchmarks.memory import PIXEL_COPIES
from critic import params
from critic.checkpoints import load_processor
from critic.data import trl_datasets
from critic.data.minibench import make_table
from critic.data.trl_datasets import load_samples, write_samples
from critic.edits import normalise
from critic.params import Lora, Model
from critic.pictures import decode_cell
from critic.prompts import Contract, load_contract
from critic.training import rollouts
from critic.training.rewards import CriticReward
from critic.training.setup import adapters, load_trainable
from stages.build import rl_samples
from stages.grpo import arguments, pictures_of_a_batch

ROOT = Path(__file__).parents[3]
BASE = ROOT / "assets/tiny-base"
MODEL = Model(base=str(BASE), revision=None, attn_implementation="sdpa", dtype="float32")
PROMPTS, STEPS = 12, 3


@pytest.fixture(scope="module")
def contract() -> Contract:
    return load_contract("tiny")


def section(**changes: Any) -> params.Grpo:
    return params.load(params.Grpo, ROOT / "params.yaml", profile="tiny").model_copy(update=changes)


# --- pictures and pixels of a GRPO step


class Watched:
    """A GRPO training of one epoch, 16 completions a step in four micro-batches, two generated at a time."""

    def __init__(self, folder: Path, contract: Contract, patch: pytest.MonkeyPatch):
        table = normalise(make_table("train", sources=2, side=56, seed=7), "train")[:PROMPTS]
        write_samples(rl_samples(table, contract), folder / "train.parquet")
        self.files = {image["bytes"] for images in table["images"] for image in images}
        self.decoded: list[bytes] = []
        self.pixels: list[int] = []
        self.caches: list[Any] = []
        patch.setattr(trl_datasets, "decode_cell", self._decode)
        patch.setattr(trl_datasets, "lru_cache", self._cache)
        patch.setattr(grpo_trainer, "unsplit_pixel_values_by_grid", self._unsplit)
        small = section(
            max_steps=STEPS,
            num_generations=4,
            per_device_train_batch_size=4,
            gradient_accumulation_steps=4,
            steps_per_generation=2,
            max_completion_length=4,
            use_vllm=False,
        )
        processor = load_processor(BASE, contract)
        args = arguments(
            small, params.load(params.Launch, ROOT / "params.yaml", profile="tiny"), 7, folder, processor
        )
        args.save_strategy = "no"
        self.keep = pictures_of_a_batch(args)
        self.before = {id(picture) for picture in pictures()}
        self.trainer = rollouts.make_trainer(
            GRPOTrainer,
            model=load_trainable(BASE, MODEL, small),
            processing_class=processor,
            reward_funcs=CriticReward(),
            args=args,
            train_dataset=load_samples(folder / "train.parquet", contract, keep=self.keep),
        )
        self.trainer.train()

    def _decode(self, cell: dict[str, Any]) -> Image.Image:
        self.decoded.append(cell["bytes"])
        return decode_cell(cell)

    def _cache(self, maxsize: int) -> Any:
        def wrap(function: Any) -> Any:
            self.caches.append(lru_cache(maxsize)(function))
            return self.caches[-1]

        return wrap

    def _unsplit(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Notes the bytes of all pixels in memory."""
        whole = unsplit(batch)
        storages = {}
        for thing in gc.get_objects():
            if isinstance(thing, torch.Tensor) and thing.ndim == 2 and thing.shape[1] == 1176:
                storages[thing.untyped_storage().data_ptr()] = thing.untyped_storage().nbytes()
        self.pixels.append(sum(storages.values()))
        return whole


unsplit = grpo_trainer.unsplit_pixel_values_by_grid


def pictures() -> Iterator[Image.Image]:
    gc.collect()
    return (thing for thing in gc.get_objects() if isinstance(thing, Image.Image))


@pytest.fixture(scope="module")
def watched(contract: Contract, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    with pytest.MonkeyPatch.context() as patch:
        yield Watched(tmp_path_factory.mktemp("grpo"), contract, patch)


def test_a_picture_is_decoded_once_a_step(watched: Watched) -> None:
    """TRL reads the two pictures of a prompt once for each of 4 completions, twice: 16 times in all."""
    assert watched.trainer.state.global_step == STEPS
    assert {*watched.decoded} == watched.files
    assert len(watched.decoded) <= 2 * PROMPTS


def test_the_pixels_of_a_generation_batch_are_in_memory_three_times(watched: Watched) -> None:
    """As benchmarks/memory.py counts them. The generation batch is half of a step."""
    one = sum(batch["pixel_values"].nbytes for batch in watched.trainer._buffered_inputs)
    assert one == 8 * 2 * 16 * 1176 * 4  # completions, pictures, patches of 56 x 56 pixels
    assert max(watched.pixels) == PIXEL_COPIES * one


def test_rollouts_are_as_old_as_the_step(watched: Watched) -> None:
    """TRL computes log-probabilities of older weights only for rollouts that may be older."""
    assert len(watched.trainer._buffered_inputs) == 2
    assert all("old_per_token_logps" not in batch for batch in watched.trainer._buffered_inputs)


def test_no_picture_of_a_past_step_is_kept(watched: Watched) -> None:
    """This test must be the last: it empties the cache of the samples."""
    kept = [picture for picture in pictures() if id(picture) not in watched.before]
    assert 0 < len(kept) <= watched.keep
    del kept
    for cached in watched.caches:
        cached.cache_clear()
    assert not [picture for picture in pictures() if id(picture) not in watched.before]


@pytest.mark.parametrize(("completions", "generations", "most"), [(8, 8, 6), (64, 8, 20), (4, 8, 4)])
def test_the_pictures_of_a_batch_are_two_for_each_group_that_it_may_touch(
    completions: int, generations: int, most: int
) -> None:
    class Arguments:
        per_device_train_batch_size, steps_per_generation, num_generations = completions, 1, generations

    assert pictures_of_a_batch(Arguments()) == most  # type: ignore[arg-type]


# --- a frozen vision tower


def step(contract: Contract, *, cut: bool) -> tuple[bool, int, dict[str, torch.Tensor]]:
    """One backward pass with LoRA and gradient checkpointing.

    Returns:
        Whether the pictures' features require a gradient, how many backward passes an MLP of the tower ran, and
        the gradients of the adapters.
    """
    frozen = section(freeze_vision=True, lora=Lora(r=4, lora_alpha=8, lora_dropout=0.0))
    model = load_trainable(BASE, MODEL, frozen)
    visual = model.model.visual
    if not cut:
        del visual.get_input_embeddings
    lora = adapters(frozen, model)
    assert lora is not None
    torch.manual_seed(0)
    adapted = get_peft_model(model, lora).train()
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    adapted.gradient_checkpointing_enable({"use_reentrant": False})
    adapted.enable_input_require_grads()
    seen: list[bool] = []
    backward: list[None] = []
    visual.register_forward_hook(lambda module, given, output: seen.append(output.pooler_output.requires_grad))
    visual.blocks[0].mlp.register_full_backward_hook(lambda *given: backward.append(None))
    processor = load_processor(BASE, contract)
    text = "<|vision_start|><|image_pad|><|vision_end|> a picture"
    inputs = processor(text=[text], images=[[Image.new("RGB", (112, 84), "red")]], return_tensors="pt")
    adapted(**inputs, labels=inputs["input_ids"]).loss.backward()
    gradients = {name: weight.grad for name, weight in adapted.named_parameters() if weight.requires_grad}
    return seen[0], len(backward), gradients


def test_no_backward_pass_runs_in_a_frozen_tower_and_the_adapters_learn_the_same(contract: Contract) -> None:
    requires, ran, gradients = step(contract, cut=True)
    assert not requires and not ran
    requires, ran, expected = step(contract, cut=False)
    assert requires and ran
    assert gradients.keys() == expected.keys() and gradients
    for name, gradient in gradients.items():
        assert gradient.abs().max() > 0
        assert torch.equal(gradient, expected[name])


# --- DeepSpeed

SUMS = """
import deepspeed, torch
from critic.training.setup import zero_config

torch.manual_seed(0)
deepspeed.init_distributed("gloo")
model = torch.nn.Linear(4, 4, bias=False).bfloat16()
config = zero_config(3) | {
    "bf16": {"enabled": True}, "gradient_clipping": 1.0, "gradient_accumulation_steps": 2, "train_batch_size": 2,
    "train_micro_batch_size_per_gpu": 1,
    "optimizer": {"type": "AdamW", "params": {"lr": 0.0, "torch_adam": True}},
}
engine, *_ = deepspeed.initialize(model=model, config=config)
for value in (1.0, 1 / 512):  # their sum isn't a bfloat16
    loss = engine(torch.full((1, 4), value, dtype=torch.bfloat16)).sum()
    engine.backward(loss)
    if value < 1:
        print("SUM", 2 * float(deepspeed.utils.safe_get_full_grad(engine.module.weight).float().mean()))
    engine.step()
print("REDUCED", engine.communication_data_type)
"""


@pytest.mark.nightly  # DeepSpeed compiles its communication first
@pytest.mark.slow
def test_deepspeed_sums_gradients_in_float32(tmp_path: Path) -> None:
    (tmp_path / "sums.py").write_text(SUMS)
    env = {**os.environ, "PYTHONPATH": str(ROOT), "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", str(tmp_path / "sums.py")]
    run = subprocess.run(command, env=env, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-4000:]
    assert "REDUCED torch.float32" in run.stdout
    assert f"SUM {1 + 1 / 512}" in run.stdout


# --- processes without GPUs

TWO = """
import torch
from accelerate import Accelerator
from critic.params import Launch
from critic.training.setup import join_processes

join_processes(Launch(nnodes=1, nproc_per_node=2, zero_stage=None))
accelerator = Accelerator()
model = accelerator.prepare(torch.nn.Linear(1, 1, bias=False))
model(torch.tensor([[float(accelerator.process_index)]])).sum().backward()
gathered = accelerator.gather(torch.tensor([accelerator.process_index])).tolist()
print(f"GATHERED {gathered} GRADIENT {model.module.weight.grad.item()}\\\\n", end="", flush=True)
"""


def test_processes_without_gpus_or_deepspeed_train_one_model(tmp_path: Path) -> None:
    (tmp_path / "two.py").write_text(TWO)
    env = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    run = subprocess.run([*command, str(tmp_path / "two.py")], env=env, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-4000:]
    assert run.stdout.count("GATHERED [0, 1] GRADIENT 0.5") == 2
