"""`critic parity`: whether engines, batch sizes and orders change a score."""

import sys
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.table import Table

from critic.cli.options import COUNT, DTYPE, OUT, model_option
from critic.files import write_json

if TYPE_CHECKING:
    from critic.scoring.parity import Parity


@click.command(
    "parity",
    epilog="""\b
Examples:
  critic parity -m models/grpo --pairs data/validated/test.parquet
  critic parity -m models/grpo --pairs pairs.csv --limit 64 --json parity.json""",
)
@model_option("The critic: a folder or a name on the hub.")
@click.option(
    "--pairs", required=True, type=click.Path(path_type=Path), help="The edits to score, as in `critic score`."
)
@click.option("--contract", "contract_name", help="The prompt contract, as in `critic score`.")
@click.option("--dtype", type=DTYPE, default="float32", help="The dtype of the weights.")
@click.option("--limit", default=400, type=COUNT, metavar="N", help="Score only the first N edits.")
@click.option("--batch-size", default=32, type=COUNT, help="Edits in one batch.")
@click.option("--max-tokens", default=1024, type=COUNT, help="Completion tokens for one answer.")
@click.option("--json", "report", type=OUT, help="Write all differences to this JSON file.")
def command(report: Path | None, **options: Any) -> None:
    """Score the same edits with every engine, alone and in batches, in order and shuffled.

    Transformers, vLLM in this process and vLLM behind HTTP run the critic greedily, on pictures of mixed sizes.
    The exit code is 1 if an engine agrees with transformers on less than 99 % of the texts or 99.5 % of the
    scores, or with itself in another order or batch size. Each difference is listed with the nats by which
    transformers preferred its own token where the texts diverge: near 0, it was a tie.
    """
    from critic.scoring import parity  # after the checks of the options, since it imports torch

    results = parity.compare_engines(**options, log=partial(click.echo, err=True))
    show(results)
    if report:
        shares = ("same_text", "same_score", "ok")
        summary = [asdict(result) | {name: getattr(result, name) for name in shares} for result in results]
        write_json(report, summary, ensure_ascii=False)
    if not all(result.ok for result in results):
        sys.exit(1)


def show(results: "Sequence[Parity]") -> None:
    """Print the table, then each difference."""
    from critic.scoring.parity import MIN_SAME_SCORE, MIN_SAME_TEXT

    console = Console()
    table = Table("", "edits", "same text", "same score", "largest difference", "")
    for result in results:
        shares = (f"{result.same_text:.2%}", f"{result.same_score:.2%}", f"{result.largest:.2f}")
        table.add_row(result.name, str(result.edits), *shares, "ok" if result.ok else "[bold red]differs[/]")
    console.print(table)
    console.print(
        f"At least {MIN_SAME_TEXT:.1%} of the texts and {MIN_SAME_SCORE:.1%} of the scores must be the same."
    )
    for result in results:
        for difference in result.differences:
            gap = "unknown gap" if difference.gap is None else f"a gap of {difference.gap:.1e} nats"
            console.print(f"{result.name}, edit {difference.id}: {gap}", style="bold")
            console.print(f"  {difference.reference!r}\n  {difference.other!r}", markup=False)
