"""Read pairs to score, or generated pictures, from a CSV, JSONL or Parquet file, or a folder.

    for pair in read_pairs(Path("pairs.csv")):    # an Edit, or a BadPair with what is wrong in its row

Ids, and the text of a CSV, stay in memory. Pictures are read and decoded when their pair is asked for, and not
kept. docs/score.md describes the formats. The paths of pictures may be absolute or lead out of the table's folder:
the user chose the table.
"""

import os
import re
from array import array
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from reprlib import repr as shorten
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import pyarrow as pa
from PIL import Image

from critic import tables
from critic.edits import Edit, count_images
from critic.pictures import PictureError, read
from critic.prompts import ContractError
from critic.results import BadPair
from critic.tables import TableError

if TYPE_CHECKING:
    import pandas as pd

NAMES = {"source": ("source",), "edited": ("edited",), "instruction": ("instruction", "edit_inst"), "id": ("id",)}
"""The parts of a pair, and the columns that may hold them; the last that is there counts. If source and edited
aren't there, a column `images` with lists of two replaces both."""

GENERATED = ("image", "prompt")
"""The columns of a table of generated pictures, such as AGIQA-3k: both, and no part of a pair except an id."""

TABLES = ("pairs.csv", "pairs.jsonl", "pairs.parquet")
EXAMPLE = """a .csv, .jsonl or .parquet file of

    source,edited,instruction
    images/cat.png,images/cat-red.png,make the cat red

or with the columns image,prompt for generated pictures; or a folder: of datasets' save_to_disk,
with such a table named pairs.csv, or of files named cat_source.png, cat_edited.png and cat.txt;
see docs/score.md"""

_FILE = re.compile(r"(?P<name>.+)_(?P<part>source|edited)\.(?:png|jpe?g|webp)", re.IGNORECASE)


File: TypeAlias = Path | bytes | Image.Image
"""A picture that isn't decoded yet; a DataFrame may hold one that is."""


class Rows(Protocol):
    """Rows by number, each a mapping of columns to cells."""

    def __getitem__(self, row: int, /) -> Mapping[str, Any]: ...


@dataclass(frozen=True)
class Pairs:
    """A sized sequence of pairs, or of generated pictures, in the order of their rows; fastest in that order.

    Attributes:
        where: the file or folder.
        ids: one for each pair, all different.
        rows: a picture's cell is the path of a file, the file's bytes, or {"bytes", "path"}.
        folder: that paths are relative to.
        columns: the column of each part of a pair, see `NAMES`, or of a generated picture, see `GENERATED`.
        resize: applied to each picture after decoding, so that a batch of large pictures needs no more memory than
            the sizes that are asked for; if it raises a `ContractError`, the row fails.
    """

    where: str
    ids: Sequence[str]
    rows: Rows
    folder: Path
    columns: Mapping[str, str] = field(default_factory=lambda: {part: part for part in NAMES if part != "id"})
    resize: Callable[[Image.Image], Image.Image] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def generated(self) -> bool:
        """Whether these are generated pictures."""
        return {*GENERATED} <= {*self.columns}

    def __iter__(self) -> Iterator[Edit | BadPair]:
        return map(self.__getitem__, range(len(self)))

    def __getitem__(self, row: int) -> Edit | BadPair:
        """The pair, or generated picture, of a row; a `TableError` if the file can't be read any more."""
        found = self.files(row)
        if isinstance(found, BadPair):
            return found
        *source, edited = [part for part in found[:2] if part is not None]
        names = ("image",) if self.generated else ("source", "edited")
        try:
            pictures = [self._read(file, name) for file, name in zip((*source, edited), names, strict=True)]
        except _BadRow as error:
            return BadPair(self.ids[row], str(error))
        return Edit(self.ids[row], pictures[0] if source else None, pictures[-1], found[2])

    def files(self, row: int) -> tuple[File | None, File, str] | BadPair:
        """The source (None for a generated picture), the edited picture and the instruction of a row, undecoded.

        Raises:
            TableError: the file can't be read any more.
        """
        try:
            cells = self.rows[row]
            parts: dict[str, Any] = {part: cells.get(name) for part, name in self.columns.items()}
            if self.generated:
                return None, self._file(parts["image"], "image"), _text(parts["prompt"], "prompt")
            if "images" in parts:
                images = parts["images"]
                if count_images(images) != 2:
                    raise _BadRow(f"images has {count_images(images)} pictures, not two: source and edited")
                parts |= zip(("source", "edited"), images, strict=True)
            source, edited = (self._file(parts[part], part) for part in ("source", "edited"))
            return source, edited, _text(parts["instruction"], "instruction")
        except _BadRow as error:
            return BadPair(self.ids[row], str(error))

    def _file(self, cell: Any, part: str) -> File:
        if isinstance(cell, Mapping):
            content = cell.get("bytes")
            if content and not isinstance(content, bytes):
                raise _BadRow(f"{part}: no bytes: the table must hold the image file itself")
            cell = content or cell.get("path")
        if isinstance(cell, str | os.PathLike) and str(cell):
            return self.folder / cell
        if isinstance(cell, bytes | Image.Image) and cell:
            return cell
        raise _BadRow(f"{part}: {'no picture' if not cell else f'{shorten(cell)} is not the path of a file'}")

    def _read(self, file: File, part: str) -> Image.Image:
        try:
            if isinstance(file, Path):
                part = f"{part} {file.relative_to(self.folder) if file.is_relative_to(self.folder) else file}"
            image = read(file)
            return image if self.resize is None else self.resize(image)
        except (PictureError, ContractError) as error:
            raise _BadRow(f"{part}: {error}") from None
        except (OSError, ValueError) as error:  # ValueError: no file system can have such a path
            reason = getattr(error, "strerror", None) or error
            raise _BadRow(f"{part} can't be read: {reason}; paths are relative to the table's folder") from None


