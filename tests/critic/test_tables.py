"""People's tables: what is read, what is refused with its line and its fix; this project's own Parquet."""

import csv
import json
from collections.abc import Callable
from decimal import Decimal
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from critic.tables import (
    TableError,
    csv_rows,
    filled,
    json_object,
    jsonl_lines,
    number_lists,
    number_rows,
    numbers,
    open_parquet,
    place,
    read,
    read_parquet,
    unique_ids,
    write_parquet,
)

ROWS = [{"id": "a", "score": 3.5, "note": "x"}, {"id": "b", "score": None, "note": "y"}]
KINDS = ("csv", "jsonl", "json", "parquet")


def save(tmp_path: Path, kind: str, rows: list[dict[str, Any]] = ROWS) -> Path:
    file = tmp_path / f"scores.{kind}"
    match kind:
        case "csv":
            pd.DataFrame(rows).to_csv(file, index=False)
        case "jsonl":
            file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        case "json":
            file.write_text(json.dumps(rows))
        case "parquet":
            pd.DataFrame(rows).to_parquet(file)
    return file


def save_bytes(tmp_path: Path, name: str, content: str | bytes) -> Path:
    file = tmp_path / name
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return file


def test_a_cell_of_a_csv_may_be_long(tmp_path: Path) -> None:
    text = "é" * 300_000
    assert read(save_bytes(tmp_path, "long.csv", f"id,note\na,{text}\n"))["note"].tolist() == [text]


def test_an_open_file_is_read_and_errors_name_its_path(tmp_path: Path) -> None:
    path = save(tmp_path, "parquet")
    with path.open("rb") as file:
        assert read_parquet("old.parquet", ["score", "none"], file)["score"].tolist()[0] == 3.5
    with BytesIO(path.read_bytes()[:-9]) as file, pytest.raises(TableError, match=r"^old\.parquet is not a whole"):
        read_parquet("old.parquet", file=file)


# --- every format


@pytest.mark.parametrize("kind", KINDS)
def test_a_table_has_its_columns_and_the_places_of_its_rows(tmp_path: Path, kind: str) -> None:
    table = read(save(tmp_path, kind))
    assert [*table] == ["id", "score", "note"]
    assert [*table["id"]] == ["a", "b"]
    assert numbers(table, "score").tolist() == pytest.approx([3.5, np.nan], nan_ok=True)
    places = {"csv": "line 3", "jsonl": "line 2", "json": "row 2", "parquet": "row 2"}
    assert place(table, 1) == f"{tmp_path}/scores.{kind} {places[kind]}"
    assert place(table[table["id"] == "b"], 0) == place(table, 1)


@pytest.mark.parametrize("kind", KINDS)
def test_columns_are_chosen(tmp_path: Path, kind: str) -> None:
    table = read(save(tmp_path, kind), required=["score"], optional=["status", "id"])
    assert [*table] == ["score", "id"]
    assert [*read(save(tmp_path, kind), required=["id", "id"], optional=["id"])] == ["id"]
    with pytest.raises(TableError, match=rf"\.{kind} has no column mos, by; it has id, score, note: ask Ann$"):
        read(save(tmp_path, kind), required=["mos", "id", "by"], fix="ask Ann")


@pytest.mark.parametrize("kind", KINDS)
def test_a_missing_file_and_a_folder_are_named(tmp_path: Path, kind: str) -> None:
    with pytest.raises(TableError, match=rf"gone\.{kind} can't be read: No such file or directory"):
        read(tmp_path / f"gone.{kind}")
    (tmp_path / f"folder.{kind}").mkdir()
    with pytest.raises(TableError, match=rf"folder\.{kind} can't be read: Is a directory"):
        read(tmp_path / f"folder.{kind}")


