"""`critic eval`: how well a critic's scores agree with people's."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from critic.cli import options
from critic.cli.tables import VALUE, cell, console, show_table
from critic.evaluation.leak import Split, split_of, unknown_leak
from critic.evaluation.metrics import FAILURE_POLICIES, SHOWN
from critic.files import write_json, write_text

if TYPE_CHECKING:  # pandas and SciPy are slow to import, and --help doesn't need them
    import pandas as pd

    from critic.evaluation.published import Comparison

BY_COMMAND = "By critic eval, from the given scores and opinions."
CEILING = {"panel": "another panel", "rater": "one rater"}


@click.command("eval")
@click.argument("predictions", type=options.FILE)
@options.against
@options.preferences
@options.mos_column
@options.failure_policy
@options.train_mean
@options.published
@click.option(
    "--again",
    type=options.FILE,
    multiple=True,
    help="Scores of the same critic with another seed, for its reliability. Can be given several times.",
)
@click.option(
    "--min-gap",
    type=click.FloatRange(0, 4),
    default=0.0,
    help="Leave pairs whose MOS differ by no more than this, in points, out of the pairwise accuracy.",
)
@options.json_file
@click.option(
    "--html",
    "html_file",
    type=options.OUT,
    help="Write the report to this HTML file. Needs a table with images, and --train-mean.",
)
@options.n_boot
@options.seed
def command(
    predictions: Path,
    truth: Path | None,
    preferences: Path | None,
    mos_column: str,
    published: str | None,
    again: tuple[Path, ...],
    min_gap: float,
    json_file: Path | None,
    html_file: Path | None,
    **how: Any,
) -> None:
    """Measure how well PREDICTIONS agree with people's opinions.

    PREDICTIONS is what `critic score` wrote (.jsonl; the failures are read from the .failures.jsonl of that name),
    or a table with the columns id and score, where an empty score is a failed answer. The table of --against has
    the same ids with a mos from 1 to 5. It may have more columns: source_id (or source), to resample the edits of
    one picture together and to count pairs; ratings, whose agreement is the ceiling; edit_type, editor and
    source_kind, for figures by group.

    \b
    Examples:
      critic eval scores.jsonl --against data/validated/test.parquet
      critic eval scores.csv --against study.csv --failure-policy train_mean --train-mean 3.1
      critic eval seed0.jsonl --again seed1.jsonl --again seed2.jsonl --against study.csv
      critic eval scores.jsonl --against study.csv --json figures.json
      critic eval agiqa.jsonl --against data/validated/agiqa.parquet --mos-column mos_quality
      critic eval scores.jsonl --against data/validated/test.parquet --published ie-bench-4k
      critic eval scores.jsonl --preferences pairs.csv

    If answers failed, the first line has the lowest main score of all failure policies, so that a critic gains
    nothing by failing; --train-mean adds the third. Numbers in brackets are 95 % intervals from resampling source
    images. docs/evaluate.md explains each figure.

    With --preferences, people's opinions are which of two edits is better. The accuracy is then given by protocol:
    ties counted, half or left out, by pairs and by whole groups.
    """
    options.check_failure_policy(how["failure_policy"], how["train_mean"])
    of_opinions: dict[str, object] = {"--published": published, "--again": again, "--min-gap": min_gap}
    of_opinions |= {"--html": html_file, "--mos-column": mos_column != "mos"}
    options.check_opinions(truth, preferences, of_opinions=of_opinions)
    if preferences:
        from critic.cli.preferences import evaluate as evaluate_on_preferences

        evaluate_on_preferences(predictions, preferences, json_file, **how)
        return
    assert truth is not None  # checked above
    if html_file and how["train_mean"] is None:
        raise click.UsageError("--html shows all three failure policies: give --train-mean")
    from critic.evaluation.bootstrap import jsonable
    from critic.evaluation.evaluate import evaluate, match
    from critic.evaluation.score_tables import read_predictions, read_truth
    from critic.tables import require_columns

    opinions = read_truth(truth, mos_column=mos_column, images=html_file is not None)
    if html_file:
        fix = "--html shows the edits: give a validated Parquet with their images, or remove --html"
        require_columns(truth, [*opinions.columns], ["images", "instruction", "source_id"], fix)
    scores, *others = (match(read_predictions(f), opinions, str(f), str(truth)) for f in (predictions, *again))
    in_points = "prompt" not in opinions
    split = split_of(truth)
    found = evaluate(scores, opinions, again=others, min_gap=min_gap, in_points=in_points, **how)
    beside = beside_published(published, found, predictions.stem, mos_column, split) if published else None
    if json_file:
        figures = jsonable(found) | ({"published": asdict(beside)} if beside else {})
        write_json(json_file, split.mark(figures) if split else figures, ensure_ascii=False)
    if html_file:
        try:
            write_text(html_file, page(scores, opinions, predictions.stem, split, beside, **how))
        except ValueError as error:  # of a picture
            raise click.ClickException(str(error)) from None
    of = "source images" if in_points else "prompts"
    show(found, predictions.name, split, console(), unknown_leak(truth, of))
    if beside:
        show_published(beside, split, console())


def beside_published(
    benchmark: str, found: dict[str, Any], name: str, mos_column: str, split: Split | None
) -> "Comparison":
    """Our figures beside the published ones of a benchmark; a `UsageError` if the opinions are not those of it."""
    from critic.evaluation.published import AGIQA_SETTING, UPSTREAM, Setting, compare_published, of_upstream

    quality = mos_column == "mos_quality" and not found["in_points"]
    if (benchmark == AGIQA_SETTING.benchmark) != quality:
        fix = "edits: leave --mos-column out" if quality else "quality: give --mos-column mos_quality"
        raise click.UsageError(f"the published figures of {benchmark} are of {fix}")
    if quality:
        ours = {metric: estimate.value for metric, estimate in found["metrics"].items()}
        return compare_published({name: ours}, AGIQA_SETTING)
    setting = Setting(benchmark, UPSTREAM, split.name if split else None)
    return compare_published({name: of_upstream(found["upstream"])}, setting)


def show_published(beside: "Comparison", split: Split | None, out: Console) -> None:
    """Print our figures beside published ones, and why others are not comparable."""
    from critic.evaluation.published import label

    out.print(f"\nBeside published figures: {beside.title}")
    if beside.rows:
        columns = ["", *map(label, beside.metrics)]
        rows = [(row.label, *(_figure(row.values[name]) for name in beside.metrics)) for row in beside.rows]
        show_table(out, "", columns, rows, split=split)
        for row in beside.rows:
            if row.note:
                out.print(f"{row.label}: {row.note}.")
    else:
        out.print("No published figure is comparable with these.")
    for line in beside.not_comparable:
        out.print(f"- {line}")


def _figure(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.4f}"


def show(found: dict[str, Any], name: str, split: Split | None, out: Console, unknown: str = "") -> None:
    """Print the figures of `critic.evaluation.evaluate.evaluate`, with the leak of a known split in each table.

    Args:
        unknown: what is said once of a split that isn't known.
    """
    what, of = ("edits", "source images") if found["in_points"] else ("pictures", "prompts")
    edits = f"{found['edits']:,} {what}" + (f" of {found['sources']:,} {of}" if found["sources"] else "")
    answers = f"{found['scored']:,} scored" + "".join(f", {n:,} {status}" for status, n in found["failed"].items())
    ways = found["policies"]
    way, main = min(ways.items(), key=lambda policy: policy[1].value)
    how = f" with failures {FAILURE_POLICIES[way]}, the lowest of {len(ways)} policies," if found["failed"] else ""
    note = split.note if split else str
    out.print(note(f"{name}: main score {cell(main)}{how} on {edits}; {answers}") + "\n")
    if unknown:
        out.print(f"{unknown}\n")
    _show_agreement(found, split, out)
    if found["calibration"]:
        _show_calibration(found, split, out)
    _show_groups(found, split, out)
    again = found["reliability"]
    if again and again["stopped"]:
        out.print(f"Reliability: no figure, {again['stopped']}.\n")
    elif again:
        rows = [
            ("ICC(2,1), of one score", cell(again["icc"])),
            (f"ICC(2,{again['k']}), of the mean of all", cell(again["icc_mean"])),
            ("mean absolute difference, points", cell(again["difference"])),
        ]
        show_table(out, f"Reliability: {again['k']} {again['of']}, {again['n']:,} edits", ["", VALUE], rows)
    out.print(note(_upstream(found["upstream"])))


def _show_agreement(found: dict[str, Any], split: Split | None, out: Console) -> None:
    shown = {name: metric for name, metric in SHOWN.items() if name in found["metrics"]}
    rows = [(f"{m.label}, {m.description}", cell(found["metrics"][name])) for name, m in shown.items()]
    if pairs := found["pairs"]:
        one = "source" if found["in_points"] else "prompt"
        apart = f" more than {pairs['min_gap']:g} apart" if pairs["min_gap"] else ""
        rows.append((f"pairwise accuracy, {pairs['n']:,} pairs of one {one}{apart}", cell(pairs["accuracy"])))
    for who, label in CEILING.items():
        if who in found["ceiling"]:
            rows.append((f"ceiling: {label}, main score", cell(found["ceiling"][who]["main_score"])))
    note = ""
    if found["failed"]:
        note = f"Failed answers are {FAILURE_POLICIES[found['policy']]}."
        ways = found["policies"].items()
        rows += [(f"main score, failures {FAILURE_POLICIES[way]}", cell(main)) for way, main in ways]
    show_table(out, "Agreement with people", ["", VALUE], rows, note, split)


def _show_calibration(found: dict[str, Any], split: Split | None, out: Console) -> None:
    of = found["calibration"]
    rows = [
        ("bias, score minus MOS, points", cell(of["bias"], signed=True)),
        ("slope of MOS on score, 1 is perfect", cell(of["slope"])),
        ("intercept, 0 is perfect", cell(of["intercept"], signed=True)),
        ("expected calibration error, points", cell(of["ece"])),
    ]
    if spread := found["spread"]:
        rows += [
            ("SRCC of spread and absolute error", cell(spread["srcc"])),
            ("share with the MOS within two spreads", cell(spread["covered"])),
        ]
    show_table(out, "Calibration", ["", VALUE], rows, split=split)
    bins = [
        (f"{b['low']:.1f} to {b['high']:.1f}", f"{b['n']:,}", f"{b['score']:.2f}", cell(b["mos"], 2))
        for b in of["bins"]
    ]
    show_table(out, "MOS by score", ["score", "edits", "mean score", "mean MOS"], bins, split=split)


def _show_groups(found: dict[str, Any], split: Split | None, out: Console) -> None:
    from critic.evaluation.bootstrap import SMALLEST_GROUP

    def cells(row: dict[str, Any], *metrics: str) -> list[str]:
        return [f"{row['n']:,}", *(cell(row.get(metric), 2, signed=metric == "bias") for metric in metrics)]

    few = f"Bias: score minus MOS. n/a: fewer than {SMALLEST_GROUP} source images."
    for by in dict.fromkeys(row["by"] for row in found["groups"]):
        rows = [row for row in found["groups"] if row["by"] == by]
        groups = [(row["group"], *cells(row, "main_score", "mae", "bias")) for row in rows]
        columns = ["", "edits", "main score", "MAE", "bias"]
        show_table(out, f"By {by.replace('_', ' ')}", columns, groups, few, split)
    if bands := [(f"{row['low']} to {row['high']}", *cells(row, "mae", "bias")) for row in found["bands"]]:
        note = f"{few} No correlation, since it is low within a band for any critic."
        show_table(out, "By MOS", ["MOS", "edits", "MAE", "bias"], bands, note, split)


def _upstream(of: dict[str, Any]) -> str:
    if of["stopped"]:
        return f"By the rules of IE-Critic-R1: no figure, {of['stopped']}."
    how = "responses as its script reads them" if of["read"] == "raw" else "scores as given"
    return (
        f"By the rules of IE-Critic-R1 ({of['n']:,} answers, {of['dropped']:,} dropped, {how}): "
        f"main score {of['main_score']:.4f}, PLCC {of['plcc']:.4f}, SRCC {of['srcc']:.4f}; "
        f"main score without the fit {of['main_score_unfitted']:.4f}"
    )


def page(
    scores: "pd.DataFrame",
    opinions: "pd.DataFrame",
    name: str,
    split: Split | None,
    beside: "Comparison | None",
    *,
    train_mean: float,
    **how: Any,
) -> str:
    """The report of `critic.evaluation.report` on one critic, without training curves."""
    import pandas as pd

    from critic.evaluation.evaluate import compute_metrics
    from critic.evaluation.report import build_report
    from critic.scoring.judges.image_metrics import baseline_scores

    predictions = {name: scores.assign(response=scores["raw"].fillna(""))}
    evaluation = compute_metrics(predictions, baseline_scores(opinions), opinions, train_mean=train_mean, **how)
    meta, no_curve = {"Mean MOS of training": f"{train_mean:g}"}, pd.DataFrame()
    return build_report(
        evaluation,
        predictions,
        opinions,
        training=no_curve,
        validation=no_curve,
        meta=meta,
        split=split,
        published=[beside] if beside else [],
        origin=BY_COMMAND,
    )
