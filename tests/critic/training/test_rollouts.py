"""What the rollouts of TRL's trainer read and write, and the rollout check and validation that use it."""

from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from transformers import TrainerControl, TrainerState
from trl import GRPOTrainer

from critic import params
from critic.backbones import never_sampled
from critic.checkpoints import load_model, load_processor
from critic.data.minibench import make_table
from critic.data.trl_datasets import load_samples, write_samples
from critic.edits import normalise
from critic.params import Model
from critic.prompts import Contract, load_contract
from critic.training import best_checkpoint, rollout_check
from critic.training.best_checkpoint import Validation, main_score
from critic.training.rewards import CriticReward
from critic.training.rollout_check import RolloutMismatch
from critic.training.rollouts import Rollout, greedy, roll_out, shared_memory
from critic.training.setup import load_trainable
from stages.build import rl_samples
from stages.grpo import arguments

ROOT = Path(__file__).parents[3]
BASE = ROOT / "assets/tiny-base"
MODEL = Model(base=str(BASE), revision=None, attn_implementation="sdpa", dtype="float32")
LIMITS = params.load(params.Grpo, ROOT / "params.yaml").rollout_check
STRICT = params.RolloutCheck(prompts=4, mean_logprob_gap=0.001, max_logprob_gap=0.01)


def test_each_launch_has_shared_memory_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    from vllm.distributed.device_communicators.cpu_communicator import _CPUSHMDistributed

    monkeypatch.setenv("VLLM_DIST_IDENT", "//")
    names = set()
    for launch in ("killed", "next"):
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", launch)
        with shared_memory():
            group = SimpleNamespace(unique_name="tp:0", ranks=[0, 1])
            names.add(_CPUSHMDistributed.make_group_name(group))
    assert len(names) == 2


@pytest.fixture(scope="module")
def contract() -> Contract:
    return load_contract("tiny")


@pytest.fixture(scope="module")
def trainer(contract: Contract, tmp_path_factory: pytest.TempPathFactory) -> GRPOTrainer:
    """A trainer of the tiny base with params.yaml's own settings, and a few edits to train on."""
    folder = tmp_path_factory.mktemp("grpo")
    write_samples(
        rl_samples(normalise(make_table("train", sources=1, side=112, seed=7), "train"), contract),
        folder / "train.parquet",
    )
    section = params.load(params.Grpo, ROOT / "params.yaml")
    section = section.model_copy(
        update={
            "per_device_train_batch_size": 8,
            "num_generations": 8,
            "max_completion_length": 12,
            "use_vllm": False,
        }
    )
    launch = params.load(params.Launch, ROOT / "params.yaml")
    processor = load_processor(BASE, contract)
    return GRPOTrainer(
        model=load_trainable(BASE, MODEL, section),
        processing_class=processor,
        reward_funcs=CriticReward(),
        args=arguments(section, launch, 7, folder / "run", processor),
        train_dataset=load_samples(folder / "train.parquet", contract),
    )


@pytest.fixture(scope="module")
def samples(trainer: GRPOTrainer) -> list[dict[str, Any]]:
    return [trainer.train_dataset[number] for number in range(4)]


# --- rollouts


@pytest.mark.parametrize("training", [True, False])
def test_greedy_drops_nothing_out_and_leaves_the_trainer_as_it_was(trainer: GRPOTrainer, training: bool) -> None:
    trainer.model.train(training)
    with suppress(KeyError), greedy(trainer):
        assert not trainer.model.training
        assert not trainer.generation_config.do_sample
        raise KeyError
    assert trainer.model.training == training
    assert trainer.generation_config.do_sample


