"""Pairs of edits with people's order, and the two files that they become: edits to score, and pairs to evaluate.

tally = write_pairs(Path("prefs"), "genai-bench", genai.read(origin), origin="TIGER-Lab/GenAI-Bench at 8f2…")
# prefs/edits.parquet for `critic score` or `critic judge`, prefs/pairs.jsonl for `critic eval --preferences`
"""

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from reprlib import repr as shorten
from typing import Any, Literal

import pandas as pd
import pyarrow as pa

from critic.data.preferences import EDITS, ORIGIN, OVERALL, PAIRS
from critic.data.readers._rows import find_image
from critic.data.readers.hub import HubError, Snapshot, load_splits
from critic.edits import TYPES, edit_key
from critic.files import replacing_folder, write_json, write_text
from critic.tables import StoredPicture, TableError, require_columns, write_parquet

_ID = 24
"""Digits of an id; those of `critic.edits.edit_key` are 64."""
Winner = Literal["a", "b", "tie"]
TWIN = "-twin"
"""At the end of the id of the second of two identical files, which people have compared all the same."""


@dataclass(frozen=True)
class Pair:
    """Two edits of one source image by one instruction, and which of them people prefer.

    Attributes:
        where: the file and the row, for errors.
        group: the edits that people have put in order together.
        source, a, b: pictures as {"bytes", "path"}.
        axis: what people have judged.
        subtask: a kind of edit; None if unknown.
    """

    where: str
    group: str
    source: Mapping[str, Any]
    a: Mapping[str, Any]
    b: Mapping[str, Any]
    instruction: str
    winner: Winner
    axis: str = OVERALL
    subtask: str | None = None


@dataclass(frozen=True)
class LeftOut:
    """A pair that can't be evaluated, and why; it is counted."""

    reason: str


@dataclass(frozen=True)
class Row:
    """A row of a benchmark: its cells, and its pictures on demand. Errors name `where` and the column."""

    where: str
    cells: Mapping[Any, Any]
    pictures: Callable[[str], list[Mapping[str, Any]]]

    def text(self, column: str, choices: Iterable[str] | None = None) -> str:
        """A text that isn't blank, one of `choices` if they are given; a `TableError` if it is another value."""
        cell = self.cells[column]
        if isinstance(cell, str) and cell.strip() and (choices is None or cell in choices):
            return cell
        raise self.error(column, f"one of {', '.join(choices)}" if choices else "a text")

    def picture(self, column: str) -> Mapping[str, Any]:
        """The one picture in a column; a `TableError` if there is none."""
        found = self.pictures(column)
        if len(found) != 1:
            raise TableError(f"{self.where}: column {column} has {len(found)} pictures instead of one: correct it")
        return found[0]

    def error(self, column: str, wanted: str) -> TableError:
        return TableError(
            f"{self.where}: column {column} has {shorten(self.cells[column])}, not {wanted}: correct it"
        )


def hub_rows(
    origin: Snapshot,
    columns: Iterable[str],
    pictures: Iterable[str],
    *,
    name: str | None = None,
    split: str | None = None,
) -> Iterator[Row]:
    """The rows of a split of a data set that `datasets` can read.

    Args:
        columns, pictures: those that must be there; a cell of `pictures` is an image or a list of images.
        name: the config; None if there is only one or a default.
        split: None for the only one.

    Raises:
        HubError: as `critic.data.readers.hub.load_splits`; there is no such split, or several.
        TableError: a column is missing.
    """
    splits = load_splits(origin, name)
    chosen = split or (next(iter(splits)) if len(splits) == 1 else "alone")
    if chosen not in splits:
        raise HubError(f"{origin} has no split {chosen}; it has {', '.join(splits)}: give another revision")
    dataset = splits[chosen]
    require_columns(origin, dataset.column_names, [*columns, *pictures], "give the files of the benchmark")
    stored = {column: dataset.data.column(column) for column in pictures}
    for number, cells in enumerate(dataset.select_columns([*columns])):
        where = f"{origin}, split {chosen}, row {number + 1}"
        yield Row(where, cells, partial(_stored, stored, number))