def test_the_ending_says_the_format_in_any_case(tmp_path: Path) -> None:
    assert [*read(save_bytes(tmp_path, "A.CSV", "id\nx\n"))["id"]] == ["x"]
    with pytest.raises(TableError, match=r"a\.txt is not a \.csv, \.jsonl, \.json or \.parquet file: save"):
        read(save_bytes(tmp_path, "a.txt", "id\nx\n"))


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary() | st.text("\"',\n\r{}[]:\\ua1\0é").map(str.encode))
@example(content=b"\xef\xbb\xbf")
@example(content=b"[" * 100_000)
@example(content=b'{"a": ' + b"9" * 5000 + b"}")
@example(content=b'[{"a": "\\ud800"}]')
@example(content=b'{"\\ud800": 1}')
@example(content=b'"' + b"a" * 200_000)
def test_any_bytes_are_a_table_or_a_table_error(tmp_path: Path, kind: str, content: bytes) -> None:
    try:
        table = read(save_bytes(tmp_path, f"a.{kind}", content))
    except TableError as error:
        message = str(error)
    else:
        message = f"{table.index.name}"
        str(table)
    assert f"a.{kind}" in message


# --- CSV

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)
awkward = texts | st.text('",\n\r a', max_size=6)


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.integers(1, 4).flatmap(
        lambda width: st.tuples(
            st.lists(awkward.filter(bool), min_size=width, max_size=width, unique=True),
            st.lists(st.lists(awkward, min_size=width, max_size=width), max_size=5),
        )
    ),
    st.sampled_from([{"lineterminator": "\n", "quoting": csv.QUOTE_ALL}, {"lineterminator": "\r\n"}]),
    st.sampled_from(["utf-8", "utf-8-sig"]),
)
def test_what_csv_writes_comes_back(
    tmp_path: Path, table: tuple[list[str], list[list[str]]], style: dict[str, Any], encoding: str
) -> None:
    header, rows = table
    text, lines = StringIO(), []
    writer = csv.writer(text, **style)
    writer.writerow(header)
    for row in rows:
        lines.append(len(StringIO(text.getvalue(), newline="").readlines()) + 1)
        writer.writerow(row)
    if header[0].startswith("\ufeff"):
        return  # a byte order mark of the file
    found = read(save_bytes(tmp_path, "a.csv", text.getvalue().encode(encoding)))
    assert [*found] == header
    assert found.fillna("").values.tolist() == rows
    assert [*found.index] == lines


def test_empty_cells_are_missing_and_all_else_is_text(tmp_path: Path) -> None:
    table = read(save_bytes(tmp_path, "a.csv", '\ufeffid,mos,by\n007,,NA\n\nnan,1e3,"a, ""b""\nc"\nx,"",None\n'))
    assert [*table["id"]] == ["007", "nan", "x"]
    assert [*table["mos"].isna()] == [True, False, True]
    assert [*table["by"]] == ["NA", 'a, "b"\nc', "None"]
    assert [place(table, row)[-6:] for row in range(3)] == ["line 2", "line 4", "line 6"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"a\.csv is empty: give it a first line"),
        (b"\n\n", r"a\.csv is empty"),
        (b"id,score\na,1\n\nb\n", r"a\.csv line 4 has 1 cells and the header 2: put a text with commas in quotes"),
        (b"id,score\na,1,2\n", r"a\.csv line 2 has 3 cells and the header 2"),
        (b'id,score\n"a\nb",1\n,,\n', r"a\.csv line 4 has 3 cells"),
        (b"id,score,id\n", r"a\.csv has the column id twice: rename one"),
        (b",score\n0,1\n", r"a\.csv: column 1 has no name: give it one, or remove it"),
        (b"id,score\na,1\nb,\xff\n", r"a\.csv line 3 is not UTF-8: save the file as CSV in UTF-8"),
        ("id,score\n".encode("utf-16"), r"a\.csv line 1 is not UTF-8"),
        (b"id,score\na,\0\n", r"a\.csv line 2 has a NUL character"),
        (
            b'id\na\n"b\nc\n',
            r"a\.csv line 3: the row that begins here is not CSV \(unexpected end of data, line 4\)",
        ),
        (
            b'id\n"a" b\n',
            r"a\.csv line 2: the row that begins here is not CSV \(',' expected after '\"', line 2\)",
        ),
    ],
)
def test_a_csv_that_can_not_be_used_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(TableError, match=message):
        read(save_bytes(tmp_path, "a.csv", content))


OPEN_QUOTES = {
    "ratings": """rater,source,edited,instruction,score
r0,a.png,b.png,"Open the door,5
r0,a.png,b.png,two,4
r1,a.png,b.png,two,4
r1,a.png,b.png,four" wide,1
""",
    "scores": 'id,score\na,3.5\n"b,2\nc,4\nd" x,1\n',
    "study": """split,source,edited,instruction,mos
train,a.png,b.png,"Open the door,3.7
train,a.png,b.png,two,1.1
train,a.png,b.png,three,1.2
train,a.png,b.png,four" wide,2.4
test,a.png,b.png,"SALE" sign,2.0
""",
}


