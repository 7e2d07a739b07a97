"""People's tables, read strictly (CSV, JSONL, JSON, Parquet), and this project's own Parquet.

    table = read(Path("scores.csv"), required=("id", "score"), optional=("mode",))
    table["id"] = unique_ids(table)
    table["score"] = numbers(table, "score", 1, 5)
    place(table, 0)    # "scores.csv line 2"

In errors, a row of CSV or JSONL has the number of its first line in the file, a row of another format its number
from 1. The table's index holds these numbers, and the index's name the file and "line" or "row": keep the index
(no `reset_index` or `merge`) until the last check.

The cells of pictures, {"bytes", "path"} or lists of these, don't hold the files: a `StoredPicture` reads its file
when it is asked for.
"""

import csv
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import accumulate, chain
from pathlib import Path
from reprlib import repr as shorten
from struct import calcsize
from typing import Any, BinaryIO

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from critic.files import replacing

_PANDAS_INDEX = re.compile(r"__index_level_\d+__")
_ROWS_AT_ONCE = 16
_ROWS_A_GROUP, _BYTES_A_GROUP = 256, 32 << 20
_BUFFER = 1 << 20

# The largest C long. By default, a cell of more than 131,072 characters is an error.
csv.field_size_limit(2 ** (8 * calcsize("l") - 1) - 1)

_Choose = Callable[[Iterable[str]], list[str]]  # from the columns of a file to those that are read


class TableError(ValueError):
    """A table that can't be used; the message names the file, the line or row, and the fix."""


class StoredPicture(Mapping[str, Any]):
    """The cell of a picture, {"bytes": the file, "path": its name or None}, whose file stays where it is stored.

    `read` returns the file, or None if there is none, each time that it is asked for.
    """

    __slots__ = ("_path", "_read")

    def __init__(self, path: str | None, read: Callable[[], bytes | None]):
        self._path, self._read = path, read

    def __getitem__(self, key: str) -> Any:
        match key:
            case "bytes":
                return self._read()
            case "path":
                return self._path
        raise KeyError(key)

    def __iter__(self) -> Iterator[str]:
        return iter(("bytes", "path"))

    def __len__(self) -> int:
        return 2


class ParquetRows:
    """Rows of a Parquet file by number, a few of which are in memory: those after the last one that was asked for.

    Fastest in the order of the file.

    Raises:
        TableError: the file can't be read, from the start or any more.
    """

    def __init__(self, path: Path, columns: Iterable[str], file: BinaryIO | None = None):
        self._path, self._columns = path, list(columns)
        self._file = open_parquet(path, file, buffer_size=_BUFFER)
        groups = range(self._file.num_row_groups)
        self._starts = [0, *accumulate(self._file.metadata.row_group(group).num_rows for group in groups)]
        self._group, self._first = -1, 0
        self._rows: list[dict[str, Any]] = []

    def __getitem__(self, row: int) -> Mapping[str, Any]:
        group = int(np.searchsorted(self._starts, row, side="right")) - 1
        try:
            if group != self._group or row < self._first:
                self._group, self._first, self._rows = group, self._starts[group], []
                self._batches = self._file.iter_batches(_ROWS_AT_ONCE, [group], self._columns)
            while row >= self._first + len(self._rows):
                self._first += len(self._rows)
                self._rows = next(self._batches).to_pylist()
        except (pa.ArrowException, OSError) as error:
            raise TableError(f"{self._path} row {row + 1} can't be read, make the file again: {error}") from error
        return self._rows[row - self._first]

    def shapes(self, name: str) -> list[Any]:
        """The cells of a column of pictures without their files."""
        leaves = [self._file.schema.column(number).path for number in range(len(self._file.schema))]
        (paths,) = [leaf for leaf in leaves if leaf.startswith(f"{name}.") and leaf.endswith(".path")]
        with _parquet_errors(self._path):
            return self._file.read([paths])[name].to_pylist()


# --- people's tables


