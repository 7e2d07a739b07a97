"""Preferences to train on: the folders of `critic data preferences` in data/preferences. See docs/data.md."""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import pyarrow as pa

from critic import tables
from critic.data.near_duplicates import group_sources
from critic.data.preferences import EDITS, OVERALL, PAIRS
from critic.data.preferences.order import read_preferences
from critic.tables import TableError

PAIR_COLUMNS: dict[str, pa.DataType] = {"edited_a": pa.string(), "edited_b": pa.string(), "order": pa.float64()}
"""The columns of validated pairs. `order` is 1 if people prefer a, -1 if b, 0 if neither."""


def read_sets(folder: Path) -> tuple[dict[str, pd.DataFrame], pd.DataFrame]:
    """The edits of each set, by "preferences/<its name>", and the pairs of all, those judged overall.

    Returns:
        Tables with id, source_id, images and instruction, and one with `PAIR_COLUMNS`. All empty without sets.

    Raises:
        TableError: a set wasn't pulled, a file is missing or malformed, a pair has an unknown edit, or no pair of
            a set is judged overall.
    """
    for path in sorted(pointer.with_suffix("") for pointer in folder.glob("[!.]*.dvc")):
        if not path.exists():
            raise TableError(f"{path} is missing: get it with `dvc pull {path}.dvc`, or remove {path.name}.dvc")
    edits, pairs = dict[str, pd.DataFrame](), [pd.DataFrame(columns=[*PAIR_COLUMNS])]
    for path in sorted(path for path in folder.glob("[!.]*") if path.is_dir()):
        table = tables.read(path / EDITS, required=["id", "source_id", "images", "instruction"], optional=[])
        judged = read_preferences(path / PAIRS)
        judged = judged[judged["axis"] == OVERALL]
        if judged.empty:
            raise TableError(
                f"{path / PAIRS} has no pair with the axis {OVERALL}: remove the folder and its .dvc file"
            )
        if unknown := {*judged["edited_a"], *judged["edited_b"]} - {*table["id"]}:
            raise TableError(
                f"{path / PAIRS} has the edit {min(unknown)}, which {path / EDITS} lacks: write both files again "
                "with `critic data preferences`"
            )
        edits[f"{folder.name}/{path.name}"] = table.reset_index(drop=True)
        pairs.append(judged[[*PAIR_COLUMNS]])
    return edits, pd.concat(pairs[1:] or pairs, ignore_index=True)


def leave_out(
    edits: Mapping[str, pd.DataFrame],
    pairs: pd.DataFrame,
    facts: pd.DataFrame,
    held_out: pd.DataFrame,
    phash_distance: int,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The edits, each once, and the pairs without those whose source image is, or looks like, one held out.

    Args:
        edits, pairs: as `read_sets` returns them.
        facts, held_out: `critic.data.features.edit_facts` of these edits, and of the validation and test splits.
        phash_distance: source images are the same if their perceptual hashes differ in at most this many bits.
    """
    groups = group_sources(pd.concat([held_out, facts], ignore_index=True), phash_distance)
    known, own = {*groups[: len(held_out)]}, groups[len(held_out) :]
    leaks = {id for id, group in zip(facts["id"], own, strict=True) if group in known}
    pairs = pairs[~pairs["edited_a"].isin(leaks) & ~pairs["edited_b"].isin(leaks)]
    used = {*pairs["edited_a"], *pairs["edited_b"]}
    every = pd.concat([*edits.values()], ignore_index=True).drop_duplicates("id")
    return every[every["id"].isin(used)].reset_index(drop=True), pairs.reset_index(drop=True)
