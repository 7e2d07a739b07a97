"""Other people's MOS sets as a benchmark of `critic.data.readers.local`, by a map of columns and a declared scale.

    import_benchmark(Path("study"), Path("map.yaml"), Path("data/study"))    # {"train": 800, "test": 200}

The map, in YAML:

    scale: [0, 100]              # the lowest and the highest MOS, which go linearly onto 1 and 5
    columns:                     # this project's names, each with the set's own
      source: src                # the pictures' paths, relative to the file's folder; or images in a Parquet
      edited: out
      instruction: prompt
      mos: [quality, fit]        # one column, or several whose mean it is
      mos_quality: quality       # the axes, on the same scale
      split: part                # of a file with all splits
"""

from pathlib import Path
from typing import Annotated

import pandas as pd
import yaml
from pydantic import Field, ValidationError, model_validator

from critic.answers import HIGHEST, LOWEST
from critic.data.readers.local import read_local
from critic.edits import COLUMNS, SPLITS, TYPES
from critic.files import replacing_folder
from critic.params import Part
from critic.tables import TableError, filled, numbers, write_parquet
from critic.tables import read as read_table

SCORES = ("mos", "mos_alignment", "mos_fidelity", "mos_quality")
NAMES = ("source", "edited", "split", *(name for name in COLUMNS if name not in ("problem", "ratings")))
"""The columns that a map can name."""


class Map(Part):
    """A map, see the module."""

    scale: Annotated[list[float], Field(min_length=2, max_length=2)]
    columns: dict[str, str | list[str]]

    @model_validator(mode="after")
    def _is_complete(self) -> "Map":
        low, high = self.scale
        if not low < high:
            raise ValueError(f"scale must be the lowest and the highest MOS, not [{low:g}, {high:g}]")
        if unknown := {*self.columns} - {*NAMES}:
            raise ValueError(f"columns has {', '.join(sorted(unknown))}; known are {', '.join(NAMES)}")
        if missing := {"instruction", "mos"} - {*self.columns}:
            raise ValueError(f"columns lacks {' and '.join(sorted(missing))}")
        if several := [name for name, of in self.columns.items() if isinstance(of, list) and name != "mos"]:
            raise ValueError(f"columns.{several[0]} must name one column; mos alone can be the mean of several")
        if self.columns["mos"] == []:
            raise ValueError("columns.mos names no column")
        return self

    def read(self, path: Path) -> pd.DataFrame:
        """The table of a file with this project's names and scale, as `critic.tables.read` returns it.

        Raises:
            TableError: as `critic.tables.read`; a MOS is missing or outside the scale.
        """
        given = {name: [of] if isinstance(of, str) else of for name, of in self.columns.items()}
        wanted = dict.fromkeys(column for columns in given.values() for column in columns)
        table = read_table(path, required=[*wanted], optional=(), fix="correct the map")
        found = {name: table[columns[0]] for name, columns in given.items() if name not in SCORES}
        low, high = self.scale
        for name in (name for name in SCORES if name in given):
            filled(table, given[name])
            of = pd.concat([numbers(table, column, low, high) for column in given[name]], axis=1).mean(axis=1)
            found[name] = LOWEST + (of - low) * (HIGHEST - LOWEST) / (high - low)
        return pd.DataFrame(found, index=table.index)


def load_map(path: Path) -> Map:
    """The map in a YAML file; a `TableError` that names the file and the key if it can't be used."""
    try:
        return Map.model_validate(yaml.safe_load(path.read_text()))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise TableError(f"{path} can't be read as YAML: {error}") from None
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise TableError(
            f"{path}: {f'{key}: ' if key else ''}{first['msg']}; docs/data.md has an example"
        ) from None


def import_benchmark(source: Path, map_file: Path, folder: Path) -> dict[str, int]:
    """Write <split>.parquet, pictures included, for each split of a set; returns the number of their edits.

    The folder is written whole or not at all, in place of an older import. The pictures are copied one at a time.

    Args:
        source: a folder of <split>.csv or <split>.parquet, or one such file whose map names the split.

    Raises:
        TableError: the map can't be used; as `Map.read` and `critic.data.readers.local.read_local`.
        OutputError: the folder can't be written, or has other files.
    """
    tables = dict(read_local(source, load_map(map_file).read))
    with replacing_folder(folder, only=[f"{split}.parquet" for split in SPLITS]) as partial:
        for split, table in tables.items():
            write_parquet(table, partial / f"{split}.parquet", TYPES)
    return {split: len(table) for split, table in tables.items()}
