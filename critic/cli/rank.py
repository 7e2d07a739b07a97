"""`critic rank`: which editor makes the better edits, by a critic's scores."""

import json
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING

import click

from critic.cli import options
from critic.cli.tables import cell, console, p_value, show_table, write

if TYPE_CHECKING:  # what works is imported where it does: pandas and SciPy are slow, and --help needn't wait
    from critic.evaluation.ranking import Lead


@click.command("rank")
@click.argument("scores", type=options.FILE)
@click.option(
    "--pairs",
    type=options.FILE,
    required=True,
    help="Who made which edit: Parquet or CSV with id, the column of --by, and source_id or source.",
)
@click.option("--by", default="editor", show_default=True, help="The column whose values are ranked.")
@options.json_file
@options.n_boot
@options.seed
def command(scores: Path, pairs: Path, by: str, json_file: Path | None, n_boot: int, seed: int) -> None:
    """Rank editors by their mean score, and say which differences are more than chance.

    SCORES is a file as `critic eval` reads it. No opinions of people are needed. Two editors are compared on the
    pictures that both have edited, so a hard picture is hard for both; they need 10 of these. p allows for all
    comparisons of the table (Holm). Failed answers are left out: look at their number.

    \b
    Examples:
      critic rank scores.jsonl --pairs pairs.csv
      critic rank scores.jsonl --pairs data/validated/test.parquet --by edit_type

    The intervals tell how sure the critic's opinion is, not how right. A critic that is kinder to one editor than
    people are ranks it too high: `critic eval` shows its bias by editor where people have rated some edits.
    """
    if by in ("id", "source_id", "source"):
        raise click.UsageError(f"--by {by} has no group to rank: give a column such as editor")
    from critic.evaluation.intervals import plain
    from critic.evaluation.ranking import rank as rank_groups
    from critic.evaluation.score_tables import TableError, match, read_pairs, read_predictions

    try:
        known = read_pairs(pairs, by)
        scored = match(read_predictions(scores), known, str(scores), str(pairs))
    except TableError as error:
        raise click.ClickException(str(error)) from None
    found = rank_groups(scored["score"], [*known[by].map(str)], [*known["source_id"]], n_boot=n_boot, seed=seed)
    if json_file:
        write(json_file, json.dumps(plain(found), indent=2, ensure_ascii=False) + "\n")
    out = console()
    rows = [(g.group, str(g.n), str(g.n - g.scored), cell(g.mean, 2)) for g in found.groups]
    show_table(out, f"Mean score by {by}", [by, "edits", "failed", "mean (95 % interval)"], rows)
    leads = [
        (
            f"{lead.better} over {lead.worse}",
            str(lead.sources),
            cell(lead.difference, 2, signed=True),
            p_value(lead.p_holm),
            _verdict(lead),
        )
        for lead in found.leads
    ]
    title, columns = "On the pictures that both have edited", ["", "pictures", "points (95 % interval)", "p", ""]
    many = sum(isfinite(lead.p_holm) for lead in found.leads)
    note = f"p is of a sign-flip test, raised by Holm's method because there are {many} comparisons."
    show_table(out, title, columns, leads, note if many > 1 else "")


def _verdict(lead: "Lead") -> str:
    from critic.evaluation.intervals import SMALLEST_GROUP

    if lead.sources < SMALLEST_GROUP:
        return f"fewer than {SMALLEST_GROUP} pictures"
    return "better" if lead.p_holm < 0.05 else "can't be told apart"
