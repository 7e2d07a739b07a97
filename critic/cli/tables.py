"""What the commands print, and how they leave files."""

import os
import sys
from collections.abc import Iterable, Sequence
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from critic.evaluation.metrics import Estimate

METRICS = {
    "main_score": "main score, the mean of PLCC and SRCC",
    "main_score_fitted": "main score, fitted",
    "plcc": "PLCC, linear correlation",
    "plcc_fitted": "PLCC after the logistic fit",
    "srcc": "SRCC, rank correlation",
    "krcc": "KRCC, rank correlation",
    "mae": "MAE, points",
    "rmse": "RMSE, points",
    "spread": "standard deviation of the scores, points",
    "coverage": "coverage, share of edits with a score",
}
POLICIES = {
    "dropped": "left out",
    "worst": "as far off as can be",
    "train_mean": "the training mean",
}


def console() -> Console:
    """Standard output. Names of files, editors and models are printed as they are: no markup, no emoji."""
    return Console(width=None if sys.stdout.isatty() else 110, markup=False, emoji=False, highlight=False)


def show_table(
    out: Console, title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], note: str = ""
) -> None:
    """Print a table whose first column is text and whose others are numbers."""
    made = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD)
    for number, column in enumerate(columns):
        made.add_column(column, justify="right" if number else "left")
    for row in rows:
        made.add_row(*row)
    out.print(made)
    if note:
        out.print(f"  {note}\n")


def cell(estimate: "Estimate | None", digits: int = 3, *, signed: bool = False) -> str:
    """A value with its interval, "n/a" where it is not defined."""
    if estimate is None or not isfinite(estimate.value):
        return "n/a"
    shape = f"{'+' if signed else ''}.{digits}f"
    if not isfinite(estimate.low):
        return f"{estimate.value:{shape}}"
    return f"{estimate.value:{shape}} ({estimate.low:{shape}} to {estimate.high:{shape}})"


def p_value(p: float) -> str:
    """A p-value to three digits."""
    if not isfinite(p):
        return "n/a"
    return f"{p:.3f}" if p >= 0.001 else "<0.001"


def write(path: Path, text: str) -> None:
    """Write a file whole or not at all.

    Raises:
        ClickException: it can't be written.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, path)
    except OSError as error:
        raise click.ClickException(f"{path} can't be written: {error.strerror}") from None
