"""From what people have said to the next increment of data/ratings: screened, pooled, told of, and never changed.

    made = collect(store, repository)                   # data/ratings/0003
    made = add(read_study(Path("study.csv"), repository), repository)

All ratings of all increments are screened and pooled again with the new ones, so a rater who turns out to be
careless is counted out of what was rated before too, and an edit whose MOS moves by it is in the new increment.
"""

import json
import os
import shutil
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from dvc.repo import Repo

from critic import params
from critic.edits import write_table
from critic.ratings.importers import AXES, RatingBatch, benchmark, read_store
from critic.ratings.increments import EDITS, FOLDER, PAGE, RATINGS, REPORT, latest, read_increments
from critic.ratings.screening import Study, check, plain, pool

MOVED = 0.05
"""Points by which the MOS of an edit that nobody has rated anew must move to be in an increment: a rating more
moves all biases, and so every MOS, by less."""
_AS_GIVEN = ("id", "source_id", "images", "instruction", "edit_type", "editor")
_OPINION = ("mos", *(f"mos_{axis}" for axis in AXES), "ratings")


def collect(store: str, repository: Path, pictures: Path | None) -> Path | None:
    """Make the next increment of a feedback store's new ratings; None if there are none.

    Pictures are found by their SHA-256: in `pictures`, where the service keeps them (CRITIC_KEEP_IMAGES), among the
    benchmark's, and in earlier increments.

    Raises:
        FeedbackError: the store can't be read.
        RatingsError, IncrementError: see `add`.
    """
    heard = read_store(store, repository, pictures)
    return None if heard.ratings.empty else add(heard, repository)


def add(heard: RatingBatch, repository: Path) -> Path:
    """Make the next increment, whole or not at all, and have DVC keep its tables; gives its folder.

    Raises:
        RatingsError: there are no ratings, or they can't be pooled.
        IncrementError: an earlier increment isn't here.
    """
    folder = repository / FOLDER
    keep(repository)
    edits, report = examine(heard, repository)
    name = f"{1 + max((int(one.name) for one in folder.glob('[0-9][0-9][0-9][0-9]')), default=0):04d}"
    partial = folder / f".{name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    write_table(edits, partial / EDITS)
    heard.ratings.astype({"feedback_id": "Int64"}).to_parquet(partial / RATINGS, index=False)
    (partial / REPORT).write_text(json.dumps(report, indent=2, allow_nan=False) + "\n")
    (partial / PAGE).write_text(f"# Ratings, increment {name}\n\n{page(report)}", encoding="utf-8")
    os.replace(partial, folder / name)
    try:
        keep(repository)
    except BaseException:
        shutil.rmtree(folder / name)
        raise
    return folder / name


def keep(repository: Path) -> None:
    """Have DVC keep the tables of increments that it doesn't yet: of a new one, or one whose maker was killed."""
    made = (repository / FOLDER).glob("[0-9][0-9][0-9][0-9]")
    tables = [str(one / name) for one in sorted(made) for name in (EDITS, RATINGS)]
    if new := [table for table in tables if Path(table).exists() and not Path(f"{table}.dvc").exists()]:
        with Repo(str(repository)) as repo:
            repo.scm_context.quiet = True
            repo.add(new)


