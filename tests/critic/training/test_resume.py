"""A killed run resumes from its newest complete checkpoint, and only if it is the same run."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from pydantic import BaseModel

from critic.params import Model
from critic.prompts import Contract, load_contract
from critic.training import resume
from critic.training.resume import RECORD, last_checkpoint

TINY = load_contract("tiny")


class Settings(BaseModel):
    learning_rate: float = 1e-3


def open_run(
    folder: Path, inputs: list[Path], settings: list[BaseModel], seed: int = 7, contract: Contract = TINY
) -> Path:
    return resume.open_run(folder, inputs, settings, seed=seed, contract=contract)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "train.parquet").write_text("rows")
    return folder


def checkpoint(run: Path, step: int, state: str = "{}") -> Path:
    folder = run / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    (folder / "trainer_state.json").write_text(state)
    (folder / "rng_state.pth").touch()
    return folder


def test_the_same_run_keeps_its_checkpoints(tmp_path: Path, data: Path) -> None:
    run = open_run(tmp_path / "run", [data], [Settings()])
    kept = checkpoint(run, 5)
    assert last_checkpoint(open_run(tmp_path / "run", [data], [Settings()])) == str(kept)


def test_other_settings_start_anew(tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint(open_run(tmp_path / "run", [data], [Settings()]), 5)
    run = open_run(tmp_path / "run", [data], [Settings(learning_rate=2e-3)])
    assert last_checkpoint(run) is None
    assert "checkpoints of another run" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["train.parquet", "added.parquet"])
def test_other_data_starts_anew(tmp_path: Path, data: Path, name: str) -> None:
    checkpoint(open_run(tmp_path / "run", [data], [Settings()]), 5)
    (data / name).write_text("other rows")
    assert last_checkpoint(open_run(tmp_path / "run", [data], [Settings()])) is None


def test_another_seed_or_contract_starts_anew(tmp_path: Path, data: Path) -> None:
    checkpoint(open_run(tmp_path / "run", [data], [Settings()]), 5)
    assert last_checkpoint(open_run(tmp_path / "run", [data], [Settings()], seed=8)) is None
    checkpoint(open_run(tmp_path / "run", [data], [Settings()]), 5)
    assert (
        last_checkpoint(open_run(tmp_path / "run", [data], [Settings()], contract=load_contract("ie-critic")))
        is None
    )


def test_a_branch_of_the_hub_that_moved_starts_anew(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The branch `main` of a base is recorded as its commit; a base that isn't an input isn't looked up."""
    base = Model(base="org/base", revision="main", attn_implementation="sdpa", dtype="bfloat16")
    head = "a" * 40
    monkeypatch.setattr(
        resume.AutoConfig, "from_pretrained", lambda name, revision: SimpleNamespace(_commit_hash=head)
    )
    inputs = [Path("org/base"), data]
    kept = checkpoint(open_run(tmp_path / "run", inputs, [base]), 5)
    assert json.loads((tmp_path / "run" / RECORD).read_text())["commits"] == {"org/base": "a" * 40}
    assert last_checkpoint(open_run(tmp_path / "run", inputs, [base])) == str(kept)
    head = "b" * 40
    assert last_checkpoint(open_run(tmp_path / "run", inputs, [base])) is None
    open_run(tmp_path / "run", [data], [base])
    assert json.loads((tmp_path / "run" / RECORD).read_text())["commits"] == {}


def test_the_record_names_settings_data_and_code(tmp_path: Path, data: Path) -> None:
    run = open_run(tmp_path / "run", [data, Path("hub/name")], [Settings()])
    record = json.loads((run / RECORD).read_text())
    assert record["settings"] == {"Settings": {"learning_rate": 0.001}}
    assert list(record["files"]) == [str(data / "train.parquet")]
    assert "critic.training.resume" in record["code"]
    assert record["processes"] == 1


def test_the_newest_whole_checkpoint_counts(tmp_path: Path) -> None:
    assert last_checkpoint(tmp_path) is None
    for step in (9, 10, 100):
        newest = checkpoint(tmp_path, step)
    checkpoint(tmp_path, 110, state='{"global_st')
    (checkpoint(tmp_path, 115) / "rng_state.pth").unlink()  # one process of one had not finished
    (tmp_path / "checkpoint-120").mkdir()
    assert last_checkpoint(tmp_path) == str(newest)
