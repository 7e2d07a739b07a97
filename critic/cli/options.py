"""Options that several commands share."""

import sys
from collections.abc import Callable, Mapping
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from critic.evaluation.metrics import FAILURE_POLICIES, FailurePolicy
from critic.results import MODES

if TYPE_CHECKING:
    from critic.scoring.resumable import Tally

_Command = Callable[..., Any]

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
OUT = click.Path(dir_okay=False, path_type=Path)
COUNT = click.IntRange(min=1)
DTYPE = click.Choice(["float32", "bfloat16"])
COLUMNS = ("source_column", "edited_column", "instruction_column", "id_column")
"""The names of the columns, among `column_options`; they go to `critic.scoring.inputs.read_pairs`."""

against = click.option(
    "--against",
    "truth",
    type=FILE,
    help="Table of opinions, with id and mos (1 to 5): Parquet, CSV, JSONL or JSON.",
)
preferences = click.option(
    "--preferences",
    type=FILE,
    help="Table of pairs, with edited_a, edited_b and winner (the id of one, or tie), instead of --against.",
)
mos_column = click.option(
    "--mos-column",
    default="mos",
    help="Column of --against with the MOS, as mos_quality or mos_alignment of AGIQA-3k.",
)
published = click.option(
    "--published",
    type=click.Choice(["ie-bench-4k", "agiqa-3k"]),
    help="Show the published figures of this benchmark beside these, and say which are not comparable.",
)
failure_policy = click.option(
    "--failure-policy",
    "--policy",
    type=click.Choice([*FAILURE_POLICIES]),
    default="worst",
    help="Score of a failed answer: none, the end of the scale farthest from the MOS, or --train-mean.",
)
train_mean = click.option(
    "--train-mean", type=click.FloatRange(1, 5), help="Mean MOS of the edits that the critic was trained on."
)
json_file = click.option("--json", "json_file", type=OUT, help="Write all figures to this JSON file.")
charts = click.option("--html", "html_file", type=OUT, help="Draw the figures on a page, in this HTML file.")
n_boot = click.option("--n-boot", type=click.IntRange(100), default=1000, help="Number of bootstrap resamples.")
seed = click.option("--seed", type=int, default=0, help="Seed of the bootstrap.")


def check_failure_policy(failure_policy: FailurePolicy, train_mean: float | None) -> None:
    """Raise a `UsageError` for failure policy "train_mean" without a train mean."""
    if failure_policy == "train_mean" and train_mean is None:
        raise click.UsageError(
            "--failure-policy train_mean needs --train-mean, the mean MOS of the critic's training edits"
        )


def check_opinions(truth: Path | None, preferences: Path | None, *, of_opinions: Mapping[str, object]) -> None:
    """Raise a `UsageError` unless one of --against and --preferences is given.

    Args:
        of_opinions: options that need --against, by name: whether each was given.
    """
    if (truth is None) == (preferences is None):
        raise click.UsageError("give either --against or --preferences")
    if preferences and (given := [name for name, value in of_opinions.items() if value]):
        raise click.UsageError(f"{', '.join(given)} needs --against")


def together(*options: Callable[[_Command], _Command]) -> Callable[[_Command], _Command]:
    """One decorator that adds several options, in this order."""
    return lambda command: reduce(lambda added, option: option(added), reversed(options), command)


def model_option(help: str, *, required: bool = True) -> Callable[[_Command], _Command]:
    """The option that names a critic."""
    return click.option("-m", "--model", required=required, envvar="CRITIC_MODEL", show_envvar=True, help=help)


engine_options = together(
    click.option("--revision", help="The commit, tag or branch of a model on the hub."),
    click.option(
        "--engine",
        "kind",
        type=click.Choice(["vllm", "transformers", "http"]),
        default="vllm",
        help="The engine that runs the critic.",
    ),
    click.option(
        "--contract", help="The prompt contract: a name or a .yaml file.  [default: the one in the model's folder]"
    ),
    click.option(
        "--dtype", type=DTYPE, help="The dtype of the weights.  [default: bfloat16 on a GPU, float32 without]"
    ),
    click.option("--max-tokens", default=1024, type=COUNT, help="Completion tokens for one answer."),
    click.option("--batch-size", default=64, type=COUNT, help="Requests that the engine gets at a time."),
    click.option(
        "--key-variable",
        help="With --engine http, the environment variable that holds the API key.  [default: no key]",
    ),
    click.option(
        "--timeout",
        default=120.0,
        type=click.FloatRange(0, min_open=True),
        help="With --engine http, the seconds for one attempt.",
    ),
)
"""Choose a critic's engine."""
WHICH = (
    "The critic: a folder, a name on the hub, or with --engine http the address of a server up to /v1, with #NAME "
    "after it if the server has several models."
)
model_options = together(model_option(WHICH), engine_options)
"""Choose a critic and its engine: the arguments of `critic.engines.load.open_engine`."""

mode_options = together(
    click.option(
        "--mode",
        type=click.Choice(MODES),
        default="greedy",
        help="How a score is made. greedy: the likeliest answer; direct: the same without reasoning; average: the "
        "mean of samples; expected: the mean over the probabilities of the answer's digits (servers: vLLM and "
        "SGLang only).",
    ),
    click.option(
        "--samples",
        default=8,
        type=click.IntRange(min=2),
        metavar="N",
        help="Average N samples in mode average.",
    ),
    click.option(
        "--temperature",
        default=1.0,
        type=click.FloatRange(0, 2, min_open=True),
        help="The temperature of the samples in mode average.",
    ),
)
"""Choose how an edit is scored."""

scored_pairs = click.option(
    "--pairs", type=FILE, required=True, help="Table of the scored edits, with id: CSV, JSONL or Parquet."
)
kept_out = click.option(
    "--out", type=OUT, required=True, help="File for the chosen rows of --pairs, in the same format and folder."
)
retry_failed = click.option("--retry-failed", is_flag=True, help="Score pairs again that failed before.")
column_options = together(
    click.option("--source-column", help="The column of the picture before the edit.  [default: source]"),
    click.option("--edited-column", help="The column of the picture after the edit.  [default: edited]"),
    click.option(
        "--instruction-column", help="The column of the instruction.  [default: instruction or edit_inst]"
    ),
    click.option("--id-column", help="The column of the id.  [default: id, or the row's number]"),
)
"""Name the columns of a table of pairs: `COLUMNS`."""
bulk_options = together(
    retry_failed,
    click.option("--limit", type=COUNT, metavar="N", help="Score only the first N pairs."),
    column_options,
)
"""Choose pairs of a table and name its columns."""


def finish(tally: "Tally", out: Path) -> None:
    """Print the counts, and exit with 1 if any pair has no score."""
    click.echo(tally.describe())
    if tally.failed or tally.skipped_failures:
        click.echo(f"The failures with their reasons: {out.with_suffix('.failures.jsonl')}")
        sys.exit(1)