def read(
    path: Path,
    *,
    required: Sequence[str] = (),
    optional: Sequence[str] | None = None,
    fix: str = "rename your columns",
) -> pd.DataFrame:
    """The table in a .csv, .jsonl, .json (a list of objects) or .parquet file.

    In a CSV an empty cell is a missing value and all else is text. Values of JSON stay as they are, in columns of
    objects. An index that pandas wrote to a Parquet file is a column if it has a name, and is left out if not.

    Args:
        required: columns that must be there.
        optional: other columns to read, if they are there, in this order after `required`; None for all, in the
            file's order.
        fix: what to do if a required column is missing, for the error.

    Raises:
        TableError: the file can't be read, is malformed, or lacks a required column.
    """

    def choose(there: Iterable[str]) -> list[str]:
        names = [*there]
        require_columns(path, names, required, fix)
        wanted = names if optional is None else dict.fromkeys([*required, *optional])
        return [name for name in wanted if name in names]

    match path.suffix.lower():
        case ".csv":
            return _read_csv(path, choose)
        case ".jsonl":
            lines = {line: _text_object(content, f"{path} line {line}") for line, _, content in jsonl_lines(path)}
            table = _from_objects([*lines.values()], choose)
            return table.set_axis(pd.Index([*lines], name=f"{path} line", dtype=int))
        case ".json":
            return number_rows(_from_objects(_read_json(path), choose), str(path))
        case ".parquet":
            return number_rows(_read_parquet(path, choose), str(path))
    raise TableError(f"{path} is not a .csv, .jsonl, .json or .parquet file: save the table as one of these")


def csv_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The header of a CSV file, then its rows, each with the number of its first line; empty lines are skipped.

    The number of cells isn't checked, see `count_cells`.

    Raises:
        TableError: the file can't be read or is empty; a line is not UTF-8 text or not CSV; a column has no name
            or the name of another one.
    """
    first, header = 1, None
    with _reading(path), path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        reader = csv.reader(_check_text(file, path), strict=True)
        try:
            for cells in reader:
                if cells and header is None:
                    header = cells
                    check_names(path, header)
                if cells:
                    yield first, cells
                first = reader.line_num + 1
        except csv.Error as error:
            raise TableError(
                f"{path} line {first}: the row that begins here is not CSV ({error}, line {reader.line_num}): "
                'put a text with commas or quotes in quotes, and double the quotes inside it, as "a ""red"" cat"'
            ) from None
    if header is None:
        raise TableError(f"{path} is empty: give it a first line with the names of the columns")


def count_cells(cells: Sequence[str], header: Sequence[str]) -> str | None:
    """What is wrong with a row that has more or fewer cells than the header, None if nothing is."""
    if len(cells) == len(header):
        return None
    return f"has {len(cells)} cells and the header {len(header)}: put a text with commas in quotes"


def jsonl_lines(path: Path) -> Iterator[tuple[int, int, bytes]]:
    """The lines of a JSONL file, except blank ones: each one's number from 1, offset in bytes, and content."""
    offset = 0
    with _reading(path), path.open("rb") as file:
        for line, content in enumerate(file, 1):
            if content.strip():
                yield line, offset, content
            offset += len(content)


def json_object(content: bytes) -> dict[str, Any]:
    """The object in a line of JSONL; its texts may hold half of a surrogate pair, which UTF-8 can't encode.

    Raises:
        TableError: the line is not a JSON object in UTF-8, or a key appears twice; the message doesn't name it.
    """
    value = _decode(content)
    if not isinstance(value, dict):
        raise TableError("is not an object, {...}")
    return value


def open_parquet(path: Path, file: BinaryIO | None = None, *, buffer_size: int = 0) -> pq.ParquetFile:
    """A Parquet file whose columns have different names; `buffer_size` bytes are read at a time, 0: whole chunks.

    `file` is the open file if `path` is one of another git revision, for example.

    Raises:
        TableError: the file can't be read, is not Parquet, or a column has no name or the name of another one.
    """
    if file is None:
        with _reading(path):
            path.open("rb").close()
    with _parquet_errors(path):
        opened = pq.ParquetFile(file or path, buffer_size=buffer_size)
        names = opened.schema_arrow.names
    check_names(path, names)
    return opened


# --- places and checks


