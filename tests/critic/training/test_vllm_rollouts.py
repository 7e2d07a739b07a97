"""Rollouts by TRL's colocated vLLM: what it reads, its seeds, and the weights that it has after updates."""

import os
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from trl import GRPOTrainer
from trl.data_utils import prepare_multimodal_messages
from trl.generation.vllm_generation import VLLMGeneration

from critic import params
from critic.backbones import never_sampled
from critic.checkpoints import load_model, load_processor, save_checkpoint
from critic.data.minibench import make_table
from critic.data.trl_datasets import load_samples, write_samples
from critic.edits import normalise
from critic.params import Model
from critic.prompts import load_contract
from critic.training.rollout_check import RolloutMismatch, check_rollouts
from critic.training.rollouts import Rollout, greedy, make_trainer, roll_out
from critic.training.setup import load_trainable
from critic.training.shared_prompts import SharedPromptGRPO
from stages.build import rl_samples
from stages.grpo import arguments

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[3]
MODEL = Model(base=str(ROOT / "assets/tiny-base"), revision=None, attn_implementation="sdpa", dtype="float32")
LIMITS = params.RolloutCheck(prompts=4, mean_logprob_gap=0.001, max_logprob_gap=0.01)
TORCHRUN = {"RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}


def parity(completion_ids: list[list[int]], **columns: Any) -> list[float]:
    """A reward that differs within a group, for a model that knows no answers."""
    return [float(sum(ids) % 7) for ids in completion_ids]


@pytest.fixture(scope="module")
def trainer(tmp_path_factory: pytest.TempPathFactory) -> GRPOTrainer:
    """A trainer of the tiny base with params.yaml's own settings, the vision tower trained too."""
    folder, contract = tmp_path_factory.mktemp("grpo"), load_contract("tiny")
    table = normalise(make_table("train", sources=1, side=112, seed=7), "train")
    write_samples(rl_samples(table, contract), folder / "train.parquet")
    processor = load_processor(MODEL.base, contract)
    model = load_model(MODEL.base, MODEL)
    with torch.no_grad():
        model.lm_head.weight[processor.tokenizer.eos_token_id].neg_()  # the base would end at once
    save_checkpoint(model, processor, contract, folder / "sft")
    section = params.load(params.Grpo, ROOT / "params.yaml").model_copy(
        update={
            "per_device_train_batch_size": 8,
            "num_generations": 8,
            "max_completion_length": 12,
            "temperature": 1.0,
            "max_steps": 10,
            "learning_rate": 1e-3,
            "save_steps": 100,
        }
    )
    launch = params.load(params.Launch, ROOT / "params.yaml")
    return make_trainer(
        SharedPromptGRPO,
        model=load_trainable(folder / "sft", MODEL, section),
        processing_class=processor,
        reward_funcs=parity,
        args=arguments(section, launch, 7, folder / "run", processor),
        train_dataset=load_samples(folder / "train.parquet", contract),
    )


@pytest.fixture(scope="module")
def samples(trainer: GRPOTrainer) -> list[dict[str, Any]]:
    return [trainer.train_dataset[number] for number in range(4)]


# --- what it reads


def test_trl_alone_garbles_the_prompts_and_the_rollout_check_says_so(
    trainer: GRPOTrainer, samples: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """When this fails, TRL has fixed it, and `PictureVllm.generate` can be removed."""
    vllm = trainer.vllm_generation
    monkeypatch.setattr(vllm, "generate", partial(VLLMGeneration.generate, vllm))
    with pytest.raises(RolloutMismatch, match=r"the engine read \d+ prompt tokens where transformers has \d+"):
        check_rollouts(trainer, samples, load_contract("tiny"), LIMITS)


def test_vllm_reads_what_transformers_reads(trainer: GRPOTrainer, samples: list[dict[str, Any]]) -> None:
    check_rollouts(trainer, samples, load_contract("tiny"), LIMITS)


def test_vllm_with_pictures_in_the_wrong_places_is_refused(
    trainer: GRPOTrainer, samples: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    generate = trainer.vllm_generation.generate

    def misplaced(prompts: list[Any], images: list[Any], num_generations: int) -> Any:
        return generate(prompts, images=[pair[::-1] for pair in images], num_generations=num_generations)

    monkeypatch.setattr(trainer.vllm_generation, "generate", misplaced)
    with pytest.raises(RolloutMismatch):
        check_rollouts(trainer, samples, load_contract("tiny"), LIMITS)


def test_vllm_has_the_trainers_dtype_and_leaves_no_trace_of_a_launch(trainer: GRPOTrainer) -> None:
    assert trainer.vllm_generation.llm.model_config.dtype == torch.float32
    assert not TORCHRUN & {*os.environ}


# --- what it samples


def test_vllm_samples_no_placeholder_of_a_picture(trainer: GRPOTrainer, samples: list[dict[str, Any]]) -> None:
    written = {token for rollout in roll_out(trainer, samples * 8) for token in rollout.completion_ids}
    assert not written & set(never_sampled(trainer.processing_class))


def test_greedy_vllm_rollouts_are_the_same_twice(trainer: GRPOTrainer, samples: list[dict[str, Any]]) -> None:
    with greedy(trainer):
        assert roll_out(trainer, samples) == roll_out(trainer, samples)
    assert trainer.vllm_generation.temperature > 0


def test_samples_depend_on_the_seed_and_the_step_and_on_nothing_before(
    trainer: GRPOTrainer, samples: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def at_step(step: int) -> list[Rollout]:
        monkeypatch.setattr(trainer.state, "global_step", step)
        return roll_out(trainer, [samples[0]] * 4)

    first = at_step(3)
    assert len({tuple(rollout.completion_ids) for rollout in first}) > 1  # of one prompt
    assert roll_out(trainer, [samples[0]] * 4) != first  # the next batch of the same step
    assert at_step(4) != first
    with greedy(trainer):
        at_step(3)  # a validation between
    assert roll_out(trainer, [samples[0]] * 4) == first
    monkeypatch.setattr(trainer.args, "seed", 8)
    at_step(4)
    assert at_step(3) != first


# --- the weights that it has


def widest_gap(trainer: GRPOTrainer, samples: list[dict[str, Any]]) -> float:
    """The largest difference in nats of the log-probabilities of samples, by vLLM and by the trainer's weights."""
    prompts = [prepare_multimodal_messages(sample["prompt"], images=sample["images"]) for sample in samples]
    completions, by_vllm = trainer._generate_single_turn(*trainer._tokenize_prompts(prompts), 1)
    gaps = []
    for prompt, completion, theirs in zip(prompts, completions, by_vllm, strict=True):
        inputs = trainer.processing_class.apply_chat_template(
            [prompt], add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        )
        inputs["input_ids"] = torch.cat([inputs["input_ids"], torch.tensor([completion])], dim=1)
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        types = inputs["mm_token_type_ids"]
        inputs["mm_token_type_ids"] = torch.cat([types, types.new_zeros(1, len(completion))], dim=1)
        with torch.no_grad():
            logits = trainer.model(**inputs).logits[0, -len(completion) - 1 : -1]
        logits[:, never_sampled(trainer.processing_class)] -= 100
        ours = (logits / trainer.temperature).log_softmax(dim=-1)
        gaps.append(
            float((ours.gather(1, torch.tensor(completion)[:, None])[:, 0] - torch.tensor(theirs)).abs().max())
        )
    return max(gaps)


def test_after_ten_updates_vllm_has_the_trainers_weights_and_sees_pictures_through_them(
    trainer: GRPOTrainer, samples: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    vision = {name: weight.clone() for name, weight in trainer.model.named_parameters() if "visual" in name}
    trainer.train()
    assert trainer.state.global_step == 10
    moved = [
        name
        for name, weight in trainer.model.named_parameters()
        if not torch.equal(weight, vision.get(name, weight))
    ]
    assert len(moved) > 10
    assert widest_gap(trainer, samples) < 0.01

    # TRL's sync alone keeps the pictures as the old vision tower encoded them
    engine = trainer.vllm_generation.llm.llm_engine
    monkeypatch.setattr(engine, "reset_encoder_cache", lambda: None)
    monkeypatch.setattr(engine.model_executor.driver_worker.model_runner, "reset_encoder_cache", lambda: None)
    with torch.no_grad():
        for name, weight in trainer.model.named_parameters():
            if "visual" in name:
                weight.mul_(1.1)
    trainer._last_loaded_step = -1
    assert widest_gap(trainer, samples) > 0.01
    monkeypatch.undo()
    trainer._last_loaded_step = -1
    assert widest_gap(trainer, samples) < 0.01
