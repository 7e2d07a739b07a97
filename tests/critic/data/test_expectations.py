"""Each way in which a benchmark can be bad is found, with its row, its column and what to do."""

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from critic.data.expectations import Failure, SplitName, Validation, describe, validate_tables
from critic.prompts import load_contract

pytestmark = pytest.mark.usefixtures("compiled_templates")
EDITS = 6
LIMITS: Any = {
    "resize": load_contract("tiny").resize,
    "phash_distance": 24,
    "min_side": 56,
    "max_instruction_chars": 100,
}


def picture(seed: int, size: tuple[int, int] = (72, 72)) -> dict[str, Any]:
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    file = BytesIO()
    Image.fromarray(pixels).save(file, "JPEG")
    return {"bytes": file.getvalue(), "path": None}


def good_table(split: str, first_source: int) -> pd.DataFrame:
    """Two edits of each of three source images."""
    sources = [first_source + row // 2 for row in range(EDITS)]
    return pd.DataFrame(
        {
            "id": [f"{split}-{row}" for row in range(EDITS)],
            "source_id": [f"s{source}" for source in sources],
            "images": [[picture(source), picture(100)] for source in sources],
            "instruction": "make it red",
            "problem": None,
            "mos": np.linspace(1, 5, EDITS),
            "mos_quality": np.linspace(5, 1, EDITS),
            "ratings": [[1.0, 3.5, 5.0]] * EDITS,
        }
    )


@pytest.fixture
def tables() -> dict[str, pd.DataFrame]:
    return {"train": good_table("train", 0), "test": good_table("test", 10)}


def check(tables: dict[str, pd.DataFrame], docs: Path) -> Validation:
    return validate_tables(tables, **LIMITS, docs=docs)


def test_a_good_benchmark_passes(tables: dict[str, pd.DataFrame], tmp_path: Path) -> None:
    validation = check(tables, tmp_path)
    assert (validation.failures, validation.leak) == ([], {"edits": 0, "sources": 0})
    assert [*validation.facts["row"]] == [*range(1, EDITS + 1)] * 2
    assert {one["table"] for one in validation.checks} == {"train", "test", "edits", "sources"}
    assert (tmp_path / "index.html").exists()


def test_what_is_optional_may_be_missing(tables: dict[str, pd.DataFrame], tmp_path: Path) -> None:
    least = {split: table.drop(columns=["problem", "mos_quality", "ratings"]) for split, table in tables.items()}
    assert check(least, tmp_path).failures == []


GOOD, JPEG = picture(50), picture(51)["bytes"]
BAD_VALUES = {
    "a missing image": ("images", [GOOD], "two images", "1"),
    "an image without bytes": ("images", [GOOD, None], "edited image can be decoded", "no bytes"),
    "a truncated JPEG": ("images", [{"bytes": JPEG[:800]}, GOOD], "source image can", "truncated"),
    "a corrupt JPEG": (
        "images",
        [GOOD, {"bytes": b"\xff\xd8" + JPEG[400:]}],
        "edited image can",
        "",
    ),
    "a small image": ("images", [GOOD, picture(52, (8, 90))], "edited image's shorter side", "8.0"),
    "a thin image": ("images", [GOOD, picture(52, (60, 12060))], "at most 200 times", "201.0"),
    "a picture outside the contract's limits": (
        "images",
        [GOOD, picture(52, (60, 5000))],
        "edited image can be resized to the pixel limits of the prompt contract",
        "a picture of 5000 x 60 pixels",
    ),
    "no MOS": ("mos", np.nan, "there is a MOS", None),
    "a MOS of 7": ("mos", 7.0, "from 1 to 5", "7.0"),
    "an endless MOS": ("mos", np.inf, "from 1 to 5", "inf"),
    "a MOS in words": ("mos", "good", "is a number", "good"),
    "a sub-score of 0": ("mos_quality", 0.0, "from 1 to 5", "0.0"),
    "an empty instruction": ("instruction", " \n", "not empty", ""),
    "no instruction": ("instruction", None, "not empty", ""),
    "a long instruction": ("instruction", "red " * 30, "at most 100", "red red"),
    "a rating of 6": ("ratings", [1.0, 6.0, np.nan], "every rating", "6.0, nan"),
    "fewer ratings": ("ratings", [1.0, 2.0], "as many ratings", "2.0"),
}


@pytest.mark.parametrize(("column", "value", "expected", "found"), BAD_VALUES.values(), ids=BAD_VALUES)
def test_a_bad_value_is_found(
    tables: dict[str, pd.DataFrame],
    tmp_path: Path,
    column: str,
    value: Any,
    expected: str,
    found: str | None,
) -> None:
    values: list[Any] = [*tables["test"][column]]
    values[3] = value
    bad = tables["test"].assign(**{column: values})
    failures = check(tables | {"test": bad}, tmp_path).failures
    assert {(one.split, one.row, one.id) for one in failures} == {("test", 4, "test-3")}
    failure = next(one for one in failures if expected in one.expected)
    raw_names = {"mos": "answer", "instruction": "edit_inst"}
    assert failure.column == raw_names.get(column, column)
    assert failure.found is None if found is None else found in str(failure.found)
    assert failure.fix


def test_an_id_given_twice_names_both_rows(tables: dict[str, pd.DataFrame], tmp_path: Path) -> None:
    tables["test"].at[1, "id"] = "train-4"
    failures = check(tables, tmp_path).failures
    assert [(one.split, one.row, one.column) for one in failures] == [
        ("train", 5, "id"),
        ("test", 2, "id"),
    ]


def test_a_source_image_in_two_splits_names_all_its_rows(tables: dict[str, pd.DataFrame], tmp_path: Path) -> None:
    images: Any = tables["train"].at[2, "images"]
    tables["test"].at[1, "images"] = images
    failures = check(tables, tmp_path).failures
    assert [(one.split, one.row, one.found) for one in failures] == [
        ("train", 3, "test row 2, id 'test-1'"),
        ("train", 4, "test row 2, id 'test-1'"),
        ("test", 2, "train row 3, id 'train-2'"),
    ]
    assert {one.fix for one in failures} == {"keep all edits of a source image in one split"}


@pytest.mark.parametrize("column", ["images", "instruction", "mos"])
def test_a_missing_column_is_told_before_any_row(
    tables: dict[str, pd.DataFrame], tmp_path: Path, column: str
) -> None:
    validation = check(tables | {"test": tables["test"].drop(columns=column)}, tmp_path)
    (failure,) = validation.failures
    assert (failure.split, failure.row, failure.expected) == ("test", None, "the column is there")
    assert validation.facts.empty


def test_an_empty_table_is_told(tables: dict[str, pd.DataFrame], tmp_path: Path) -> None:
    (failure,) = check(tables | {"train": tables["train"][:0]}, tmp_path).failures
    assert (failure.split, failure.expected) == ("train", "the table has rows")


# --- the released set and the generated pictures


def rationales(first_source: int) -> pd.DataFrame:
    """A released set of two rows."""
    turns = [{"role": "user", "content": "Rate it."}, {"role": "assistant", "content": "<answer>4</answer>"}]
    images = [[picture(first_source + row), picture(100)] for row in range(2)]
    return pd.DataFrame({"id": ["r0", "r1"], "images": images, "messages": [turns, turns]})


def agiqa() -> pd.DataFrame:
    """Two generated pictures."""
    names = ["a.jpg", "b.jpg"]
    pictures = {"id": names, "image": [picture(1), picture(2)], "prompt": ["a cat", "a dog"]}
    return pd.DataFrame(pictures | {"mos_quality": [0.0, 5.0], "mos_alignment": [2.5, 3.0]})


def check_beside(
    tables: dict[str, pd.DataFrame], docs: Path, rationales: pd.DataFrame | None, agiqa: pd.DataFrame | None
) -> Validation:
    return validate_tables(tables, rationales, agiqa, **LIMITS, docs=docs)


def test_a_good_set_and_good_pictures_pass(tables: dict[str, pd.DataFrame], tmp_path: Path) -> None:
    validation = check_beside(tables, tmp_path, rationales(0), agiqa())
    assert validation.failures == []
    assert [*validation.rationales["id"]] == ["r0", "r1"]
    assert {"rationales", "agiqa"} < {one["table"] for one in validation.checks}
    assert not any("prompt contract" in one["expected"] for one in validation.checks)


@pytest.mark.parametrize(
    ("column", "value", "expected"),
    [
        ("id", "r0", "same id"),
        ("images", [GOOD], "two images"),
        ("images", [GOOD, {"bytes": JPEG[:800]}], "edited image can be decoded"),
        ("images", [picture(52, (5000, 60)), GOOD], "source image can be resized to the pixel limits"),
        ("images", [picture(10), GOOD], "the test split has no source image"),
        ("messages", [{"role": "user", "content": "Rate it."}], "one turn of the user, then one of the assistant"),
        (
            "messages",
            [{"role": "user", "content": ""}, {"role": "assistant", "content": "<answer>9</answer>"}],
            "<answer> with a score from 1 to 5",
        ),
    ],
)
def test_a_bad_rationale_is_found(
    tables: dict[str, pd.DataFrame], tmp_path: Path, column: str, value: Any, expected: str
) -> None:
    bad = rationales(0)
    bad.at[1, column] = value
    failures = check_beside(tables, tmp_path, bad, None).failures
    failure = next(one for one in failures if expected in one.expected and one.row == 2)
    assert (failure.split, failure.column) == ("rationales", column)
    assert failure.fix


# --- published splits, which share source images


@pytest.fixture
def leaky(tables: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """Test has two edits of train's second source image: other edits, by their edited pictures."""
    for row in (0, 1):
        tables["test"].at[row, "images"] = [picture(1), picture(200 + row)]
    return tables


def check_split(
    tables: dict[str, pd.DataFrame], docs: Path, split: SplitName, rationales: pd.DataFrame | None = None
) -> Validation:
    return validate_tables(tables, rationales, split=split, **LIMITS, docs=docs)


def test_an_official_split_may_leak_and_no_other(leaky: dict[str, pd.DataFrame], tmp_path: Path) -> None:
    validation = check_split(leaky, tmp_path, "official")
    assert (validation.failures, validation.leak) == ([], {"edits": 2, "sources": 1, "same_edits": 0})
    assert not any(one["expected"].startswith("no other split has the same source") for one in validation.checks)
    refused = check_split(leaky, tmp_path, "by_source")
    assert {one.row for one in refused.failures if one.split == "test"} == {1, 2}
    assert refused.leak == {}


def test_the_same_edit_in_train_and_test_is_part_of_the_official_splits_leak(
    leaky: dict[str, pd.DataFrame], tmp_path: Path
) -> None:
    leaky["test"].at[1, "images"] = leaky["train"].at[2, "images"]
    validation = check_split(leaky, tmp_path, "official")
    assert (validation.failures, validation.leak) == ([], {"edits": 2, "sources": 1, "same_edits": 1})


def test_a_published_validation_split_may_not_share_with_train(
    leaky: dict[str, pd.DataFrame], tmp_path: Path
) -> None:
    validation = good_table("validation", 20)
    validation.at[0, "images"] = [picture(0), picture(300)]
    failures = check_split(leaky | {"validation": validation}, tmp_path, "official").failures
    assert {(one.split, one.row) for one in failures} == {("train", 1), ("train", 2), ("validation", 1)}
    assert all("no other split but test has" in one.expected for one in failures)


def test_rationales_of_the_test_split_are_dropped_and_counted(
    leaky: dict[str, pd.DataFrame], tmp_path: Path
) -> None:
    given = rationales(0)
    given.at[0, "images"] = leaky["test"].at[0, "images"]
    official = check_split(leaky, tmp_path, "official", given)
    assert official.failures == []
    assert (official.dropped, [*official.rationales["id"]]) == ({"test_sources": 0, "test_edits": 1}, ["r1"])

    given.at[0, "images"] = [picture(11), picture(100)]
    apart = {"train": good_table("train", 0), "test": good_table("test", 10)}
    by_source = check_split(apart, tmp_path, "by_source", given)
    assert by_source.failures == []
    assert (by_source.dropped, [*by_source.rationales["id"]]) == ({"test_sources": 1, "test_edits": 0}, ["r1"])


def test_a_source_image_that_only_the_released_set_has_is_a_leak_too(
    tables: dict[str, pd.DataFrame], tmp_path: Path
) -> None:
    given = rationales(0)
    given.at[0, "images"] = [picture(11), picture(300)]
    assert check_split(tables, tmp_path, "official", given).leak == {"edits": 2, "sources": 1, "same_edits": 0}


@pytest.mark.parametrize(
    ("column", "value", "expected"),
    [
        ("id", "a.jpg", "same id"),
        ("prompt", " ", "the prompt is not empty"),
        ("image", {"bytes": JPEG[:800], "path": None}, "the image can be decoded"),
        ("image", picture(52, (60, 5000)), "the image can be resized to the pixel limits"),
        ("mos_quality", 5.5, "from 0 to 5"),
        ("mos_alignment", np.nan, "there is a MOS"),
    ],
)
def test_a_bad_picture_is_found(
    tables: dict[str, pd.DataFrame], tmp_path: Path, column: str, value: Any, expected: str
) -> None:
    bad = agiqa()
    bad.at[1, column] = value
    failures = check_beside(tables, tmp_path, None, bad).failures
    failure = next(one for one in failures if expected in one.expected and one.row == 2)
    assert (failure.split, failure.column) == ("agiqa", column)


def test_the_description_groups_rows_and_shortens() -> None:
    failures = [
        Failure("test", row, f"t{row}", "answer", "7.0" * 50, "the score is from 1 to 5", "correct it")
        for row in range(12)
    ]
    first, *rows, more, fix = describe(failures, rows_a_check=3).splitlines()
    assert first == "answer: expected that the score is from 1 to 5, which fails in"
    assert len(rows) == 3
    assert rows[0].startswith("    test row 0, id 't0': 7.07.0")
    assert rows[0].endswith("...")
    assert (more, fix) == ("    and 9 more rows", "    -> correct it")