def read_pairs(
    path: Path,
    *,
    source_column: str | None = None,
    edited_column: str | None = None,
    instruction_column: str | None = None,
    id_column: str | None = None,
) -> Pairs:
    """The pairs, or generated pictures, of a file or folder; a row with a fault becomes a `BadPair`.

    The arguments give the columns' names, if they are not those of `NAMES`.

    Raises:
        TableError: the file or folder isn't there or can't be read, a column is missing or appears twice, or two
            rows have the same id.
    """
    given = dict(zip(NAMES, (source_column, edited_column, instruction_column, id_column), strict=True))
    if path.is_dir():
        if _is_dataset(path):
            return _read_dataset(path, given)
        match [path / name for name in TABLES if (path / name).exists()]:
            case []:
                return _read_names(path, given)
            case [path]:
                pass
            case both:
                raise TableError(f"{' and '.join(map(str, both))} are both there: give the one to score")
    if not path.is_file():
        raise TableError(f"there is no {path}; expected {EXAMPLE}")
    match path.suffix.lower():
        case ".csv":
            return _read_csv(path, given)
        case ".jsonl":
            return _read_jsonl(path, given)
        case ".parquet":
            return _read_parquet(path, given)
    raise TableError(f"{path} is neither a folder nor a .csv, .jsonl or .parquet file; expected {EXAMPLE}")


def read_columns(pairs: Pairs, names: Sequence[str]) -> "pd.DataFrame":
    """Other columns of the table of pairs, those of `names` that it has; none if they are files without a table.

    Raises:
        TableError: as `critic.tables.read`.
    """
    path = Path(pairs.where)
    if path.is_file():
        return tables.read(path, optional=names)
    table = _load_dataset(path) if _is_dataset(path) else pa.table({})
    there = table.select([name for name in names if name in table.column_names])
    return tables.number_rows(there.to_pandas(), str(path))


def table_pairs(table: "pd.DataFrame") -> Pairs:
    """The pairs, or generated pictures, of a table with the columns of a file; paths are relative to this folder.

    Raises:
        TableError: as `read_pairs`.
    """
    where = Path("the table")
    tables.check_names(where, [*map(str, table.columns)])
    columns = _choose([*map(str, table.columns)], dict.fromkeys(NAMES), where)
    named: list[Any] = [None] * len(table)
    if "id" in columns:
        ids = table[columns["id"]]
        named = [None if missing else id for id, missing in zip(ids, ids.isna(), strict=True)]
    rows: Any = table.to_dict("records")
    return Pairs(str(where), _ids(named, where), rows, Path(), columns)


