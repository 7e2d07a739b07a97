"""A benchmark on this machine, as a lab has it after its own study: Parquet files, or CSV files and images.

for split, table in read_local(Path("study")):    # study/train.csv, study/test.csv, study/images/...
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from critic.data.readers.rows import SourceError, choose_columns, embed_images
from critic.edits import SPLITS, TYPES, read_table

REQUIRED = ("images", "instruction", "mos")
EXAMPLE = """a folder of train.csv, test.csv and, if there is one, validation.csv, or one file with a column split:

    split,source,edited,instruction,mos
    train,images/cat.png,images/cat-red.png,make the cat red,3.7
    test,images/dog.png,images/dog-hat.png,give the dog a hat,2.4

or Parquet files of the same names, with images and the columns of IE-Bench-4k; see docs/data.md"""


def read_local(path: Path) -> Iterator[tuple[str, pd.DataFrame]]:
    """The splits of a benchmark on this machine, as raw tables.

    Args:
        path: a folder of `<split>.csv` or `<split>.parquet`, or one such file with a column `split`.

    Raises:
        SourceError: there is no such file, no train or test split, a column is missing, a value is no
            number, or an image's file isn't there.
    """
    if path.is_dir():
        for split, file in _files(path).items():
            yield split, _raw(_read(file), file)
        return
    table = _read(path)
    if "split" not in table:
        raise SourceError(f"{path} has no column split; expected {EXAMPLE}")
    unknown = table[~table["split"].isin(SPLITS)]["split"]
    if len(unknown):
        raise SourceError(
            f"{path} row {unknown.index[0]} (from 0) has the split {unknown.iloc[0]!r}: "
            f"give each row one of {', '.join(SPLITS)}"
        )
    _check_splits({*table["split"]}, path)
    table = _raw(table, path).assign(split=table["split"])
    for split in SPLITS:
        if len(rows := table[table["split"] == split]):
            yield split, rows.drop(columns="split").reset_index(drop=True)


def _files(folder: Path) -> dict[str, Path]:
    """The one file of each split that is there."""
    found = {split: [f for f in folder.iterdir() if f.name in _names(split)] for split in SPLITS}
    _check_splits({split for split, files in found.items() if files}, folder)
    for split, files in found.items():
        if len(files) > 1:
            raise SourceError(f"{folder} has {' and '.join(_names(split))}: leave one of them there")
    return {split: files[0] for split, files in found.items() if files}


def _names(split: str) -> tuple[str, str]:
    return f"{split}.csv", f"{split}.parquet"


def _check_splits(splits: set[str], path: Path) -> None:
    if missing := {"train", "test"} - splits:
        raise SourceError(f"{path} has no split {' or '.join(sorted(missing))}; expected {EXAMPLE}")


def _read(file: Path) -> pd.DataFrame:
    """A file's rows as they are; in those of a CSV an empty cell is a missing value and all else is text."""
    if not file.exists():
        raise SourceError(f"there is no {file}; expected {EXAMPLE}")
    try:
        if file.suffix == ".parquet":
            return read_table(file)
        if file.suffix == ".csv":
            return pd.read_csv(file, dtype=str, keep_default_na=False, na_values=[""], encoding="utf-8-sig")
    except ValueError as error:  # pandas' errors of parsing, and those of encoding, are such
        raise SourceError(f"{file} can't be read: {error}; expected {EXAMPLE}") from None
    raise SourceError(f"{file} is neither a folder nor a .csv or .parquet file; expected {EXAMPLE}")


def _raw(table: pd.DataFrame, file: Path) -> pd.DataFrame:
    """A raw table of rows read from a file: images embedded, and a `problem`, empty if there is none."""
    if file.suffix == ".csv":
        if missing := {"source", "edited"} - {*table.columns}:
            raise SourceError(f"{file} has no column {' or '.join(sorted(missing))}; expected {EXAMPLE}")
        pairs: list[Any] = [list(pair) for pair in zip(table["source"], table["edited"], strict=True)]
        table["images"] = pd.Series(pairs, index=table.index, dtype="object")
        if "ratings" in table:
            table["ratings"] = table["ratings"].map(lambda cell: _ratings(cell, file), na_action="ignore")
    if "problem" not in table:
        table["problem"] = None
    table = choose_columns(table, TYPES, REQUIRED, str(file))
    return table.assign(images=embed_images(table["images"], file.parent, str(file)))


def _ratings(cell: str, file: Path) -> np.ndarray:
    try:
        return np.array([float(rating) for rating in cell.split()])
    except ValueError:
        raise SourceError(f"{file}: the ratings {cell!r} are no numbers with spaces between: correct it") from None
