"""Pairs to score: each format, and the errors for rows and files with faults."""

import csv
import json
import os
import pickle
import string
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from critic.edits import GENERATED_COLUMNS, TYPES, Edit, edits_from_table
from critic.pictures import decode
from critic.prompts import load_contract
from critic.scoring.inputs import BadPair, Pairs, read_pairs
from critic.tables import TableError
from critic.tables import write_parquet as write_table

PHOTOS = Path(__file__).parents[1] / "pictures"
ROW = {"source": "images/a.png", "edited": "images/b.png", "instruction": "make it red"}


@pytest.fixture
def study(tmp_path: Path, picture: Callable[..., bytes]) -> Path:
    """A folder with two pictures, a broken one, and no table yet."""
    (tmp_path / "images").mkdir()
    for seed, name in enumerate("ab"):
        (tmp_path / f"images/{name}.png").write_bytes(picture(seed))
    (tmp_path / "images/broken.png").write_bytes(picture(0)[:500])
    return tmp_path


def write_csv(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8-sig")
    return path


def write_jsonl(path: Path, *rows: Any) -> Path:
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows))
    return path


def write_parquet(path: Path, rows: list[dict[str, Any]], **options: Any) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), path, **options)
    return path


def save(folder: Path, rows: list[dict[str, Any]]) -> Path:
    datasets.Dataset.from_list(rows).save_to_disk(str(folder))
    return folder


def write_csv_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=[*rows[0]])
        writer.writeheader()
        writer.writerows(rows)
    return path


WRITERS: dict[str, Callable[[Path, list[dict[str, Any]]], Path]] = {
    "csv": lambda folder, rows: write_csv_rows(folder / "pairs.csv", rows),
    "jsonl": lambda folder, rows: write_jsonl(folder / "pairs.jsonl", *rows),
    "parquet": lambda folder, rows: write_parquet(folder / "pairs.parquet", rows),
    "datasets": save,
}


def check_pictures(pair: Edit | BadPair, picture: Callable[..., bytes]) -> Edit:
    """That a pair has the pictures a and b."""
    assert isinstance(pair, Edit), pair
    for seed, image in enumerate((pair.source, pair.edited)):
        assert np.array_equal(image, decode(picture(seed)))
    return pair


# --- every form of a table


@pytest.mark.parametrize("kind", WRITERS)
def test_a_table_has_paths_and_an_instruction(kind: str, study: Path, picture: Callable[..., bytes]) -> None:
    rows = [ROW | {"comment": "not read"}, ROW | {"instruction": 'a "cat", please\nand a dog', "comment": ""}]
    pairs = read_pairs(WRITERS[kind](study, rows))
    assert (len(pairs), pairs.ids) == (2, ["00000", "00001"])
    first, second = (check_pictures(pair, picture) for pair in pairs)
    assert (first.id, first.instruction, first.mos) == ("00000", "make it red", None)
    assert second.instruction == 'a "cat", please\nand a dog'


@pytest.mark.parametrize("kind", WRITERS)
def test_columns_have_the_names_of_ie_bench_or_those_that_are_given(kind: str, study: Path) -> None:
    row = {"id": "x", "edit_inst": "make it red", "source": ROW["source"], "edited": ROW["edited"]}
    (pair,) = read_pairs(WRITERS[kind](study, [row]))
    assert isinstance(pair, Edit) and (pair.id, pair.instruction) == ("x", "make it red")
    folder = study / "renamed"
    folder.mkdir()
    row = {"key": 7, "before": "../images/a.png", "after": str(study / "images/b.png"), "text": "make it red"}
    columns = {
        "id_column": "key",
        "source_column": "before",
        "edited_column": "after",
        "instruction_column": "text",
    }
    (pair,) = read_pairs(WRITERS[kind](folder, [row]), **columns)
    assert isinstance(pair, Edit) and (pair.id, pair.instruction) == ("7", "make it red")


