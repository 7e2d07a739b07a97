"""Make the next increment of data/ratings from new ratings and votes: screen, pool, report.

The ratings of all increments are screened and pooled again together with the new ones, and so are the votes. So if
a rater no longer counts, earlier ratings don't count either, and edits whose MOS changes are in the new increment.
"""

import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
from dvc.repo import Repo

from critic import params
from critic.answers import AXES
from critic.edits import TYPES
from critic.files import OutputError, replacing_folder, write_json, write_text
from critic.ratings.importers import VOTE_COLUMNS, RatingBatch, benchmark
from critic.ratings.increments import EDITS, FOLDER, PAGE, PATTERN, RATINGS, REPORT, VOTES, latest, read_increments
from critic.ratings.pair_pooling import PairResults, pool_votes
from critic.ratings.pooling import NOTHING, Study, check, pool
from critic.tables import write_parquet

MIN_CHANGE = 0.05
"""Points by which the MOS of an edit without new ratings must change for the edit to be in an increment. Each new
rating changes all biases, and so each MOS, by less."""
RATING_TYPES = {
    **{name: pa.string() for name in ("rater", "item")},
    **{name: pa.float64() for name in ("score", *AXES)},
    "feedback_id": pa.int64(),
}
VOTE_TYPES = {
    **{name: pa.string() for name in ("rater", "left", "right", "choice")},
    "seconds": pa.float64(),
    "vote_id": pa.int64(),
}
_EDIT_COLUMNS = ("id", "source_id", "images", "instruction", "edit_type", "editor")
_MOS_COLUMNS = ("mos", *(f"mos_{axis}" for axis in AXES), "ratings")


def add(batch: RatingBatch, repository: Path) -> Path:
    """Make the next increment completely or not at all, and have DVC track its tables; returns its folder.

    Raises:
        TableError: there are no ratings and votes, or a rating is invalid.
        IncrementError: an earlier increment's file is missing.
        OutputError: the increment can't be written, or another command has made it first.
    """
    folder = repository / FOLDER
    track(repository)
    edits, report = preview(batch, repository)
    name = f"{1 + max((int(one.name) for one in folder.glob(PATTERN)), default=0):04d}"
    with replacing_folder(folder / name) as partial:
        write_parquet(edits, partial / EDITS, TYPES)
        write_parquet(batch.ratings, partial / RATINGS, RATING_TYPES)
        if len(batch.votes):
            write_parquet(batch.votes, partial / VOTES, VOTE_TYPES)
        write_json(partial / REPORT, report)
        write_text(partial / PAGE, f"# Ratings, increment {name}\n\n{render(report)}")
        if (folder / name).exists():
            raise OutputError(f"{folder / name} is there already: another command made it. Run this one again.")
    try:
        track(repository)
    except BaseException:
        shutil.rmtree(folder / name)
        raise
    return folder / name


def track(repository: Path) -> None:
    """Have DVC track all tables of increments: those of a new one, and those of one whose command was killed."""
    increments = (repository / FOLDER).glob(PATTERN)
    tables = [str(one / name) for one in sorted(increments) for name in (EDITS, RATINGS, VOTES)]
    if new := [table for table in tables if Path(table).exists() and not Path(f"{table}.dvc").exists()]:
        with Repo(str(repository)) as repo:
            repo.scm_context.quiet = True
            repo.add(new)