def file_row(where: str, cells: Mapping[Any, Any], folder: Path) -> Row:
    """A row of a table whose pictures are paths relative to `folder`; paths that lead out of it are refused."""
    root = Path(os.path.abspath(folder))

    def pictures(column: str) -> list[Mapping[str, Any]]:
        return [find_image(Row(where, cells, pictures).text(column), root, f"{where}, column {column}")]

    return Row(where, cells, pictures)


def write_pairs(
    folder: Path, benchmark: str | None, pairs: Iterable[Pair | LeftOut], origin: str
) -> dict[str, Any]:
    """Write the edits, each once, and the pairs, all or nothing; the picture files are copied one at a time.

    An edit's id is the beginning of `critic.edits.edit_key`, its source_id that of its source image's SHA-256. Of
    a pair of two identical files, b is an edit of its own, see `TWIN`.

    Args:
        benchmark: its name, by which `critic.evaluation.preferences` knows its protocol; None for one's own pairs.
        origin: the data set and the commit, or the file.

    Returns:
        What origin.json holds: origin, benchmark, edits, pairs, and left_out, the number of pairs by reason.

    Raises:
        TableError: a picture has no file; there are no pairs; as the reader.
        OutputError: the folder can't be written, or has other files.
    """
    edits: dict[str, dict[str, Any]] = {}
    lines, left_out = [], Counter[str]()
    for pair in pairs:
        if isinstance(pair, LeftOut):
            left_out[pair.reason] += 1
            continue
        source, *edited = (_digest(picture, pair.where) for picture in (pair.source, pair.a, pair.b))
        a, b = (edit_key(source, digest, pair.instruction)[:_ID] for digest in edited)
        b = f"{b}{TWIN}" if a == b else b
        for id, picture in ((a, pair.a), (b, pair.b)):
            edit = {"id": id, "source_id": source[:_ID], "images": [pair.source, picture]}
            edits.setdefault(id, edit | {"instruction": pair.instruction})
        line: dict[str, str | None] = {"edited_a": a, "edited_b": b}
        line["winner"] = {"a": a, "b": b, "tie": "tie"}[pair.winner]
        line |= {"group": pair.group, "source_id": source[:_ID], "axis": pair.axis, "subtask": pair.subtask}
        lines.append(json.dumps(line | {"benchmark": benchmark}, ensure_ascii=False) + "\n")
    if not lines:
        raise TableError(f"{origin} has no pairs to evaluate; left out: {dict(left_out) or 'none'}")
    found = {"origin": origin, "benchmark": benchmark, "edits": len(edits), "pairs": len(lines)}
    with replacing_folder(folder, only=(EDITS, PAIRS, ORIGIN)) as partial_folder:
        write_parquet(pd.DataFrame([*edits.values()]), partial_folder / EDITS, TYPES)
        write_text(partial_folder / PAIRS, "".join(lines))
        write_json(partial_folder / ORIGIN, found | {"left_out": dict(left_out)}, ensure_ascii=False)
    return found | {"left_out": dict(left_out)}


def _digest(picture: Mapping[str, Any], where: str) -> str:
    if not (file := picture["bytes"]):
        raise TableError(f"{where}: the picture {picture['path'] or ''} has no file: add it")
    return sha256(file).hexdigest()


def _stored(columns: Mapping[str, pa.ChunkedArray], row: int, column: str) -> list[Mapping[str, Any]]:
    """The pictures of a cell, whose files stay in the cache of `datasets` until they are asked for."""
    cell = columns[column][row]
    if not cell.is_valid:
        return []
    if pa.types.is_struct(cell.type):
        return [StoredPicture(None, lambda: columns[column][row]["bytes"].as_py())]
    return [StoredPicture(None, partial(_item, columns[column], row, place)) for place in range(len(cell))]


def _item(column: pa.ChunkedArray, row: int, place: int) -> bytes | None:
    return column[row][place]["bytes"].as_py()