@pytest.mark.parametrize("name", OPEN_QUOTES)
def test_a_text_that_begins_with_a_quote_swallows_no_rows(tmp_path: Path, name: str) -> None:
    line = 3 if name == "scores" else 2
    with pytest.raises(
        TableError, match=rf"{name}\.csv line {line}: the row that begins here is not CSV .* line 5\)"
    ):
        read(save_bytes(tmp_path, f"{name}.csv", OPEN_QUOTES[name]))


def test_rows_of_csv_come_one_at_a_time_with_any_number_of_cells(tmp_path: Path) -> None:
    rows = csv_rows(save_bytes(tmp_path, "a.csv", 'id,text\n\na,"x\ny",1\nb\n"'))
    assert [next(rows), next(rows), next(rows)] == [(1, ["id", "text"]), (3, ["a", "x\ny", "1"]), (5, ["b"])]
    with pytest.raises(TableError, match="line 6"):
        next(rows)


# --- JSON and JSONL


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '{"id": 1}\n\n{"id": \n', r"a\.jsonl line 3 is not JSON: Expecting value, line 2 column 1"),
        ("a.jsonl", '{"id": 1}\n{"id", 2}\n', r"a\.jsonl line 2 is not JSON: Expecting ':' delimiter, column 6"),
        ("a.jsonl", '{"id": 1}\n[1]\n', r"a\.jsonl line 2 is not an object, \{...\}"),
        ("a.jsonl", '{"id": 1, "id": 2}\n', r"a\.jsonl line 1 is not JSON: the key 'id' appears twice"),
        ("a.jsonl", b'{"id": "\xff"}\n', r"a\.jsonl line 1 is not UTF-8 text"),
        ("a.jsonl", '\n{"id": "\\ud800"}\n', r"a\.jsonl line 2 has a text that UTF-8 can't encode"),
        ("a.json", '[{"id": 1}, {"id": "\\ud800"}]', r"a\.json row 2 has a text that UTF-8 can't encode"),
        ("a.json", '[{"id": 1},\n {"id"}]', r"a\.json is not JSON: Expecting ':' delimiter, line 2 column 7"),
        ("a.json", '{"id": 1}', r"a\.json is not a list of objects"),
        ("a.json", "[1]", r"a\.json is not a list of objects"),
    ],
)
def test_json_that_can_not_be_used_is_named(tmp_path: Path, name: str, content: str | bytes, message: str) -> None:
    with pytest.raises(TableError, match=message):
        read(save_bytes(tmp_path, name, content))


def test_values_of_json_stay_as_they_are(tmp_path: Path) -> None:
    lines = ['{"id": 7, "a": [1, 2]}', '\ufeff{"a": {"b": null}}', "", '{"id": "\\ud83d\\ude00", "c": 1e3}']
    table = read(save_bytes(tmp_path, "a.jsonl", "\n".join(lines)))
    assert [*table] == ["id", "a", "c"]
    assert [*table["id"]] == [7, None, "\U0001f600"]
    assert [*table["a"]] == [[1, 2], {"b": None}, None]
    assert [*table["c"]] == [None, None, 1000.0]


@given(st.lists(st.dictionaries(texts, texts | st.integers() | st.lists(st.integers())), max_size=4))
@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.parametrize("kind", ["json", "jsonl"])
def test_what_json_writes_comes_back(tmp_path: Path, kind: str, rows: list[dict[str, Any]]) -> None:
    table = read(save(tmp_path, kind, rows))
    names = dict.fromkeys(name for row in rows for name in row)
    assert [*table] == [*names]
    assert table.to_dict("records") == [{name: row.get(name) for name in names} for row in rows]


