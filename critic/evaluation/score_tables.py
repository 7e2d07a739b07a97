"""Files of scores and of opinions, read and matched: what `critic eval`, `compare` and `rank` start from.

    truth = read_truth("data/validated/test.parquet")
    table = match(read_predictions("scores.jsonl"), truth, "scores.jsonl", "test.parquet")

Scores are the lines that `critic score` writes (`critic.results.Result`), those of its failures in a file beside
them, or a CSV or Parquet table with the columns id and score (empty where the critic failed) and, if there are
any, status, mode, reasoning, raw and spread.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from critic.answers import HIGHEST, LOWEST, Status
from critic.edits import GENERATED_AXES, GENERATED_SCALE
from critic.evaluation.bootstrap import Array

GROUPS = ("edit_type", "editor", "source_kind")
"""Columns of a table of opinions that edits are grouped by, where it has them."""

_FAILED = "failed"
"""The status of a failure of which a table says no more."""


class TableError(ValueError):
    """A file that can't be used as it is; the message names the file, the row or id, and what to do."""


def read_predictions(path: Path) -> pd.DataFrame:
    """The scores of a file, a row an edit, in its order; a .jsonl file is read by `critic.scoring.resumable.results_to_table`.

    Returns:
        id, score (1..5, NaN where the critic failed), status ("ok" where there is a score), mode ("greedy" if the
        file tells none), reasoning ("" if none), raw (None where responses weren't kept), spread (points, NaN if
        none), samples (a list, empty if none).

    Raises:
        TableError: another kind of file, a column id or score that isn't there, an id that is missing or there
            twice, a score that is no number from 1 to 5, or a status that doesn't go with the score.
    """
    table = _read_verdicts(path) if path.suffix == ".jsonl" else _read_scores(path)
    _check_ids(table, path)
    for name, score, status in zip(table["id"], table["score"], table["status"], strict=True):
        if (status == Status.OK) != (not np.isnan(score)):
            raise TableError(
                f'{path}, id {name!r}: status {status!r} with score {score}: "ok" goes with a score, any other '
                "status with none"
            )
    return table


def read_truth(path: Path, *, mos_column: str = "mos", images: bool = False) -> pd.DataFrame:
    """The opinions of a table: a validated Parquet of edits or of generated pictures, or a CSV.

    Args:
        mos_column: which opinion, as the tables of this project have several.
        images: whether the columns images and instruction are read, too.

    Returns:
        id, mos (1..5), and those of source_id, edit_type, editor, source_kind and ratings (arrays of one length,
        or None) that the file has. A column `source`, as CSV files have, stands in for source_id, or else
        `prompt`. In the latter case the opinions of AGIQA-3k (`critic.edits.GENERATED_AXES`) are on its scale, 0..5, and
        there is a column prompt.

    Raises:
        TableError: as `read_predictions`; a MOS that is missing or off its scale, or ratings that are no numbers
            or not as many in each row that has some.
    """
    optional = ["source_id", "source", "prompt", *GROUPS, "ratings"] + ["images", "instruction"] * images
    table = _with_sources(_read(path, ["id", mos_column], optional), path)
    generated = "prompt" in table and mos_column in GENERATED_AXES.values()
    if not generated:
        table = table.drop(columns="prompt", errors="ignore")
    _check_ids(table, path)
    table[mos_column] = _numbers(table, mos_column, path, *(GENERATED_SCALE if generated else (LOWEST, HIGHEST)))
    table = table.rename(columns={mos_column: "mos"})
    _check_filled(table, [name for name in ("mos", "source_id") if name in table], path)
    if "ratings" in table:
        table["ratings"] = _ratings(table, path)
    return table


def read_pairs(path: Path, by: str) -> pd.DataFrame:
    """Who made which edit of what: id, source_id (or `source`), and the column `by`.

    Raises:
        TableError: as `read_predictions`; none of source_id and source, or a row without a value.
    """
    table = _with_sources(_read(path, ["id", by], ["source_id", "source"]), path)
    _check_ids(table, path)
    if "source_id" not in table:
        raise TableError(
            f"{path} has no column source_id or source: without it no two edits are of the same picture"
        )
    _check_filled(table, ["source_id", by], path)
    return table


def match(table: pd.DataFrame, truth: pd.DataFrame, name: str, truth_name: str) -> pd.DataFrame:
    """`table` in the order of `truth`, by id.

    Raises:
        TableError: an id of one that the other lacks.
    """
    lacking = truth["id"][~truth["id"].isin(table["id"])]
    unknown = table["id"][~table["id"].isin(truth["id"])]
    if len(lacking):
        raise TableError(
            f"{name} lacks {len(lacking)} of the {len(truth)} ids of {truth_name}, {lacking.iloc[0]!r} first: "
            "score these too (a failure is a row without a score), or leave them out of the table"
        )
    if len(unknown):
        raise TableError(
            f"{name} has {len(unknown)} ids that {truth_name} lacks, {unknown.iloc[0]!r} first: "
            "give the table of these edits, or leave them out"
        )
    return table.set_index("id").loc[list(truth["id"])].reset_index()


def _read_verdicts(path: Path) -> pd.DataFrame:
    from critic.scoring.resumable import results_to_table  # torch, which it needs to score, is slow to import

    try:
        verdicts = results_to_table(path)
    except (TypeError, ValueError) as error:
        raise TableError(f"{path} isn't what `critic score` wrote: {error}") from None
    table = verdicts[["id", "score", "status", "mode", "reasoning", "raw", "spread", "samples"]]
    return table.assign(score=_numbers(table, "score", path), spread=_numbers(table, "spread", path, 0, 4))