def number_rows(table: pd.DataFrame, where: str) -> pd.DataFrame:
    """The table with its rows numbered from 1, for errors: `where` and "row 6"."""
    return table.set_axis(pd.RangeIndex(1, len(table) + 1, name=f"{where} row"))


def place(table: pd.DataFrame, position: int) -> str:
    """Where the row at a position (from 0) is, as "scores.csv line 7" or "scores.parquet row 6"."""
    return f"{table.index.name} {table.index[position]}"


def require_columns(where: object, there: Sequence[str], required: Iterable[str], fix: str) -> None:
    """Raise a `TableError` unless all required columns are there."""
    if missing := [name for name in required if name not in there]:
        raise TableError(
            f"{where} has no column {', '.join(missing)}; it has {', '.join(map(str, there)) or 'none'}: {fix}"
        )


def unique_ids(table: pd.DataFrame) -> "pd.Series[str]":
    """The column `id` as text; raises a `TableError` if there are no rows, one has no id, or two have the same."""
    file, _, unit = str(table.index.name).rpartition(" ")
    if table.empty:
        raise TableError(f"{file} has no rows")
    filled(table, ["id"])
    ids = table["id"].map(str)
    if len(again := np.flatnonzero(ids.duplicated())):
        id = ids.iloc[again[0]]
        first, second = table.index[(ids == id).to_numpy()][:2]
        raise TableError(
            f"{file} has the id {id!r} twice, in {unit} {first} and {unit} {second} ({len(again)} rows too many): "
            "give each row its own id, or remove the row"
        )
    return ids


def filled(table: pd.DataFrame, columns: Iterable[str]) -> None:
    """Raise a `TableError` unless columns have a value in each row; blank text is none."""
    for column in columns:
        cells = table[column]
        blank = cells.map(lambda cell: isinstance(cell, str) and not cell.strip()).astype(bool)
        if len(empty := np.flatnonzero(cells.isna() | blank)):
            raise TableError(f"{_row(table, empty[0], column)} has no {column}: fill it in, or remove the row")


def numbers(table: pd.DataFrame, column: str, low: float = -np.inf, high: float = np.inf) -> "pd.Series[float]":
    """A column of finite numbers from `low` to `high`, given as numbers or text; NaN for a missing value."""
    cells = table[column]
    values = pd.to_numeric(cells.astype(object).map(_number), errors="coerce").astype(float)
    odd = np.flatnonzero(cells.notna() & ~(values.between(low, high) & np.isfinite(values)))
    if len(odd):
        bounded = np.isfinite([low, high]).all()
        wanted = f"a number from {low:g} to {high:g}" if bounded else "a number"
        more = f" ({len(odd) - 1} more rows)" if len(odd) > 1 else ""
        fix = "correct it, or leave it empty if there is none"
        raise TableError(
            f"{_row(table, odd[0], column)} has the {column} {_show(cells.iloc[odd[0]])}, not {wanted}{more}: "
            f"{fix}{'; rescale numbers of another scale' if bounded else ''}"
        )
    return values


def number_lists(table: pd.DataFrame, column: str) -> list[np.ndarray | None]:
    """Each row's list of finite numbers, None where it is missing; text holds them with spaces between."""
    lists: list[np.ndarray | None] = []
    for position, cell in enumerate(table[column]):
        if cell is None or cell is pd.NA or (isinstance(cell, float) and np.isnan(cell)):
            lists.append(None)
            continue
        parts = cell.split() if isinstance(cell, str) else cell
        listed = isinstance(parts, list | tuple | np.ndarray)
        items = pd.Series([*parts] if listed else [None], dtype=object).map(_number)
        values = pd.to_numeric(items, errors="coerce").to_numpy(float)
        if not np.isfinite(values).all():
            raise TableError(
                f"{_row(table, position, column)} has the {column} {_show(cell)}, not a list of numbers: give "
                "numbers, in a CSV with spaces between"
            )
        lists.append(values)
    return lists


# --- this project's own tables


