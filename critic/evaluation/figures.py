"""The report's figures, drawn by matplotlib as SVG for an HTML page.

Colours are CSS variables of the page (`--ink`, `--muted`, `--grid`, `--series-0` to `--series-2`), so one drawing
suits light and dark pages. Text stays text. The same input gives the same bytes. A title is the name of a figure
for screen readers.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from html import escape
from io import StringIO
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from critic.evaluation.bootstrap import Estimate

SCORES = (1.0, 5.0)
LONGEST_LABEL = 24
# Colours that nothing else uses; `_svg` replaces them by CSS variables.
_INK, _MUTED, _GRID = "#010001", "#010002", "#010003"
_SERIES = ("#010004", "#010005", "#010006")
_VARIABLES = {_INK: "ink", _MUTED: "muted", _GRID: "grid"} | {
    colour: f"series-{index}" for index, colour in enumerate(_SERIES)
}
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "critic",
    "font.size": 9.5,
    "text.parse_math": False,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _MUTED,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _GRID,
    "grid.linewidth": 0.6,
    "xtick.color": _MUTED,
    "ytick.color": _MUTED,
    "xtick.labelcolor": _INK,
    "ytick.labelcolor": _INK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
}


def scatter(
    predicted: np.ndarray,
    mos: np.ndarray,
    fitted: Callable[[np.ndarray], np.ndarray] | None,
    *,
    series: int,
    title: str,
) -> str:
    """MOS against predicted score, a dot an edit, with the line of equality and the fit.

    Args:
        predicted, mos: scores (NaN for failed answers, which have no dot) and MOS, [n] each.
        fitted: the curve from predicted scores to MOS; None draws none.
        series: 0..2, the model's colour.
    """

    def draw(axes: Axes) -> None:
        parsed = np.isfinite(predicted)
        axes.plot(SCORES, SCORES, color=_MUTED, linewidth=0.8, linestyle=(0, (4, 3)))
        axes.plot(predicted[parsed], mos[parsed], "o", color=_SERIES[series], ms=3.6, mew=0, alpha=0.4)
        if fitted is not None and parsed.any():
            x = np.linspace(predicted[parsed].min(), predicted[parsed].max(), 100)
            axes.plot(x, fitted(x), color=_INK, linewidth=1.6)
        margin = 0.15
        limits = (SCORES[0] - margin, SCORES[1] + margin)
        axes.set(xlim=limits, ylim=limits, xlabel="predicted score", ylabel="MOS", aspect="equal")
        axes.set(xticks=range(1, 6), yticks=range(1, 6))

    return _svg(draw, width=3.6, height=3.5, title=title)


def bars(groups: pd.DataFrame, models: Sequence[str], *, lowest: float, title: str) -> str:
    """Main scores as horizontal bars: for each group a bar for each model, with a whisker for its interval.

    Args:
        groups: group, model, n, value, low, high. A model may lack a group.
        models: names in `groups`; the last one's best group is on top.
        lowest: the axis goes from here to 1, so that figures can be compared.
    """
    sizes = groups.groupby("group")["n"].first()
    last = groups[groups["model"] == models[-1]].set_index("group")["value"].reindex(sizes.index)
    names = [*last.sort_values(kind="stable", na_position="first").index]
    short = [_shorten(name) for name in names]
    labels = [f"{label} ({sizes[name]})" for label, name in zip(short, names, strict=True)]
    thickness = 0.8 / len(models)

    def draw(axes: Axes) -> None:
        for series, model in enumerate(models):
            rows = groups[groups["model"] == model].set_index("group").reindex(names)
            y = np.arange(len(names)) + (len(models) / 2 - series - 0.5) * thickness
            whiskers = np.abs(rows[["low", "high"]].to_numpy().T - rows["value"].to_numpy())
            axes.barh(y, rows["value"], height=thickness * 0.9, color=_SERIES[series])
            axes.errorbar(rows["value"], y, xerr=whiskers, fmt="none", ecolor=_INK, elinewidth=0.9, capsize=0)
        axes.axvline(0, color=_MUTED, linewidth=0.8)
        axes.set_yticks(range(len(names)), labels)
        axes.set(xlim=(lowest - 0.03, 1.03), xlabel="main score")
        axes.set_ylim(-0.6, len(names) - 0.4)
        axes.grid(visible=False, axis="y")
        axes.spines["left"].set_visible(False)

    return _svg(draw, width=4.6, height=0.7 + 0.42 * len(names), title=title)


def curve(
    steps: np.ndarray,
    values: np.ndarray,
    *,
    ylabel: str,
    title: str,
    std: np.ndarray | None = None,
    smooth: int = 1,
) -> str:
    """A value against the training step.

    Args:
        std: half the height of a band around the line, [n]; None draws none.
        smooth: points in the running mean, drawn bold over the thin raw line; 1 draws the raw line alone.
    """

    def draw(axes: Axes) -> None:
        axes.set_prop_cycle(color=[_SERIES[-1]])
        if std is not None:
            axes.fill_between(steps, values - std, values + std, alpha=0.15, linewidth=0)
        if smooth > 1:
            axes.plot(steps, values, linewidth=0.7, alpha=0.5)
            axes.plot(steps, pd.Series(values).rolling(smooth, min_periods=1).mean(), linewidth=1.8)
        else:
            axes.plot(steps, values, linewidth=1.8, marker="o" if len(steps) <= 30 else "", ms=4)
        axes.set(xlabel="GRPO step", ylabel=ylabel)

    return _svg(draw, width=3.6, height=2.7, title=title)


def intervals(estimates: Mapping[str, Estimate], *, xlabel: str, title: str, zero: bool = False) -> str:
    """A dot and the 95 % interval of each figure, the first on top; one that isn't defined has neither.

    Args:
        zero: draw a line at 0, for differences.
    """
    found = [*estimates.items()][::-1]
    short = [_shorten(name) for name, _ in found]

    def draw(axes: Axes) -> None:
        if zero:
            axes.axvline(0, color=_MUTED, linewidth=0.8, linestyle=(0, (4, 3)))
        for y, (_, one) in enumerate(found):
            axes.plot([one.low, one.high], [y, y], color=_SERIES[1], linewidth=1.8)
            axes.plot([one.value], [y], "o", color=_SERIES[2], ms=5.5, mew=0)
        axes.set_yticks(range(len(found)), short)
        axes.set(xlabel=xlabel, ylim=(-0.6, len(found) - 0.4))
        axes.grid(visible=False, axis="y")
        axes.spines["left"].set_visible(False)

    return _svg(draw, width=5.6, height=0.8 + 0.34 * len(found), title=title)


def win_matrix(shares: pd.DataFrame, *, title: str) -> str:
    """How often the row wins over the column, 0..1, [names, names]; NaN leaves a cell blank."""
    names = [_shorten(name) for name in shares.index]

    def draw(axes: Axes) -> None:
        for row, values in enumerate(shares.to_numpy(float)):
            for column, share in enumerate(values):
                if np.isfinite(share):
                    cell = Rectangle((column - 0.48, row - 0.48), 0.96, 0.96, color=_SERIES[1], alpha=share, lw=0)
                    axes.add_patch(cell)
                    axes.text(column, row, f"{share:.0%}", ha="center", va="center")
        axes.set_xticks(range(len(names)), names, rotation=30, ha="left", rotation_mode="anchor")
        axes.set_yticks(range(len(names)), names)
        axes.xaxis.tick_top()
        axes.set(xlim=(-0.5, len(names) - 0.5), ylim=(len(names) - 0.5, -0.5), aspect="equal")
        axes.grid(visible=False)
        for side in ("left", "bottom"):
            axes.spines[side].set_visible(False)

    side = 1.8 + 0.6 * len(names)
    return _svg(draw, width=side, height=side * 0.8, title=title)


def _shorten(name: str) -> str:
    return name if len(name) <= LONGEST_LABEL else f"{name[: LONGEST_LABEL - 3]}..."


def _svg(draw: Callable[[Axes], None], *, width: float, height: float, title: str) -> str:
    """An <svg> element, drawn on `width` by `height` inches and scaled by the page."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        draw(figure.add_subplot())
        buffer = StringIO()
        metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=metadata)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, f"var(--{variable})")
    # Ids must be unique in the page.
    name = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", svg)
    head, rest = svg.split(">", 1)
    head = re.sub(r' (?:width|height)="[\d.]+pt"', "", head)
    head = head.replace("<svg", f'<svg role="img" aria-label="{escape(title)}"', 1)
    return f"{head}>{rest}"
