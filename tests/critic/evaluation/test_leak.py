"""How the leak of a test split is read and said. tests/test_leak_is_said.py has who says it."""

import json
from pathlib import Path
from typing import Any

import pytest

from critic.evaluation.leak import Split, SplitError, read_split, split_of

OFFICIAL = Split("official", 970, 370, 120)


def content(name: str, edits: int, sources: int) -> dict[str, Any]:
    """What counts here of data/validation.json."""
    leak = {"edits": edits, "sources": sources}
    return {"splits": {"test": {"edits": 970, "sources": 180}}, "split": {"name": name, "leak": leak}}


def test_the_leak_is_read_from_what_validate_wrote(tmp_path: Path) -> None:
    path = tmp_path / "validation.json"
    path.write_text(json.dumps(content("official", 370, 120)))
    assert read_split(path) == OFFICIAL


def test_the_leak_is_one_predicate() -> None:
    assert OFFICIAL.leak == (
        "leaks source images: 370 of 970 test edits share one of 120 sources with train or validation"
    )
    assert "1 of 970 test edits shares one source with" in Split("official", 970, 1, 1).leak
    assert Split("given", 970, 2, 1).leak  # whatever its name


@pytest.mark.parametrize("name", ["by_source", "given"])
def test_without_a_leak_nothing_is_said_and_figures_stay_as_they_are(name: str) -> None:
    split = Split(name, 970)
    assert split.leak == "" and split.note("SRCC 0.8") == "SRCC 0.8"
    assert split.mark({"srcc": 0.8}) == {"srcc": 0.8}


def test_an_official_split_without_a_leak_says_so() -> None:
    said = Split("official", 970).leak
    assert said.startswith("is the published one: none of 970 test edits")
    assert Split("official", 970).mark({})["split"]["note"] == said


def test_marked_figures_have_the_counts_and_the_sentence() -> None:
    marked = OFFICIAL.mark({"srcc": 0.8})
    assert marked["srcc"] == 0.8
    assert marked["split"] == {"name": "official", "leak": {"edits": 370, "sources": 120}, "note": OFFICIAL.leak}


@pytest.mark.parametrize("text", [None, "{", "[]", '{"splits": {"test": {"edits": 9}}}', '{"split": "official"}'])
def test_a_report_that_does_not_tell_is_an_error_with_the_stage_to_run(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "validation.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(SplitError, match=r"validation\.json .*run `dvc repro validate`"):
        read_split(path)


def test_only_the_pipelines_test_split_has_a_known_one(tmp_path: Path) -> None:
    folder = tmp_path / "data/validated"
    folder.mkdir(parents=True)
    assert split_of(folder / "test.parquet") is None  # no report
    (tmp_path / "data/validation.json").write_text(json.dumps(content("official", 370, 120)))
    assert split_of(folder / "test.parquet") == OFFICIAL
    assert split_of(folder / "train.parquet") is None
    assert split_of(tmp_path / "data/test.parquet") is None
