"""`critic parity`: the gate that engines, batch sizes and orders don't change a score (`critic.cli.gate`)."""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Literal

import click

_COUNT = click.IntRange(min=1)


@click.command(
    "parity",
    epilog="""\b
Examples:
  critic parity -m models/grpo --pairs data/validated/test.parquet
  critic parity -m models/grpo --pairs pairs.csv --limit 64 --json parity.json""",
)
@click.option("-m", "--model", required=True, envvar="CRITIC_MODEL", show_envvar=True, help="The critic's folder.")
@click.option("--pairs", required=True, type=click.Path(path_type=Path), help="Edits to score, as `critic score`.")
@click.option("--contract", "contract_name", help="As `critic score`.")
@click.option("--dtype", type=click.Choice(["float32", "bfloat16"]), default="float32", show_default=True)
@click.option("--limit", default=400, show_default=True, type=_COUNT, help="Take the first so many.")
@click.option("--batch-size", default=32, show_default=True, type=_COUNT, help="Edits at a time.")
@click.option("--max-tokens", default=1024, show_default=True, type=_COUNT, help="Tokens that an answer may take.")
@click.option("--json", "report", type=click.Path(path_type=Path), help="Write all differences to this file.")
def command(
    model: str,
    pairs: Path,
    contract_name: str | None,
    dtype: Literal["float32", "bfloat16"],
    limit: int,
    batch_size: int,
    max_tokens: int,
    report: Path | None,
) -> None:
    """Score the same edits with every engine, alone and in batches, in order and shuffled.

    The critic is run by transformers, by vLLM in this process and by vLLM behind HTTP, greedily;
    pictures get mixed sizes. Exits with 1 if an engine agrees with transformers on less than 99 % of the
    texts or 99.5 % of the scores, or one with itself in any other order or batch size. Each difference is listed
    with the nats by which transformers preferred its own token where the texts part: near 0, it was a tie.
    """
    from critic.cli import gate  # torch takes seconds to import, which --help and wrong options needn't wait for

    results = gate.run(model, contract_name, pairs, dtype, limit, batch_size, max_tokens)
    gate.show(results)
    if report:
        summary = [asdict(r) | {"same_text": r.same_text, "same_score": r.same_score, "ok": r.ok} for r in results]
        report.write_text(json.dumps(summary, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    if not all(result.ok for result in results):
        sys.exit(1)