class _BadRow(Exception):
    """What is wrong with a row."""


@dataclass(frozen=True)
class _TableRows:
    """Rows of a table in memory, or mapped into it; `faults` are those that can't be read, by number."""

    table: pa.Table
    faults: Mapping[int, str] = field(default_factory=dict)

    def __getitem__(self, row: int) -> Mapping[str, Any]:
        if row in self.faults:
            raise _BadRow(self.faults[row])
        return self.table.slice(row, 1).to_pylist()[0]


@dataclass(frozen=True)
class _JsonRows:
    """Rows of a JSONL file, read again from the offset of each."""

    path: Path
    offsets: Sequence[int]

    def __getitem__(self, row: int) -> Mapping[str, Any]:
        with self.path.open("rb") as file:
            file.seek(self.offsets[row])
            try:
                return tables.json_object(file.readline())
            except TableError as error:
                raise _BadRow(str(error)) from None


@dataclass(frozen=True)
class _FolderRows:
    """Rows of a folder whose files are named after their pairs: the file names of each pair's parts."""

    folder: Path
    names: Sequence[str]
    files: Mapping[str, Mapping[str, list[str]]]

    def __getitem__(self, row: int) -> Mapping[str, Any]:
        name = self.names[row]
        parts = {}
        for part in ("source", "edited"):
            match self.files[name].get(part, []):
                case [file]:
                    parts[part] = file
                case []:
                    raise _BadRow(f"there is no {name}_{part}.png, .jpg or .webp")
                case files:
                    raise _BadRow(f"{' and '.join(sorted(files))} are both there: leave one")
        try:
            return {**parts, "instruction": (self.folder / f"{name}.txt").read_text(encoding="utf-8-sig").strip()}
        except OSError as error:
            raise _BadRow(f"instruction {name}.txt can't be read: {error.strerror}") from None
        except UnicodeDecodeError as error:
            raise _BadRow(f"instruction {name}.txt is not UTF-8 text: {error}") from None


def _read_csv(path: Path, given: Mapping[str, str | None]) -> Pairs:
    rows = tables.csv_rows(path)
    _, header = next(rows)
    columns = _choose(header, given, path)
    places = {name: header.index(name) for name in columns.values()}
    cells: dict[str, list[str | None]] = {name: [] for name in places}
    lines, faults = array("q"), {}
    for row, (line, texts) in enumerate(rows):
        lines.append(line)
        if fault := tables.count_cells(texts, header):
            faults[row] = f"line {line} {fault}"
        for name, place in places.items():
            cells[name].append(texts[place] if place < len(texts) else None)
    table = pa.table({name: pa.array(texts, pa.large_string()) for name, texts in cells.items()})
    named = cells[columns["id"]] if "id" in columns else [None] * len(table)
    return Pairs(str(path), _ids(named, path, "line", lines), _TableRows(table, faults), path.parent, columns)


def _read_jsonl(path: Path, given: Mapping[str, str | None]) -> Pairs:
    lines, offsets, named, there = array("q"), array("q"), [], dict[str, None]()
    fault = ""
    for line, offset, content in tables.jsonl_lines(path):
        lines.append(line)
        offsets.append(offset)
        try:
            cells = tables.json_object(content)
        except TableError as error:
            cells, fault = {}, fault or f": line {line} {error}"
        there.update(dict.fromkeys(cells))
        named.append(cells.get(given["id"] or "id"))
    if lines and not there:
        raise TableError(f"{path} has no line with an object{fault}; expected {EXAMPLE}")
    columns = _choose([*there] if lines else [*chain(*NAMES.values())], given, path)
    return Pairs(str(path), _ids(named, path, "line", lines), _JsonRows(path, offsets), path.parent, columns)


def _read_parquet(path: Path, given: Mapping[str, str | None]) -> Pairs:
    with tables.open_parquet(path) as file:
        columns = _choose(file.schema_arrow.names, given, path)
        named: list[Any] = [None] * file.metadata.num_rows
        if "id" in columns:
            try:
                named = file.read([columns["id"]])[columns["id"]].to_pylist()
            except (pa.ArrowException, OSError) as error:
                raise TableError(f"{path} is not a whole Parquet file, make it again: {error}") from error
    return Pairs(str(path), _ids(named, path), tables.ParquetRows(path, columns.values()), path.parent, columns)