def read_parquet(
    path: str | os.PathLike[str], columns: Sequence[str] | None = None, file: BinaryIO | None = None
) -> pd.DataFrame:
    """The table in a Parquet file of this project, with the types that pandas wrote; lists are arrays.

    `columns` are those to read, of those that the file has; None for all. `file` is the open file if `path` is one
    of another git revision, for example; its pictures can be read until it is closed.

    Raises:
        FileNotFoundError: no such file.
        TableError: the file is not Parquet.
    """
    with _parquet_errors(path):
        schema = pq.read_schema(file or path)
        names = [name for name in (schema.names if columns is None else columns) if name in schema.names]
        pictures = [name for name in names if _has_pictures(schema.field(name).type)]
        rest = [name for name in names if name not in pictures]
        table: pd.DataFrame = pq.read_table(file or Path(path), columns=rest).to_pandas()
    return _with_stored(table, Path(path), names, pictures, file)


def write_parquet(table: pd.DataFrame, path: str | os.PathLike[str], types: Mapping[str, pa.DataType]) -> None:
    """Write a table as Parquet, see `critic.files.replacing`; the same table gives the same bytes.

    Columns keep the table's order and get their type of `types`; a missing value becomes null; the index is not
    written.

    Raises:
        ValueError: a column that `types` lacks, or a value that its type can't hold.
    """
    if unknown := {*table.columns} - {*types}:
        raise ValueError(f"{path}: unknown columns {sorted(unknown)}; known are {sorted(types)}")
    schema = pa.schema([(name, types[name]) for name in table.columns])
    with _parquet_writer(path, schema) as writer:
        parts = (table.iloc[start : start + _ROWS_AT_ONCE] for start in range(0, len(table), _ROWS_AT_ONCE))
        _write_groups(
            writer,
            (
                pa.table([_array(rows[name], types[name], path) for name in schema.names], schema=schema)
                for rows in parts
            ),
        )


def copy_rows(path: Path, out: Path, rows: Iterable[int], *, keep: Iterable[Path | None] = ()) -> None:
    """Copy rows of a .csv, .jsonl or .parquet file, by number from 0, to another file of that format.

    They keep the order of the file; a few are in memory at a time. See `critic.files.replacing`. Paths of pictures
    in a CSV or JSONL file are relative to its folder, so `out` must be in it, too.

    Args:
        keep: files besides `path` that `out` must not replace.

    Raises:
        TableError: `path` can't be read, or `out` has another format or folder or is a file that stays.
    """
    if out.resolve() in {file.resolve() for file in (path, *keep) if file}:
        raise TableError(f"{out} is a file that is read, and would be replaced: choose another name")
    wanted, kind = {*map(int, rows)}, path.suffix.lower()
    if kind not in (".csv", ".jsonl", ".parquet") or out.suffix.lower() != kind:
        raise TableError(f"{out} must be a .csv, .jsonl or .parquet file as {path} is: choose another name")
    if kind != ".parquet" and out.resolve().parent != path.resolve().parent:
        raise TableError(
            f"{out} isn't in the folder of {path}, to which paths of pictures are relative: write it there"
        )
    match kind:
        case ".csv":
            lines = csv_rows(path)
            with replacing(out) as partial, partial.open("w", encoding="utf-8", newline="") as file:
                writer = csv.writer(file, lineterminator="\n")
                writer.writerow(next(lines)[1])
                writer.writerows(cells for row, (_, cells) in enumerate(lines) if row in wanted)
        case ".jsonl":
            with replacing(out) as partial, partial.open("wb") as lines_out:
                for row, (_, _, content) in enumerate(jsonl_lines(path)):
                    if row in wanted:
                        lines_out.write(content.removesuffix(b"\n") + b"\n")
        case ".parquet":
            with (
                open_parquet(path, buffer_size=_BUFFER) as table,
                _parquet_writer(out, table.schema_arrow) as writer,
            ):
                _write_groups(writer, _chosen(table, wanted))


def _chosen(table: pq.ParquetFile, wanted: Collection[int]) -> Iterator[pa.Table]:
    """Some of the wanted rows at a time; a call for each group, since what a call has read stays in memory."""
    first = 0
    for group in range(table.num_row_groups):
        for batch in table.iter_batches(_ROWS_AT_ONCE, [group]):
            numbers = [row for row in range(batch.num_rows) if first + row in wanted]
            first += batch.num_rows
            if numbers:
                yield pa.Table.from_batches([batch]).take(numbers)


