"""Tables and figures as the commands print them."""

import sys
from collections.abc import Iterable, Sequence
from math import isfinite
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from critic.evaluation.bootstrap import Difference, Estimate
    from critic.evaluation.leak import Split

VALUE = "value (95 % interval)"
INTERVALS = "Lines: 95 % intervals, from resampling source images."


def console() -> Console:
    """Standard output, where names of files, editors and models are printed unchanged: no markup, no emoji."""
    return Console(width=None if sys.stdout.isatty() else 110, markup=False, emoji=False, highlight=False)


def show_table(
    out: Console,
    title: str,
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
    note: str = "",
    split: "Split | None" = None,
) -> None:
    """Print a table whose first column is text, the others numbers, and below it the leak of a known `split`."""
    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD)
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left")
    for row in rows:
        table.add_row(*row)
    out.print(table)
    leak = f"This test split {split.leak}." if split and split.leak else ""
    if note or leak:
        out.print(f"  {' '.join(filter(None, (note, leak)))}\n")


def cell(estimate: "Estimate | None", digits: int = 3, *, signed: bool = False) -> str:
    """A value with its interval, "n/a" if it is not defined."""
    if estimate is None or not isfinite(estimate.value):
        return "n/a"
    shape = f"{'+' if signed else ''}.{digits}f"
    if not isfinite(estimate.low):
        return f"{estimate.value:{shape}}"
    return f"{estimate.value:{shape}} ({estimate.low:{shape}} to {estimate.high:{shape}})"


def outcome(gain: "Difference", a: str, b: str, direction: int = 1) -> str:
    """What a difference, a minus b, says of the two; `direction` as in `critic.evaluation.metrics.Metric`."""
    from critic.evaluation.bootstrap import SMALLEST_GROUP  # imports numpy, which is slow

    if not isfinite(gain.p):
        return f"fewer than {SMALLEST_GROUP} source images"
    if gain.p >= 0.05:
        return "not significant"
    return f"{a if gain.value * direction > 0 else b} is better" if direction else "different"


def p_value(p: float) -> str:
    """A p-value to three digits, "n/a" if it is not defined."""
    if not isfinite(p):
        return "n/a"
    return f"{p:.3f}" if p >= 0.001 else "<0.001"