def _is_dataset(folder: Path) -> bool:
    return any((folder / name).exists() for name in ("dataset_dict.json", "state.json"))


def _load_dataset(folder: Path) -> pa.Table:
    from datasets import load_from_disk  # slow to import

    if (folder / "dataset_dict.json").exists():
        raise TableError(f"{folder} holds several splits: give the folder of one, as {folder / 'train'}")
    try:
        table: pa.Table = load_from_disk(str(folder)).with_format("arrow")[:]
    except Exception as error:  # datasets raises whatever a broken file leads to
        raise TableError(f"{folder} can't be read by datasets, save it to disk again: {error}") from error
    tables.check_names(folder, table.column_names)
    return table


def _read_dataset(folder: Path, given: Mapping[str, str | None]) -> Pairs:
    table = _load_dataset(folder)
    columns = _choose(table.column_names, given, folder)
    named = table[columns["id"]].to_pylist() if "id" in columns else [None] * len(table)
    rows = _TableRows(table.select([*columns.values()]))
    return Pairs(str(folder), _ids(named, folder), rows, folder, columns)


def _read_names(folder: Path, given: Mapping[str, str | None]) -> Pairs:
    files: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for path in folder.iterdir():
        if match := _FILE.fullmatch(path.name):
            files[match["name"]][match["part"].lower()].append(path.name)
    if not files:
        raise TableError(f"{folder} holds no pairs; expected {EXAMPLE}")
    if any(given.values()):
        raise TableError(f"{folder} holds files and no table: leave out the options for columns")
    names = sorted(files)
    return Pairs(str(folder), _ids(names, folder), _FolderRows(folder, names, files), folder)


def _choose(there: Sequence[str], given: Mapping[str, str | None], where: Path) -> dict[str, str]:
    """The column of each part of a pair, or of a generated picture; "id" only if there is one."""
    names = {part: (name,) if (name := given[part]) else NAMES[part] for part in NAMES}
    columns = {part: name for part in NAMES for name in names[part] if name in there}
    needed = {"source", "edited", "instruction"}
    paired = "images" in there or needed & {*columns} or any(given[part] for part in needed)
    if {*GENERATED} <= {*there} and not paired:
        columns |= {part: part for part in GENERATED}
        needed = {*GENERATED}
    elif "images" in there and not (given["source"] or given["edited"] or {"source", "edited"} <= {*columns}):
        columns = {"images": "images"} | {part: columns[part] for part in ("instruction", "id") if part in columns}
        needed = {"instruction"}
    missing = [part for part in NAMES if part not in columns and (part in needed or given[part])]
    if missing:
        wanted = ", ".join(" or ".join(names[part]) for part in missing)
        options = " and ".join(f"--{part}-column" for part in missing)
        raise TableError(
            f"{where} has no column {wanted}; it has {', '.join(there) or 'none'}: "
            f"name it with {options}, or see docs/score.md (generated pictures have image and prompt)"
        )
    return columns


def _ids(named: Iterable[Any], where: Path, unit: str = "row", numbers: Sequence[int] | None = None) -> list[str]:
    """The rows' ids as text that UTF-8 can encode; a row without an id gets its number from 0, in five digits."""
    rows: dict[str, int] = {}
    for row, name in enumerate(named):
        id = f"{row:05d}" if name is None or name == "" or name != name else str(name)
        id = id.encode("utf-8", "replace").decode()
        if (first := rows.setdefault(id, row)) != row:
            places = [f"{unit} {number + 1 if numbers is None else numbers[number]}" for number in (first, row)]
            raise TableError(
                f"{where} has the id {id!r} twice, in {' and '.join(places)}: give each row its own id, or leave "
                "the column out"
            )
    return [*rows]


def _text(cell: Any, part: str) -> str:
    if cell is None or (isinstance(cell, str) and not cell.strip()):
        raise _BadRow(f"the {part} is empty")
    if not isinstance(cell, str):
        raise _BadRow(f"the {part} {shorten(cell)} is not text")
    try:
        cell.encode()
    except UnicodeEncodeError as error:
        raise _BadRow(f"the {part} is not text: {error}") from None
    return cell