def test_lines_of_json_can_be_read_again_from_their_offsets(tmp_path: Path) -> None:
    file = save_bytes(tmp_path, "a.jsonl", '{"id": "\u2028"}\n\n \r\n{"id": 2}')
    places = [(line, offset) for line, offset, _ in jsonl_lines(file)]
    assert [line for line, _ in places] == [1, 4]
    with file.open("rb") as opened:
        opened.seek(places[1][1])
        assert json_object(opened.readline()) == {"id": 2}
    assert json_object(b'{"id": "\\ud800"}') == {"id": "\ud800"}
    with pytest.raises(TableError, match=r"^is not an object, \{"):
        json_object(b"[]")


# --- Parquet


def test_an_index_of_pandas_is_a_column_if_it_has_a_name(tmp_path: Path) -> None:
    table = pd.DataFrame({"id": ["a", "b"], "score": [3.0, None]})
    table.set_index("id").to_parquet(tmp_path / "named.parquet")
    found = read(tmp_path / "named.parquet", required=["id", "score"])
    assert unique_ids(found).tolist() == ["a", "b"]
    table[::-1].set_axis(["x", "y"]).to_parquet(tmp_path / "unnamed.parquet")
    assert "__index_level_0__" in pq.read_schema(tmp_path / "unnamed.parquet").names
    found = read(tmp_path / "unnamed.parquet")
    assert [*found] == ["id", "score"] and [*found["id"]] == ["b", "a"]
    assert place(found, 0).endswith("unnamed.parquet row 1")


def test_categories_are_text(tmp_path: Path) -> None:
    table = pd.DataFrame({"id": ["a", "b"], "mode": pd.Categorical(["direct", None]), "n": pd.Categorical([2, 1])})
    table.to_parquet(tmp_path / "a.parquet")
    found = read(tmp_path / "a.parquet")
    assert found["mode"].fillna("greedy").tolist() == ["direct", "greedy"]
    assert found["n"].tolist() == [2, 1]


def test_integers_stay_integers_beside_missing_values(tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": pa.array([2**60 + 1, None])}), tmp_path / "a.parquet")
    assert [*read(tmp_path / "a.parquet")["id"]] == [2**60 + 1, None]


def test_only_the_chosen_columns_of_parquet_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []
    whole = pq.ParquetFile.read
    monkeypatch.setattr(pq.ParquetFile, "read", lambda file, names: asked.append(names) or whole(file, names))
    pd.DataFrame({"id": ["a"], "id.x": ["b"], "images": [b"PNG"]}).to_parquet(tmp_path / "a.parquet")
    assert [*read(tmp_path / "a.parquet", required=["id"], optional=["mos"])] == ["id"]
    assert asked == [["id"]]


def test_parquet_that_can_not_be_used_is_named(tmp_path: Path) -> None:
    twice = pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"])
    pq.write_table(twice, tmp_path / "twice.parquet")
    with pytest.raises(TableError, match=r"twice\.parquet has the column a twice: rename one"):
        read(tmp_path / "twice.parquet")
    with pytest.raises(TableError, match=r"a\.parquet is not a whole Parquet file, make it again: "):
        open_parquet(save_bytes(tmp_path, "a.parquet", "id,score\n"))
    invalid = pa.array([b"\xff"]).cast(pa.string(), safe=False)
    pq.write_table(pa.table({"a": invalid}), tmp_path / "text.parquet")
    with pytest.raises(TableError, match=r"text\.parquet is not a whole Parquet file, .*UTF8"):
        read(tmp_path / "text.parquet")


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 3000), st.binary(min_size=1, max_size=8))
def test_damaged_parquet_is_a_table_or_a_table_error(tmp_path: Path, start: int, junk: bytes) -> None:
    content = save(tmp_path, "parquet").read_bytes()
    start %= len(content)
    file = save_bytes(tmp_path, "damaged.parquet", content[:start] + junk + content[start + len(junk) :])
    try:
        message = f"{read(file).index.name}"
    except TableError as error:
        message = str(error)
    assert "damaged.parquet" in message


# --- checks


def table_of(**columns: Any) -> pd.DataFrame:
    return number_rows(
        pd.DataFrame({name: pd.Series(cells, dtype=object) for name, cells in columns.items()}), "t"
    )


def test_ids_become_text() -> None:
    assert unique_ids(table_of(id=[7, "a", 1.5])).tolist() == ["7", "a", "1.5"]


