"""Increments: what people rated since the benchmark was made, in data/ratings.

    for increment in read_increments(Path("data/ratings")): increment.edits, increment.ratings

An increment is a folder `0001`, `0002`..., written once by `critic.ratings.collect` and never changed:
edits.parquet (edits and their MOS, with the columns of `critic.edits.COLUMNS`; no MOS if there are too few
raters), ratings.parquet (each rating as it was given), votes.parquet (each vote on a pair of edits, if there are
any) and a report. The MOS in a later increment replaces the one in an earlier increment.
"""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from critic.edits import edit_key
from critic.tables import read_parquet

FOLDER = Path("data/ratings")
PATTERN = "[0-9][0-9][0-9][0-9]"
EDITS, RATINGS, VOTES = "edits.parquet", "ratings.parquet", "votes.parquet"
REPORT, PAGE = "report.json", "report.md"


class IncrementError(ValueError):
    """An increment that can't be read; the message says how to get it."""


@dataclass(frozen=True)
class Increment:
    """An increment's name, such as "0001", its edits, its ratings (`critic.ratings.importers.COLUMNS`), and its
    votes (`VOTE_COLUMNS` there), None without any."""

    name: str
    edits: pd.DataFrame
    ratings: pd.DataFrame
    votes: pd.DataFrame | None = None


def read_increments(folder: Path) -> list[Increment]:
    """All increments of a folder, the earliest first; an `IncrementError` if a file is missing."""
    increments = []
    for path in sorted(folder.glob(PATTERN)):
        has_votes = (path / VOTES).exists() or (path / f"{VOTES}.dvc").exists()
        names = [EDITS, RATINGS, *([VOTES] if has_votes else [])]
        for name in names:
            if not (path / name).exists():
                raise IncrementError(f"{path / name} is missing: get it with `dvc pull {path / name}.dvc`")
        increments.append(Increment(path.name, *(read_parquet(path / name) for name in names)))
    return increments


def edit_id(source_sha256: str, edited_sha256: str, instruction: str) -> str:
    """The id of an edit in an increment."""
    return f"rated-{edit_key(source_sha256, edited_sha256, instruction)[:16]}"


def latest(increments: list[Increment]) -> pd.DataFrame:
    """The last row of each edit; `increment` names the first increment with its MOS, or the last one without."""
    tables = [one.edits.assign(increment=one.name) for one in increments]
    if not tables:
        return pd.DataFrame(columns=["id", "images", "instruction", "mos", "increment"])
    rows = pd.concat(tables, ignore_index=True)
    first = rows[rows["mos"].notna()].drop_duplicates("id").set_index("id")["increment"]
    last = rows.drop_duplicates("id", keep="last")
    names = [first.get(id, name) for id, name in zip(last["id"], last["increment"], strict=True)]
    return last.assign(increment=names).reset_index(drop=True)
