"""What every reader does with rows: known columns, text as text, numbers as numbers, images as their files."""

import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from critic.edits import RAW_NAMES, count_images


class SourceError(ValueError):
    """Data that can't be read as they are given; the message names the place in them and what to do."""


def choose_columns(
    table: pd.DataFrame, types: Mapping[str, pa.DataType], required: Collection[str], where: str
) -> pd.DataFrame:
    """The columns of a table that `types` knows, text and numbers as such; the others are left out.

    Args:
        table: as read; numbers may be given as text.
        types: of the columns, by name.
        required: columns that must be there; those of `critic.edits.RAW_NAMES` by either name.
        where: what the table is, for errors.

    Raises:
        SourceError: a required column is missing, or a value of a column of numbers is none.
    """
    raw_names = {name: raw for raw, name in RAW_NAMES.items()}
    either = [" or ".join([*filter(None, [raw_names.get(name)]), name]) for name in required]
    missing = [names for names in either if not {*names.split(" or ")} & {*table.columns}]
    if missing:
        raise SourceError(
            f"{where} has no column {', '.join(missing)}; it has {', '.join(map(str, table.columns)) or 'none'}: "
            "name the columns as docs/data.md does"
        )
    table = table[[name for name in table.columns if name in types]].reset_index(drop=True)
    for name in table.columns:
        if types[name] == pa.string():
            table[name] = table[name].map(str, na_action="ignore").astype("str")
        elif types[name] == pa.float64():
            table[name] = _numbers(table[name], where)
    return table


def embed_images(column: "pd.Series[Any]", folder: Path, where: str) -> "pd.Series[Any]":
    """A column of images, each as {"bytes": its file's, "path": its name}; a cell that lists none is None.

    Args:
        column: cells are lists of {"bytes", "path"}, or of paths relative to `folder`.
        folder: that no path may leave.
        where: what the table is, for errors.

    Raises:
        SourceError: no such file, or one outside of `folder`.
    """
    folder = Path(os.path.abspath(folder))
    cells: list[Any] = [
        [_embed(image, folder, f"{where} row {row}") for image in images] if count_images(images) else None
        for row, images in enumerate(column)
    ]
    return pd.Series(cells, dtype="object")


def _embed(image: Any, folder: Path, where: str) -> dict[str, Any]:
    if isinstance(image, Mapping) and image.get("bytes") is not None:
        return {"bytes": image["bytes"], "path": image.get("path")}
    name = image.get("path") if isinstance(image, Mapping) else image
    if not isinstance(name, str):
        return {"bytes": None, "path": None}
    path = Path(os.path.abspath(folder / name))
    if not path.is_relative_to(folder):
        raise SourceError(f"{where}: the image {name} is outside of {folder}: put it inside")
    try:
        return {"bytes": path.read_bytes(), "path": path.name}
    except OSError as error:
        raise SourceError(
            f"{where}: the image {name} can't be read ({error.strerror}): paths are relative to {folder}"
        ) from None


def _numbers(column: "pd.Series[Any]", where: str) -> "pd.Series[float]":
    numbers = pd.to_numeric(column, errors="coerce").astype(float)
    odd = column[numbers.isna() & column.notna()]
    if len(odd):
        rows = ", ".join(f"row {row}: {value!r}" for row, value in odd.head(10).items())
        raise SourceError(
            f"{where} has {len(odd)} values in column {column.name} that are no numbers ({rows}): "
            "correct them; rows count from 0"
        )
    return numbers
