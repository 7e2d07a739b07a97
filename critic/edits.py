"""An edit to judge, and the tables that hold edits.

    table = normalise(read_table("data/raw/test.parquet"), "test")
    write_table(table, "data/validated/test.parquet")
    for edit in edits_from_table(table):
        edit.source, edit.edited, edit.instruction, edit.mos

A table has one row an edit. `COLUMNS` names and types the columns of a validated one; a raw one has
the names of IE-Bench-4k (hub: Coobiw/IE-Bench-4k), which differ in `RAW_NAMES`. An image is a
mapping {"bytes": the file's bytes, "path": its name or None}, as `datasets` stores it.
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageOps, UnidentifiedImageError

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
}
"""The columns of a validated table, in order: `images` are source and edited, `problem` is the
dataset's own prompt, scores are 1..5, and the columns from `edit_type` on are optional."""

RAW_NAMES = {"edit_inst": "instruction", "answer": "mos"}
"""Columns of a raw table that a validated one renames."""

GENERATED_COLUMNS: dict[str, pa.DataType] = {
    "id": pa.string(),
    "image": COLUMNS["images"].value_type,
    "prompt": pa.string(),
    "mos_quality": pa.float64(),
    "mos_alignment": pa.float64(),
}
"""The columns of a table of pictures made from a text prompt alone, as AGIQA-3k (arXiv 2306.04717) is."""

GENERATED_AXES = {"quality": "mos_quality", "alignment": "mos_alignment"}
"""AGIQA-3k has two mean opinion scores a picture. A critic of edits gives its one score, measured against both."""

GENERATED_SCALE = (0, 5)
"""The lowest and the highest mean opinion score of AGIQA-3k."""

SPLITS = ("train", "validation", "test")

TYPES = COLUMNS | {raw: COLUMNS[name] for raw, name in RAW_NAMES.items()}
"""All columns that a raw or a validated table may have."""

_FORMATS = ("JPEG", "PNG", "WEBP")
_JPEG_START, _JPEG_SCAN, _JPEG_END = b"\xff\xd8", b"\xff\xda", b"\xff\xd9"
_ROWS_A_GROUP = 256


class ImageError(ValueError):
    """An image that is missing or that can't be decoded."""


@dataclass(frozen=True)
class Edit:
    """A source image, the edited image, and the instruction.

    Images are RGB. `source` is None for a picture made from text alone; `instruction` is then its prompt. `mos` is
    the mean opinion score, 1..5, None for an edit without ratings.
    """

    id: str
    source: Image.Image | None
    edited: Image.Image
    instruction: str
    mos: float | None = None
    source_id: str | None = None
    edit_type: str | None = None
    editor: str | None = None
    problem: str | None = None

    @property
    def pair(self) -> tuple[Image.Image, Image.Image]:
        """The source and the edited image.

        Raises:
            ValueError: the edit has no source image.
        """
        if self.source is None:
            raise ValueError(f"edit {self.id} has no source image: it was generated from text")
        return self.source, self.edited


def decode_image(image: Mapping[str, Any] | None) -> Image.Image:
    """The RGB image of {"bytes", "path"}: turned as its EXIF says, transparency put on white.

    A JPEG must reach its end marker. Damage further in that still decodes, to wrong pixels, can't
    be told from a strange picture.

    Raises:
        ImageError: no bytes, not a JPEG, PNG or WebP file, or one that is truncated or corrupt.
    """
    data = image.get("bytes") if isinstance(image, Mapping) else None
    if not data:
        raise ImageError("no bytes: the table must hold the image file itself")
    try:
        with Image.open(BytesIO(data), formats=_FORMATS) as file:
            file.load()
            upright = ImageOps.exif_transpose(file)
    except UnidentifiedImageError as error:
        raise ImageError(f"not a whole {', '.join(_FORMATS)} file") from error
    except Exception as error:  # Pillow's decoders raise whatever broken bytes lead them to
        raise ImageError(f"can't be decoded: {error}") from error
    if data.startswith(_JPEG_START) and data.rfind(_JPEG_END) < data.rfind(_JPEG_SCAN):
        raise ImageError("a JPEG without its end: the file is truncated or overwritten")
    if not upright.has_transparency_data:
        return upright.convert("RGB")
    layer = upright.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")


def image_file(images: Any, place: int) -> bytes | None:
    """The file of the image at `place` in a cell of the column `images`, None if it isn't there."""
    image = images[place] if count_images(images) > place else None
    return image.get("bytes") if isinstance(image, Mapping) else None


