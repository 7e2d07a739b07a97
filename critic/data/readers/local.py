"""Read a benchmark from this machine: Parquet files, or CSV files and images."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from critic.data.readers._rows import REQUIRED, choose_columns, find_images
from critic.edits import SPLITS, TYPES
from critic.params import Part
from critic.tables import TableError, number_lists, place, require_columns
from critic.tables import read as read_table

SUFFIXES = (".csv", ".parquet")
EXAMPLE = """a folder of train.csv, test.csv and, optionally, validation.csv, or one file with a column split:

    split,source,edited,instruction,mos
    train,images/cat.png,images/cat-red.png,make the cat red,3.7
    test,images/dog.png,images/dog-hat.png,give the dog a hat,2.4

or Parquet files of the same names with images and the columns of IE-Bench-4k; see docs/data.md"""


class Settings(Part):
    """A benchmark on this machine: a folder of <split>.csv or <split>.parquet, or a file of all splits."""

    path: str


def read(settings: Settings, seed: int, snapshots: dict[str, Any]) -> Iterator[tuple[str, pd.DataFrame]]:
    """The splits of the benchmark, see `read_local`."""
    return read_local(Path(settings.path))


def read_local(
    path: Path, read_file: Callable[[Path], pd.DataFrame] = read_table
) -> Iterator[tuple[str, pd.DataFrame]]:
    """The splits of a benchmark on this machine, as raw tables.

    Args:
        path: a folder of `<split>.csv` or `<split>.parquet`, or one such file with a column `split`.
        read_file: returns the table of a file as `critic.tables.read` does.

    Raises:
        TableError: a file, the train or test split, or a column is missing; a file is malformed; a value is not a
            number; an image's file can't be read.
    """
    if not path.exists():
        raise TableError(f"{path} doesn't exist: give {EXAMPLE}")
    if path.is_dir():
        for split, file in _files(path).items():
            yield split, _raw(read_file(file), file)
        return
    if path.suffix.lower() not in SUFFIXES:
        raise TableError(f"{path} is not a folder, a .csv or a .parquet file: give {EXAMPLE}")
    table = read_file(path)
    require_columns(path, [*table], ["split"], f"give {EXAMPLE}")
    for row, split in enumerate(table["split"]):
        if split not in SPLITS:
            raise TableError(
                f"{place(table, row)} has the split {split!r}: change it to one of {', '.join(SPLITS)}"
            )
    _check_splits({*table["split"]}, path)
    for split in SPLITS:
        if len(rows := table[table["split"] == split]):
            yield split, _raw(rows, path)


def _files(folder: Path) -> dict[str, Path]:
    """The file of each split that is there."""
    found = {
        split: [path for suffix in SUFFIXES if (path := folder / f"{split}{suffix}").exists()] for split in SPLITS
    }
    _check_splits({split for split, files in found.items() if files}, folder)
    for split, files in found.items():
        if len(files) > 1:
            raise TableError(f"{folder} has both {split}.csv and {split}.parquet: remove one of them")
    return {split: files[0] for split, files in found.items() if files}


def _check_splits(splits: set[str], path: Path) -> None:
    if missing := {"train", "test"} - splits:
        raise TableError(f"{path} has no split {' or '.join(sorted(missing))}: give {EXAMPLE}")


def _raw(table: pd.DataFrame, file: Path) -> pd.DataFrame:
    """The raw table of a file's rows, with the images read."""
    if file.suffix.lower() == ".csv" or "images" not in table:
        require_columns(file, [*table], ["source", "edited"], f"give {EXAMPLE}")
        pairs: list[Any] = [list(pair) for pair in zip(table["source"], table["edited"], strict=True)]
        table = table.assign(images=pd.Series(pairs, index=table.index, dtype="object"))
        if "ratings" in table:
            table = table.assign(ratings=pd.Series(number_lists(table, "ratings"), table.index, "object"))
    return find_images(choose_columns(table, TYPES, REQUIRED), file.parent)
