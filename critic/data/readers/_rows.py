"""What all readers share: known columns, converted to text and numbers, and images found in their files."""

import os
from collections.abc import Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from critic.edits import RAW_NAMES, count_images
from critic.tables import StoredPicture, TableError, numbers, place, require_columns

REQUIRED = ("images", "instruction", "mos")
"""The columns that each benchmark has."""
_RAW = {name: raw for raw, name in RAW_NAMES.items()}


def choose_columns(
    table: pd.DataFrame, types: Mapping[str, pa.DataType], required: Collection[str]
) -> pd.DataFrame:
    """The columns of a table that are in `types`, as text and numbers; other columns are dropped.

    Args:
        table: with the index of `critic.tables`, which names the file and the rows; numbers can be text.
        required: columns that must be there; those of `critic.edits.RAW_NAMES` under either name.

    Raises:
        TableError: a required column is missing, or a value in a column of numbers is not a number.
    """
    missing = [name for name in required if name not in table and _RAW.get(name) not in table]
    where = str(table.index.name).rpartition(" ")[0]
    either = [f"{_RAW[name]} or {name}" if name in _RAW else name for name in missing]
    require_columns(where, [*table], either, "name the columns as in docs/data.md")
    table = table[[name for name in table.columns if name in types]].copy()
    for name in table.columns:
        if types[name] == pa.string():
            table[name] = table[name].map(str, na_action="ignore").astype("str")
        elif types[name] == pa.float64():
            table[name] = numbers(table, name)
    return table


def find_images(table: pd.DataFrame, folder: Path) -> pd.DataFrame:
    """The table, its rows numbered from 0, with the files of its column `images` found.

    Each image becomes {"bytes", "path": the file's name}; its file is read when it is asked for. A cell that isn't
    a list of images becomes None.

    Args:
        table: with the index of `critic.tables`; images are {"bytes", "path"}, or paths relative to `folder`.
        folder: paths that lead out of it are refused.

    Raises:
        TableError: a file can't be read, now or when it is asked for, or is outside the folder.
    """
    folder = Path(os.path.abspath(folder))
    cells: list[Any] = [
        [find_image(image, folder, place(table, row)) for image in images] if count_images(images) else None
        for row, images in enumerate(table["images"])
    ]
    return table.reset_index(drop=True).assign(images=pd.Series(cells, dtype="object"))


def find_image(image: Any, folder: Path, where: str) -> Mapping[str, Any]:
    """The cell of one image, as in `find_images`; `folder` is absolute, and `where` names the row in errors."""
    if isinstance(image, Mapping) and image.get("bytes") is not None:
        return image
    name = image.get("path") if isinstance(image, Mapping) else image
    if not isinstance(name, str):
        return {"bytes": None, "path": None}
    path = Path(os.path.abspath(folder / name))
    if not path.is_relative_to(folder):
        raise TableError(f"{where}: the image {name} is outside {folder}: move it there")
    read = partial(_read, path, f"{where}: the image {name}", f"give a path relative to {folder}")
    read(1)
    return StoredPicture(path.name, read)


def _read(path: Path, image: str, fix: str, size: int = -1) -> bytes:
    """The first `size` bytes of a file, or all."""
    try:
        with path.open("rb") as file:
            return file.read(size)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise TableError(f"{image} can't be read ({reason}): {fix}") from None