@pytest.mark.parametrize("kind", WRITERS)
def test_a_row_without_an_id_has_its_number(kind: str, study: Path) -> None:
    rows = [ROW | {"id": "x"}, ROW | {"id": ""}]
    assert read_pairs(WRITERS[kind](study, rows)).ids == ["x", "00001"]


def test_ids_are_text(study: Path) -> None:
    given = (7, 1.5, None, float("nan"), "\ud800", "é")
    rows = [ROW | {"id": id} for id in given]
    assert read_pairs(write_jsonl(study / "pairs.jsonl", *rows)).ids == ["7", "1.5", "00002", "00003", "?", "é"]


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize(
    ("change", "detail"),
    [
        (
            {"source": "images/c.png"},
            "source images/c.png can't be read: No such file or directory; paths are relat",
        ),
        ({"edited": "images"}, "edited images can't be read: Is a directory"),
        ({"edited": "images/\0.png"}, "edited images/\0.png can't be read: embedded null byte"),
        ({"edited": "images/broken.png"}, "edited images/broken.png: can't be decoded: "),
        ({"edited": ""}, "edited: no picture"),
        ({"instruction": ""}, "the instruction is empty"),
        ({"instruction": " \n"}, "the instruction is empty"),
    ],
    ids=lambda value: None if isinstance(value, str) else "-".join(value),
)
def test_a_bad_row_is_named_and_the_others_go_on(
    kind: str, study: Path, change: dict[str, str], detail: str
) -> None:
    table = WRITERS[kind](study, [ROW | change, ROW])
    if kind == "csv" and any("\0" in cell for cell in change.values()):
        with pytest.raises(TableError, match="line 2 has a NUL character"):
            read_pairs(table)
        return
    bad, good = read_pairs(table)
    assert isinstance(bad, BadPair) and bad.id == "00000"
    assert bad.detail.startswith(detail)
    assert isinstance(good, Edit)


@pytest.mark.parametrize("kind", WRITERS)
def test_a_column_that_is_missing_is_named_with_those_that_are_there(kind: str, study: Path) -> None:
    table = WRITERS[kind](study, [{"source": "a", "after": "b", "prompt": "c"}])
    message = (
        "has no column edited, instruction or edit_inst; it has source, after, prompt: "
        "name it with --edited-column and --instruction-column"
    )
    with pytest.raises(TableError, match=message):
        read_pairs(table)
    with pytest.raises(TableError, match="has no column key; it has source"):
        read_pairs(table, id_column="key", edited_column="after", instruction_column="prompt")


@pytest.mark.parametrize("kind", WRITERS)
def test_ids_that_are_there_twice_are_named(kind: str, study: Path) -> None:
    rows = [ROW | {"id": id} for id in ("x", "y", "x")]
    twice = {"csv": "line 2 and line 4", "jsonl": "line 1 and line 3"}.get(kind, "row 1 and row 3")
    with pytest.raises(TableError, match="has the id 'x' twice, in " + twice):
        read_pairs(WRITERS[kind](study, rows))


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(texts, min_size=1, max_size=5))
def test_any_instruction_comes_back_as_it_was_written(kind: str, study: Path, instructions: list[str]) -> None:
    if kind == "csv":
        instructions = [text.replace("\0", "") for text in instructions]
    pairs = read_pairs(WRITERS[kind](study, [ROW | {"instruction": text} for text in instructions]))
    for pair, text in zip(pairs, instructions, strict=True):
        assert (pair.instruction if isinstance(pair, Edit) else "") == (text if text.strip() else "")


# --- tables of generated pictures


@pytest.mark.parametrize("kind", WRITERS)
def test_a_table_of_pictures_and_prompts_is_of_generated_ones(
    kind: str, study: Path, picture: Callable[..., bytes]
) -> None:
    row = {"name": "cat.png", "image": "images/a.png", "prompt": "a red cat", "mos_quality": 3.0}
    rows = [row, row | {"name": "gone.png", "image": "images/c.png"}, row | {"name": "no words", "prompt": " "}]
    pairs = read_pairs(WRITERS[kind](study, rows), id_column="name")
    good, gone, wordless = pairs
    assert pairs.generated
    assert (
        isinstance(good, Edit) and good.source is None and (good.id, good.instruction) == ("cat.png", "a red cat")
    )
    assert np.array_equal(good.edited, decode(picture(0)))
    assert isinstance(gone, BadPair) and gone.detail.startswith("image images/c.png can't be read: No such file")
    assert wordless == BadPair("no words", "the prompt is empty")