@contextmanager
def _parquet_writer(path: str | os.PathLike[str], schema: pa.Schema) -> Iterator[pq.ParquetWriter]:
    """Within a group of rows, a dictionary holds each picture once."""
    limits = {"compression": "zstd", "dictionary_pagesize_limit": 2 * _BYTES_A_GROUP}
    with replacing(path) as partial, pq.ParquetWriter(partial, schema, **limits) as writer:
        yield writer


def _write_groups(writer: pq.ParquetWriter, parts: Iterable[pa.Table]) -> None:
    group: list[pa.Table] = []
    for part in parts:
        group.append(part)
        number, size = sum(part.num_rows for part in group), sum(part.nbytes for part in group)
        if number >= _ROWS_A_GROUP or size >= _BYTES_A_GROUP:
            writer.write_table(pa.concat_tables(group).combine_chunks())
            group = []
    if group:
        writer.write_table(pa.concat_tables(group).combine_chunks())


def _read_csv(path: Path, choose: _Choose) -> pd.DataFrame:
    rows = csv_rows(path)
    _, header = next(rows)
    columns: dict[str, list[str | None]] = {name: [] for name in choose(header)}
    numbers = [header.index(name) for name in columns]
    lines = []
    for line, cells in rows:
        if fault := count_cells(cells, header):
            raise TableError(f"{path} line {line} {fault}")
        lines.append(line)
        for column, number in zip(columns.values(), numbers, strict=True):
            column.append(cells[number] or None)
    return pd.DataFrame(columns, index=pd.Index(lines, name=f"{path} line", dtype=int), dtype="str")


def _read_json(path: Path) -> list[dict[str, Any]]:
    with _reading(path):
        content = path.read_bytes()
    try:
        rows = _decode(content)
    except TableError as error:
        raise TableError(f"{path} {error}") from None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise TableError(f"{path} is not a list of objects, [{{...}}, ...]")
    for number, row in enumerate(rows, 1) if b"\\u" in content else ():
        _check_utf_8(row, f"{path} row {number}")
    return rows


def _read_parquet(path: Path, choose: _Choose) -> pd.DataFrame:
    with open_parquet(path) as file:
        names = choose(name for name in file.schema_arrow.names if not _PANDAS_INDEX.fullmatch(name))
        pictures = [name for name in names if _has_pictures(file.schema_arrow.field(name).type)]
        rest = [name for name in names if name not in pictures]
        with _parquet_errors(path):
            table = file.read(rest).select(rest)
            for number, field in enumerate(table.schema):
                if pa.types.is_dictionary(field.type):
                    values = table[number].cast(field.type.value_type)
                    table = table.set_column(number, field.name, values)
            table.validate(full=True)
            read = table.to_pandas(ignore_metadata=True, integer_object_nulls=True)
    return _with_stored(read, path, names, pictures)


def _with_stored(
    table: pd.DataFrame,
    path: Path,
    names: Sequence[str],
    pictures: Iterable[str],
    file: BinaryIO | None = None,
) -> pd.DataFrame:
    """The columns `names` of a Parquet file, of which the table has all but those of pictures."""
    for name in pictures:
        rows, cells = ParquetRows(path, [name], file), list[Any]()
        for row, shape in enumerate(rows.shapes(name)):
            if isinstance(shape, list):
                cells.append([_stored(rows, name, row, place, one) for place, one in enumerate(shape)])
            else:
                cells.append(_stored(rows, name, row, None, shape))
        table = table.assign(**{name: pd.Series(cells, table.index, dtype="object")})
    return table[[*names]]


def _stored(rows: ParquetRows, name: str, row: int, place: int | None, shape: Any) -> StoredPicture | None:
    return None if shape is None else StoredPicture(shape["path"], partial(_file, rows, name, row, place))


def _file(rows: ParquetRows, name: str, row: int, place: int | None) -> bytes | None:
    cell = rows[row][name]
    return (cell if place is None else cell[place])["bytes"]


