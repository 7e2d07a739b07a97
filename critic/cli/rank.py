"""`critic rank`: which editor makes the better edits, by a critic's scores."""

from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING

import click

from critic.cli import options
from critic.cli.tables import INTERVALS, cell, console, p_value, show_table
from critic.files import write_json, write_text

if TYPE_CHECKING:  # pandas and SciPy are slow to import, and --help doesn't need them
    from critic.evaluation.ranking import Lead, Ranking


@click.command("rank")
@click.argument("scores", type=options.FILE)
@click.option(
    "--pairs",
    type=options.FILE,
    required=True,
    help="Table of who made which edit, with id, the column of --by, and source_id or source.",
)
@click.option("--by", default="editor", help="Column of --pairs whose values are ranked.")
@options.json_file
@options.charts
@options.n_boot
@options.seed
def command(
    scores: Path, pairs: Path, by: str, json_file: Path | None, html_file: Path | None, n_boot: int, seed: int
) -> None:
    """Rank editors by their mean score, and test which differences are significant.

    SCORES is a file as `critic eval` reads it. Opinions of people are not needed. Two editors are compared on the
    pictures that both have edited, so a hard picture is hard for both; they need 10 of these. p is adjusted for
    the number of comparisons (Holm). Failed answers are left out: look at their number.

    \b
    Examples:
      critic rank scores.jsonl --pairs pairs.csv
      critic rank scores.jsonl --pairs data/validated/test.parquet --by edit_type --html page.html

    The intervals show how certain the critic's ranking is, not whether people agree. A critic that scores one
    editor higher than people do ranks it too high: `critic eval` shows its bias by editor if people have rated
    some edits.
    """
    if by in ("id", "source_id", "source"):
        raise click.UsageError(f"--by {by} has no group to rank: give a column such as editor")
    from critic.evaluation.bootstrap import jsonable
    from critic.evaluation.evaluate import match
    from critic.evaluation.ranking import rank
    from critic.evaluation.score_tables import read_pairs, read_predictions

    known = read_pairs(pairs, by)
    scored = match(read_predictions(scores), known, str(scores), str(pairs))
    found = rank(scored["score"], [*known[by].map(str)], [*known["source_id"]], n_boot=n_boot, seed=seed)
    if json_file:
        write_json(json_file, jsonable(found), ensure_ascii=False)
    if html_file:
        write_text(html_file, draw(found, by, f"{len(known):,} edits of {pairs.name}"))
    out = console()
    rows = [(g.group, str(g.n), str(g.n - g.scored), cell(g.mean, 2)) for g in found.groups]
    show_table(out, f"Mean score by {by}", [by, "edits", "failed", "mean (95 % interval)"], rows)
    leads = []
    for lead in found.leads:
        names, points = f"{lead.better} over {lead.worse}", cell(lead.difference, 2, signed=True)
        leads.append((names, str(lead.sources), points, p_value(lead.p_holm), _outcome(lead)))
    title, columns = "On the pictures that both have edited", ["", "pictures", "points (95 % interval)", "p", ""]
    many = sum(isfinite(lead.p_holm) for lead in found.leads)
    note = f"p: sign-flip test, adjusted by Holm's method for {many} comparisons."
    show_table(out, title, columns, leads, note if many > 1 else "")


def draw(found: "Ranking", by: str, about: str) -> str:
    """A ranking as a page; `about` says what it is of."""
    import pandas as pd

    from critic.evaluation import figures
    from critic.evaluation.chart_page import Chart, chart_page

    means = {group.group: group.mean for group in found.groups}
    leads = {f"{lead.better} over {lead.worse}": lead.difference for lead in found.leads if lead.sources}
    wins = pd.DataFrame(index=[*means], columns=[*means], dtype=float)
    for lead in found.leads:
        wins.loc[lead.better, lead.worse], wins.loc[lead.worse, lead.better] = lead.wins, lead.losses
    of_means = figures.intervals(means, xlabel="mean score", title="Mean scores")
    of_leads = figures.intervals(leads, xlabel="points", title="Leads", zero=True)
    adjusted = "They aren't adjusted for the number of comparisons; the table's p is."
    share = f"Share of the pictures that both edited on which the row's {by} scores higher; the rest are ties."
    charts = [
        Chart(f"Mean score by {by}", of_means, INTERVALS),
        Chart("Leads on the pictures that both have edited", of_leads, f"{INTERVALS} {adjusted}"),
        Chart("Wins", figures.win_matrix(wins, title="Wins"), share),
    ]
    return chart_page(f"Which {by} is better, by a critic's scores", about, charts)


def _outcome(lead: "Lead") -> str:
    from critic.evaluation.bootstrap import SMALLEST_GROUP

    if lead.sources < SMALLEST_GROUP:
        return f"fewer than {SMALLEST_GROUP} pictures"
    return "better" if lead.p_holm < 0.05 else "not significant"