def test_greedy_rollouts_are_transformers_own(
    trainer: GRPOTrainer, samples: list[dict[str, Any]], contract: Contract
) -> None:
    with greedy(trainer):
        rollouts = roll_out(trainer, samples)
    inputs = trainer.processing_class(
        text=[contract.render(samples[0]["prompt"])], images=[samples[0]["images"]], return_tensors="pt"
    )
    suppressed = never_sampled(trainer.processing_class)
    expected = trainer.model.generate(**inputs, do_sample=False, max_new_tokens=12, suppress_tokens=suppressed)
    assert rollouts[0].prompt_ids == inputs["input_ids"][0].tolist()
    written = expected[0, inputs["input_ids"].shape[1] :].tolist()
    assert rollouts[0].completion_ids == written[: len(rollouts[0].completion_ids)]
    assert all(len(rollout.grids) == 2 for rollout in rollouts)


def test_greedy_is_over_when_its_block_is(trainer: GRPOTrainer) -> None:
    assert trainer.generation_config.do_sample
    with suppress(RuntimeError), greedy(trainer):
        assert not trainer.generation_config.do_sample
        raise RuntimeError
    assert trainer.generation_config.do_sample


# --- rollout check


def test_the_rollout_check_lets_transformers_rollouts_pass(
    trainer: GRPOTrainer, samples: list[dict[str, Any]], contract: Contract
) -> None:
    rollout_check.check_rollouts(trainer, samples, contract, STRICT)


def test_the_rollout_check_looks_at_pictures_of_two_sizes(contract: Contract) -> None:
    source, edited = rollout_check._of_two_sizes([Image.new("RGB", (112, 112))] * 2, contract)
    assert source.size != edited.size


def swap_pictures(samples: list[dict[str, Any]], trainer: GRPOTrainer) -> list[Rollout]:
    return roll_out(trainer, [{**sample, "images": sample["images"][::-1]} for sample in samples])


def lose_a_token(samples: list[dict[str, Any]], trainer: GRPOTrainer) -> list[Rollout]:
    return [Rollout(r.prompt_ids[:-1], r.grids, r.completion_ids, r.finished) for r in roll_out(trainer, samples)]


def resize_otherwise(samples: list[dict[str, Any]], trainer: GRPOTrainer) -> list[Rollout]:
    rollouts = roll_out(trainer, samples)
    return [Rollout(r.prompt_ids, [[1, 4, 4]] * 2, r.completion_ids, r.finished) for r in rollouts]


def hold_other_weights(samples: list[dict[str, Any]], trainer: GRPOTrainer) -> list[Rollout]:
    weights = trainer.model.lm_head.weight
    before = weights.detach().clone()
    with torch.no_grad():
        weights.copy_(before.roll(1, dims=0))
        rollouts = roll_out(trainer, samples)
        weights.copy_(before)
    return rollouts


@pytest.mark.parametrize(
    ("engine", "message"),
    [
        (swap_pictures, r"sample train-0000\d: the engine('s pictures are| read)"),
        (lose_a_token, r"read \d+ prompt tokens where transformers has \d+.*grpo\.use_vllm"),
        (resize_otherwise, r"the engine's pictures are \[\[1, 4, 4\]"),
        (hold_other_weights, r"greedy completion are \d+\.\d+ nats less likely .* in the mean"),
    ],
)
def test_an_engine_that_sees_something_else_is_refused(
    trainer: GRPOTrainer,
    samples: list[dict[str, Any]],
    contract: Contract,
    monkeypatch: pytest.MonkeyPatch,
    engine: Callable[[list[dict[str, Any]], GRPOTrainer], list[Rollout]],
    message: str,
) -> None:
    monkeypatch.setattr(rollout_check, "roll_out", lambda trainer, samples: engine(samples, trainer))
    with pytest.raises(RolloutMismatch, match=message):
        rollout_check.check_rollouts(trainer, samples, contract, LIMITS)


@pytest.mark.parametrize(
    ("gaps", "refused"),
    [
        ([0.0] * 4095 + [1.2], False),  # a close call in bfloat16
        ([0.0, 0.01] * 2000, False),
        ([0.0] * 399 + [2.5], True),
        ([0.0] * 380 + [0.6] * 20, True),  # the numbers of a critique that saw other pictures
    ],
)
def test_one_close_call_of_thousands_passes_and_many_wide_gaps_do_not(
    trainer: GRPOTrainer,
    samples: list[dict[str, Any]],
    contract: Contract,
    monkeypatch: pytest.MonkeyPatch,
    gaps: list[float],
    refused: bool,
) -> None:
    monkeypatch.setattr(rollout_check, "_logprob_gaps", lambda *_: torch.tensor(gaps))
    with pytest.raises(RolloutMismatch) if refused else nullcontext():
        rollout_check.check_rollouts(trainer, samples[:1], contract, LIMITS)


