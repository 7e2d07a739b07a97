"""`critic eval`: how far a critic's scores can be believed."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from critic.cli import options
from critic.cli.tables import METRICS, POLICIES, cell, console, show_table, write

if TYPE_CHECKING:  # what works is imported where it does: pandas and SciPy are slow, and --help needn't wait
    import pandas as pd

    from critic.evaluation.metrics import Policy

VALUE = "value (95 % interval)"
BY_STAGE = (
    "By the <code>evaluate</code> stage, from the test split, which is scored once, after all choices were made "
    "on validation."
)
BY_COMMAND = "By <code>critic eval</code>, from scores and opinions that it was given."
CEILING = {"panel": "another panel", "rater": "one rater"}


@click.command("eval")
@click.argument("predictions", type=options.FILE)
@options.against
@options.mos_column
@options.policy
@options.train_mean
@click.option(
    "--again",
    type=options.FILE,
    multiple=True,
    help="The same critic's scores with another seed, for its reliability. Can be given several times.",
)
@click.option(
    "--min-gap",
    type=click.FloatRange(0, 4),
    default=0.0,
    show_default=True,
    help="Pairs whose MOS differ by no more points than this don't count in the pairwise accuracy.",
)
@options.json_file
@click.option(
    "--html",
    "html_file",
    type=options.OUT,
    help="Write the report here: needs a table with images, and --train-mean.",
)
@options.n_boot
@options.seed
def command(
    predictions: Path,
    truth: Path,
    mos_column: str,
    policy: "Policy",
    train_mean: float | None,
    again: tuple[Path, ...],
    min_gap: float,
    json_file: Path | None,
    html_file: Path | None,
    n_boot: int,
    seed: int,
) -> None:
    """Tell how well PREDICTIONS agree with people, and how sure that is.

    PREDICTIONS is what `critic score` wrote (.jsonl; failures are found beside it), or a .csv or .parquet with the
    columns id and score, the score empty where the critic failed. The table of --against has the same ids with a
    mos from 1 to 5, and may have more: source_id (or source), so that edits of one picture are resampled together
    and its pairs counted; ratings, whose own agreement is the ceiling; edit_type, editor and source_kind, for
    figures of each.

    \b
    Examples:
      critic eval scores.jsonl --against data/validated/test.parquet
      critic eval scores.csv --against study.csv --policy train_mean --train-mean 3.1
      critic eval seed0.jsonl --again seed1.jsonl --again seed2.jsonl --against study.csv
      critic eval scores.jsonl --against study.csv --json figures.json
      critic eval agiqa.jsonl --against data/validated/agiqa.parquet --mos-column mos_quality

    Where answers failed, the first line has the lowest main score of all policies that are known, so that failing
    gains nothing: give --train-mean for the third. Numbers in brackets are 95 % intervals from resampling source
    images. docs/evaluate.md explains each figure.
    """
    options.check_policy(policy, train_mean)
    if html_file and train_mean is None:
        raise click.UsageError("--html shows all three policies for failed answers: give --train-mean")
    from critic.evaluation.appraisal import appraise
    from critic.evaluation.intervals import plain
    from critic.evaluation.score_tables import TableError, match, read_predictions, read_truth

    try:
        opinions = read_truth(truth, mos_column=mos_column, images=html_file is not None)
        scores, *others = (match(read_predictions(f), opinions, str(f), str(truth)) for f in (predictions, *again))
    except TableError as error:
        raise click.ClickException(str(error)) from None
    if html_file and (missing := {"images", "instruction", "source_id"} - {*opinions.columns}):
        raise click.ClickException(
            f"{truth} has no column {' or '.join(sorted(missing))}: --html shows the edits, so give a validated "
            "Parquet with their images (data/validated/test.parquet is one), or leave --html out"
        )
    boot = {"n_boot": n_boot, "seed": seed}
    try:
        found = appraise(
            scores,
            opinions,
            policy=policy,
            train_mean=train_mean,
            again=others,
            min_gap=min_gap,
            in_points="prompt" not in opinions,
            **boot,
        )
    except ValueError as error:
        raise click.ClickException(str(error)) from None
    if json_file:
        write(json_file, json.dumps(plain(found), indent=2, ensure_ascii=False) + "\n")
    if html_file and train_mean is not None:
        write(html_file, page(scores, opinions, predictions.stem, policy=policy, train_mean=train_mean, **boot))
    show(found, predictions.name, console())


def show(found: dict[str, Any], name: str, out: Console) -> None:
    """Print what `critic.evaluation.appraisal.appraise` found."""
    what, of = ("edits", "source images") if found["in_points"] else ("pictures", "prompts")
    edits = f"{found['edits']:,} {what}" + (f" of {found['sources']:,} {of}" if found["sources"] else "")
    answers = f"{found['scored']:,} scored" + "".join(f", {n:,} {status}" for status, n in found["failed"].items())
    ways = found["policies"]
    way, main = min(ways.items(), key=lambda policy: policy[1].value)
    how = f" with failures {POLICIES[way]}, the lowest of {len(ways)} ways," if found["failed"] else ""
    out.print(f"{name}: main score {cell(main)}{how} on {edits}; {answers}\n")
    _show_agreement(found, out)
    if found["calibration"]:
        _show_calibration(found, out)
    _show_groups(found, out)
    again = found["reliability"]
    if again and again["stopped"]:
        out.print(f"Asked again: no figure, {again['stopped']}.\n")
    elif again:
        rows = [
            ("ICC(2,1), of one score", cell(again["icc"])),
            (f"ICC(2,{again['k']}), of the mean of all", cell(again["icc_mean"])),
            ("mean absolute difference, points", cell(again["difference"])),
        ]
        show_table(out, f"Asked again: {again['k']} {again['of']}, {again['n']:,} edits", ["", VALUE], rows)
    out.print(_upstream(found["upstream"]))


def _show_agreement(found: dict[str, Any], out: Console) -> None:
    rows = [
        (label, cell(found["metrics"][metric])) for metric, label in METRICS.items() if metric in found["metrics"]
    ]
    if pairs := found["pairs"]:
        one = "source" if found["in_points"] else "prompt"
        apart = f" more than {pairs['min_gap']:g} apart" if pairs["min_gap"] else ""
        rows.append((f"pairwise accuracy, {pairs['n']:,} pairs of one {one}{apart}", cell(pairs["accuracy"])))
    for who, label in CEILING.items():
        if who in found["ceiling"]:
            rows.append((f"ceiling: {label}, main score", cell(found["ceiling"][who]["main_score"])))
    note = ""
    if found["failed"]:
        note = f"Failed answers count as: {POLICIES[found['policy']]}."
        rows += [(f"main score, failures {POLICIES[way]}", cell(main)) for way, main in found["policies"].items()]
    show_table(out, "Agreement with people", ["", VALUE], rows, note)


def _show_calibration(found: dict[str, Any], out: Console) -> None:
    of = found["calibration"]
    rows = [
        ("bias, score less MOS, points", cell(of["bias"], signed=True)),
        ("slope of MOS on score, 1 is right", cell(of["slope"])),
        ("intercept, 0 is right", cell(of["intercept"], signed=True)),
        ("expected calibration error, points", cell(of["ece"])),
    ]
    if spread := found["spread"]:
        rows += [
            ("SRCC of spread and absolute error", cell(spread["srcc"])),
            ("share with the MOS within two spreads", cell(spread["covered"])),
        ]
    show_table(out, "Calibration", ["", VALUE], rows)
    bins = [
        (f"{b['low']:.1f} to {b['high']:.1f}", f"{b['n']:,}", f"{b['score']:.2f}", cell(b["mos"], 2))
        for b in of["bins"]
    ]
    show_table(out, "What a score means", ["score", "edits", "mean score", "mean MOS"], bins)


def _show_groups(found: dict[str, Any], out: Console) -> None:
    from critic.evaluation.intervals import SMALLEST_GROUP

    def cells(row: dict[str, Any], *metrics: str) -> list[str]:
        return [f"{row['n']:,}", *(cell(row.get(metric), 2, signed=metric == "bias") for metric in metrics)]

    few = f"Bias: score less MOS. n/a: fewer than {SMALLEST_GROUP} source images."
    for by in dict.fromkeys(row["by"] for row in found["groups"]):
        groups = [
            (row["group"], *cells(row, "main_score", "mae", "bias")) for row in found["groups"] if row["by"] == by
        ]
        title = f"By {by.replace('_', ' ')}"
        show_table(out, title, ["", "edits", "main score", "MAE", "bias"], groups, few)
    bands = [(f"{row['low']} to {row['high']}", *cells(row, "mae", "bias")) for row in found["bands"]]
    note = f"{few} No correlation: within a band it is low for any critic."
    if bands:
        show_table(out, "By MOS", ["MOS", "edits", "MAE", "bias"], bands, note)


def _upstream(of: dict[str, Any]) -> str:
    if of["stopped"]:
        return f"Not counted as IE-Critic-R1 does: {of['stopped']}."
    how = "as its script reads them" if of["read"] == "raw" else "scores as given"
    return (
        f"Counted as IE-Critic-R1 does ({of['n']:,} answers, {of['dropped']:,} dropped, {how}): "
        f"main score {of['main_score']:.4f}, PLCC {of['plcc']:.4f}, SRCC {of['srcc']:.4f}; "
        f"without its fit {of['main_score_unfitted']:.4f}"
    )


def page(
    scores: "pd.DataFrame",
    opinions: "pd.DataFrame",
    name: str,
    *,
    policy: "Policy",
    train_mean: float,
    n_boot: int,
    seed: int,
) -> str:
    """The report of `critic.evaluation.report` on one critic, without curves of its training."""
    import pandas as pd

    from critic.evaluation.evaluate import compute_metrics
    from critic.evaluation.report import build_report
    from critic.scoring.judges.image_metrics import baseline_scores

    predictions = {name: scores.assign(response=scores["raw"].fillna(""))}
    classic, nothing = baseline_scores(opinions), pd.DataFrame()
    boot = {"n_boot": n_boot, "seed": seed}
    evaluation = compute_metrics(predictions, classic, opinions, train_mean=train_mean, policy=policy, **boot)
    meta = {"Mean MOS of training": f"{train_mean:g}"}
    made = build_report(evaluation, predictions, opinions, training=nothing, validation=nothing, meta=meta)
    return made.replace(BY_STAGE, BY_COMMAND)
