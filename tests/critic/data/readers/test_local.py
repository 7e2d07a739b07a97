"""A lab's own benchmark: CSV and images, or Parquet; and the errors for one with faults."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from critic.data.readers.local import read_local
from critic.edits import TYPES, edits_from_table, normalise
from critic.tables import TableError, read_parquet, write_parquet

HEAD = "source,edited,instruction,mos"
ROWS = ("images/a.png,images/b.png,make it red,3.7", 'images/b.png,images/a.png,"NA, or none",1')


@pytest.fixture
def study(tmp_path: Path, picture: Callable[..., bytes]) -> Path:
    """A folder with two images and no tables yet."""
    folder = tmp_path / "study"
    (folder / "images").mkdir(parents=True)
    for seed, name in enumerate("ab"):
        (folder / f"images/{name}.png").write_bytes(picture(seed))
    return folder


def write_csv(path: Path, *lines: str) -> None:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8-sig")


def write_splits(study: Path) -> None:
    write_csv(study / "train.csv", HEAD, *ROWS)
    write_csv(study / "test.csv", HEAD, ROWS[0])


# --- CSV and images


def test_a_folder_has_a_csv_a_split(study: Path, picture: Callable[..., bytes]) -> None:
    write_splits(study)
    tables = dict(read_local(study))
    assert {split: len(table) for split, table in tables.items()} == {"train": 2, "test": 1}
    (source, edited), _ = tables["train"]["images"]
    assert (source, edited["bytes"]) == ({"bytes": picture(0), "path": "a.png"}, picture(1))
    assert [*tables["train"]["mos"]] == [3.7, 1.0]


def test_one_csv_has_a_column_split(study: Path) -> None:
    lines = [
        f"{split},{row}" for split, row in zip(("test", "train", "validation"), (*ROWS, ROWS[0]), strict=True)
    ]
    write_csv(study / "all.csv", f"split,{HEAD}", *lines)
    tables = dict(read_local(study / "all.csv"))
    assert [*tables] == ["train", "validation", "test"]
    assert [*tables["train"]["instruction"]] == ["NA, or none"]
    assert "split" not in tables["train"]


def test_what_is_read_can_be_written_and_judged(study: Path, tmp_path: Path) -> None:
    write_splits(study)
    write_parquet(dict(read_local(study))["train"], tmp_path / "raw.parquet", TYPES)
    table = normalise(read_parquet(tmp_path / "raw.parquet"), "train")
    assert [*table] == ["id", "source_id", "images", "instruction", "mos"]
    first, second = edits_from_table(table)
    assert (first.id, first.instruction, first.mos) == ("train-00000", "make it red", 3.7)
    assert second.instruction == "NA, or none"
    assert first.source.size == (72, 72)


def test_other_columns_of_a_benchmark_are_read_and_unknown_ones_are_not(study: Path) -> None:
    head = f"id,{HEAD},problem,edit_type,editor,mos_quality,ratings,comment"
    write_csv(
        study / "train.csv", head, f"x1,{ROWS[0]},Rate this.,colour,a,2.5,3 4.5 3.6,hm", f"x2,{ROWS[1]},,,,,,"
    )
    write_csv(study / "test.csv", head, f"x3,{ROWS[0]},,,,,,")
    table = dict(read_local(study))["train"]
    assert "comment" not in table
    first, second = table.to_dict("records")
    assert (first["id"], first["problem"], first["editor"], first["mos_quality"]) == ("x1", "Rate this.", "a", 2.5)
    assert [*first["ratings"]] == [3.0, 4.5, 3.6]
    assert all(pd.isna(second[name]) for name in ("problem", "edit_type", "editor", "mos_quality", "ratings"))


def test_a_cell_without_a_path_is_left_for_the_checks_to_name(study: Path) -> None:
    write_csv(study / "train.csv", HEAD, ",images/b.png,make it red,3.7")
    write_csv(study / "test.csv", HEAD, ROWS[0])
    (images,) = dict(read_local(study))["train"]["images"]
    assert images[0] == {"bytes": None, "path": None}


# --- Parquet


@pytest.mark.parametrize("names", [{}, {"instruction": "edit_inst", "mos": "answer"}], ids=["ours", "the hub's"])
def test_parquet_has_the_benchmarks_columns_and_the_images_themselves(
    study: Path, picture: Callable[..., bytes], names: dict[str, str]
) -> None:
    images = [[{"bytes": picture(n), "path": None} for n in (0, 1)]] * 2
    table = pd.DataFrame({"images": images, "instruction": "make it red", "mos": [1.5, 2.0]}).rename(columns=names)
    for split in ("train", "test"):
        write_parquet(table, study / f"{split}.parquet", TYPES)
    read = dict(read_local(study))["test"]
    assert [*read] == [*table]
    assert [[*pair] for pair in read["images"]] == images
    table.assign(split=["train", "test"]).to_parquet(study / "all.parquet")
    assert [*dict(read_local(study / "all.parquet"))] == ["train", "test"]


def test_parquet_with_images_may_have_a_column_source_of_its_own(
    study: Path, picture: Callable[..., bytes]
) -> None:
    images = [[{"bytes": picture(n), "path": None} for n in (0, 1)]]
    table = pd.DataFrame({"images": images, "instruction": "make it red", "mos": [1.5], "source": "a web page"})
    for split in ("train", "test"):
        table.to_parquet(study / f"{split}.parquet")
    assert [[dict(image) for image in pair] for pair in dict(read_local(study))["test"]["images"]] == images


def test_parquet_of_pandas_has_an_index_and_categories(study: Path, picture: Callable[..., bytes]) -> None:
    images = [[{"bytes": picture(n), "path": None} for n in (0, 1)]] * 2
    table = pd.DataFrame({"id": ["a", "b"], "images": images, "instruction": "make it red", "mos": [1.5, 2.0]})
    table["editor"] = pd.Categorical(["x", "y"])
    table["split"] = pd.Categorical(["train", "test"])
    table.set_index("id").to_parquet(study / "all.parquet")
    read = dict(read_local(study / "all.parquet"))["test"]
    assert [(row["id"], row["editor"], row["mos"]) for row in read.to_dict("records")] == [("b", "y", 2.0)]
    write_parquet(read, study / "raw.parquet", TYPES)


# --- what can't be read


def test_a_text_that_begins_with_a_quote_swallows_no_rows(study: Path) -> None:
    """Four rows of a study became one row with the MOS of the last."""
    lines = ['"Open the door,3.7', "two,1.1", "three,1.2", 'four" wide,2.4']
    write_csv(study / "study.csv", f"split,{HEAD}", *(f"train,a.png,b.png,{line}" for line in lines))
    with pytest.raises(TableError, match=r"study\.csv line 2: the row that begins here is not CSV"):
        dict(read_local(study / "study.csv"))


BAD = {
    "no edited": ("source,instruction,mos", "images/a.png,x,1", r" has no column edited;(.|\n)*split,source"),
    "no MOS": ("source,edited,instruction", "images/a.png,images/b.png,x", " has no column answer or mos; it"),
    "a MOS in words": (HEAD, "images/a.png,images/b.png,x,good", " line 3 has the mos 'good', not a number"),
    "no image": (HEAD, "images/c.png,images/b.png,x,1", r" line 3: .* images/c\.png can't be read .*relative"),
    "an image elsewhere": (HEAD, "../c.png,images/b.png,x,1", r" line 3: the image \.\./c\.png is outside"),
    "ratings in words": (f"{HEAD},ratings", "images/a.png,images/b.png,x,1,3 good", " line 2 has the ratings '3"),
    "cells too many": (HEAD, "images/a.png,images/b.png,x,1,2,3", " line 3 has 6 cells and the header 4"),
    "an open quote": (HEAD, 'images/a.png,images/b.png,"make it red,1', " line 3: the row that begins here"),
}  # fmt: skip


@pytest.mark.parametrize(("head", "row", "message"), BAD.values(), ids=BAD)
def test_a_bad_csv_is_named_with_what_to_do(study: Path, head: str, row: str, message: str) -> None:
    good = [ROWS[1]] if head == HEAD else []
    write_csv(study / "train.csv", head, *good, row)
    write_csv(study / "test.csv", HEAD, ROWS[0])
    with pytest.raises(TableError, match=rf"train\.csv{message}"):
        dict(read_local(study))


def test_a_folder_without_a_split_shows_an_example(study: Path) -> None:
    write_csv(study / "train.csv", HEAD, *ROWS)
    with pytest.raises(TableError, match=r"study has no split test: give a folder(.|\n)*images/cat-red\.png"):
        dict(read_local(study))


def test_a_split_that_is_there_twice_is_named(study: Path) -> None:
    write_splits(study)
    (study / "test.parquet").touch()
    with pytest.raises(TableError, match=r"study has both test\.csv and test\.parquet: remove one"):
        dict(read_local(study))


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ((HEAD, ROWS[0]), r"all\.csv has no column split; it has source, .*: give a folder of"),
        ((f"split,{HEAD}", f"train,{ROWS[0]}", f"dev,{ROWS[0]}"), r"line 3 has the split 'dev': .*n, test"),
        ((f"split,{HEAD}", f"train,{ROWS[0]}"), r"all\.csv has no split test"),
        (("",), r"all\.csv is empty"),
    ],
    ids=["no column", "unknown", "no test", "empty"],
)  # fmt: skip
def test_a_file_without_good_splits_is_named(study: Path, lines: tuple[str, ...], message: str) -> None:
    write_csv(study / "all.csv", *lines)
    with pytest.raises(TableError, match=message):
        dict(read_local(study / "all.csv"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere", r"nowhere doesn't exist: give a folder of"),
        ("a.txt", r"a\.txt is not a folder, a \.csv or a \.parquet file: give a folder of"),
        ("a.parquet", r"a\.parquet is not a whole Parquet file, make it again"),
    ],
)
def test_what_is_no_benchmark_is_named(study: Path, name: str, message: str) -> None:
    if "." in name:
        (study / name).write_text("text")
    with pytest.raises(TableError, match=message):
        dict(read_local(study / name))


def test_ratings_are_kept_as_arrays_that_parquet_holds(study: Path, tmp_path: Path) -> None:
    for split in ("train", "test"):
        write_csv(study / f"{split}.csv", f"{HEAD},ratings", f"{ROWS[0]},1 2 5")
    write_parquet(dict(read_local(study))["train"], tmp_path / "raw.parquet", TYPES)
    assert np.array_equal(read_parquet(tmp_path / "raw.parquet")["ratings"][0], [1.0, 2.0, 5.0])