@pytest.mark.parametrize(
    ("check", "message"),
    [
        (lambda: unique_ids(table_of(id=[])), "^t has no rows$"),
        (lambda: unique_ids(table_of(id=["a", None])), "^t row 2 has no id: fill it in, or remove the row"),
        (lambda: unique_ids(table_of(id=["a", " "])), "^t row 2 has no id"),
        (
            lambda: unique_ids(table_of(id=["a", "7", "b", 7, 7])),
            r"^t has the id '7' twice, in row 2 and row 4 \(2 rows too many\): give each row its own id",
        ),
        (
            lambda: filled(table_of(id=["a", "b"], mos=[1, 2], by=["x", "\t"]), ["mos", "by"]),
            "^t row 2, id 'b' has no by: fill it in, or remove the row",
        ),
        (lambda: filled(table_of(by=[np.nan]), ["by"]), "^t row 1 has no by"),
        (
            lambda: numbers(table_of(id=["a", "b"], mos=["3", "good"]), "mos", 1, 5),
            "^t row 2, id 'b' has the mos 'good', not a number from 1 to 5: correct it.*; rescale",
        ),
        (
            lambda: numbers(table_of(mos=["nan", 2, "x"]), "mos"),
            r"^t row 1 has the mos 'nan', not a number \(1 more",
        ),
        (lambda: numbers(table_of(mos=[np.float64(7.5)]), "mos", 1, 5), "the mos 7.5, not a number from 1 to 5"),
        *(
            (lambda cell=cell: numbers(table_of(mos=[cell]), "mos"), r"row 1 has the mos .*, not a number: ")
            for cell in ("inf", True, 10**400, -(2**70), [1.0], {"a": 1}, np.array([1.0]), "1_0", "0x10")
        ),
        *(
            (
                lambda cell=cell: number_lists(table_of(ratings=[None, cell]), "ratings"),
                "row 2 has the ratings .*, not",
            )
            for cell in ("3 good", 3, [1, "x"], [[1]], {"a": 1}, "nan 1", [10**400], [True])
        ),
    ],
)
def test_a_row_that_can_not_be_used_is_named(check: Callable[[], object], message: str) -> None:
    with pytest.raises(TableError, match=message):
        check()


def test_numbers_are_given_as_numbers_or_text() -> None:
    table = table_of(mos=[3, "3.7", None, np.nan, " 5 ", Decimal("1.5"), np.float32(2), pd.NA])
    assert numbers(table, "mos", 1, 5).tolist() == pytest.approx(
        [3, 3.7, np.nan, np.nan, 5, 1.5, 2, np.nan], nan_ok=True
    )


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_number_as_text_is_the_same_number(value: float) -> None:
    assert numbers(table_of(mos=[repr(value)]), "mos")[1] == value


def test_lists_of_numbers_are_given_as_text_lists_or_arrays() -> None:
    found = number_lists(table_of(ratings=["3 4", None, [1, 2.5], np.array([1.0]), np.nan, ""]), "ratings")
    assert [None if values is None else values.tolist() for values in found] == [
        [3, 4],
        None,
        [1, 2.5],
        [1],
        None,
        [],
    ]


# --- this project's own Parquet

TYPES = {"id": pa.string(), "mos": pa.float64(), "ratings": pa.list_(pa.float64()), "n": pa.int64()}


@pytest.fixture
def own() -> pd.DataFrame:
    return pd.DataFrame(
        {"id": [str(n) for n in range(700)], "mos": [1.5, np.nan] * 350, "ratings": [[1.0], None] * 350}
    )


def test_a_table_is_read_back_as_it_was_written(own: pd.DataFrame, tmp_path: Path) -> None:
    file = tmp_path / "new folder/a.parquet"
    write_parquet(own, file, TYPES)
    back = read_parquet(file)
    assert [*back] == [*own] and [*back["id"]] == [*own["id"]]
    assert back["mos"].isna().sum() == 350 and [*back["ratings"][0]] == [1.0] and back["ratings"][1] is None
    assert pq.read_metadata(file).num_row_groups == 3
    assert [*read_parquet(file, ["mos", "editor", "id"])] == ["mos", "id"]


def test_the_same_table_gives_the_same_bytes(own: pd.DataFrame, tmp_path: Path) -> None:
    write_parquet(own, tmp_path / "one.parquet", TYPES)
    write_parquet(read_parquet(tmp_path / "one.parquet"), tmp_path / "two.parquet", TYPES)
    assert (tmp_path / "one.parquet").read_bytes() == (tmp_path / "two.parquet").read_bytes()