def count_images(images: Any) -> int:
    """How many images a cell of the column `images` lists, 0 if it is no list."""
    return len(images) if isinstance(images, list | tuple | np.ndarray) else 0


def edits_from_table(table: pd.DataFrame) -> Iterator[Edit]:
    """The edits of a validated table, decoded one at a time, in its order.

    A table with the columns `image` and `prompt` holds generated pictures: edits without a source.

    Raises:
        ImageError: a row without exactly two images, or with one that can't be decoded.
        ValueError: no column id, images or instruction.
    """
    if {"image", "prompt"} <= {*table.columns}:
        for number, row in enumerate(table.to_dict("records")):
            try:
                image = decode_image(row["image"])
            except ImageError as error:
                raise ImageError(f"row {number}, id {row['id']!r}, image: {error}") from error
            yield Edit(row["id"], None, image, row["prompt"])
        return
    missing = {"id", "images", "instruction"} - {*table.columns}
    if missing:
        raise ValueError(f"the table has no column {sorted(missing)}: give a validated table")
    for number, row in enumerate(table.to_dict("records")):
        try:
            source, edited = _decode_pair(row["images"])
        except ImageError as error:
            raise ImageError(f"row {number}, id {row['id']!r}, images: {error}") from error
        mos = row.get("mos")
        yield Edit(
            id=row["id"],
            source=source,
            edited=edited,
            instruction=row["instruction"],
            mos=None if pd.isna(mos) else float(mos),
            source_id=_text_or_none(row.get("source_id")),
            edit_type=_text_or_none(row.get("edit_type")),
            editor=_text_or_none(row.get("editor")),
            problem=_text_or_none(row.get("problem")),
        )


def read_table(path: str | os.PathLike[str]) -> pd.DataFrame:
    """The table of a Parquet file; `images` and `ratings` are arrays, one a row.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is not Parquet.
    """
    try:
        table: pd.DataFrame = pq.read_table(Path(path)).to_pandas()
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path} is not a whole Parquet file, make it again: {error}") from error
    return table


def normalise(raw: pd.DataFrame, split: str) -> pd.DataFrame:
    """A raw table with the names, order and types of `COLUMNS`, and no other columns.

    A missing id becomes "<split>-<row, five digits>", a missing source_id the sha256 of the source
    image's file. Numbers given as text become numbers; a column of scores that has something else
    in it stays as it came, for the checks to name. Columns that are not there stay away.
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
    if "images" in table:
        files = [image_file(images, 0) for images in table["images"]]
        defaults["source_id"] = [sha256(file).hexdigest() if file else None for file in files]
    for name, values in defaults.items():
        default = pd.Series(values, dtype="str")
        table[name] = table[name].fillna(default) if name in table else default
    return table[[name for name in COLUMNS if name in table]]


def write_table(
    table: pd.DataFrame, path: str | os.PathLike[str], types: Mapping[str, pa.DataType] = TYPES
) -> None:
    """Write a table as Parquet, whole or not at all: a raw or validated one of edits, or one of other `types`.

    The same table gives the same bytes. Columns keep the table's order and get the types of
    `COLUMNS`; a missing value becomes null. Missing parent folders are made.

    Raises:
        ValueError: a column that `types` lacks, or a value that its type can't hold.
    """
    unknown = {*table.columns} - {*types}
    if unknown:
        raise ValueError(f"{path}: unknown columns {sorted(unknown)}; known are {sorted(types)}")
    schema = pa.schema([(name, types[name]) for name in table.columns])
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    with pq.ParquetWriter(partial, schema, compression="zstd") as writer:
        for start in range(0, len(table), _ROWS_A_GROUP):
            rows = table.iloc[start : start + _ROWS_A_GROUP]
            arrays = [_array(rows[name], types[name], path) for name in schema.names]
            writer.write_table(pa.table(arrays, schema=schema))
    os.replace(partial, path)


def _decode_pair(images: Any) -> tuple[Image.Image, Image.Image]:
    count = count_images(images)
    if count != 2:
        raise ImageError(f"{count} images, where there must be two: the source and the edited one")
    return decode_image(images[0]), decode_image(images[1])


def _text_or_none(value: Any) -> str | None:
    return None if value is None or pd.isna(value) else str(value)


def _array(column: pd.Series, kind: pa.DataType, path: Path) -> pa.Array:
    try:
        return pa.array(column, type=kind, from_pandas=True)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise ValueError(f"{path}: column {column.name} of another type: {error}") from error
