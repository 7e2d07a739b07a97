"""A killed run goes on from its newest whole checkpoint, and only as the same run."""

import json
from pathlib import Path

import pytest
from pydantic import BaseModel

from critic.runs import RECORD, last_checkpoint, open_run


class Settings(BaseModel):
    learning_rate: float = 1e-3


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


def test_the_record_names_settings_data_and_code(tmp_path: Path, data: Path) -> None:
    run = open_run(tmp_path / "run", [data, Path("hub/name")], [Settings()])
    record = json.loads((run / RECORD).read_text())
    assert record["settings"] == {"Settings": {"learning_rate": 0.001}}
    assert list(record["files"]) == [str(data / "train.parquet")]
    assert "critic/runs.py" in record["code"]
    assert record["processes"] == 1


def test_the_newest_whole_checkpoint_counts(tmp_path: Path) -> None:
    assert last_checkpoint(tmp_path) is None
    for step in (9, 10, 100):
        newest = checkpoint(tmp_path, step)
    checkpoint(tmp_path, 110, state='{"global_st')
    (tmp_path / "checkpoint-120").mkdir()
    assert last_checkpoint(tmp_path) == str(newest)