def test_validated_pictures_are_those_that_the_pipeline_scores(study: Path, picture: Callable[..., bytes]) -> None:
    image = {"bytes": picture(0, 100), "path": "a.png"}
    table = pd.DataFrame({"id": ["a.png"], "image": [image], "prompt": ["a red cat"]})
    write_table(table, study / "agiqa.parquet", GENERATED_COLUMNS)
    contract = load_contract("ie-critic")
    (own,), (read,) = read_pairs(study / "agiqa.parquet"), edits_from_table(table)
    (resized,) = replace(read_pairs(study / "agiqa.parquet"), resize=contract.resize)
    assert own == read and isinstance(resized, Edit)
    assert contract.messages(resized) == contract.messages(read)
    assert np.array_equal(contract.pictures(resized)[0], contract.pictures(read)[0])


@pytest.mark.parametrize("part", ["source", "edited", "instruction", "edit_inst", "images"])
def test_a_table_with_a_part_of_a_pair_is_of_pairs(study: Path, part: str) -> None:
    table = write_jsonl(study / "pairs.jsonl", {"image": "images/a.png", "prompt": "a red cat", part: "x"})
    with pytest.raises(TableError, match=r"has no column .* \(generated pictures have image and prompt\)"):
        read_pairs(table)


def test_a_table_with_a_column_that_is_named_is_of_pairs(study: Path) -> None:
    table = write_jsonl(study / "pairs.jsonl", ROW | {"image": "images/a.png", "prompt": "a red cat"})
    assert not read_pairs(table, instruction_column="prompt").generated


# --- tables that hold the pictures themselves


@pytest.mark.parametrize("name", ["instruction", "edit_inst"])
def test_parquet_of_this_project_holds_the_files(study: Path, picture: Callable[..., bytes], name: str) -> None:
    images = [{"bytes": picture(seed), "path": "x.png"} for seed in (0, 1)]
    table = pd.DataFrame(
        {"id": ["a", "b"], "images": [images, images[:1]], name: "make it red", "mos": [3.0, 4.0]}
    )
    write_table(table, study / "test.parquet", TYPES)
    good, bad = read_pairs(study / "test.parquet")
    assert check_pictures(good, picture).instruction == "make it red"
    assert bad == BadPair("b", "images has 1 pictures, not two: source and edited")


def test_cells_hold_files_lists_of_paths_or_images_of_datasets(study: Path, picture: Callable[..., bytes]) -> None:
    files = [picture(seed) for seed in (0, 1)]
    rows = [{"source": files[0], "edited": files[1], "instruction": "make it red"}]
    check_pictures(read_pairs(write_parquet(study / "bytes.parquet", rows))[0], picture)
    listed = {"images": ["images/a.png", "images/b.png"], "instruction": "make it red"}
    check_pictures(read_pairs(write_jsonl(study / "listed.jsonl", listed))[0], picture)
    paths = {part: [str(study / ROW[part])] for part in ("source", "edited")}
    features = datasets.Features(
        source=datasets.Image(), edited=datasets.Image(), instruction=datasets.Value("string")
    )
    single = datasets.Dataset.from_dict(paths | {"instruction": ["make it red"]}, features=features)
    single.save_to_disk(str(study / "single"))
    check_pictures(read_pairs(study / "single")[0], picture)
    both = datasets.Dataset.from_dict({"images": [[decode(file) for file in files]], "edit_inst": ["make it red"]})
    both.save_to_disk(str(study / "both"))
    check_pictures(read_pairs(study / "both")[0], picture)