def preview(batch: RatingBatch, repository: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The edits of the increment that `add` would make, and its report; nothing is written."""
    rules = params.load(params.Ratings, repository / params.FILE)
    if batch.votes.empty or len(batch.ratings):
        check(batch.ratings)
    earlier = read_increments(repository / FOLDER)
    known = latest(earlier).set_index("id")
    learnt = _learn_editors(known, batch.edits)
    ratings = pd.concat([*(one.ratings for one in earlier), batch.ratings], ignore_index=True)
    study = pool(ratings, rules) if len(ratings) else NOTHING
    new = batch.edits[~batch.edits["id"].isin(known.index)] if len(batch.edits) else batch.edits
    every = [*known.reset_index().to_dict("records"), *new.to_dict("records")]
    ours = benchmark(repository)
    votes = pd.concat([one.votes for one in earlier if one.votes is not None] + [batch.votes], ignore_index=True)
    pairs = _pool_votes(votes, every, study, ours, rules) if len(votes) else None
    rows = []
    for edit in every:
        row = {name: edit.get(name) for name in _EDIT_COLUMNS} | _mos(
            str(edit["id"]), ratings, study, pairs, rules
        )
        before, after = _rounded(known["mos"].get(edit["id"])), row["mos"]
        is_small = before is not None and after is not None and abs(after - before) < MIN_CHANGE
        has_changed = before != after and (edit["id"] in batch.items or not is_small)
        if edit["id"] not in known.index or has_changed or edit["id"] in learnt:
            rows.append(row)
    edits = pd.DataFrame(rows, columns=[*_EDIT_COLUMNS, *_MOS_COLUMNS]).sort_values("id", ignore_index=True)
    return edits, _report(batch, ratings, study, pairs, edits, known, rules, ours)


def _learn_editors(known: pd.DataFrame, new: pd.DataFrame) -> set[str]:
    """Fill the missing editors of known edits from the batch's; the ids of these edits."""
    if "editor" not in new or "editor" not in known:
        return set()
    given = new.set_index("id")["editor"].dropna()
    learnt = given[given.index.isin(known.index[known["editor"].isna()])]
    known.loc[learnt.index, "editor"] = learnt
    return {*learnt.index}


def render(report: Mapping[str, Any]) -> str:
    """A report as Markdown."""
    counts, agreement = report["counts"], report["agreement"]
    lines = [
        f"{counts['ratings']} ratings of {counts['edits rated']} edits by {counts['raters']} raters. "
        f"{counts['edits with a MOS']} edits have a new or changed MOS; {counts['edits that wait']} wait for more "
        "raters.",
    ]
    if report["raters"]:
        lines += [
            "",
            f"Krippendorff's alpha is {_figure(agreement['everybody'])} for all raters so far, and "
            f"{_figure(agreement['counted'])} for the raters that count.",
            *_table(("rater", "ratings", "status", "correlation", "bias", "noise", "reason"), report["raters"]),
        ]
    if counts["edits with votes alone"]:
        lines[0] += f" {counts['edits with votes alone']} edits have votes alone."
    if report["pairs"]:
        lines += _render_pairs(report["pairs"])
    titles = {
        "changed": "Edits whose MOS has changed",
        "contradictions": "Edits whose earlier MOS is outside of the new interval",
        "lost": "Edits whose pictures are missing (set CRITIC_KEEP_IMAGES for the service)",
    }
    for key, title in titles.items():
        if report[key]:
            lines += ["", f"{title}:", "", *(f"- {_cell(line)}" for line in report[key])]
    return "\n".join(lines) + "\n"


def _render_pairs(pairs: Mapping[str, Any]) -> list[str]:
    scale = pairs["scale"]
    found = f"{scale['anchors']} edits with votes have a MOS by ratings"
    if scale["valid"]:
        said = (
            f"{found}. A unit of strength is {scale['slope']:.2f} points of MOS, which is off by "
            f"{scale['error']:.2f} points for these edits. {pairs['edits with a MOS']} edits have a MOS by votes."
        )
    else:
        said = (
            f"{found}: too few, or they don't agree with the votes. So votes give no MOS; they are kept as votes."
        )
    if pairs["without editor"]:
        said += f" {pairs['without editor']} votes aren't in the table of editors: an edit's editor isn't known."
    lines = ["", f"{pairs['votes']} votes on {pairs['pairs']} pairs so far. {said}"]
    lines += _table(("rater", "votes", "status", "agreement", "left", "seconds", "reason"), pairs["raters"])
    if pairs["editors"]:
        lines += ["", "Strengths can be compared within a group:"]
        lines += _table(("editor", "group", "votes", "strength", "low", "high"), pairs["editors"])
    return lines


def _table(columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Lines of a Markdown table after an empty one; the column of the reason has no title."""
    cells = [
        [_figure(row[name]) if isinstance(row[name], float | None) else _cell(str(row[name])) for name in columns]
        for row in rows
    ]
    titles = ["" if name == "reason" else name for name in columns]
    return ["", *(f"| {' | '.join(line)} |" for line in (titles, ["---"] * len(columns), *cells))]


def _pool_votes(
    votes: pd.DataFrame,
    edits: Sequence[Mapping[Any, Any]],
    study: Study,
    ours: Mapping[str, Any],
    rules: params.Ratings,
) -> PairResults:
    """The pooled votes. Anchors are edits with a MOS by ratings, but none of the benchmark's test split."""
    anchors = {id: edit["mos"] for id, edit in ours.items() if edit["split"] != "test"}
    rated = study.items.loc[study.items["ratings"] >= rules.min_raters, "mos"]
    mos = rated.astype(float).combine_first(pd.Series(anchors, dtype=float))
    known = pd.DataFrame(edits, columns=_EDIT_COLUMNS).set_index("id")
    return pool_votes(votes[[*VOTE_COLUMNS]], known, mos, rules)


def _report(
    batch: RatingBatch,
    ratings: pd.DataFrame,
    study: Study,
    pairs: PairResults | None,
    edits: pd.DataFrame,
    known: pd.DataFrame,
    rules: params.Ratings,
    ours: Mapping[str, Any],
) -> dict[str, Any]:
    unknown, is_rated = edits["mos"].isna(), edits["id"].isin(ratings["item"])
    is_changed = edits["mos"].astype(float) != edits["id"].map(known["mos"]).astype(float)
    before = {item: (mos, "an earlier increment") for item, mos in known["mos"].dropna().items()}
    changed = [
        f"{row['id']}: {before[row['id']][0]:.2f}, now {_figure(_rounded(row['mos']))}"
        for row in edits[edits["id"].isin(before) & is_changed].to_dict("records")
    ]
    for item, edit in ours.items():
        before[item] = edit["mos"], f"the benchmark ({edit['name']})"
    contradictions = []
    for item in study.items.index.intersection([*before]).intersection([*batch.ratings["item"]]):
        now, (mos, source) = study.items.loc[item], before[item]
        if now["ratings"] >= rules.min_raters and not now["low"] <= mos <= now["high"]:
            contradictions.append(
                f"{item}: {now['mos']:.2f} ({now['low']:.2f} to {now['high']:.2f}), and {mos:.2f} in {source}"
            )
    return {
        "counts": {
            "ratings": len(batch.ratings),
            "raters": batch.ratings["rater"].nunique(),
            "edits rated": batch.ratings["item"].nunique(),
            "edits with a MOS": int((~unknown & is_changed).sum()),
            "edits that wait": int((unknown & is_rated).sum()),
            "edits with votes alone": int((unknown & ~is_rated).sum()),
            "ratings given again": study.repeated,
        },
        "statuses": dict(sorted(Counter(study.raters["status"]).items())),
        "agreement": {name: _rounded(value) for name, value in study.agreement.items()},
        "raters": _rows(study.raters),
        "pairs": None if pairs is None else _pairs_report(pairs),
        "changed": changed,
        "contradictions": contradictions,
        "lost": [*batch.lost],
        "rules": rules.model_dump(),
    }


def _pairs_report(pairs: PairResults) -> dict[str, Any]:
    return {
        "votes": int(pairs.raters["votes"].sum()),
        "pairs": pairs.pairs,
        "raters": _rows(pairs.raters),
        "editors": _rows(pairs.editors.rename_axis("editor")),
        "without editor": pairs.without_editor,
        "scale": _plain(vars(pairs.scale)),
        "edits with a MOS": int(pairs.edits["mos"].notna().sum()),
    }


def _mos(
    item: str, ratings: pd.DataFrame, study: Study, pairs: PairResults | None, rules: params.Ratings
) -> dict[str, Any]:
    """The columns `_MOS_COLUMNS` of an edit, with the mean of each sub-score; a MOS by votes has no more columns.

    None if there are too few raters.
    """
    pooled = study.items.loc[item] if item in study.items.index else None
    if pooled is None or pooled["ratings"] < rules.min_raters:
        of_votes = pairs.edits["mos"].get(item) if pairs is not None else None
        return dict.fromkeys(_MOS_COLUMNS) | {"mos": _rounded(of_votes)}
    counted = study.raters.index[study.raters["status"] == "counted"]
    of_item = ratings[(ratings["item"] == item) & ratings["rater"].isin(counted)]
    axes = of_item.drop_duplicates("rater", keep="last")[[*AXES]].astype(float).mean()
    return {
        "mos": _rounded(pooled["mos"]),
        **{f"mos_{axis}": _rounded(axes[axis]) for axis in AXES},
        "ratings": pooled["ratings_given"],
    }


def _rows(table: pd.DataFrame) -> list[dict[Any, Any]]:
    return [_plain(row) for row in table.reset_index().to_dict("records")]


def _plain(cells: Mapping[Any, Any]) -> dict[Any, Any]:
    return {name: _rounded(cell) if isinstance(cell, float) else cell for name, cell in cells.items()}


def _rounded(value: Any) -> float | None:
    """A figure for JSON, None if it is missing."""
    return None if pd.isna(value) else round(float(value), 4)


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _cell(text: str) -> str:
    """Untrusted text in a cell of a Markdown table."""
    return " ".join(text.replace("|", "\\|").replace("<", "&lt;").split())