def _read_scores(path: Path) -> pd.DataFrame:
    table = _read(path, ["id", "score"], ["status", "mode", "reasoning", "raw", "response", "spread"])
    table = table.rename(columns={"response": "raw"} if "raw" not in table else {})
    scores = _numbers(table, "score", path)
    if "status" not in table:
        table["status"] = np.where(scores.isna(), _FAILED, Status.OK)
    return pd.DataFrame(
        {
            "id": table["id"],
            "score": scores,
            "status": table["status"],
            "mode": table["mode"].fillna("greedy") if "mode" in table else "greedy",
            "reasoning": table["reasoning"].fillna("") if "reasoning" in table else "",
            "raw": table.get("raw"),
            "spread": _numbers(table, "spread", path, 0, 4) if "spread" in table else np.nan,
            "samples": pd.Series([[]] * len(table), index=table.index, dtype=object),
        }
    )


def _read(path: Path, required: Sequence[str], optional: Sequence[str]) -> pd.DataFrame:
    """Those columns of a CSV or Parquet file; in a CSV an empty cell is a missing value and all else is text."""
    wanted = [*required, *optional]
    try:
        if path.suffix == ".parquet":
            has = pq.read_schema(path).names
            table = pq.read_table(path, columns=[name for name in has if name in wanted]).to_pandas()
        elif path.suffix == ".csv":
            table = pd.read_csv(path, dtype=str, keep_default_na=False, na_values=[""], encoding="utf-8-sig")
            has = [*table.columns]
        else:
            raise TableError(
                f"{path} is of no known kind: give a .parquet or .csv file, or the .jsonl of `critic score`"
            )
    except (pa.ArrowInvalid, UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise TableError(f"{path} can't be read, make it again: {error}") from None
    if missing := [name for name in required if name not in has]:
        remedy = "name it so" + (", or say with --mos-column which it is" if "mos" in missing else "")
        raise TableError(f"{path} has no column {' or '.join(missing)}, only {', '.join(has)}: {remedy}")
    return table[[name for name in wanted if name in table]]


def _with_sources(table: pd.DataFrame, path: Path) -> pd.DataFrame:
    """The table with the paths in `source` as its source_id, if that's what it has, or else with its prompts."""
    if "source_id" in table:
        return table.drop(columns="prompt", errors="ignore")
    if "source" not in table:
        return table.assign(source_id=table["prompt"]) if "prompt" in table else table
    if not table["source"].dropna().map(lambda cell: isinstance(cell, str)).all():
        raise TableError(f"{path} has pictures in its column source, not their paths: add a column source_id")
    return table.rename(columns={"source": "source_id"}).drop(columns="prompt", errors="ignore")


def _check_ids(table: pd.DataFrame, path: Path) -> None:
    """Ids become text."""
    if table.empty:
        raise TableError(f"{path} has no rows")
    if len(missing := np.flatnonzero(table["id"].isna())):
        raise TableError(f"{path} row {missing[0]} (from 0) has no id: give each edit one")
    table["id"] = table["id"].map(str)
    if len(again := np.flatnonzero(table["id"].duplicated())):
        raise TableError(
            f"{path} has the id {table['id'].iloc[again[0]]!r} twice ({len(again)} rows too many): "
            "leave each edit in once"
        )


def _check_filled(table: pd.DataFrame, columns: Sequence[str], path: Path) -> None:
    for column in columns:
        if len(empty := np.flatnonzero(table[column].isna())):
            raise TableError(
                f"{path} row {empty[0]} (from 0), id {table['id'].iloc[empty[0]]!r} has no {column}: "
                "fill it in, or leave the row out"
            )


def _numbers(
    table: pd.DataFrame, column: str, path: Path, low: float = LOWEST, high: float = HIGHEST
) -> "pd.Series[float]":
    """A column of numbers from `low` to `high`, NaN where there is none."""
    numbers = pd.to_numeric(table[column], errors="coerce").astype(float)
    odd = np.flatnonzero(table[column].notna() & ~numbers.between(low, high))
    if len(odd):
        cell = table[column].iloc[odd[0]]
        raise TableError(
            f"{path} row {odd[0]} (from 0), id {table['id'].iloc[odd[0]]!r} has the {column} {cell!r}, no number "
            f"from {low:g} to {high:g}: leave a score empty where there is none, bring other scales to this one"
        )
    return numbers


def _ratings(table: pd.DataFrame, path: Path) -> list[Any]:
    """Each row's ratings as an array, None where it has none; CSV cells hold them with spaces between."""
    ratings = [_floats(cell) for cell in table["ratings"]]
    raters = next((len(values) for values in ratings if values is not None), 0)
    for row, values in enumerate(ratings):
        if values is not None and (len(values) != raters or len(values) < 2 or not np.isfinite(values).all()):
            raise TableError(
                f"{path} row {row} (from 0), id {table['id'].iloc[row]!r} has the ratings "
                f"{table['ratings'].iloc[row]!r}: give as many numbers in each row, at least 2, with spaces "
                "between in a CSV, or leave the column out"
            )
    return ratings


def _floats(cell: Any) -> Array | None:
    """The numbers of a cell; one that is none of them is NaN."""
    if cell is None or isinstance(cell, float):
        return None
    values = pd.Series(cell.split() if isinstance(cell, str) else list(cell), dtype=object)
    return pd.to_numeric(values, errors="coerce").to_numpy(float)