def test_source_and_edited_go_before_images(study: Path, picture: Callable[..., bytes]) -> None:
    row = ROW | {"images": ["images/b.png", "images/a.png"]}
    table = write_jsonl(study / "pairs.jsonl", row)
    check_pictures(read_pairs(table)[0], picture)
    del row["edited"]
    (pair,) = read_pairs(write_jsonl(study / "pairs.jsonl", row))
    assert isinstance(pair, Edit)
    assert np.array_equal(pair.edited, decode(picture(0)))


@given(st.lists(st.integers(0, 99), min_size=1, max_size=20))
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_rows_of_parquet_can_be_asked_for_in_any_order(tmp_path: Path, order: list[int]) -> None:
    path = tmp_path / "pairs.parquet"
    if not path.exists():
        write_parquet(
            path, [ROW | {"edited": f"{row}.png", "id": f"r{row}"} for row in range(100)], row_group_size=33
        )
    pairs = read_pairs(path)
    assert [pairs.rows[row]["edited"] for row in order] == [f"{row}.png" for row in order]


def test_parquet_that_breaks_in_the_middle_is_the_files_fault(study: Path, picture: Callable[..., bytes]) -> None:
    rows = [{"source": picture(0), "edited": picture(1), "instruction": f"{n}"} for n in range(20)]
    path = write_parquet(study / "pairs.parquet", rows, use_dictionary=False, compression="zstd")
    pairs = read_pairs(path)
    content = bytearray(path.read_bytes())
    content[4:3000] = bytes(2996)
    path.write_bytes(content)
    with pytest.raises(TableError, match=r"pairs\.parquet row 1 can't be read, make the file again"):
        list(pairs)


@pytest.mark.parametrize("index", ["id", None])
def test_parquet_of_pandas_has_its_index_and_its_categories_as_columns(study: Path, index: str | None) -> None:
    table = pd.DataFrame([ROW | {"id": "x"}, ROW | {"id": "y"}]).astype({"instruction": "category"})
    (table.set_index("id") if index else table.set_index(pd.Index([7, 9]))).to_parquet(study / "pairs.parquet")
    pairs = read_pairs(study / "pairs.parquet")
    assert pairs.ids == ["x", "y"]
    assert all(isinstance(pair, Edit) and pair.instruction == "make it red" for pair in pairs)


@pytest.mark.parametrize("name", ["motion.jpg", "mpo.jpg", "exif6_neg.jpg", "p3.png", "gray16.png", "exif6.png"])
def test_any_photo_is_read_as_everywhere_else(study: Path, name: str) -> None:
    photo = PHOTOS / name
    (pair,) = read_pairs(write_csv_rows(study / "pairs.csv", [ROW | {"edited": str(photo)}]))
    assert isinstance(pair, Edit)
    assert np.array_equal(pair.edited, decode(photo.read_bytes()))


def test_a_picture_that_moves_is_its_rows_failure(study: Path) -> None:
    (pair,) = read_pairs(write_csv_rows(study / "pairs.csv", [ROW | {"edited": str(PHOTOS / "anim.webp")}]))
    assert isinstance(pair, BadPair) and "pictures: give one of them" in pair.detail


def test_a_quote_that_is_not_closed_is_named_with_its_line(study: Path) -> None:
    table = write_csv(study / "pairs.csv", ",".join(ROW), 'a.png,b.png,"red" cat', "a.png,b.png,blue")
    with pytest.raises(TableError, match=r"pairs\.csv line 2: the row that begins here is not CSV"):
        read_pairs(table)


# --- rows that only one format can have


def test_a_csv_row_with_more_or_fewer_cells_than_the_header_is_bad(study: Path) -> None:
    head, good = "source,edited,instruction,comment", "images/a.png,images/b.png,make it red"
    long, full, short, empty = read_pairs(
        write_csv(study / "pairs.csv", head, f"{good}, or green, or blue", "", f"{good},", "images/a.png", ",,,")
    )
    assert long == BadPair("00000", "line 2 has 5 cells and the header 4: put a text with commas in quotes")
    assert isinstance(full, Edit) and full.id == "00001"
    assert short == BadPair("00002", "line 5 has 1 cells and the header 4: put a text with commas in quotes")
    assert empty == BadPair("00003", "source: no picture")


