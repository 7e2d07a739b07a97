"""`critic score`: one edit, or a file or folder of them (`critic.cli.scoring`)."""

import sys
from pathlib import Path
from typing import Any

import click

from critic.cli.bulk import bulk_options, finish
from critic.cli.model import model_options
from critic.results import MODES

_PATH = click.Path(path_type=Path)


@click.command(
    "score",
    epilog="""\b
Examples:
  critic score -m models/grpo --source cat.png --edited red.png --instruction "make the cat red"
  critic score -m models/grpo pairs.csv --out scores.jsonl
  critic score -m models/grpo pairs.csv --out scores.jsonl --retry-failed
  critic score -m models/grpo edits/ --out scores.jsonl --mode average --samples 8
  critic score -m http://127.0.0.1:8000/v1 --engine http pairs.csv --out scores.jsonl
  critic score -m models/7b data/validated/agiqa.parquet --out agiqa.jsonl
  critic score -m /shared/grpo /shared/pairs.csv --out scores.jsonl --workers 16 --ray 10.0.0.1:6379""",
)
@click.argument("pairs", required=False, type=_PATH)
@click.option("--source", type=_PATH, help="One edit: the picture before.")
@click.option("--edited", type=_PATH, help="One edit: the picture after.")
@click.option("--instruction", help="One edit: what was asked for.")
@click.option("--image", type=_PATH, help="One generated picture.")
@click.option("--prompt", help="One generated picture: the text that it was made from.")
@click.option("--out", type=_PATH, help="The .jsonl file that scores are appended to.")
@model_options
@click.option(
    "--mode",
    type=click.Choice(MODES),
    default="greedy",
    show_default=True,
    help="greedy: the likeliest answer. direct: without reasoning. average: the mean of samples. expected: the "
    "mean over the probabilities of the answer's digits; of servers, vLLM and SGLang can.",
)
@click.option("--samples", default=8, show_default=True, type=click.IntRange(min=2), help="Of mode average.")
@click.option(
    "--temperature",
    default=1.0,
    show_default=True,
    type=click.FloatRange(0, 2, min_open=True),
    help="Of mode average.",
)
@click.option("--seed", default=0, show_default=True, help="Of mode average.")
@click.option(
    "--workers", default=1, show_default=True, type=click.IntRange(min=1), help="Critics at work at a time."
)
@click.option(
    "--ray",
    "cluster",
    metavar="HOST:PORT",
    help="The Ray cluster whose machines they work on.  [default: this machine]",
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
    source_column: str | None,
    edited_column: str | None,
    instruction_column: str | None,
    id_column: str | None,
    **chosen: Any,
) -> None:
    """Score edits from 1 (very bad) to 5 (excellent).

    PAIRS is a .csv, .jsonl or .parquet file with the columns source, edited and instruction, or a folder; see
    docs/score.md. Scores are appended to --out, failures to a file beside it with their reasons; killed, the same
    command goes on where it stopped. Without PAIRS, one edit is scored and shown. Exits with 1 if any edit failed.

    A table with the columns image and prompt holds generated pictures, whose prompts are judged by; so are --image
    and --prompt, for a critic whose contract has words for them.
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
    spread = workers > 1 or cluster is not None
    if spread and (pairs is None or chosen["kind"] == "http"):
        raise click.UsageError(
            "--workers and --ray go with PAIRS and --engine vllm or transformers; "
            "a server is sent as many requests at a time as --batch-size says"
        )
    from critic.cli import scoring  # after the checks: it imports torch, which takes seconds

    if pairs is None or out is None:
        verdict = scoring.score_one(edit, picture, **chosen)
        scoring.show(verdict)
        sys.exit(0 if verdict.ok else 1)
    columns = {
        "source_column": source_column,
        "edited_column": edited_column,
        "instruction_column": instruction_column,
        "id_column": id_column,
    }
    tally = scoring.score_many(
        pairs,
        out,
        columns,
        retry_failed=retry_failed,
        limit=limit,
        workers=workers if spread else None,
        cluster=cluster,
        **chosen,
    )
    finish(tally, out)