# --- validation


@pytest.fixture
def watch(trainer: GRPOTrainer, contract: Contract, tmp_path: Path) -> Validation:
    return Validation(trainer, trainer.train_dataset, contract, every=2, run=tmp_path)


def table(step: int, *scores: float | None) -> pd.DataFrame:
    """What a step scored, on edits whose MOS are 1, 2, 3…"""
    rows = {"step": step, "id": [f"e{n}" for n in range(len(scores))], "mos": np.arange(1.0, len(scores) + 1)}
    facts = pd.DataFrame(rows).assign(status="ok", tokens=3)
    return facts.assign(score=pd.array(scores, dtype="Float64"))[best_checkpoint.COLUMNS]


def test_the_best_trained_step_is_kept_and_the_first_of_equals(watch: Validation) -> None:
    assert watch.best_step == 0
    watch.tables = {0: table(0, 1, 2, 3), 4: table(4, 1, 3, 2), 2: table(2, 1, 3, 2), 6: table(6, 3, 2, 1)}
    assert watch.best_step == 2
    assert watch.weights.name == "best-2"


def test_each_edit_is_scored_once_and_no_score_is_made_up(watch: Validation, trainer: GRPOTrainer) -> None:
    state = TrainerState(global_step=0, is_world_process_zero=True)
    watch.on_train_begin(trainer.args, state, TrainerControl())
    scored = watch.table()
    assert list(scored["id"]) == [sample["id"] for sample in watch.samples]
    assert scored["score"].isna().all() and (scored["status"] != "ok").all()  # the base knows no answers

    state.global_step, state.max_steps = 2, 6
    watch.on_step_end(trainer.args, state, TrainerControl())
    assert (watch.run / "best-2/model.safetensors").exists()
    again = Validation(trainer, watch.samples, watch.contract, every=2, run=watch.run)
    again.on_train_begin(trainer.args, state, TrainerControl())
    pd.testing.assert_frame_equal(again.table(), watch.table())


def test_a_run_that_goes_on_forgets_the_steps_after_its_checkpoint(
    watch: Validation, trainer: GRPOTrainer
) -> None:
    (watch.run / "validation").mkdir()
    for step in (0, 2, 4):
        table(step, 1, 2, 3).to_parquet(watch.run / f"validation/{step}.parquet")
    watch.on_train_begin(trainer.args, TrainerState(global_step=2), TrainerControl())
    assert set(watch.tables) == {0, 2}


def test_older_best_weights_go_when_a_checkpoint_is_saved(watch: Validation, trainer: GRPOTrainer) -> None:
    for step in (2, 4):
        (watch.run / f"best-{step}").mkdir()
    watch.tables = {2: table(2, 1, 3, 2), 4: table(4, 1, 2, 3)}
    watch.on_save(trainer.args, TrainerState(global_step=4, is_world_process_zero=True), TrainerControl())
    assert [folder.name for folder in watch.run.glob("best-*")] == ["best-4"]


def test_the_main_score_counts_failures_as_the_mean_and_a_constant_as_nothing() -> None:
    assert main_score(table(2, 1, 2, 3)) == pytest.approx(1)
    assert main_score(table(2, 3, 2, 1)) == pytest.approx(-1)
    assert main_score(table(2, 2, 2, 2)) == 0
    assert main_score(table(2, 1, None, 3)) == pytest.approx(1)
    assert 0 < main_score(table(2, 1, None, None, 4)) < 1


def test_a_model_in_memory_is_as_loaded(trainer: GRPOTrainer) -> None:
    """The sabotage of a test above was undone."""
    assert torch.equal(trainer.model.lm_head.weight, load_model(BASE, MODEL).lm_head.weight)
