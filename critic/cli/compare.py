"""`critic compare`: which of several critics agrees better with people."""

from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from critic.cli import options
from critic.cli.tables import INTERVALS, VALUE, cell, console, outcome, p_value, show_table
from critic.evaluation.leak import Split, split_of, unknown_leak
from critic.evaluation.metrics import FAILURE_POLICIES, SHOWN
from critic.files import write_json, write_text

if TYPE_CHECKING:  # pandas and SciPy are slow to import, and --help doesn't need them
    from critic.evaluation.correlation_tests import Significance

_CLOSER = "Share of the edits on which the row's critic is closer than the column's; the rest are ties."
COMPARED = [metric for metric in SHOWN if metric != "coverage"]


@click.command("compare")
@click.argument("predictions", nargs=-1, type=options.FILE, required=True)
@options.against
@options.preferences
@options.mos_column
@click.option(
    "--name",
    "names",
    multiple=True,
    help="Name of a critic, one for each file, in order. Default: the names of the files.",
)
@click.option(
    "--metric",
    "metrics",
    type=click.Choice(COMPARED),
    multiple=True,
    default=["main_score"],
    help="Metric to compare. Can be given several times.",
)
@options.failure_policy
@options.train_mean
@options.json_file
@options.charts
@options.n_boot
@options.seed
def command(
    predictions: tuple[Path, ...],
    truth: Path | None,
    preferences: Path | None,
    mos_column: str,
    names: tuple[str, ...],
    metrics: tuple[str, ...],
    json_file: Path | None,
    html_file: Path | None,
    **how: Any,
) -> None:
    """Compare how well two or more critics agree with people on the same edits.

    PREDICTIONS are files as `critic eval` reads them, with the same ids. Decide by the paired bootstrap over
    source images, which needs 10 of them: a difference is significant if its interval excludes zero. Williams' t
    and Steiger's z compare PLCC, as papers do; they assume independent edits, which edits of one picture are not.

    \b
    Examples:
      critic compare sft.jsonl grpo.jsonl --against data/validated/test.parquet
      critic compare a.csv b.csv c.csv --against study.csv --metric srcc --metric mae
      critic compare 7b/scores.jsonl 3b/scores.jsonl --name 7B --name 3B --against study.csv --html page.html
      critic compare sft.jsonl grpo.jsonl --preferences pairs.csv

    Among many critics, some differences look significant by chance: 5 critics have 10 differences, and without a
    real one, p is below 0.05 for one in 20.
    """
    if len(predictions) < 2:
        raise click.UsageError("give at least two files of scores; `critic eval` takes one")
    options.check_failure_policy(how["failure_policy"], how["train_mean"])
    if names and len(names) != len(predictions):
        raise click.UsageError(
            f"{len(names)} --name for {len(predictions)} files: give one for each file, in order"
        )
    called = names or tuple(path.stem for path in predictions)
    if len({*called}) < len(called):
        raise click.UsageError(f"two critics have the same name ({', '.join(called)}): give each a --name")
    of_opinions = {
        "--html": html_file,
        "--mos-column": mos_column != "mos",
        "--metric": metrics != ("main_score",),
    }
    options.check_opinions(truth, preferences, of_opinions=of_opinions)
    if preferences:
        from critic.cli.preferences import compare as compare_on_preferences

        compare_on_preferences(predictions, called, preferences, json_file, **how)
        return
    assert truth is not None  # checked above
    from critic.evaluation.bootstrap import jsonable
    from critic.evaluation.compare import compare
    from critic.evaluation.evaluate import match
    from critic.evaluation.score_tables import read_predictions, read_truth

    try:
        opinions = read_truth(truth, mos_column=mos_column)
        tables = [match(read_predictions(path), opinions, str(path), str(truth)) for path in predictions]
        found = compare(
            dict(zip(called, (table["score"] for table in tables), strict=True)),
            opinions["mos"],
            opinions.get("source_id"),
            metrics=[*dict.fromkeys(metrics)],
            in_points="prompt" not in opinions,
            **how,
        )
    except ValueError as error:
        raise click.ClickException(str(error)) from None
    split = split_of(truth)
    if json_file:
        figures = jsonable(found)
        write_json(json_file, split.mark(figures) if split else figures, ensure_ascii=False)
    out = console()
    unknown = unknown_leak(truth, "source images" if found["in_points"] else "prompts")
    if html_file:
        about = f"{len(opinions):,} edits of {truth.name}"
        about = f"{split.note(about) if split else about}. {unknown}".strip()
        write_text(html_file, draw(found, about))
    if unknown:
        out.print(f"{unknown}\n")
    show(found, split, out)


