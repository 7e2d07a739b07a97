"""TRL's own vLLM rollouts, colocated, under the rollout check: what a GRPO run on GPUs begins with.

On a CPU vLLM packs its weights, so TRL can't sync them; it needn't here, since vLLM loads what the trainer holds.
"""

from pathlib import Path
from typing import Any

import pytest
from trl import GRPOTrainer

from critic import params
from critic.checkpoints import load_model, load_processor, save_checkpoint
from critic.data.minibench import make_table
from critic.data.trl_datasets import load_samples, write_samples
from critic.edits import normalise
from critic.params import Model
from critic.prompts import load_contract
from critic.training.rewards import CriticReward
from critic.training.rollout_check import RolloutMismatch, check_rollouts, never_sampled
from critic.training.rollouts import greedy, let_vllm_place_pictures, roll_out
from critic.training.setup import load_trainable
from stages.build import rl_samples
from stages.grpo import arguments

ROOT = Path(__file__).parents[3]
MODEL = Model(base=str(ROOT / "assets/tiny-base"), revision=None, attn_implementation="sdpa", dtype="float32")


@pytest.fixture(scope="module")
def trainer(tmp_path_factory: pytest.TempPathFactory) -> GRPOTrainer:
    folder, contract = tmp_path_factory.mktemp("grpo"), load_contract("tiny")
    table = normalise(make_table("train", sources=1, side=112, seed=7), "train")
    write_samples(rl_samples(table, contract), folder / "train.parquet")
    processor = load_processor(MODEL.base, contract)
    save_checkpoint(load_model(MODEL.base, MODEL), processor, contract, folder / "sft")
    section = params.load(params.Grpo, ROOT / "params.yaml").model_copy(
        update={
            "per_device_train_batch_size": 8,
            "num_generations": 8,
            "max_completion_length": 12,
            "use_vllm": True,
            "vllm_mode": "colocate",
            "vllm_gpu_memory_utilization": 0.3,
            "vllm_tensor_parallel_size": 1,
            "vllm_enable_sleep_mode": False,
        }
    )
    launch = params.load(params.Launch, ROOT / "params.yaml")
    args = arguments(section, launch, 7, folder / "run", processor)
    with pytest.MonkeyPatch.context() as patch:  # TRL sets these for vLLM, and would leave them to the next test
        settings = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
        for name, value in {**settings, "MASTER_PORT": "29511", "VLLM_CPU_KVCACHE_SPACE": "1"}.items():
            patch.setenv(name, value)
        trainer = GRPOTrainer(
            model=load_trainable(folder / "sft", MODEL, section),
            processing_class=processor,
            reward_funcs=CriticReward(),
            args=args,
            train_dataset=load_samples(folder / "train.parquet", contract),
        )
    trainer._last_loaded_step = trainer.state.global_step
    return trainer


def test_trl_alone_garbles_the_prompts_and_the_rollout_check_says_so(
    trainer: GRPOTrainer, samples: list[dict[str, Any]]
) -> None:
    """When this fails, TRL has fixed it, and `let_vllm_place_pictures` can be removed."""
    with pytest.raises(RolloutMismatch, match=r"the engine read \d+ prompt tokens where transformers has \d+"):
        check_rollouts(trainer, samples, load_contract("tiny"), max_logprob_gap=0.5)
    let_vllm_place_pictures(trainer)


@pytest.fixture(scope="module")
def samples(trainer: GRPOTrainer) -> list[dict[str, Any]]:
    return [trainer.train_dataset[number] for number in range(4)]


def test_vllm_reads_what_transformers_reads(trainer: GRPOTrainer, samples: list[dict[str, Any]]) -> None:
    check_rollouts(trainer, samples, load_contract("tiny"), max_logprob_gap=0.01)


def test_vllm_samples_no_placeholder_of_a_picture(trainer: GRPOTrainer, samples: list[dict[str, Any]]) -> None:
    written = {token for rollout in roll_out(trainer, samples * 8) for token in rollout.completion_ids}
    assert not written & set(never_sampled(trainer.processing_class))


def test_greedy_vllm_rollouts_are_the_same_twice(trainer: GRPOTrainer, samples: list[dict[str, Any]]) -> None:
    with greedy(trainer):
        assert roll_out(trainer, samples) == roll_out(trainer, samples)
    assert trainer.vllm_generation.temperature > 0


def test_vllm_with_pictures_in_the_wrong_places_is_refused(
    trainer: GRPOTrainer, samples: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    generate = trainer.vllm_generation.generate

    def misplaced(prompts: list[Any], images: list[Any], num_generations: int) -> Any:
        return generate(prompts, images=[pair[::-1] for pair in images], num_generations=num_generations)

    monkeypatch.setattr(trainer.vllm_generation, "generate", misplaced)
    with pytest.raises(RolloutMismatch):
        check_rollouts(trainer, samples, load_contract("tiny"), max_logprob_gap=0.5)
