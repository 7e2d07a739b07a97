"""Merge increments of ratings into the benchmark: each edit joins the split of its source image."""

from collections.abc import Hashable, Mapping
from hashlib import sha256
from typing import Any

import pandas as pd

from critic.data.features import source_facts
from critic.data.near_duplicates import group_sources
from critic.edits import RAW_NAMES, edit_key, image_file
from critic.ratings.increments import Increment, latest

_RATED = "rated"


def merge(
    tables: Mapping[str, pd.DataFrame], increments: list[Increment], phash_distance: int
) -> tuple[dict[str, pd.DataFrame], dict[str, dict[str, int]]]:
    """Append the increments' edits to the raw tables, by split.

    An edit joins the split that has its source image or one that looks alike; if none has, it joins train. It is
    left out if that split is test, which never changes, or if its source image looks like images of different
    groups. An edit of the benchmark keeps the benchmark's MOS. `phash_distance` is that of
    `critic.data.near_duplicates`.

    Returns:
        The tables by split; and for each increment, the number of its edits in "train" and "validation", "of test
        images", "ambiguous", "of the benchmark", or that "wait" for more raters.
    """
    merged = dict(tables)
    edits = latest(increments)
    facts = source_facts({**tables, _RATED: edits})
    placed, rated = facts[facts["split"] != _RATED], facts[facts["split"] == _RATED].reset_index(drop=True)
    known = {_key(row) for table in tables.values() for row in table.to_dict("records")} if increments else set()
    counts: dict[str, dict[str, int]] = {}
    for one in increments:  # in order, so that an image never changes its split
        rows = edits[edits["increment"] == one.name]
        places, sources = _place(rows, rated.loc[rows.index], placed, known, phash_distance)
        counts[one.name] = {str(name): int(number) for name, number in places.value_counts(sort=False).items()}
        for split in merged:
            if len(joining := rows[places == split].assign(source_id=sources[places == split])):
                merged[split] = pd.concat([merged[split], _raw(joining, merged[split])], ignore_index=True)
                own = rated.loc[joining.index].assign(split=split, source_id=joining["source_id"])
                placed = pd.concat([placed, own], ignore_index=True)
    return merged, counts


def _place(
    rows: pd.DataFrame, facts: pd.DataFrame, placed: pd.DataFrame, known: set[str], phash_distance: int
) -> tuple["pd.Series[str]", "pd.Series[str]"]:
    """The split of each row or the reason for having none, and the source_id of its source image.

    `facts` and `placed` are the features (`critic.data.features.source_facts`) of the rows and of all edits in a
    split; `known` are the keys of the benchmark's edits.
    """
    places, sources = pd.Series("", index=rows.index), rows["source_id"].copy()
    places[rows["mos"].isna()] = "wait"
    places[[_key(row) in known for row in rows.to_dict("records")]] = "of the benchmark"
    left = places.index[places == ""]
    there = placed[placed["phash"].notna()].reset_index(drop=True)
    before = group_sources(there, phash_distance)
    both = pd.concat([there, facts.loc[left]], ignore_index=True)
    groups = group_sources(both, phash_distance)
    grouped = pd.DataFrame({"before": before, "split": there["split"], "group": groups[: len(there)]})
    for row, group in zip(left, groups[len(there) :], strict=True):
        own = grouped[grouped["group"] == group]
        splits = {*own["split"]}
        if "test" in splits:
            places[row] = "of test images"
        elif own["before"].nunique() > 1:
            places[row] = "ambiguous"
        elif splits:
            places[row], sources[row] = splits.pop(), own["before"].iloc[0]
        else:
            places[row] = "train"
    return places, sources


def _raw(rows: pd.DataFrame, like: pd.DataFrame) -> pd.DataFrame:
    """Rows with the column names of a raw table, without the individual ratings."""
    raw_names = {name: raw for raw, name in RAW_NAMES.items() if raw in like}
    return rows.drop(columns=["increment", "ratings"], errors="ignore").rename(columns=raw_names)


def _key(row: Mapping[Hashable, Any]) -> str:
    source, edited = (sha256(image_file(row["images"], place) or b"").hexdigest() for place in (0, 1))
    return edit_key(source, edited, str(row.get("instruction", row.get("edit_inst"))))
