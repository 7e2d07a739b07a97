"""Increments are read from disk in order."""

from pathlib import Path

import pandas as pd
import pytest

from critic.edits import TYPES
from critic.ratings.increments import IncrementError, read_increments
from critic.tables import read_parquet, write_parquet


def test_increments_are_read_in_their_order_and_a_missing_file_is_named(tmp_path: Path) -> None:
    assert read_increments(tmp_path) == []
    for name in ("0002", "0001"):
        edits = pd.DataFrame({"id": ["r9"], "instruction": "make it blue", "mos": 4.0})
        write_parquet(edits, tmp_path / name / "edits.parquet", TYPES)
        pd.DataFrame({"rater": ["ann"]}).to_parquet(tmp_path / name / "ratings.parquet")
        (tmp_path / name / "report.json").write_text("{}")
    (tmp_path / ".0003.partial").mkdir()
    assert [one.name for one in read_increments(tmp_path)] == ["0001", "0002"]
    assert read_parquet(tmp_path / "0001/edits.parquet")["mos"].tolist() == [4.0]
    (tmp_path / "0002/edits.parquet").unlink()
    with pytest.raises(IncrementError, match=r"dvc pull .*0002/edits\.parquet\.dvc"):
        read_increments(tmp_path)
