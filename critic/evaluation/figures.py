"""The report's figures, drawn by matplotlib as SVG to stand inside an HTML page.

Colours are CSS variables of the page (`--ink`, `--muted`, `--grid`, `--series-0` to `--series-2`),
so that one drawing suits light and dark; text stays text. The same input gives the same bytes.
"""

import re
from collections.abc import Callable, Sequence
from html import escape
from io import StringIO
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

SCORES = (1.0, 5.0)
LONGEST_LABEL = 24
# Colours that nothing else draws with; `_svg` puts the CSS variable in their place.
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
    """MOS against predicted score [n], a dot an edit, with the line of equality and the fit.

    Failed predictions (NaN) have no dot. `fitted` maps predicted scores to MOS; None draws none.
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


def bars(groups: pd.DataFrame, models: Sequence[str], *, lowest: float, xlabel: str, title: str) -> str:
    """Horizontal bars: for each `group` a bar for each of `models`, with a whisker for its CI.

    `groups` has the columns group, model, n, value, low, high. The best group of the last model
    comes first. The axis goes from `lowest` to 1, so that figures can be compared.
    """
    last = groups[groups["model"] == models[-1]].sort_values(["value", "group"])
    names = list(last["group"])
    labels = [f"{_short(name)} ({n})" for name, n in zip(names, last["n"], strict=True)]
    thickness = 0.8 / len(models)

    def draw(axes: Axes) -> None:
        for series, model in enumerate(models):
            rows = groups[groups["model"] == model].set_index("group").loc[names]
            y = np.arange(len(names)) + (len(models) / 2 - series - 0.5) * thickness
            spread = np.abs(rows[["low", "high"]].to_numpy().T - rows["value"].to_numpy())
            axes.barh(y, rows["value"], height=thickness * 0.9, color=_SERIES[series])
            axes.errorbar(rows["value"], y, xerr=spread, fmt="none", ecolor=_INK, elinewidth=0.9, capsize=0)
        axes.axvline(0, color=_MUTED, linewidth=0.8)
        axes.set_yticks(range(len(names)), labels)
        axes.set(xlim=(lowest - 0.03, 1.03), xlabel=xlabel)
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
    spread: np.ndarray | None = None,
    smooth: int = 1,
) -> str:
    """A value against the training step [n], with a band of +/- `spread` [n] around it.

    With `smooth` > 1 the bold line is the mean of the last `smooth` steps over the thin raw one.
    """

    def draw(axes: Axes) -> None:
        colour = _SERIES[-1]
        marker = "o" if len(steps) <= 30 else ""
        if spread is not None:
            axes.fill_between(steps, values - spread, values + spread, color=colour, alpha=0.15, linewidth=0)
        if smooth > 1:
            axes.plot(steps, values, color=colour, linewidth=0.7, alpha=0.5)
            mean = pd.Series(values).rolling(smooth, min_periods=1).mean()
            axes.plot(steps, mean, color=colour, linewidth=1.8)
        else:
            axes.plot(steps, values, color=colour, linewidth=1.8, marker=marker, ms=4)
        axes.set(xlabel="GRPO step", ylabel=ylabel)

    return _svg(draw, width=3.6, height=2.7, title=title)


def _short(name: str) -> str:
    return name if len(name) <= LONGEST_LABEL else f"{name[: LONGEST_LABEL - 3]}..."


def _svg(draw: Callable[[Axes], None], *, width: float, height: float, title: str) -> str:
    """An <svg> element of `width` by `height` inches at the page's own scale, named `title`."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        draw(figure.add_subplot())
        buffer = StringIO()
        figure.savefig(
            buffer,
            format="svg",
            transparent=True,
            metadata={"Date": None, "Creator": None, "Format": None, "Type": None},
        )
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, f"var(--{variable})")
    # Ids are the page's, not the drawing's: make them the figure's own.
    name = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", svg)
    size = re.compile(r' (?:width|height)="[\d.]+pt"')
    head, rest = svg.split(">", 1)
    head = size.sub("", head).replace("<svg", f'<svg role="img" aria-label="{escape(title)}"', 1)
    return f"{head}>{rest}"