@pytest.mark.parametrize(
    ("change", "message"),
    [({"colour": "red"}, "unknown columns.*colour"), ({"mos": "good"}, "column mos of another type")],
)
def test_a_write_that_fails_leaves_the_earlier_file(
    own: pd.DataFrame, tmp_path: Path, change: dict[str, str], message: str
) -> None:
    file = tmp_path / "a.parquet"
    write_parquet(own, file, TYPES)
    before = file.read_bytes()
    with pytest.raises(ValueError, match=message):
        write_parquet(own.assign(**change), file, TYPES)
    assert file.read_bytes() == before and [*tmp_path.iterdir()] == [file]


def test_what_is_no_parquet_of_this_project_is_named(tmp_path: Path) -> None:
    with pytest.raises(TableError, match=r"a\.parquet is not a whole Parquet file, make it again"):
        read_parquet(save_bytes(tmp_path, "a.parquet", "id,mos\n"))
    with pytest.raises(FileNotFoundError):
        read_parquet(tmp_path / "nowhere.parquet")


# --- pictures

PICTURE = pa.struct({"bytes": pa.binary(), "path": pa.string()})
WITH_PICTURES = {"id": pa.string(), "images": pa.list_(PICTURE), "image": PICTURE}


@pytest.fixture
def pictures() -> pd.DataFrame:
    """40 rows of two pictures and one; the first two of four rows are the same, and some are missing."""
    files = [np.random.default_rng(n).bytes(1000) for n in range(60)]
    cells = [
        [{"bytes": files[n // 4], "path": "a.png"}, {"bytes": files[10 + n], "path": None}] for n in range(40)
    ]
    rows: list[Any] = [*cells[:36], None, [], [None], [{"bytes": None, "path": "gone.png"}]]
    return pd.DataFrame({"id": [*map(str, range(40))], "images": rows, "image": [pair[1] for pair in cells]})


@pytest.mark.parametrize("reader", [read, read_parquet])
def test_pictures_come_back_in_any_order(
    reader: Callable[[Path], pd.DataFrame], pictures: pd.DataFrame, tmp_path: Path
) -> None:
    write_parquet(pictures, tmp_path / "a.parquet", WITH_PICTURES)
    back = reader(tmp_path / "a.parquet")
    assert [*back] == [*pictures]
    for row in (*range(40), 7, 39, 0):
        assert back["images"].iloc[row] == pictures["images"][row]
        assert back["image"].iloc[row] == pictures["image"][row]
    write_parquet(back, tmp_path / "b.parquet", WITH_PICTURES)
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


def test_pictures_are_read_when_they_are_asked_for(pictures: pd.DataFrame, tmp_path: Path) -> None:
    file = tmp_path / "a.parquet"
    write_parquet(pictures, file, WITH_PICTURES)
    back = read_parquet(file)
    with file.open("r+b") as same:
        same.seek(file.read_bytes().index(pictures["images"][0][0]["bytes"]) - 8)
        same.write(bytes(2000))
    assert [*back["id"]] == [*pictures["id"]] and back["images"][39][0]["path"] == "gone.png"
    with pytest.raises(TableError, match=r"a\.parquet row 1 can't be read, make the file again"):
        back["images"][0][0]["bytes"]
    with pytest.raises(KeyError, match="size"):
        back["images"][0][0]["size"]


def test_a_group_of_rows_has_a_bound_in_bytes_and_each_picture_once(
    pictures: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_parquet(pictures[["id", "images"]], tmp_path / "one.parquet", WITH_PICTURES)
    files = {one["bytes"] for cell in pictures["images"] if cell for one in cell if one and one["bytes"]}
    assert 0 < (tmp_path / "one.parquet").stat().st_size - 1000 * len(files) < 8000
    monkeypatch.setattr("critic.tables._BYTES_A_GROUP", 20_000)
    write_parquet(pictures[["id", "images"]], tmp_path / "some.parquet", WITH_PICTURES)
    assert pq.read_metadata(tmp_path / "some.parquet").num_row_groups == 3
    assert [*read_parquet(tmp_path / "some.parquet")["images"]] == [*pictures["images"]]
