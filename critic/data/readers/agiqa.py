"""AGIQA-3k from a folder that holds its public data.csv and its images.

table = read_agiqa(Path("AGIQA-3K"))    # a raw table, of critic.edits.GENERATED_COLUMNS
"""

from pathlib import Path
from typing import Any

import pandas as pd

from critic.data.readers.rows import SourceError, choose_columns
from critic.edits import GENERATED_COLUMNS

NAMES = {"name": "id", "prompt": "prompt", "mos_quality": "mos_quality", "mos_align": "mos_alignment"}
"""The columns of data.csv that are read, and what they become; adj1, adj2, style and the deviations are not."""


def read_agiqa(folder: Path) -> pd.DataFrame:
    """The pictures of data.csv; their files are beside it or in any folder below.

    Raises:
        SourceError: there is no data.csv, it has not the columns of `NAMES` or a score that is no number, or an
            image's file isn't there or is there twice.
    """
    file = folder / "data.csv"
    if not file.is_file():
        raise SourceError(f"there is no {file}: download.agiqa is the folder of AGIQA-3k's data.csv and images")
    try:
        table = pd.read_csv(file, dtype=str, keep_default_na=False, na_values=[""], encoding="utf-8-sig")
    except ValueError as error:  # pandas' errors of parsing, and those of encoding, are such
        raise SourceError(f"{file} can't be read: {error}") from None
    if missing := [name for name in NAMES if name not in table]:
        raise SourceError(
            f"{file} has no column {', '.join(missing)}; it has {', '.join(table.columns)}: "
            "give AGIQA-3k's own data.csv"
        )
    table = choose_columns(table.rename(columns=NAMES), GENERATED_COLUMNS, [*NAMES.values()], str(file))
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("*")):
        found.setdefault(path.name, []).append(path)
    images: list[Any] = []
    for row, name in enumerate(table["id"]):
        match found.get(name, []):
            case [path]:
                images.append({"bytes": path.read_bytes(), "path": name})
            case paths:
                places = " and ".join(str(path) for path in paths) or f"nowhere in {folder}"
                raise SourceError(f"{file} row {row}: the image {name} is {places}: there must be one")
    return table.assign(image=pd.Series(images, dtype="object"))[[*GENERATED_COLUMNS]]
