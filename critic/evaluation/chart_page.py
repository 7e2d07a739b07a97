"""A page of figures, as `critic compare --html` and `critic rank --html` write it.

The page contains its styles and drawings, and needs no script and no network. Names are escaped.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup


@dataclass(frozen=True)
class Chart:
    """An SVG of `critic.evaluation.figures` with its heading and a caption."""

    heading: str
    svg: str
    caption: str


def chart_page(title: str, lead: str, charts: Sequence[Chart]) -> str:
    """One HTML page.

    Args:
        lead: what was compared on what, and what a leak of the test split means for it.
    """
    environment = Environment(
        loader=PackageLoader("critic.evaluation"), autoescape=True, undefined=StrictUndefined
    )
    shown = [{"heading": chart.heading, "svg": Markup(chart.svg), "caption": chart.caption} for chart in charts]
    return environment.get_template("charts.html.jinja").render(title=title, lead=lead, charts=shown)