def draw(found: dict[str, Any], about: str) -> str:
    """The figures of `critic.evaluation.compare.compare` as a page; `about` says what they are on."""
    import pandas as pd

    from critic.evaluation import figures
    from critic.evaluation.chart_page import Chart, chart_page

    critics, pairs = found["critics"], found["pairs"]
    charts = []
    for metric in pairs[0]["differences"]:
        label = SHOWN[metric].label
        scores = {name: one[metric] for name, one in critics.items()}
        svg = figures.intervals(scores, xlabel=label, title=f"{label} of each critic")
        charts.append(Chart(f"Each critic: {label}", svg, INTERVALS))
        gains = {f"{pair['a']} - {pair['b']}": pair["differences"][metric] for pair in pairs}
        svg = figures.intervals(gains, xlabel=f"difference in {label}", title=f"Differences in {label}", zero=True)
        charts.append(Chart(f"Differences: {label}", svg, f"{INTERVALS} One that holds 0 isn't significant."))
    if found["in_points"]:
        shares = pd.DataFrame(index=[*critics], columns=[*critics], dtype=float)
        for pair in pairs:
            a, b, closer = pair["a"], pair["b"], pair["closer"]
            shares.loc[a, b], shares.loc[b, a] = closer["a"], closer["b"]
        svg = figures.win_matrix(shares, title="Closer to the MOS")
        charts.append(Chart("Closer to the MOS", svg, _CLOSER))
    return chart_page(f"{', '.join(critics)}: which agrees better with people", about, charts)


def show(found: dict[str, Any], split: Split | None, out: Console) -> None:
    """Print the figures of `critic.evaluation.compare.compare`, with the leak of a known split in each table."""
    critics, pairs = found["critics"], found["pairs"]
    metrics = {metric: SHOWN[metric].label for metric in pairs[0]["differences"]}
    rows = [(name, *(cell(scores[m]) for m in ("coverage", *metrics))) for name, scores in critics.items()]
    note = f"Failed answers are {FAILURE_POLICIES[found['policy']]}."
    show_table(out, "Each critic", ["", "coverage", *metrics.values()], rows, note, split)
    names = [f"{pair['a']} - {pair['b']}" for pair in pairs]
    for metric, label in metrics.items():
        direction = SHOWN[metric].direction
        rows = [
            (name, cell(gain, signed=True), p_value(gain.p), outcome(gain, pair["a"], pair["b"], direction))
            for name, pair in zip(names, pairs, strict=True)
            for gain in [pair["differences"][metric]]
        ]
        lower = " (lower is better)" if direction < 0 else ""
        show_table(out, f"Difference in {label}{lower}", ["", VALUE, "p", ""], rows, split=split)
    tests = [(f"{pair['n']:,}", _test(pair["williams"]), _test(pair["steiger"])) for pair in pairs]
    rows = [(name, *cells) for name, cells in zip(names, tests, strict=True)]
    title, columns = "Difference in PLCC, by the usual tests", ["", "edits", "Williams' t", "Steiger's z"]
    note = "They assume independent edits, also of one source image: decide by the intervals above."
    show_table(out, title, columns, rows, note, split)
    if not found["in_points"]:
        return
    closer = {(p["a"], p["b"]): p["closer"]["a"] for p in pairs}
    closer |= {(p["b"], p["a"]): p["closer"]["b"] for p in pairs}
    rows = [(name, *(f"{closer[name, o]:.1%}" if o != name else "" for o in critics)) for name in critics]
    show_table(out, "Closer to the MOS", ["", *critics], rows, _CLOSER, split)


def _test(found: "Significance") -> str:
    return f"{found.statistic:+.2f}, p {p_value(found.p)}" if isfinite(found.p) else "n/a"
