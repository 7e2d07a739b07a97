"""`critic compare`: which of several critics is better."""

import json
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from critic.cli import options
from critic.cli.tables import METRICS, POLICIES, cell, console, p_value, show_table, write

if TYPE_CHECKING:  # what works is imported where it does: pandas and SciPy are slow, and --help needn't wait
    from critic.evaluation.correlation_tests import Significance
    from critic.evaluation.metrics import Policy

COMPARED = [metric for metric in METRICS if metric != "coverage"]
SMALLER_IS_BETTER = ("mae", "rmse")


@click.command("compare")
@click.argument("predictions", nargs=-1, type=options.FILE, required=True)
@options.against
@options.mos_column
@click.option("--name", "names", multiple=True, help="Of each critic, in order; without any, the files' names.")
@click.option(
    "--metric",
    "metrics",
    type=click.Choice(COMPARED),
    multiple=True,
    default=["main_score"],
    show_default=True,
    help="What is compared. Can be given several times.",
)
@options.policy
@options.train_mean
@options.json_file
@options.n_boot
@options.seed
def command(
    predictions: tuple[Path, ...],
    truth: Path,
    mos_column: str,
    names: tuple[str, ...],
    metrics: tuple[str, ...],
    policy: "Policy",
    train_mean: float | None,
    json_file: Path | None,
    n_boot: int,
    seed: int,
) -> None:
    """Tell which of two or more critics agrees better with people on the same edits.

    PREDICTIONS are files as `critic eval` reads them, with the same ids. The test to go by is the paired bootstrap
    over source images, of which it needs 10: if the interval of a difference leaves zero out, it's more than
    chance. Williams' t and Steiger's z compare PLCC as papers do; they take edits of one picture for independent,
    which they aren't.

    \b
    Examples:
      critic compare sft.jsonl grpo.jsonl --against data/validated/test.parquet
      critic compare a.csv b.csv c.csv --against study.csv --metric srcc --metric mae
      critic compare 7b/scores.jsonl 3b/scores.jsonl --name 7B --name 3B --against study.csv

    With many critics some differences look real by chance: with 5 there are 10, and one in 20 has p below 0.05
    where there is none.
    """
    if len(predictions) < 2:
        raise click.UsageError("give at least two files of scores; `critic eval` is for one")
    options.check_policy(policy, train_mean)
    if names and len(names) != len(predictions):
        raise click.UsageError(f"{len(names)} --name for {len(predictions)} files: give each file one, in order")
    called = names or tuple(path.stem for path in predictions)
    if len({*called}) < len(called):
        raise click.UsageError(f"two critics would be called the same ({', '.join(called)}): give each a --name")
    from critic.evaluation.compare import compare as compare_critics
    from critic.evaluation.intervals import plain
    from critic.evaluation.score_tables import TableError, match, read_predictions, read_truth

    try:
        opinions = read_truth(truth, mos_column=mos_column)
        tables = [match(read_predictions(path), opinions, str(path), str(truth)) for path in predictions]
    except TableError as error:
        raise click.ClickException(str(error)) from None
    try:
        found = compare_critics(
            dict(zip(called, (table["score"] for table in tables), strict=True)),
            opinions["mos"],
            opinions.get("source_id"),
            metrics=[*dict.fromkeys(metrics)],
            policy=policy,
            train_mean=train_mean,
            in_points="prompt" not in opinions,
            n_boot=n_boot,
            seed=seed,
        )
    except ValueError as error:
        raise click.ClickException(str(error)) from None
    if json_file:
        write(json_file, json.dumps(plain(found), indent=2, ensure_ascii=False) + "\n")
    show(found, console())


def show(found: dict[str, Any], out: Console) -> None:
    """Print what `critic.evaluation.compare.compare` found."""
    critics, pairs = found["critics"], found["pairs"]
    metrics = {metric: METRICS[metric].split(",")[0] for metric in pairs[0]["differences"]}
    rows = [
        (name, cell(scores["coverage"]), *(cell(scores[metric]) for metric in metrics))
        for name, scores in critics.items()
    ]
    note = f"Failed answers count as: {POLICIES[found['policy']]}."
    show_table(out, "Each critic", ["", "coverage", *metrics.values()], rows, note)
    for metric, label in metrics.items():
        gains = [(pair, pair["differences"][metric]) for pair in pairs]
        rows = [
            (f"{pair['a']} - {pair['b']}", cell(gain, signed=True), p_value(gain.p), _verdict(pair, metric))
            for pair, gain in gains
        ]
        smaller = " (smaller is better)" if metric in SMALLER_IS_BETTER else ""
        show_table(out, f"Difference in {label}{smaller}", ["", "value (95 % interval)", "p", ""], rows)
    rows = [
        (f"{pair['a']} - {pair['b']}", f"{pair['n']:,}", _test(pair["williams"]), _test(pair["steiger"]))
        for pair in pairs
    ]
    note = "They take edits of one source image for independent: go by the intervals above."
    show_table(
        out, "Difference in PLCC, by the usual tests", ["", "edits", "Williams' t", "Steiger's z"], rows, note
    )
    if not found["in_points"]:
        return
    closer = {(p["a"], p["b"]): p["closer"]["a"] for p in pairs}
    closer |= {(p["b"], p["a"]): p["closer"]["b"] for p in pairs}
    rows = [(name, *(f"{closer[name, o]:.1%}" if o != name else "" for o in critics)) for name in critics]
    note = "Share of the edits on which the row's critic is closer than the column's; the rest are ties."
    show_table(out, "Closer to the MOS", ["", *critics], rows, note)


def _verdict(pair: dict[str, Any], metric: str) -> str:
    from critic.evaluation.intervals import SMALLEST_GROUP

    gain = pair["differences"][metric]
    if not isfinite(gain.p):
        return f"fewer than {SMALLEST_GROUP} source images"
    if gain.p >= 0.05:
        return "can't be told apart"
    if metric == "spread":
        return "differ"
    return f"{pair['a'] if (gain.value > 0) != (metric in SMALLER_IS_BETTER) else pair['b']} is better"


def _test(found: "Significance") -> str:
    return f"{found.statistic:+.2f}, p {p_value(found.p)}" if isfinite(found.p) else "n/a"
