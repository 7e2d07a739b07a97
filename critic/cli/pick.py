"""`critic pick`: the best edit of each request, by a critic's scores."""

from pathlib import Path

import click

from critic.cli import options

CLEAN = ("unedited", "other_edit")


@click.command(
    "pick",
    epilog="""\b
Examples:
  critic score -m models/grpo edits.csv --out scores.jsonl --mode expected
  critic pick scores.jsonl --pairs edits.csv --out best.csv
  critic probe -m models/grpo best.csv --out probes.jsonl --edits 100000 --ignore-mos
      --probe unedited --probe other_edit
  critic pick scores.jsonl --pairs edits.csv --probes probes.jsonl --out clean.csv""",
)
@click.argument("scores", type=options.FILE)
@options.scored_pairs
@options.kept_out
@click.option("--by", default="instruction", help="Column of --pairs that tells the requests of a source apart.")
@click.option(
    "--probes",
    type=options.FILE,
    help="Drop a best edit whose score in this file isn't above those of its probes unedited and other_edit.",
)
def command(scores: Path, pairs: Path, out: Path, by: str, probes: Path | None) -> None:
    """Pick the best edit of each source image and instruction.

    SCORES is a file as `critic eval` reads it, of all edits of --pairs; score in mode expected or average for
    fewer ties. Of tied edits, the first is picked. A best edit that `critic probe` shows to be no better than the
    unedited source, or another picture's edit, is dropped, and its request gets none.
    """
    import numpy as np

    from critic.answers import SAME_SCORE
    from critic.evaluation.score_tables import read_pairs, read_scores, scores_of
    from critic.evaluation.selection import pick
    from critic.scoring.probes import UNCHANGED
    from critic.tables import copy_rows

    table = read_pairs(pairs, by)
    of_edits = scores_of(read_scores(scores), table["id"], scores)
    picked = pick(of_edits, [*zip(table["source_id"], table[by], strict=True)])
    rows, dropped = picked.rows, 0
    if probes:
        probed = read_scores(probes)
        unchanged, *changed = (
            scores_of(probed, [f"{name}:{id}" for id in table["id"].iloc[rows]], probes)
            for name in (UNCHANGED, *CLEAN)
        )
        rows = rows[np.all([unchanged - one >= SAME_SCORE for one in changed], axis=0)]
        dropped = len(picked.rows) - len(rows)
    copy_rows(pairs, out, rows, keep=(scores, probes))
    click.echo(
        f"{len(rows):,} of {len(table):,} edits picked, one for each request; {picked.tied:,} requests with tied "
        f"edits, {picked.unscored:,} without a score"
        + (f"; {dropped:,} best edits dropped by their probes" if probes else "")
    )
