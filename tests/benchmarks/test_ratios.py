"""What this project is faster at, and what it must not slow down: ratios of two ways in one run, on the tiny base.

The limits are generous, because a busy machine isn't a failure: they catch what has become slow, and
docs/benchmarks.md has the figures. Each time is the least of some runs in turns.
"""

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

from benchmarks import score, startup
from critic.checkpoints import load_model, load_processor
from critic.data.minibench import make_table
from critic.edits import edits_from_table, normalise
from critic.engines.load import open_engine
from critic.params import Model
from critic.prompts import load_contract
from critic.scoring.scorer import Scorer
from critic.training.packing import select_pictures
from critic.training.shared_prompts import SharedPromptGRPO

BASE = Path(__file__).parents[2] / "assets/tiny-base"
CONTRACT = load_contract("tiny")


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return normalise(make_table("test", sources=6, side=112, seed=7), "test")


def least_seconds(*ways: Callable[[], Any], runs: int = 3) -> list[float]:
    """Of each way, the least of the runs after the first."""
    spent: list[list[float]] = [[] for _ in ways]
    for _ in range(runs + 1):
        for way, times in zip(ways, spent, strict=True):
            began = time.perf_counter()
            way()
            times.append(time.perf_counter() - began)
    return [min(times[1:]) for times in spent]


def test_an_update_with_shared_prompts_takes_half_the_time_of_trls(tmp_path: Path, table: pd.DataFrame) -> None:
    edits = [*edits_from_table(table)][:2]
    rows = [{"prompt": CONTRACT.messages(edit), "images": CONTRACT.pictures(edit)} for edit in edits]
    arguments: dict[str, Any] = {
        "output_dir": str(tmp_path), "per_device_train_batch_size": 16, "num_generations": 8,
        "max_completion_length": 16, "temperature": 4.0, "use_cpu": True, "bf16": False, "report_to": "none",
    }  # fmt: skip
    model = Model(base=str(BASE), revision=None, attn_implementation="sdpa", dtype="float32")
    trainer = SharedPromptGRPO(
        model=load_model(BASE, model),
        processing_class=load_processor(BASE, CONTRACT),
        reward_funcs=lambda completions, **_: [float(len(str(text)) % 7) for text in completions],
        train_dataset=Dataset.from_list([{"number": number} for number in range(2)]).with_transform(
            lambda batch: {key: [rows[number][key] for number in batch["number"]] for key in rows[0]}
        ),
        args=GRPOConfig(**arguments),
    )
    trainer.current_gradient_accumulation_steps = 1
    shared = trainer._generate_and_score_completions(next(iter(trainer.get_train_dataloader())))
    firsts = [row - row % 8 for row in range(16)]
    repeated = shared | select_pictures(shared, shared["num_images"], firsts) | {"num_images": [2] * 16}

    def update(kind: type[GRPOTrainer], batch: dict[str, Any]) -> None:
        trainer.__class__ = kind
        trainer.compute_loss(trainer.model, batch).backward()

    ours, trls = least_seconds(lambda: update(SharedPromptGRPO, shared), lambda: update(GRPOTrainer, repeated))
    assert ours < 0.5 * trls


def test_scoring_takes_no_longer_than_a_loop_over_transformers(tmp_path: Path, table: pd.DataFrame) -> None:
    model = shutil.copytree(BASE, tmp_path / "critic")
    (model / "contract.yaml").write_text(CONTRACT.text)
    rows, edits = table.to_dict("records")[:32], [*edits_from_table(table)][:32]

    def with_the_engine() -> None:
        engine = open_engine("transformers", str(model), CONTRACT, max_tokens=16, dtype="float32", batch_size=32)
        Scorer(engine, CONTRACT)(edits)

    ours, loop = least_seconds(with_the_engine, lambda: score.with_transformers(str(model), rows, 16))
    assert ours < 1.5 * loop


@pytest.mark.parametrize("name", ["import critic.client", "critic --help"])
def test_what_needs_no_torch_starts_in_half_the_time_of_its_import(name: str) -> None:
    seconds = startup.measure({way: startup.COMMANDS[way] for way in (name, "import torch")}, rounds=2)
    assert seconds[name] < 0.5 * seconds["import torch"]
