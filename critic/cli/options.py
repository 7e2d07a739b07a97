"""Arguments and options that several commands have."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from critic.cli.tables import POLICIES

if TYPE_CHECKING:
    from critic.evaluation.metrics import Policy

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
OUT = click.Path(dir_okay=False, path_type=Path)

against = click.option(
    "--against",
    "truth",
    type=FILE,
    required=True,
    help="What people said: Parquet or CSV with id and mos (1 to 5).",
)
mos_column = click.option(
    "--mos-column",
    default="mos",
    show_default=True,
    help="Which opinion, as mos_quality or mos_alignment of AGIQA-3k.",
)
policy = click.option(
    "--policy",
    type=click.Choice([*POLICIES]),
    default="worst",
    show_default=True,
    help="What a failed answer counts as: nothing, the end of the scale farthest from the MOS, or --train-mean.",
)
train_mean = click.option(
    "--train-mean", type=click.FloatRange(1, 5), help="Mean MOS of the edits that were learnt from."
)
json_file = click.option("--json", "json_file", type=OUT, help="Write all figures here.")
n_boot = click.option(
    "--n-boot", type=click.IntRange(100), default=1000, show_default=True, help="Bootstrap resamples."
)
seed = click.option("--seed", type=int, default=0, show_default=True, help="Of the bootstrap.")


def check_policy(policy: "Policy", train_mean: float | None) -> None:
    """The default needs nothing that a file of scores doesn't tell; "train_mean" does.

    Raises:
        UsageError: policy "train_mean" without a train mean.
    """
    if policy == "train_mean" and train_mean is None:
        raise click.UsageError(
            "--policy train_mean needs --train-mean, the mean MOS of the edits that were learnt from"
        )
