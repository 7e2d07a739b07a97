"""What commands that score many pairs have in common."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from critic.scoring.resumable import Tally

_Command = Callable[..., Any]


def bulk_options(command: _Command) -> _Command:
    """Which pairs of a table or folder are scored, and what its columns are called."""
    for option in reversed(
        [
            click.option("--retry-failed", is_flag=True, help="Score again what failed before."),
            click.option("--limit", type=click.IntRange(min=1), help="Only the first so many."),
            click.option("--source-column", help="[default: source]"),
            click.option("--edited-column", help="[default: edited]"),
            click.option("--instruction-column", help="[default: instruction or edit_inst]"),
            click.option("--id-column", help="[default: id, else the row's number]"),
        ]
    ):
        command = option(command)
    return command


def finish(tally: "Tally", out: Path) -> None:
    """Say what became of the pairs, and exit with 1 if any is without a score."""
    click.echo(tally.describe())
    if tally.failed or tally.skipped_failures:
        click.echo(f"The failures, with their reasons: {out.with_suffix('.failures.jsonl')}")
        sys.exit(1)