@pytest.mark.parametrize(
    ("line", "detail"),
    [
        ('{"source": "images/a.png", ', "is not JSON: "),
        ("[1, 2]", "is not an object"),
        ("[" * 100_000, "is not JSON: "),
        ({"source": 5}, "source: 5 is not the path of a file"),
        ({"edited": {"bytes": "text"}}, "edited: no bytes: the table must hold the image file itself"),
        ({"instruction": 5}, "the instruction 5 is not text"),
        ({"instruction": "\ud800"}, "the instruction is not text: "),
        ({"source": "\ud800"}, "source \ud800 can't be read: "),
    ],
    ids=range(8),
)
def test_a_line_of_jsonl_can_hold_anything(study: Path, line: Any, detail: str) -> None:
    line = ROW | line if isinstance(line, dict) else line
    bad, good = read_pairs(write_jsonl(study / "pairs.jsonl", line, "", ROW))
    assert isinstance(bad, BadPair) and bad.id == "00000"
    assert bad.detail.startswith(detail)
    assert isinstance(good, Edit) and good.id == "00001"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["bytes", "path"]), inner),
    max_leaves=5,
)


@given(st.lists(json_values | st.dictionaries(st.sampled_from([*ROW, "images"]), json_values), max_size=5))
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_row_of_jsonl_stops_the_others(study: Path, rows: list[Any]) -> None:
    *bad, good = read_pairs(write_jsonl(study / "pairs.jsonl", *map(json.dumps, rows), ROW))
    assert len(bad) == len(rows)
    assert all(isinstance(pair, BadPair) for pair in bad)
    assert isinstance(good, Edit)


# --- folders


def test_a_folder_holds_files_that_are_named_alike(study: Path, picture: Callable[..., bytes]) -> None:
    folder = study / "named"
    folder.mkdir()
    files = ("b_source.png", "b_edited.webp", "a_source.PNG", "a_edited.jpeg", "c_source.png", "d_edited.png")
    for number, name in enumerate(files):
        (folder / name).write_bytes(picture(number % 2))
    for name in ("a", "b", "c", "d", "readme"):
        (folder / f"{name}.txt").write_text(f"make {name} red\n", encoding="utf-8-sig")
    pairs = read_pairs(folder)
    assert pairs.ids == ["a", "b", "c", "d"]
    a, b, c, d = pairs
    assert check_pictures(a, picture).instruction == "make a red"
    assert check_pictures(b, picture).instruction == "make b red"
    assert c == BadPair("c", "there is no c_edited.png, .jpg or .webp")
    assert d == BadPair("d", "there is no d_source.png, .jpg or .webp")
    (folder / "a.txt").write_bytes(b"\xff\xff")
    (folder / "b.txt").unlink()
    (folder / "c_edited.png").touch()
    (folder / "c_edited.jpg").touch()
    a, b, c, d = pairs
    assert isinstance(a, BadPair) and a.detail.startswith("instruction a.txt is not UTF-8 text")
    assert b == BadPair("b", "instruction b.txt can't be read: No such file or directory")
    (_, _, c, _) = read_pairs(folder)
    assert c == BadPair("c", "c_edited.jpg and c_edited.png are both there: leave one")


def test_a_name_that_is_no_utf_8_has_an_id_that_a_file_can_hold(
    study: Path, picture: Callable[..., bytes]
) -> None:
    """So that the pair is found again when its result is read back."""
    folder = study / "named"
    folder.mkdir()
    for ending in (b"_source.png", b"_edited.png", b".txt"):
        path = folder / os.fsdecode(b"caf\xe9" + ending)
        path.write_bytes(b"make it red" if ending == b".txt" else picture(ending == b"_edited.png"))
    pairs = read_pairs(folder)
    assert pairs.ids == ["caf?"]
    assert check_pictures(pairs[0], picture).id == "caf?"


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_a_folder_with_a_table_is_that_table(kind: str, study: Path) -> None:
    WRITERS[kind](study, [ROW])
    assert len(read_pairs(study)) == 1
    WRITERS["csv" if kind == "jsonl" else "jsonl"](study, [ROW])
    with pytest.raises(TableError, match=r"pairs\.\w+ and .*pairs\.\w+ are both there: give the one to score"):
        read_pairs(study)


