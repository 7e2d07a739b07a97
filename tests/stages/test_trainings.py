"""The trainings as they run at scale, on the tiny model: killed and resumed, sharded over two processes, adapted.

python -m pytest -m "slow or nightly" tests/stages/test_trainings.py    # with ten kills of each, and ZeRO-3
"""

import json
import random
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from small_project import DONE, ROOT, curve, kill_at, make_project, outputs, run, teach_format, train

from critic.checkpoints import load_model, load_processor
from critic.data.minibench import make_table
from critic.data.trl_datasets import write_samples
from critic.edits import edits_from_table, normalise
from critic.engines.base import request
from critic.engines.transformers import TransformersEngine
from critic.engines.vllm import VllmEngine
from critic.params import Model
from critic.prompts import load_contract
from stages.build import preferred, rl_samples

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def beginner(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A poor critic that answers in the format, so that rewards differ within GRPO's groups."""
    folder = make_project(
        tmp_path_factory.mktemp("beginner"), sft={"num_train_epochs": 12.0, "per_device_train_batch_size": 8}
    )
    teach_format(folder)
    train(folder, "sft")
    return folder / "models/sft"


@pytest.mark.nightly
@pytest.mark.parametrize("stage", ["sft", "grpo"])
def test_killed_again_and_again_it_ends_with_the_same_bytes(
    stage: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    whole, broken = make_project(tmp_path / "whole"), make_project(tmp_path / "broken")
    if stage == "grpo":
        beginner = request.getfixturevalue("beginner")
        for folder in (whole, broken):
            (folder / "models/sft").symlink_to(beginner)
    train(whole, stage)
    assert (curve(whole, stage, "grad_norm")["grad_norm"] > 0).any()

    for step in [*sorted(random.Random(0).choices(range(1, 8), k=10)), DONE]:
        kill_at(broken, stage, step)
        assert not (broken / f"models/{stage}/contract.yaml").exists()
    assert "resuming from runs/" in train(broken, stage)
    assert outputs(broken, stage) == outputs(whole, stage)
    assert not list((broken / "runs").iterdir())


@pytest.mark.nightly
def test_trackers_log_a_training_and_change_no_byte(
    tmp_path: Path, beginner: Path, trackers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All at once, without a network; GRPO resumes, too."""
    plain, logged = make_project(tmp_path / "plain"), make_project(tmp_path / "logged")
    for folder in (plain, logged):
        (folder / "models/sft").symlink_to(beginner)
    train(plain, "grpo")
    monkeypatch.setenv("PYTHONPATH", str(trackers))
    monkeypatch.setenv("CRITIC_REPORT_TO", "mlflow,wandb,tensorboard,swanlab")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("SWANLAB_MODE", "offline")
    train(logged, "grpo")
    assert outputs(logged, "grpo") == outputs(plain, "grpo")
    (logged / "models/sft").unlink()
    train(logged, "sft")

    script = """
import mlflow
for run in mlflow.search_runs(search_all_experiments=True, output_format="list"):
    losses = mlflow.MlflowClient().get_metric_history(run.info.run_id, "loss")
    print(run.info.run_name, run.info.status, len(losses))
"""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///runs/trackers/mlflow.db")
    runs = run(logged, "-c", script).stdout.splitlines()
    assert sorted(runs) == ["grpo FINISHED 8", "sft FINISHED 16"]
    written = logged / "runs/trackers"
    assert len([*written.glob("wandb/offline-run-*/*.wandb")]) == 2
    assert {path.parent.name for path in written.glob("tensorboard/*/events*")} == {"sft", "grpo"}
    assert len([*written.glob("swanlab/run-*")]) == 2
    (table, *_) = sorted(written.glob("wandb/*/files/media/table/completions_*.json"))
    assert len(json.loads(table.read_text())["data"]) == 8
    kept = [file.read_bytes()[:4] for file in written.glob("wandb/artifacts/staging/*")]
    assert kept.count(b"\x89PNG") >= 2, "the pictures of its completions"
    assert sorted(path.name for path in logged.iterdir()) == sorted(path.name for path in plain.iterdir())


@pytest.mark.nightly
def test_two_processes_under_zero_3_learn_what_one_does(tmp_path: Path) -> None:
    """Real DeepSpeed on two CPU processes: the same losses, and a gathered checkpoint that both engines load."""
    one = make_project(tmp_path / "one")
    two = make_project(
        tmp_path / "two", sft={"per_device_train_batch_size": 2}, launch={"nproc_per_node": 2, "zero_stage": 3}
    )
    for folder in (one, two):
        train(folder, "sft")
    for name in ("loss", "grad_norm"):
        alone, together = (curve(folder, "sft", name)[name] for folder in (one, two))
        assert len(alone) >= 1
        assert together.to_numpy() == pytest.approx(alone.to_numpy(), rel=1e-4)
    weights = [load_file(folder / "models/sft/model.safetensors") for folder in (one, two)]
    assert weights[0].keys() == weights[1].keys()
    for name, tensor in weights[0].items():
        torch.testing.assert_close(weights[1][name], tensor, rtol=0, atol=1e-4)

    contract, checkpoint = load_contract("tiny"), two / "models/sft"
    model = Model(base=str(checkpoint), revision=None, attn_implementation="sdpa", dtype="float32")
    edits = edits_from_table(normalise(make_table("test", sources=1, side=56, seed=7), "test"))
    requests = [request(contract, edit) for edit in edits]
    by_transformers = TransformersEngine(load_model(checkpoint, model), load_processor(checkpoint, contract), 24)
    by_vllm = VllmEngine(checkpoint, dtype="float32", max_tokens=24)
    completions = by_vllm.complete(requests)
    by_vllm.close()
    assert completions == by_transformers.complete(requests)


@pytest.mark.nightly
def test_shared_prompts_have_the_gradients_of_separate_rows_under_zero_3(tmp_path: Path, beginner: Path) -> None:
    """GRPO's first update on two processes, with the same rollouts: TRL's own, and with prompts read once."""
    norms = []
    for share in (True, False):
        folder = make_project(
            tmp_path / f"share-{share}",
            grpo={"share_prompts": share, "max_steps": 1, "eval_steps": 1},
            launch={"nproc_per_node": 2, "zero_stage": 3},
        )
        (folder / "models/sft").symlink_to(beginner)
        train(folder, "grpo")
        norms.append(curve(folder, "grpo", "grad_norm")["grad_norm"].to_numpy())
    assert norms[0] == pytest.approx(norms[1], rel=1e-4) and norms[1][0] > 0


@pytest.mark.nightly
@pytest.mark.parametrize("distance", [0.0, 1.0])
def test_grpo_learns_from_preferences_alone_or_beside_ratings(
    distance: float, tmp_path: Path, beginner: Path
) -> None:
    folder = make_project(
        tmp_path / "order",
        reward={"distance": distance, "axes": 0.0, "pairs": 1.0},
        grpo={"per_device_train_batch_size": 16, "max_steps": 4},
    )
    (folder / "models/sft").symlink_to(beginner)
    table = normalise(make_table("train", sources=6, side=56, seed=7), "train")
    first, second = table[::2].reset_index(), table[1::2].reset_index()
    order = (first["mos"] - second["mos"]).map(lambda gap: float(gap > 0) - float(gap < 0))
    pairs = pd.DataFrame({"edited_a": first["id"], "edited_b": second["id"], "order": order})
    rows = preferred(table[["id", "images", "instruction"]], pairs)
    if distance:
        rows = pd.concat([table[:12], rows[12:]], ignore_index=True)
    write_samples(rl_samples(rows, load_contract("tiny")), folder / "data/rl/train.parquet")
    train(folder, "grpo")
    assert (curve(folder, "grpo", "grad_norm")["grad_norm"] > 0).any()
    assert curve(folder, "grpo", "reward_pair_order")["reward_pair_order"].between(0, 1).all()
    metrics = folder / "reports/curves/grpo/plots/metrics"
    for name in ("accuracy", "floor"):
        assert (metrics / f"reward_{name}.tsv").exists() == bool(distance)
    if not distance:
        assert curve(folder, "grpo", "reward")["reward"].between(0, 1).all()


def test_adapters_train_and_are_merged_into_a_plain_checkpoint(tmp_path: Path) -> None:
    lora = {"r": 4, "lora_alpha": 8, "lora_dropout": 0.0}
    folder = make_project(tmp_path / "lora", sft={"lora": lora, "freeze_vision": True})
    train(folder, "sft")
    base = load_model(ROOT / "assets/tiny-base", Model(
        base="", revision=None, attn_implementation="sdpa", dtype="float32"
    )).state_dict()  # fmt: skip
    trained = load_file(folder / "models/sft/model.safetensors")
    changed = {name for name, tensor in trained.items() if not torch.equal(tensor, base[name_in_memory(name)])}
    assert changed
    assert all("proj" in name and "visual" not in name for name in changed)
    assert not (folder / "models/sft/adapter_config.json").exists()


def name_in_memory(name: str) -> str:
    """Qwen2.5-VL's weights are stored under other names than the modules have."""
    if name.startswith("visual."):
        return f"model.{name}"
    return name.replace("model.", "model.language_model.", 1) if name.startswith("model.") else name


def test_flash_attention_without_flash_attn_says_what_to_do(tmp_path: Path) -> None:
    flash = {"attn_implementation": "flash_attention_2"}
    folder = make_project(tmp_path / "flash", model=flash, grpo={"share_prompts": False})
    failed = run(folder, "-m", "stages.sft")
    assert failed.returncode != 0
    assert "model.attn_implementation is flash_attention_2" in failed.stderr
    assert "Set it to sdpa, or install flash-attn" in failed.stderr
