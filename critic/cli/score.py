"""The options of `critic score`; `critic.cli.scoring` does the work."""

import sys
from pathlib import Path
from typing import Any

import click

from critic.cli.options import COLUMNS, COUNT, bulk_options, finish, mode_options, model_options

_PATH = click.Path(path_type=Path)


@click.command(
    "score",
    epilog="""\b
Examples:
  critic score -m models/grpo --source cat.png --edited red.png --instruction "make the cat red"
  critic score -m models/grpo pairs.csv --out scores.jsonl
  critic score -m models/grpo pairs.csv --out scores.jsonl --retry-failed
  critic score -m models/grpo edits/ --out scores.jsonl --mode average --samples 8
  critic score -m http://127.0.0.1:8000/v1 --engine http --contract ie-critic pairs.csv --out scores.jsonl
  critic score -m models/7b data/validated/agiqa.parquet --out agiqa.jsonl
  critic score -m /shared/grpo /shared/pairs.csv --out scores.jsonl --workers 16 --ray 10.0.0.1:6379""",
)
@click.argument("pairs", required=False, type=_PATH)
@click.option("--source", type=_PATH, help="The picture before the edit, to score one edit.")
@click.option("--edited", type=_PATH, help="The picture after the edit, to score one edit.")
@click.option("--instruction", help="The instruction of the edit, to score one edit.")
@click.option("--image", type=_PATH, help="The picture, to score one generated picture.")
@click.option("--prompt", help="The text that the picture was made from, to score one generated picture.")
@click.option("--out", type=_PATH, help="The .jsonl file to which scores are appended.")
@model_options
@mode_options
@click.option("--seed", default=0, help="The seed of the samples in mode average.")
@click.option("--workers", default=1, type=COUNT, metavar="N", help="Score with N critics at a time.")
@click.option(
    "--ray",
    "cluster",
    metavar="HOST:PORT",
    help="The head of the Ray cluster that runs the workers.  [default: this machine]",
)
@bulk_options
def command(
    pairs: Path | None,
    source: Path | None,
    edited: Path | None,
    instruction: str | None,
    image: Path | None,
    prompt: str | None,
    out: Path | None,
    workers: int,
    cluster: str | None,
    retry_failed: bool,
    limit: int | None,
    **chosen: Any,
) -> None:
    """Score edits from 1 (very bad) to 5 (excellent).

    PAIRS is a .csv, .jsonl or .parquet file with the columns source, edited and instruction, or a folder; see
    docs/score.md. Scores are appended to --out, and failures with their reasons to a .failures.jsonl file of the
    same name. After a kill, the same command continues where it stopped. Without PAIRS, one edit is scored and
    shown. The exit code is 1 if any edit failed.

    A table with the columns image and prompt holds generated pictures. These, and --image with --prompt, are
    scored by how well they match their prompt; the critic's contract must support that.
    """
    edit, picture = (source, edited, instruction), (image, prompt)
    given = [part is not None for part in (*edit, *picture)]
    if pairs is None and given not in ([True] * 3 + [False] * 2, [False] * 3 + [True] * 2):
        raise click.UsageError(
            "give PAIRS and --out, or --source, --edited and --instruction, or --image and --prompt"
        )
    if pairs is not None and (out is None or any(given)):
        raise click.UsageError(
            "PAIRS goes with --out, and without --source, --edited, --instruction, --image and --prompt"
        )
    several = workers > 1 or cluster is not None
    if several and (pairs is None or chosen["kind"] == "http"):
        raise click.UsageError(
            "--workers and --ray go with PAIRS and --engine vllm or transformers; "
            "with --engine http, --batch-size sets how many requests the server gets at a time"
        )
    from critic.cli import scoring  # after the checks, since it imports torch

    columns = {name: chosen.pop(name) for name in COLUMNS}
    if pairs is None or out is None:
        one: Any = edit if image is None else (None, *picture)
        result = scoring.score_one(*one, **chosen)
        scoring.show(result)
        sys.exit(0 if result.ok else 1)
    tally = scoring.score_many(
        pairs,
        out,
        columns,
        retry_failed=retry_failed,
        limit=limit,
        workers=workers if several else None,
        cluster=cluster,
        **chosen,
    )
    finish(tally, out)
