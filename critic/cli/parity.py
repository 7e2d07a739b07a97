"""The options of `critic parity`; `critic.cli.parity_check` does the work."""

import sys
from pathlib import Path
from typing import Any

import click

from critic.cli.options import COUNT, DTYPE, OUT, model_option


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
    from critic.cli import parity_check  # after the checks of the options, since it imports torch

    results = parity_check.run(**options)
    parity_check.show(results)
    if report:
        parity_check.write(results, report)
    if not all(result.ok for result in results):
        sys.exit(1)