# --- files that can't be read at all


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("nowhere.csv", None, r"there is no .*nowhere\.csv; expected(.|\n)*save_to_disk"),
        ("pairs.tsv", b"", r"pairs\.tsv is neither a folder nor"),
        ("empty.csv", b"", r"empty\.csv is empty: give it a first line with the names of the columns"),
        ("picture.csv", b"\x89PNG\r\n\x1a\n", r"picture\.csv line 1 is not UTF-8: "),
        ("open.csv", b'source,edited,instruction\na,b,"c', r"open\.csv line 2: .* is not CSV \(unexpected end"),
        ("twice.csv", b"source,edited,source,instruction\n", "has the column source twice: rename one"),
        ("pairs.jsonl", b"source,edited\na,b\n", "has no line with an object: line 1 is not JSON"),
        ("pairs.parquet", b"source,edited\na,b\n", "is not a whole Parquet file, make it again"),
        ("folder/readme.txt", b"", "folder holds no pairs; expected"),
        ("folder/state.json", b"", "folder can't be read by datasets, save it to disk again"),
        ("folder/state.json", b"{}", "folder can't be read by datasets, save it to disk again"),
        ("folder/dataset_dict.json", b"{}", "holds several splits: give the folder of one, as .*folder/train"),
    ],
)
def test_what_holds_no_pairs_is_named(study: Path, name: str, content: bytes | None, message: str) -> None:
    path = study / name
    if content is not None:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    with pytest.raises(TableError, match=message):
        read_pairs(path.parent if path.parent != study else path)


def test_files_have_no_columns(study: Path) -> None:
    (study / "a_source.png").touch()
    with pytest.raises(TableError, match="holds files and no table: leave out the options for columns"):
        read_pairs(study, id_column="id")


@pytest.mark.parametrize(("name", "content"), [("a.csv", b"source,edited,instruction\n"), ("a.jsonl", b"")])
def test_a_table_may_have_no_rows(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    assert list(read_pairs(tmp_path / name)) == []


# --- many


def test_pictures_are_read_when_they_are_asked_for(study: Path) -> None:
    pairs = read_pairs(write_csv(study / "pairs.csv", *[",".join(ROW), ",".join(ROW.values())]))
    (study / "images/a.png").unlink()
    assert isinstance(pairs[0], BadPair)


def test_a_pair_can_be_made_in_memory(study: Path) -> None:
    (pair,) = Pairs("the command line", ["x"], [ROW], study)
    assert isinstance(pair, Edit) and pair.id == "x"


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_many_rows_fit_in_memory(kind: str, study: Path) -> None:
    rows = [ROW | {"instruction": string.ascii_letters} for _ in range(20_000)]
    pairs = read_pairs(WRITERS[kind](study, rows))
    assert len(pickle.dumps(pairs.rows)) / len(pairs) < 150
    assert isinstance(pairs[19_999], Edit)


# --- sizes


def test_pictures_are_resized_as_they_are_decoded_and_one_that_cant_be_is_its_rows_failure(
    study: Path, picture: Callable[..., bytes]
) -> None:
    contract = load_contract("tiny")
    Image.new("RGB", (4000, 3000)).save(study / "images/large.png")
    Image.new("RGB", (3000, 1)).save(study / "images/thin.png")
    rows = [ROW | {"edited": "images/large.png"}, ROW | {"edited": "images/thin.png"}]
    large, thin = replace(read_pairs(write_csv_rows(study / "pairs.csv", rows)), resize=contract.resize)
    assert isinstance(large, Edit)
    assert large.edited.width * large.edited.height <= contract.max_pixels
    assert contract.pictures(large) == [large.source, large.edited]
    assert isinstance(thin, BadPair)
    assert "edited images/thin.png: a picture of 3000 x 1 pixels can't be resized to the limits" in thin.detail