def _has_pictures(kind: pa.DataType) -> bool:
    """Whether a column of this type holds pictures, {"bytes", "path"}, or lists of them."""
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        kind = kind.value_type
    return pa.types.is_struct(kind) and {field.name for field in kind} == {"bytes", "path"}


def _from_objects(rows: Sequence[Mapping[str, Any]], choose: _Choose) -> pd.DataFrame:
    names = choose(dict.fromkeys(chain.from_iterable(rows)))
    columns = {name: [row.get(name) for row in rows] for name in names}
    return pd.DataFrame(columns, index=range(len(rows)), dtype=object)


def _text_object(content: bytes, where: str) -> dict[str, Any]:
    try:
        row = json_object(content)
    except TableError as error:
        raise TableError(f"{where} {error}") from None
    if b"\\u" in content:
        _check_utf_8(row, where)
    return row


def _check_utf_8(row: Mapping[str, Any], where: str) -> None:
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise TableError(f"{where} has a text that UTF-8 can't encode ({error}): correct it") from None


def _decode(content: bytes) -> Any:
    """What JSON in UTF-8 holds; the message of a `TableError` doesn't name the file."""
    try:
        return json.loads(content.decode("utf-8-sig"), object_pairs_hook=_unique)
    except UnicodeDecodeError as error:
        raise TableError(f"is not UTF-8 text: {error}") from None
    except json.JSONDecodeError as error:
        line = f"line {error.lineno} " if error.lineno > 1 else ""
        raise TableError(f"is not JSON: {error.msg}, {line}column {error.colno}") from None
    except (ValueError, RecursionError) as error:
        raise TableError(f"is not JSON: {error}") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError(f"the key {_first_twice([key for key, _ in pairs])!r} appears twice")
    return values


def check_names(where: Path, names: Sequence[str]) -> None:
    if twice := _first_twice(names):
        raise TableError(f"{where} has the column {twice} twice: rename one")
    if "" in names:
        number = [*names].index("") + 1
        raise TableError(f"{where}: column {number} has no name: give it one, or remove it")


def _first_twice(names: Sequence[str]) -> str | None:
    return next((name for name, times in Counter(names).items() if times > 1), None)


def _check_text(lines: Iterable[str], path: Path) -> Iterator[str]:
    for number, line in enumerate(lines, 1):
        try:
            line.encode()
        except UnicodeEncodeError:
            raise TableError(f"{path} line {number} is not UTF-8: save the file as CSV in UTF-8") from None
        if "\0" in line:
            raise TableError(f"{path} line {number} has a NUL character: save the file as CSV in UTF-8")
        yield line


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise TableError(f"{path} can't be read: {error.strerror or error}") from error


@contextmanager
def _parquet_errors(path: str | os.PathLike[str]) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError, ValueError) as error:
        raise TableError(f"{path} is not a whole Parquet file, make it again: {error}") from error


def _row(table: pd.DataFrame, position: int, column: str) -> str:
    """The place of a row, and its id if that isn't the column in question."""
    if "id" not in table or column == "id":
        return place(table, position)
    return f"{place(table, position)}, id {str(table['id'].iloc[position])!r}"


def _number(cell: Any) -> Any:
    """The cell, NaN for values that pandas takes for numbers (bool) or can't convert (integers beyond 64 bits)."""
    wide = isinstance(cell, int) and (isinstance(cell, bool) or cell.bit_length() > 64)
    return np.nan if wide else cell


def _show(cell: Any) -> str:
    return shorten(cell.item() if isinstance(cell, np.generic) else cell)


def _array(column: "pd.Series[Any]", kind: pa.DataType, path: str | os.PathLike[str]) -> pa.Array:
    cells = [_plain(cell) for cell in column] if _has_pictures(kind) else column
    try:
        return pa.array(cells, type=kind, from_pandas=True)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise ValueError(f"{path}: column {column.name} of another type: {error}") from error


def _plain(cell: Any) -> Any:
    """A cell of pictures with their files, as `pyarrow` takes it."""
    if isinstance(cell, Mapping):
        return dict(cell)
    return [*map(_plain, cell)] if isinstance(cell, list | tuple | np.ndarray) else cell
