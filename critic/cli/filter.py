"""`critic filter`: keep the edits whose scores promise a wanted precision."""

from pathlib import Path

import click

from critic.cli import options
from critic.cli.tables import cell, console, show_table
from critic.files import write_json


@click.command(
    "filter",
    epilog="""\b
Examples:
  critic filter scores.jsonl --pairs edits.csv --rated ratings.csv --out kept.csv
  critic filter scores.jsonl --pairs edits.parquet --rated study.csv --rated-scores study.jsonl --mos 3.5
      --precision 0.8 --out kept.parquet""",
)
@click.argument("scores", type=options.FILE)
@options.scored_pairs
@options.kept_out
@click.option(
    "--rated",
    type=options.FILE,
    required=True,
    help="Table of rated edits, with id, mos, and source_id or source.",
)
@click.option(
    "--rated-scores",
    type=options.FILE,
    help="Scores of the rated edits, by the same critic in the same mode.  [default: SCORES]",
)
@click.option(
    "--mos", "least_mos", default=4.0, type=click.FloatRange(1, 5), help="MOS from which an edit is good."
)
@click.option(
    "--precision",
    default=0.9,
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    help="Share of the kept edits that must be good.",
)
@click.option(
    "--confidence",
    default=0.95,
    type=click.FloatRange(0.5, 1, max_open=True),
    help="Probability with which the precision is reached.",
)
@options.json_file
@options.n_boot
@options.seed
def command(
    scores: Path,
    pairs: Path,
    out: Path,
    rated: Path,
    rated_scores: Path | None,
    least_mos: float,
    precision: float,
    confidence: float,
    json_file: Path | None,
    n_boot: int,
    seed: int,
) -> None:
    """Keep the edits with scores above a threshold of known precision.

    The threshold is set on rated edits: the lowest above which the share of good edits is at least --precision,
    with the given confidence. It holds for edits of the kind that was rated, so rate a random sample of them. The
    recall says how many good edits are lost. Edits without a score are never kept.

    SCORES is a file as `critic eval` reads it, of all edits of --pairs.
    """
    from critic.answers import SAME_SCORE
    from critic.evaluation.bootstrap import jsonable
    from critic.evaluation.score_tables import read_scores, read_truth, scores_of
    from critic.evaluation.selection import find_threshold
    from critic.tables import copy_rows, read, unique_ids

    truth, known = read_truth(rated), read_scores(scores)
    of_rated = scores_of(read_scores(rated_scores) if rated_scores else known, truth["id"], rated_scores or scores)
    how = {"least_mos": least_mos, "precision": precision, "confidence": confidence}
    sources = truth["source_id"] if "source_id" in truth else truth["id"]
    found = find_threshold(of_rated, truth["mos"], sources, **how, n_boot=n_boot, seed=seed)
    of_edits = scores_of(known, unique_ids(read(pairs, required=["id"], optional=[])), scores)
    kept = (of_edits >= found.score - SAME_SCORE).nonzero()[0]
    copy_rows(pairs, out, kept, keep=(scores, rated, rated_scores))
    if json_file:
        asked = {"least_mos": least_mos, "asked_precision": precision, "confidence": confidence}
        write_json(json_file, jsonable(found) | asked | {"edits": len(of_edits), "edits_kept": len(kept)})
    rows = [
        ("threshold", f"{found.score:.1f}"),
        (f"precision, MOS {least_mos:g} and more", cell(found.precision)),
        (f"  at least, with {confidence:.0%} confidence", f"{found.at_least:.3f}"),
        ("recall", cell(found.recall)),
        ("rated edits kept", f"{found.kept:,} of {found.n:,}"),
    ]
    independent = "" if "source_id" in truth else " Without source_id, they count as edits of different sources."
    title, note = f"On the rated edits of {rated.name}", "In brackets: 95 % intervals over source images."
    show_table(console(), title, ["", ""], rows, note + independent)
    failed = int((of_edits != of_edits).sum())
    click.echo(f"{len(kept):,} of {len(of_edits):,} edits kept; {failed:,} have no score")
