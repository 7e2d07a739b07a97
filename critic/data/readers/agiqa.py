"""Read AGIQA-3k from a folder with its public data.csv and its images.

table = read_agiqa(Path("AGIQA-3K"))    # a raw table with the columns critic.edits.GENERATED_COLUMNS
"""

from pathlib import Path
from typing import Any

import pandas as pd

from critic.edits import GENERATED_COLUMNS
from critic.tables import TableError, numbers, place, read

NAMES = {"id": "name", "prompt": "prompt", "mos_quality": "mos_quality", "mos_alignment": "mos_align"}
"""The columns of the raw table, each with the column of data.csv that it comes from."""


def read_agiqa(folder: Path) -> pd.DataFrame:
    """The pictures listed in data.csv; their files are in its folder or in any folder below.

    Raises:
        TableError: data.csv is missing or malformed, lacks a column of `NAMES`, or has a score that isn't a
            number; an image's file is missing, or several files have its name.
    """
    file = folder / "data.csv"
    if not file.is_file():
        raise TableError(
            f"{file} doesn't exist: set download.agiqa to the folder of AGIQA-3k's data.csv and images"
        )
    table = read(file, required=[*NAMES.values()], optional=(), fix="give AGIQA-3k's own data.csv")
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("*")):
        found.setdefault(path.name, []).append(path)
    columns: dict[str, Any] = {name: table[column] for name, column in NAMES.items()}
    columns |= {name: numbers(table, NAMES[name]) for name in ("mos_quality", "mos_alignment")}
    columns["image"] = []
    for row, name in enumerate(table["name"]):
        match found.get(name, []):
            case [path]:
                columns["image"].append({"bytes": path.read_bytes(), "path": name})
            case []:
                raise TableError(
                    f"{place(table, row)}: the image {name} isn't in {folder} or a folder below: add it"
                )
            case paths:
                there = ", ".join(map(str, paths))
                raise TableError(
                    f"{place(table, row)}: the image {name} is found {len(paths)} times ({there}): keep one"
                )
    return pd.DataFrame(columns)[[*GENERATED_COLUMNS]].reset_index(drop=True)