def examine(heard: RatingBatch, repository: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The edits that an increment would have, and its report; nothing is written.

    Raises:
        RatingsError, IncrementError: as `add`.
    """
    rules = params.load(params.Ratings, repository / params.FILE)
    check(heard.ratings)
    earlier = read_increments(repository / FOLDER)
    known = latest(earlier).set_index("id")
    ratings = pd.concat([*(one.ratings for one in earlier), heard.ratings], ignore_index=True)
    study = pool(ratings, rules)
    fresh = heard.edits[~heard.edits["id"].isin(known.index)] if len(heard.edits) else heard.edits
    rows, rated = [], {*heard.ratings["item"]}
    for edit in [*known.reset_index().to_dict("records"), *fresh.to_dict("records")]:
        row = {name: edit.get(name) for name in _AS_GIVEN} | _opinion(str(edit["id"]), ratings, study, rules)
        least = 0.0 if edit["id"] in rated else MOVED
        if edit["id"] not in known.index or _has_moved(plain(known.loc[edit["id"], "mos"]), row["mos"], least):
            rows.append(row)
    edits = pd.DataFrame(rows, columns=[*_AS_GIVEN, *_OPINION]).sort_values("id", ignore_index=True)
    return edits, _report(heard, study, edits, known, rules, repository)


def _has_moved(was: float | None, now: float | None, least: float) -> bool:
    if was is None or now is None:
        return was is not now
    return was != now and abs(now - was) >= least


def page(report: Mapping[str, Any]) -> str:
    """A report as Markdown."""
    counts, agreement = report["counts"], report["agreement"]
    lines = [
        f"{counts['ratings']} ratings of {counts['edits rated']} edits by {counts['raters']} raters. "
        f"{counts['edits with a MOS']} edits have a new or changed MOS, {counts['edits that wait']} wait for more "
        "raters.",
        "",
        f"Krippendorff's alpha is {_told(agreement['everybody'])} among everybody who has ever rated, and "
        f"{_told(agreement['counted'])} among those who count.",
        "",
        "| rater | ratings | verdict | correlation | bias | noise | |",
        "|---|---|---|---|---|---|---|",
        *(
            f"| {_cell(one['rater'])} | {one['ratings']} | {one['verdict']} | {_told(one['correlation'])} | "
            f"{_told(one['bias'])} | {_told(one['noise'])} | {_cell(one['reason'])} |"
            for one in report["raters"]
        ),
    ]
    titles = {
        "changed": "Edits whose MOS has changed",
        "contradictions": "Edits on which people contradict what was known",
        "lost": "Edits whose pictures nobody has (turn on CRITIC_KEEP_IMAGES)",
    }
    for key, title in titles.items():
        if report[key]:
            lines += ["", f"{title}:", "", *(f"- {_cell(line)}" for line in report[key])]
    return "\n".join(lines) + "\n"


def _report(
    heard: RatingBatch,
    study: Study,
    edits: pd.DataFrame,
    known: pd.DataFrame,
    rules: params.Ratings,
    repository: Path,
) -> dict[str, Any]:
    was = {**{item: (mos, "an earlier increment") for item, mos in known["mos"].dropna().items()}}
    changed, contradictions = [], []
    for row in edits[edits["id"].isin(was)].to_dict("records"):
        changed.append(f"{row['id']}: {was[row['id']][0]:.2f}, now {_told(plain(row['mos']))}")
    was |= {item: (edit["mos"], f"the benchmark ({edit['name']})") for item, edit in benchmark(repository).items()}
    again = study.items.index.intersection([*was]).intersection([*heard.ratings["item"]])
    for item in again:
        told, (mos, source) = study.items.loc[item], was[item]
        if told["ratings"] >= rules.min_raters and not told["low"] <= mos <= told["high"]:
            contradictions.append(
                f"{item}: {told['mos']:.2f} ({told['low']:.2f} to {told['high']:.2f}), and {mos:.2f} in {source}"
            )
    raters = study.raters.loc[sorted({*heard.ratings["rater"]} | {*study.raters.index})].reset_index()
    return {
        "counts": {
            "ratings": len(heard.ratings),
            "raters": heard.ratings["rater"].nunique(),
            "edits rated": heard.ratings["item"].nunique(),
            "edits with a MOS": int(edits["mos"].notna().sum()),
            "edits that wait": int(edits["mos"].isna().sum()),
            "ratings given again": study.thought_again,
        },
        "verdicts": dict(sorted(Counter(study.raters["verdict"]).items())),
        "agreement": {name: plain(value) for name, value in study.agreement.items()},
        "raters": [
            {
                "rater": row["rater"],
                "ratings": int(row["ratings"]),
                "verdict": row["verdict"],
                "reason": row["reason"],
                **{name: plain(row[name]) for name in ("correlation", "bias", "noise")},
            }
            for row in raters.to_dict("records")
        ],
        "changed": changed,
        "contradictions": contradictions,
        "lost": [*heard.lost],
        "rules": rules.model_dump(),
    }


def _opinion(item: str, ratings: pd.DataFrame, study: Study, rules: params.Ratings) -> dict[str, Any]:
    """The columns `_OPINION` of an edit: nothing where too few have rated it, and the means of sub-scores."""
    told = study.items.loc[item] if item in study.items.index else None
    if told is None or told["ratings"] < rules.min_raters:
        return dict.fromkeys(_OPINION)
    counted = study.raters.index[study.raters["verdict"] == "counted"]
    of_item = ratings[(ratings["item"] == item) & ratings["rater"].isin(counted)]
    axes = of_item.drop_duplicates("rater", keep="last")[[*AXES]].astype(float).mean()
    return {
        "mos": plain(told["mos"]),
        **{f"mos_{axis}": plain(axes[axis]) for axis in AXES},
        "ratings": told["ratings_given"],
    }


def _told(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _cell(text: str) -> str:
    """Text that strangers gave, in a cell of a table."""
    return " ".join(text.replace("|", "\\|").replace("<", "&lt;").split())
