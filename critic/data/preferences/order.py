"""The only reader of people's order of edits, a file such as pairs.jsonl of `critic data preferences`.

pairs = read_preferences(Path("prefs/pairs.jsonl"))
"""

from pathlib import Path

import numpy as np
import pandas as pd

from critic import tables
from critic.data.preferences import BENCHMARKS, OVERALL
from critic.tables import TableError

TIE = "tie"
_NAMED = [name for name in BENCHMARKS if name != "table"]


def read_preferences(path: Path) -> pd.DataFrame:
    """The pairs in a table of `critic.tables.read` with edited_a, edited_b and winner.

    Returns:
        edited_a, edited_b (ids), order (1.0: a is better, -1.0: b is, 0.0: a tie), axis ("overall" if there is
        none), group (without one, each row has its own), ways (the edits of the group), source_id (or `source`;
        without both, the group), subtask (None if there is none), benchmark (one of `BENCHMARKS`, or
        None).

    Raises:
        TableError: as `critic.tables.read`; an empty cell, a pair of one edit, another winner, a benchmark that is
            unknown or not the same in each row, a group with several source images.
    """
    names = ["group", "source_id", "source", "axis", "subtask", "benchmark"]
    table = tables.read(path, required=["edited_a", "edited_b", "winner"], optional=names)
    if table.empty:
        raise TableError(f"{path} has no rows")
    table = table.drop(columns=[name for name in names if name in table and table[name].isna().all()])
    tables.filled(table, [*table.columns])
    table = table.map(str)
    a, b, winner = table["edited_a"], table["edited_b"], table["winner"]
    order = np.select([winner == a, winner == b, winner == TIE], [1.0, -1.0, 0.0], np.nan)
    for bad, fault in ((a == b, "compares an edit with itself"), (np.isnan(order), "has another winner")):
        if len(at := np.flatnonzero(bad)):
            cells = ", ".join(f"{name} {table[name].iloc[at[0]]!r}" for name in ("edited_a", "edited_b", "winner"))
            raise TableError(
                f"{tables.place(table, at[0])} {fault} ({cells}): give two ids, and one of them or tie as winner"
            )
    known = [*table["benchmark"].unique()] if "benchmark" in table else []
    if known and (len(known) > 1 or known[0] not in _NAMED):
        raise TableError(
            f"{path}: column benchmark has {', '.join(known)}: "
            f"give one of {', '.join(_NAMED)} in all rows, or none"
        )
    alone = pd.Series([f"row {line}" for line in table.index], table.index)
    found = table[["edited_a", "edited_b"]].assign(
        order=order,
        axis=table.get("axis", OVERALL),
        group=table.get("group", alone),
        subtask=table.get("subtask"),
        benchmark=known[0] if known else None,
    )
    found["source_id"] = table.get("source_id", table.get("source", found["group"]))
    groups = found.groupby(["axis", "group"], sort=False)
    if len(mixed := np.flatnonzero(groups["source_id"].transform("nunique") > 1)):
        where = tables.place(table, mixed[0])
        raise TableError(f"{where}: its group has several source images: give the pairs of each their own group")
    ways = {key: len({*rows["edited_a"], *rows["edited_b"]}) for key, rows in groups}
    found["ways"] = [ways[key] for key in zip(found["axis"], found["group"], strict=True)]
    return found.reset_index(drop=True)
