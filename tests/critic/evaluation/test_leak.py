"""How the leak of a test split is read and said. tests/test_leak_is_said.py has who says it."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from critic.evaluation.leak import Split, SplitError, read_split, split_of, unknown_leak

OFFICIAL = Split("official", 970, 370, 120)


def content(name: str, edits: int, sources: int) -> dict[str, Any]:
    """What counts here of data/validation.json."""
    leak = {"edits": edits, "sources": sources}
    return {"splits": {"test": {"edits": 970, "sources": 180}}, "split": {"name": name, "leak": leak}}


def test_the_leak_is_read_from_what_validate_wrote(tmp_path: Path) -> None:
    path = tmp_path / "validation.json"
    found = content("official", 370, 120)
    path.write_text(json.dumps(found))
    assert read_split(path) == OFFICIAL
    found["split"]["leak"]["same_edits"] = 3
    path.write_text(json.dumps(found))
    assert read_split(path) == replace(OFFICIAL, same_edits=3)


def test_the_leak_is_one_predicate() -> None:
    assert OFFICIAL.leak == (
        "leaks source images: 370 of 970 test edits share one of 120 sources with train or validation"
    )
    assert "1 of 970 test edits shares one source with" in Split("official", 970, 1, 1).leak
    assert Split("given", 970, 2, 1).leak  # whatever its name
    same = Split("official", 970, 370, 120, same_edits=3).leak
    assert same == f"{OFFICIAL.leak}, and 3 of these edits are there too"


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
    assert marked["split"] == {
        "name": "official",
        "leak": {"edits": 370, "sources": 120, "same_edits": 0},
        "note": OFFICIAL.leak,
    }


@pytest.mark.parametrize("text", [None, "{", "[]", '{"splits": {"test": {"edits": 9}}}', '{"split": "official"}'])
def test_a_report_that_does_not_tell_is_an_error_with_the_stage_to_run(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "validation.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(SplitError, match=r"validation\.json .*run `dvc repro validate`"):
        read_split(path)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with the official split."""
    for folder in ("raw", "validated"):
        (tmp_path / "data" / folder).mkdir(parents=True)
    (tmp_path / "params.yaml").touch()
    (tmp_path / "data/validation.json").write_text(json.dumps(content("official", 370, 120)))
    return tmp_path


@pytest.mark.parametrize("folder", ["raw", "validated"])
def test_the_test_tables_of_a_project_have_its_split(
    project: Path, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = project / f"data/{folder}/test.parquet"
    assert split_of(table) == OFFICIAL and unknown_leak(table) == ""
    table.symlink_to(project / "in-the-cache")  # as `dvc config cache.type symlink` has it
    assert split_of(table) == OFFICIAL
    monkeypatch.chdir(table.parent)
    assert split_of(Path("test.parquet")) == OFFICIAL
    (project / "data/validation.json").unlink()
    with pytest.raises(SplitError, match=r"validation\.json is missing.*run `dvc repro validate`"):
        split_of(table)


def test_the_other_tables_of_a_project_need_no_word_about_a_leak(project: Path) -> None:
    for name in ("validated/train.parquet", "validated/validation.parquet", "raw/agiqa.parquet"):
        assert split_of(project / "data" / name) is None
        assert unknown_leak(project / "data" / name) == ""


def test_nobody_knows_the_split_of_another_table(project: Path) -> None:
    for name in ("study.csv", "test.parquet", "data/test.parquet", "other/validated/test.parquet"):
        assert split_of(project / name) is None
        assert f"isn't known whether {Path(name).name} shares source images" in unknown_leak(project / name)
    assert "shares prompts with" in unknown_leak(project / "agiqa.csv", "prompts")
