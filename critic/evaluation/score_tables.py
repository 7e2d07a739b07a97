"""Files of scores and of opinions, as `critic eval`, `compare` and `rank` read them.

Scores are the lines that `critic score` writes (`critic.results.Result`), those of its failures in a file beside
them, or any table of `critic.tables.read` with the columns id and score (empty where the critic failed) and
optionally status, mode, reasoning, raw and spread.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from critic import tables
from critic.answers import HIGHEST, LOWEST, Status
from critic.edits import GENERATED_AXES, GENERATED_SCALE
from critic.evaluation.evaluate import GROUPS
from critic.files import OutputError
from critic.tables import TableError

_COLUMNS = ["id", "score", "status", "mode", "reasoning", "raw", "spread", "samples"]
_FAILED = "failed"
"""The status of a failure if the table states none."""


def read_predictions(path: Path) -> pd.DataFrame:
    """The scores of a file, a row an edit, in its order; `critic.scoring.resumable.all_results` reads .jsonl.

    Returns:
        id, score (1..5, NaN where the critic failed), status ("ok" with a score), mode ("greedy" if the file
        states none), reasoning ("" if none), raw (None if responses were not kept), spread (points, NaN if none),
        samples (a list, empty if none).

    Raises:
        TableError: as `critic.tables.read`; an id is missing or appears twice, a score is not a number from 1 to
            5, or a status contradicts the score.
    """
    table = _read_results(path, _COLUMNS) if path.suffix.lower() == ".jsonl" else _read_scores(path)
    table = _checked(table)
    table["spread"] = tables.numbers(table, "spread", 0, HIGHEST - LOWEST)
    return table.reset_index(drop=True)


def read_scores(path: Path) -> dict[str, float]:
    """The scores of a file by id, NaN where the critic failed; of .jsonl, no texts are in memory.

    Raises:
        TableError: as `read_predictions`.
    """
    if path.suffix.lower() == ".jsonl":
        table = _checked(_read_results(path, ["id", "score", "status"]))
    else:
        table = read_predictions(path)
    return dict(zip(table["id"], table["score"], strict=True))


def scores_of(scores: Mapping[str, float], ids: Iterable[str], where: Path) -> NDArray[np.float64]:
    """The scores of edits, NaN where the critic failed; a `TableError` if one is not in the file of scores."""
    wanted = [*ids]
    if missing := [id for id in wanted if id not in scores]:
        raise TableError(
            f"{where} has no score and no failure of {missing[0]!r} ({len(missing):,} of {len(wanted):,} are "
            "missing): let the run that writes it end, or give the file of all these edits"
        )
    return np.array([scores[id] for id in wanted], dtype=float)


def read_truth(path: Path, *, mos_column: str = "mos", images: bool = False) -> pd.DataFrame:
    """The opinions in a table of `critic.tables.read`, as a validated one of edits or of generated pictures.

    Args:
        mos_column: the column with the opinion; some tables have several.
        images: whether to read the columns images and instruction, too.

    Returns:
        id, mos (1..5), and those of source_id, `GROUPS` and ratings (arrays of one length, or None) that the file
        has. Without source_id, a column `source` replaces it, as tables of pairs have it, or else `prompt`. In the
        latter case the opinions of AGIQA-3k (`critic.edits.GENERATED_AXES`) are on its scale, 0..5, and there is a
        column prompt.

    Raises:
        TableError: as `read_predictions`; a MOS is missing or outside its scale, or ratings are not numbers, at
            least 2 and as many in each row.
    """
    optional = ["source_id", "source", "prompt", *GROUPS, "ratings"] + ["images", "instruction"] * images
    fix = "rename your columns" + (", or name that of the MOS by --mos-column" if mos_column == "mos" else "")
    table = _with_sources(tables.read(path, required=["id", mos_column], optional=optional, fix=fix), path)
    generated = "prompt" in table and mos_column in GENERATED_AXES.values()
    if not generated:
        table = table.drop(columns="prompt", errors="ignore")
    table["id"] = tables.unique_ids(table)
    scale = GENERATED_SCALE if generated else (LOWEST, HIGHEST)
    table[mos_column] = tables.numbers(table, mos_column, *scale)
    table = table.rename(columns={mos_column: "mos"})
    tables.filled(table, {"mos", "source_id"} & {*table.columns})
    if "ratings" in table:
        ratings = tables.number_lists(table, "ratings")
        raters = max((len(values) for values in ratings if values is not None), default=0)
        for number, values in enumerate(ratings):
            if values is not None and not 2 <= len(values) == raters:
                raise TableError(
                    f"{tables.place(table, number)}, id {table['id'].iloc[number]!r} has {len(values)} ratings, "
                    f"and another row {raters}: give as many in each row, at least 2, or remove the column"
                )
        table["ratings"] = pd.Series(ratings, table.index, dtype=object)
    return table.reset_index(drop=True)


def read_pairs(path: Path, by: str) -> pd.DataFrame:
    """Who made which edit: id, source_id (or `source`), and the column `by`; a `TableError` if one is missing."""
    table = tables.read(path, required=["id", by], optional=["source_id", "source"])
    table = _with_sources(table, path)
    fix = "add source_id or source, the picture that was edited"
    tables.require_columns(path, [*table.columns], ["source_id"], fix)
    table["id"] = tables.unique_ids(table)
    tables.filled(table, ["source_id", by])
    return table.reset_index(drop=True)


def _with_sources(table: pd.DataFrame, path: Path) -> pd.DataFrame:
    """The table with a source_id: its own, or else the paths in `source`, or else the prompts."""
    if "source_id" in table:
        return table.drop(columns=["source", "prompt"], errors="ignore")
    if "source" not in table:
        return table.assign(source_id=table["prompt"]) if "prompt" in table else table
    if not table["source"].dropna().map(lambda cell: isinstance(cell, str)).all():
        raise TableError(f"{path} has pictures in its column source, not their paths: add a column source_id")
    return table.rename(columns={"source": "source_id"}).drop(columns="prompt", errors="ignore")


def _read_results(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    from critic.scoring.resumable import all_results  # imports torch, which is slow

    try:
        rows = [[getattr(result, name) for name in columns] for result in all_results(path)]
    except (OutputError, TypeError, ValueError) as error:
        raise TableError(f"{path} is not a file of `critic score`: {error}") from None
    return tables.number_rows(pd.DataFrame(rows, columns=[*columns]), str(path))


def _read_scores(path: Path) -> pd.DataFrame:
    table = tables.read(path, required=["id", "score"], optional=[*_COLUMNS[2:-1], "response"])
    if "raw" not in table:
        table = table.rename(columns={"response": "raw"})
    table = table.reindex(columns=_COLUMNS).astype(dict.fromkeys(("status", "mode", "reasoning", "raw"), object))
    table["samples"] = [[] for _ in range(len(table))]
    return table.fillna({"mode": "greedy", "reasoning": ""})


def _checked(table: pd.DataFrame) -> pd.DataFrame:
    """The table with its columns id, score and status checked as `read_predictions` says."""
    table["id"] = tables.unique_ids(table)
    table["score"] = tables.numbers(table, "score", LOWEST, HIGHEST)
    scored = table["score"].notna()
    table["status"] = table["status"].fillna(pd.Series(np.where(scored, Status.OK, _FAILED), table.index))
    if len(wrong := np.flatnonzero((table["status"] == Status.OK) != scored)):
        row = table.iloc[wrong[0]]
        raise TableError(
            f"{tables.place(table, wrong[0])}, id {row['id']!r}: status {row['status']!r} with score "
            f"{row['score']}: give the status ok to the rows with a score, and another one to the rest"
        )
    return table
