"""The part of `critic eval` and `critic compare` that measures critics on preferences."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from critic.cli.evaluate import show_published
from critic.cli.tables import VALUE, cell, console, outcome, p_value, show_table
from critic.data.preferences import OVERALL
from critic.evaluation.metrics import FailurePolicy
from critic.files import write_json

if TYPE_CHECKING:  # pandas and SciPy are slow to import, and --help doesn't need them
    from critic.evaluation.published import Comparison

_FAILED: dict[FailurePolicy, str] = {
    "dropped": "left out",
    "worst": "wrong",
    "train_mean": "judged with the training mean",
}
"""What becomes of pairs with a failed score, by policy."""


def evaluate(predictions: Path, preferences: Path, json_file: Path | None, **how: Any) -> None:
    """Measure a file of scores on a file of pairs, print the figures, and write them to `json_file`."""
    from critic.data.preferences.order import read_preferences
    from critic.evaluation.bootstrap import jsonable
    from critic.evaluation.preferences import evaluate_preferences
    from critic.evaluation.score_tables import read_predictions

    found = evaluate_preferences(read_predictions(predictions), read_preferences(preferences), **how)
    beside = beside_published(found, predictions.stem) if found["benchmark"] else None
    if json_file:
        published = {"published": asdict(beside)} if beside else {}
        write_json(json_file, jsonable(found) | published, ensure_ascii=False)
    out = console()
    show(found, predictions.name, out)
    if beside:
        show_published(beside, None, out)


def compare(
    predictions: Sequence[Path], names: Sequence[str], preferences: Path, json_file: Path | None, **how: Any
) -> None:
    """Compare files of scores on a file of pairs, print the figures, and write them to `json_file`."""
    from critic.data.preferences.order import read_preferences
    from critic.evaluation.bootstrap import jsonable
    from critic.evaluation.preferences import compare_preferences
    from critic.evaluation.score_tables import read_predictions

    critics = dict(zip(names, map(read_predictions, predictions), strict=True))
    found = compare_preferences(critics, read_preferences(preferences), **how)
    if json_file:
        write_json(json_file, jsonable(found), ensure_ascii=False)
    show_comparison(found, console())


def beside_published(found: dict[str, Any], name: str) -> "Comparison":
    """Our figures by the benchmark's own protocol beside the published ones of that protocol and axis.

    Figures that leave pairs out are of a part of the benchmark, and not comparable.
    """
    from critic.evaluation.published import Setting, compare_published, load_published

    axes = {row["axis"] for row in found["figures"]}
    axis = axes.pop() if len(axes) == 1 else OVERALL
    ours = {
        f"accuracy_{row['ways']}" if row["ways"] else "accuracy": row["accuracy"].value
        for row in found["figures"]
        if (row["protocol"], row["axis"]) == (found["own"], axis)
    }
    benchmark = load_published().benchmarks[found["benchmark"]]
    counted = found["pairs"] - (found["pairs_failed"] if found["policy"] == "dropped" else 0)
    split = benchmark.split if counted == benchmark.pairs else f"{counted:,} of its pairs"
    return compare_published({name: ours}, Setting(found["benchmark"], found["own"], split))


def show(found: dict[str, Any], name: str, out: Console) -> None:
    """Print the figures of `critic.evaluation.preferences.evaluate_preferences`."""
    from critic.evaluation.preferences import PROTOCOLS

    failed = "".join(f", {n:,} {status}" for status, n in found["failed"].items())
    out.print(
        f"{name}: {found['pairs']:,} pairs in {found['groups']:,} groups of {found['sources']:,} source images; "
        f"{found['scored']:,} of {found['edits']:,} edits scored{failed}\n"
    )
    note = ""
    if found["failed"]:
        note = f"{found['pairs_failed']:,} pairs have a failed score; they are {_FAILED[found['policy']]}."
    if found["thresholds"]:
        note += f"{' ' * bool(note)}The best threshold is chosen on these pairs, which flatters a critic."
    for axis in dict.fromkeys(row["axis"] for row in found["figures"]):
        rows = [
            (
                f"{PROTOCOLS[row['protocol']].label}{_own(row['protocol'], found)}",
                str(row["ways"] or "all"),
                f"{row['n']:,}",
                cell(row["accuracy"]),
            )
            for row in found["figures"]
            if row["axis"] == axis
        ]
        show_table(out, f"Accuracy, axis {axis}", ["what counts as right", "K", "n", VALUE], rows, note)
    subtasks = [(f"{r['subtask']} ({r['axis']})", f"{r['n']:,}", cell(r["accuracy"])) for r in found["subtasks"]]
    if subtasks:
        show_table(out, f"By subtask, {PROTOCOLS[found['own']].label}", ["", "n", VALUE], subtasks)
    for axis, policies in found["policies"].items():
        ways = [(_FAILED[way], cell(value)) for way, value in policies.items()]
        title = f"Pairs with a failed score, axis {axis}, {PROTOCOLS[found['own']].label}"
        show_table(out, title, ["", VALUE], ways)


def show_comparison(found: dict[str, Any], out: Console) -> None:
    """Print the figures of `critic.evaluation.preferences.compare_preferences`."""
    from critic.evaluation.preferences import PROTOCOLS

    label = PROTOCOLS[found["own"]].label
    rows = [
        (r["critic"], r["axis"], f"{r['n']:,}", f"{r['coverage']:.1%}", cell(r["accuracy"]))
        for r in found["critics"]
    ]
    show_table(out, f"Accuracy: {label}", ["", "axis", "n", "coverage", VALUE], rows)
    gains = []
    for row in found["differences"]:
        gain, pair = row["accuracy"], f"{row['a']} - {row['b']}"
        figures = f"{row['n']:,}", cell(gain, signed=True), p_value(gain.p)
        gains.append((pair, row["axis"], *figures, outcome(gain, row["a"], row["b"])))
    show_table(out, "Difference", ["", "axis", "n", VALUE, "p", ""], gains)


def _own(protocol: str, found: dict[str, Any]) -> str:
    return f" [{found['benchmark']}'s]" if found["benchmark"] and protocol == found["own"] else ""
