"""What people have rated since the benchmark was made: increments of data/ratings, and how they join its splits.

    increments = read_increments(Path("data/ratings"))
    tables, told = merge(tables, increments, phash_distance=24)

An increment is a folder `0001`, `0002`..., made once by `critic.ratings.merge` and never changed: edits.parquet
(edits and their MOS, with the columns of `critic.edits.COLUMNS`; without a MOS where too few have rated),
ratings.parquet (each rating as it was given) and a report. A later increment's MOS of an edit takes the place of
an earlier one's.
"""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from critic.data.features import source_facts
from critic.data.near_duplicates import group_sources
from critic.edits import RAW_NAMES, image_file, read_table

FOLDER = Path("data/ratings")
EDITS, RATINGS, REPORT, PAGE = "edits.parquet", "ratings.parquet", "report.json", "report.md"
_RATED = "rated"


class IncrementError(ValueError):
    """An increment that can't be read; the message says how to get it."""


@dataclass(frozen=True)
class Increment:
    """An increment's name, as "0001", its edits, and its ratings as given (`critic.ratings.importers.COLUMNS`)."""

    name: str
    edits: pd.DataFrame
    ratings: pd.DataFrame


def read_increments(folder: Path) -> list[Increment]:
    """All increments of a folder, the earliest first.

    Raises:
        IncrementError: a file of one isn't there.
    """
    increments = []
    for path in sorted(folder.glob("[0-9][0-9][0-9][0-9]")):
        for name in (EDITS, RATINGS):
            if not (path / name).exists():
                raise IncrementError(f"{path / name} isn't here: get it with `dvc pull {path / name}.dvc`")
        increments.append(Increment(path.name, read_table(path / EDITS), pd.read_parquet(path / RATINGS)))
    return increments


def latest(increments: list[Increment]) -> pd.DataFrame:
    """Of each edit its last row, with `increment`: the name of the first that had its MOS, or else of the last."""
    tables = [one.edits.assign(increment=one.name) for one in increments]
    if not tables:
        return pd.DataFrame(columns=["id", "images", "instruction", "mos", "increment"])
    rows = pd.concat(tables, ignore_index=True)
    first = rows[rows["mos"].notna()].drop_duplicates("id").set_index("id")["increment"]
    last = rows.drop_duplicates("id", keep="last")
    names = [first.get(id, name) for id, name in zip(last["id"], last["increment"], strict=True)]
    return last.assign(increment=names).reset_index(drop=True)


def merge(
    tables: Mapping[str, pd.DataFrame], increments: list[Increment], phash_distance: int
) -> tuple[dict[str, pd.DataFrame], dict[str, dict[str, int]]]:
    """Raw tables with the increments' edits behind their own, each in the split of its source image.

    A source image that the benchmark has, or one that looks alike, stays where that is; edits of one in the test
    split are left out, since the test is frozen, and so are those of one that looks like source images that were
    apart so far. All edits of an image that is new go to train. Ratings of an edit that the benchmark has change
    nothing: the benchmark's own MOS stands.

    Args:
        tables: raw tables by split, as `critic.data.readers` and minibench give them.
        phash_distance: source images look alike up to so many differing bits (`critic.data.near_duplicates`).

    Returns:
        The tables by split, and by increment how many of its edits are in "train" and "validation", how many are
        "of test images", "ambiguous", "of the benchmark", or "wait" for more raters.
    """
    merged = dict(tables)
    edits = latest(increments)
    facts = source_facts({**tables, _RATED: edits})
    placed, rated = facts[facts["split"] != _RATED], facts[facts["split"] == _RATED].reset_index(drop=True)
    known = {_identity(row) for table in tables.values() for row in table.to_dict("records")}
    told: dict[str, dict[str, int]] = {}
    for one in increments:  # one after another, so that what has once gone to a split stays there
        rows = edits[edits["increment"] == one.name]
        fates, sources = _sort_out(rows, rated.loc[rows.index], placed, known, phash_distance)
        told[one.name] = {str(fate): int(number) for fate, number in fates.value_counts(sort=False).items()}
        for split in merged:
            if len(joining := rows[fates == split].assign(source_id=sources[fates == split])):
                merged[split] = pd.concat([merged[split], _raw(joining, merged[split])], ignore_index=True)
                own = rated.loc[joining.index].assign(split=split, source_id=joining["source_id"])
                placed = pd.concat([placed, own], ignore_index=True)
    return merged, told


def _sort_out(
    rows: pd.DataFrame,
    facts: pd.DataFrame,
    placed: pd.DataFrame,
    known: set[tuple[bytes | None, ...]],
    phash_distance: int,
) -> tuple["pd.Series[str]", "pd.Series[str]"]:
    """What becomes of each row, and the source_id of the image that it shares.

    Args:
        rows, facts: edits, and what `critic.data.features.source_facts` says of them.
        placed: the same facts of all edits that are in a split.
        known: identities of the benchmark's edits.
    """
    fates, sources = pd.Series("", index=rows.index), rows["source_id"].copy()
    fates[rows["mos"].isna()] = "wait"
    fates[[_identity(row) in known for row in rows.to_dict("records")]] = "of the benchmark"
    left = fates.index[fates == ""]
    there = placed[placed["phash"].notna()].reset_index(drop=True)
    before = group_sources(there, phash_distance)
    both = pd.concat([there, facts.loc[left]], ignore_index=True)
    groups = group_sources(both, phash_distance)
    kin = pd.DataFrame({"before": before, "split": there["split"], "group": groups[: len(there)]})
    for row, group in zip(left, groups[len(there) :], strict=True):
        own = kin[kin["group"] == group]
        splits = {*own["split"]}
        if "test" in splits:
            fates[row] = "of test images"
        elif own["before"].nunique() > 1:
            fates[row] = "ambiguous"
        elif splits:
            fates[row], sources[row] = splits.pop(), own["before"].iloc[0]
        else:
            fates[row] = "train"
    return fates, sources


def _raw(rows: pd.DataFrame, like: pd.DataFrame) -> pd.DataFrame:
    """Rows with the column names of a raw table; how many have rated each is its increment's to tell."""
    raw_names = {name: raw for raw, name in RAW_NAMES.items() if raw in like}
    return rows.drop(columns=["increment", "ratings"], errors="ignore").rename(columns=raw_names)


def _identity(row: Mapping[Hashable, Any]) -> tuple[bytes | None, ...]:
    """Both files and the instruction: an edit is the same if they are."""
    instruction = str(row.get("instruction", row.get("edit_inst")))
    return image_file(row["images"], 0), image_file(row["images"], 1), instruction.encode()
