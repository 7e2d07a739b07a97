"""An edit, its identity, and the columns of the tables that hold edits.

    table = normalise(read_parquet("data/raw/test.parquet"), "test")    # pictures' files are not read yet
    write_parquet(table, "data/validated/test.parquet", TYPES)
    for edit in edits_from_table(table):
        edit.source, edit.edited, edit.instruction, edit.mos

A table has one edit per row. `COLUMNS` has the columns of a validated table. A raw table has the column names of
IE-Bench-4k (hub: Coobiw/IE-Bench-4k), see `RAW_NAMES`. An image is a mapping {"bytes": the file's bytes, "path":
its name or None}, as `datasets` stores it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from PIL import Image

from critic.pictures import PictureError, decode_cell

COLUMNS: dict[str, pa.DataType] = {
    "id": pa.string(),
    "source_id": pa.string(),
    "images": pa.list_(pa.struct({"bytes": pa.binary(), "path": pa.string()})),
    "instruction": pa.string(),
    "problem": pa.string(),
    "mos": pa.float64(),
    "edit_type": pa.string(),
    "editor": pa.string(),
    "mos_alignment": pa.float64(),
    "mos_fidelity": pa.float64(),
    "mos_quality": pa.float64(),
    "ratings": pa.list_(pa.float64()),
    "prompt_number": pa.string(),
}
"""The columns of a validated table, in order. `images` are the source and the edited image, `problem` is the data
set's own prompt, scores are 1..5, `prompt_number` tells the instructions of one source image apart. `problem` and
the columns from `edit_type` on are optional."""

RAW_NAMES = {"edit_inst": "instruction", "answer": "mos"}
"""Columns of a raw table that have another name in a validated table."""

GENERATED_COLUMNS: dict[str, pa.DataType] = {
    "id": pa.string(),
    "image": COLUMNS["images"].value_type,
    "prompt": pa.string(),
    "mos_quality": pa.float64(),
    "mos_alignment": pa.float64(),
}
"""The columns of a table of pictures generated from a text prompt, such as AGIQA-3k (arXiv 2306.04717)."""

GENERATED_AXES = {"quality": "mos_quality", "alignment": "mos_alignment"}
"""AGIQA-3k has two MOS per picture. The critic gives one score, which is measured against both."""

GENERATED_SCALE = (0, 5)
"""The lowest and the highest MOS of AGIQA-3k."""

SPLITS = ("train", "validation", "test")

TYPES = COLUMNS | {raw: COLUMNS[name] for raw, name in RAW_NAMES.items()}
"""All columns that a raw or a validated table can have."""


@dataclass(frozen=True)
class Edit:
    """A source image, the edited image, and the instruction.

    Images are RGB. `source` is None for a picture generated from text; `instruction` is then its prompt. `mos` is
    the mean opinion score, 1..5, or None for an edit without ratings.
    """

    id: str
    source: Image.Image | None
    edited: Image.Image
    instruction: str
    mos: float | None = None
    source_id: str | None = None
    edit_type: str | None = None
    editor: str | None = None

    @property
    def pair(self) -> tuple[Image.Image, Image.Image]:
        """The source and the edited image; raises a `ValueError` if there is no source image."""
        if self.source is None:
            raise ValueError(f"edit {self.id} has no source image: it was generated from text")
        return self.source, self.edited


def edit_key(source_sha256: str, edited_sha256: str, instruction: str) -> str:
    """The identity of an edit, 64 hexadecimal digits: its two files (their SHA-256, in hexadecimal digits too) and
    its instruction, without the whitespace around it.
    """
    return sha256(f"{source_sha256} {edited_sha256} {instruction.strip()}".encode()).hexdigest()


def image_file(images: Any, place: int) -> bytes | None:
    """The file of the image at `place` in a cell of the column `images`, None if it isn't there."""
    image = images[place] if count_images(images) > place else None
    return image.get("bytes") if isinstance(image, Mapping) else None


def count_images(images: Any) -> int:
    """The number of images in a cell of the column `images`, 0 if the cell isn't a list."""
    return len(images) if isinstance(images, list | tuple | np.ndarray) else 0


def edits_from_table(table: pd.DataFrame) -> Iterator[Edit]:
    """The edits of a validated table in its order, each decoded when it is reached.

    A table with the columns `image` and `prompt` holds generated pictures: edits without a source.

    Raises:
        ValueError: a required column is missing, or a row doesn't have exactly two images that can be decoded.
    """
    generated = {"image", "prompt"} <= {*table.columns}
    if not generated and (missing := {"id", "images", "instruction"} - {*table}):
        raise ValueError(f"the table has no column {sorted(missing)}; it has {[*table]}: give a validated table")
    for number, row in enumerate(table.to_dict("records"), 1):
        cells = [None, row["image"]] if generated else row["images"]
        where = f"row {number}, id {row['id']!r}, {'image' if generated else 'images'}"
        if (count := count_images(cells)) != 2:
            raise ValueError(f"{where}: {count} images instead of two, the source and the edited image")
        try:
            source = None if generated else decode_cell(cells[0])
            edited = decode_cell(cells[1])
        except PictureError as error:
            raise ValueError(f"{where}: {error}") from error
        if generated:
            yield Edit(row["id"], None, edited, row["prompt"])
            continue
        mos = None if pd.isna(row.get("mos")) else float(row["mos"])
        more = {name: _text_or_none(row.get(name)) for name in ("source_id", "edit_type", "editor")}
        yield Edit(row["id"], source, edited, row["instruction"], mos, **more)


def normalise(raw: pd.DataFrame, split: str) -> pd.DataFrame:
    """A raw table with the names, order and types of `COLUMNS`; other columns are dropped.

    A missing id becomes "<split>-<row from 0, five digits>", a missing source_id the SHA-256 of the source image's
    file. Numbers given as text become numbers; a column of scores with another text in it is left unchanged, so
    that `critic.data.expectations` can name the row.
    """
    renamed = [name for raw_name, name in RAW_NAMES.items() if raw_name in raw]
    table = raw.drop(columns=renamed, errors="ignore").rename(columns=RAW_NAMES)
    table = table.reset_index(drop=True)
    for name in table.columns.intersection(list(COLUMNS)):
        if COLUMNS[name] == pa.string():
            table[name] = table[name].map(str, na_action="ignore").astype("str")
        elif COLUMNS[name] == pa.float64():
            numbers = pd.to_numeric(table[name], errors="coerce")
            if numbers.count() == table[name].count():
                table[name] = numbers.astype(float)
    defaults: dict[str, list[str | None]] = {"id": [f"{split}-{row:05d}" for row in range(len(table))]}
    if "images" in table and ("source_id" not in table or table["source_id"].isna().any()):
        defaults["source_id"] = [_digest(image_file(images, 0)) for images in table["images"]]
    for name, values in defaults.items():
        default = pd.Series(values, dtype="str")
        table[name] = table[name].fillna(default) if name in table else default
    return table[[name for name in COLUMNS if name in table]]


def _text_or_none(value: Any) -> str | None:
    return None if value is None or pd.isna(value) else str(value)


def _digest(file: bytes | None) -> str | None:
    return sha256(file).hexdigest() if file else None
