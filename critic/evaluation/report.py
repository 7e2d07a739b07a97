"""The report: one HTML page with the critic's figures, their confidence intervals, plots and examples.

The page contains its pictures and styles and needs no script and no network. The same input gives the same bytes.
Text of datasets and models is escaped: it can't become markup.
"""

from collections.abc import Hashable, Mapping, Sequence
from math import isfinite, isnan
from typing import Any, Literal

import numpy as np
import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from critic.answers import AXES, Status
from critic.data.generated import EDITS, Words
from critic.edits import GENERATED_AXES
from critic.evaluation.bootstrap import SMALLEST_GROUP, Difference, Estimate
from critic.evaluation.evaluate import Evaluation, Scores, match
from critic.evaluation.figures import bars, curve, scatter
from critic.evaluation.leak import Split
from critic.evaluation.logistic_fit import fit_logistic
from critic.evaluation.metrics import FAILURE_POLICIES, METRICS, SHOWN
from critic.evaluation.probing import Probing
from critic.evaluation.published import Comparison
from critic.evaluation.seeds import GAINS, Seeds
from critic.evaluation.seeds import METRICS as METRICS_OF_SEEDS
from critic.evaluation.sub_scores import SubScores
from critic.pictures import data_uri, decode_cell
from critic.scoring.judges.image_metrics import BASELINES

Rows = list[dict[str, Any]]
Outcome = Literal["better", "worse", "level"]

LABELS = {"base": "Base", "sft": "SFT", "grpo": "GRPO"}
CEILING = {"panel": "Another panel", "rater": "One rater"}
GENERATED = ("plcc", "srcc", "main_score")
EXAMPLES = 5
PICTURE_SIDE = 320
BY_STAGE = Markup(
    "By the <code>evaluate</code> stage, from the test split. It is scored once, after all choices were made on "
    "the validation split."
)


def build_report(
    evaluation: Evaluation,
    predictions: dict[str, pd.DataFrame],
    edits: pd.DataFrame,
    *,
    training: pd.DataFrame,
    validation: pd.DataFrame,
    meta: dict[str, str],
    generated: Mapping[str, Mapping[str, Scores]] | None = None,
    split: Split | None = None,
    published: Sequence[Comparison] = (),
    sub_scores: SubScores | None = None,
    seeds: Seeds | None = None,
    probing: Probing | None = None,
    words: Words = EDITS,
    origin: str = BY_STAGE,
) -> str:
    """The report as one HTML page.

    Args:
        evaluation: of the same predictions and edits.
        predictions: one to three models in the order of training, the last being the reported one: id, score (null
            if failed), status, reasoning, response.
        edits: the validated table that was scored: id, source_id, images, instruction, mos; of generated pictures
            that of `critic.data.generated.as_edits`.
        training: GRPO by step: step, reward, reward_std, completion_length, format_rate, floor_share
            (not without edits with a MOS), score_entropy, truncated_share.
        validation: GRPO on the validation split: step, main_score. Empty tables draw no curve.
        meta: facts on how the figures were made, by name (profile, model, contract, params).
        generated: of `critic.evaluation.evaluate.measure_generated`, for the same models, if AGIQA-3k was scored.
        split: how the edits were split off; None if unknown. Its leak stands beside each figure.
        published: these models' figures beside published ones, a table each.
        sub_scores: of the same predictions and edits.
        seeds: of the same training (`critic.evaluation.seeds.read_seeds`).
        probing: of the last model.
        words: what to call the rows of `edits`.
        origin: a sentence on what made the report.

    Raises:
        ValueError: predictions whose ids are not exactly those of `edits`, or a picture that can't be decoded.
    """
    tables = {name: match(table, edits, name, "the edits") for name, table in predictions.items()}
    labels = {name: LABELS.get(name, name) for name in tables}
    drawn = {*evaluation.groups["model"][evaluation.groups["value"] != 0]}
    leak = split.leak if split else ""
    context = {
        **_headline(evaluation, edits, labels, split, words, seeds),
        "leak": leak,
        "words": words,
        "evaluation": evaluation,
        "labels": list(labels.values()),
        "metrics": [*SHOWN.values()],
        "sections": _sections(evaluation, labels),
        "axes": [f"{axis.capitalize()} {METRICS[name].heading}" for axis in GENERATED_AXES for name in GENERATED],
        "generated": [
            {"label": labels[name], "estimates": [axes[a][metric] for a in GENERATED_AXES for metric in GENERATED]}
            for name, axes in (generated or {}).items()
        ],
        "stated": _stated(sub_scores or SubScores(), labels),
        "seeds": seeds,
        "probing": probing,
        "of_seeds": METRICS_OF_SEEDS,
        "failures_are": FAILURE_POLICIES[evaluation.failure_policy],
        "outcome": evaluation.difference and _outcome(evaluation.difference),
        "scatters": _scatters(tables, edits, labels, leak, words),
        "groups": _groups(evaluation, labels),
        "bars": [(series, label) for series, (name, label) in enumerate(labels.items()) if name in drawn],
        "smallest_group": SMALLEST_GROUP,
        "published": published,
        "all_metrics": METRICS,
        "curves": _curves(training, validation),
        "examples": _examples(list(tables.values())[-1], edits),
        "policies": list(FAILURE_POLICIES.values()),
        "failures": _failures(evaluation, tables, labels),
        "meta": meta,
        "origin": origin,
    }
    environment = Environment(
        loader=PackageLoader("critic.evaluation"), autoescape=True, undefined=StrictUndefined
    )
    environment.filters |= {"number": _number, "signed": _signed, "interval": _interval, "training": _training}
    return environment.get_template("report.html.jinja").render(context)


def _number(value: float, digits: int = 3) -> str:
    return "n/a" if isnan(value) else f"{value:.{digits}f}".replace("-", "\N{MINUS SIGN}")


def _signed(value: float) -> str:
    return f"{'+' if value > 0 else ''}{_number(value)}"


def _interval(estimate: Estimate) -> str:
    return "n/a" if isnan(estimate.low) else f"{_number(estimate.low)} to {_number(estimate.high)}"


def _training(name: str) -> str:
    """A model or gain of `critic.evaluation.seeds` as a label: "GRPO over continued SFT"."""
    return " ".join(LABELS.get(word, word) for word in name.split())


def _headline(
    evaluation: Evaluation,
    edits: pd.DataFrame,
    labels: dict[str, str],
    split: Split | None,
    words: Words,
    seeds: Seeds | None,
) -> dict[str, Any]:
    """The title with the main finding, the sentence below it and the most important numbers."""
    *_, (name, label) = labels.items()
    main, error, coverage = (evaluation.models[name][metric] for metric in ("main_score", "mae", "coverage"))
    title = f"{label} judges {words.items} with a main score of {_number(main.value, 2)}"
    facts = [
        (f"{label} main score", _number(main.value), f"95% interval {_interval(main)}"),
        (f"{label} error", _number(error.value, 2), f"points of MAE, 95% interval {_interval(error)}"),
    ]
    if evaluation.difference and evaluation.error_difference:
        before, label_before = list(labels.items())[-2]
        scores, errors = (
            " against ".join(_number(evaluation.models[n][metric].value, 2) for n in (name, before))
            for metric in ("main_score", "mae")
        )
        found = _outcome(evaluation.difference), _outcome(evaluation.error_difference, lower_is_better=True)
        title = f"{_finding(label, label_before, words, *found)}: main score {scores}, error {errors} points"
        over = f"{label} over {label_before}"
        for gain, metric in ((evaluation.difference, "main score"), (evaluation.error_difference, "error")):
            facts.append((f"{over}, {metric}", _signed(gain.value), f"95% interval {_interval(gain)}"))
    best, classic = max(
        (scores["main_score"].value, BASELINES[metric].label) for metric, scores in evaluation.baselines.items()
    )
    known = "unseen" if split and not split.leak else "test"
    lead = (
        f"On {len(edits):,} {known} {words.items} of {edits['source_id'].nunique():,} {words.sources}, "
        f"{label} agrees with people at a main score of {_number(main.value)}, where 1 is perfect "
        f"and 0 is chance. The best classic metric, {classic}, reaches {_number(best)}"
    )
    if evaluation.ceiling:
        panel = _number(evaluation.ceiling["panel"]["main_score"].value)
        lead += f"; another panel of people would reach {panel}"
        facts.append(("Human ceiling", panel, "main score of another panel"))
    facts.append(("Coverage", f"{coverage.value:.1%}", f"of {label}'s answers have a score"))
    lead += "."
    if seeds:
        lead += f" {_over_seeds(seeds)}"
    return {"title": title, "lead": lead, "facts": facts}


def _over_seeds(seeds: Seeds) -> str:
    """What the trainings with several seeds say of the gain and of its control, in a sentence."""

    def spread(gain: str, metric: str) -> str:
        found = seeds.over(gain, metric)
        return f"{_signed(found.median)} ({_signed(found.lowest)} to {_signed(found.highest)})"

    over, control = GAINS
    return (
        f"Over {len(seeds.runs)} trainings that differ in their seed, GRPO over SFT was "
        f"{spread(over, 'main_score')} in main score and {spread(over, 'mae')} in error at the median (lowest to "
        f"highest); over SFT that was continued for as long, {spread(control, 'main_score')} and "
        f"{spread(control, 'mae')}."
    )


def _outcome(difference: Difference, *, lower_is_better: bool = False) -> Outcome:
    if difference.low > 0:
        return "worse" if lower_is_better else "better"
    if difference.high < 0:
        return "better" if lower_is_better else "worse"
    return "level"


def _finding(new: str, old: str, words: Words, main: Outcome, error: Outcome) -> str:
    """What two differences say together: of the main score, and of the error."""
    match main, error:
        case "level", "level":
            return f"No significant difference between {new} and {old}"
        case "level", "better":
            return f"{new} errs less than {old}, without a significant difference in main score"
        case "level", "worse":
            return f"{new} errs more than {old}, without a significant difference in main score"
        case "better", "worse":
            return f"{new} orders {words.items} better than {old}, but errs more"
        case "worse", "better":
            return f"{new} orders {words.items} worse than {old}, but errs less"
    return f"{new} judges {words.items} {main} than {old}"


def _stated(found: SubScores, labels: dict[str, str]) -> dict[str, Any]:
    """The table of sub-scores: its columns, a row for each model that states some, and one of the differences."""
    axes = [axis for axis in AXES if any(axis in scores for scores in found.models.values())]
    columns = [(axis, metric) for axis in axes for metric in ("srcc", "mae")]
    rows = [
        {
            "label": labels[name],
            "series": [*labels].index(name),
            "estimates": [
                *(scores[axis][metric] if axis in scores else None for axis, metric in columns),
                found.follows.get(name),
            ],
        }
        for name, scores in found.models.items()
    ]
    if found.differences:
        new, old = [*labels.values()][:-3:-1]
        differences = [found.differences[a][metric] if a in found.differences else None for a, metric in columns]
        rows.append({"label": f"{new} minus {old}", "series": None, "estimates": [*differences, None]})
    headings = [f"{axis.capitalize()} {METRICS[metric].heading}" for axis, metric in columns]
    return {"headings": [*headings, "Score follows"], "rows": rows}


def _sections(evaluation: Evaluation, labels: dict[str, str]) -> Rows:
    """The table: titled sections of rows, with an `Estimate` or None for each metric in a row."""

    def row(label: str, scores: Scores, series: int | None = None) -> dict[str, Any]:
        cells = [scores.get(metric) for metric in SHOWN]
        known = [cell if cell and isfinite(cell.value) else None for cell in cells]
        return {"label": label, "series": series, "estimates": known}

    models = [row(label, evaluation.models[name], series) for series, (name, label) in enumerate(labels.items())]
    baselines = [row(BASELINES[name].label, s) for name, s in evaluation.baselines.items()]
    ceiling = [row(CEILING[name], s) for name, s in evaluation.ceiling.items()]
    sections = [("Trained critics", models), ("Classic metrics", baselines), ("People", ceiling)]
    return [{"title": title, "rows": rows} for title, rows in sections if rows]


def _scatters(
    tables: dict[str, pd.DataFrame], edits: pd.DataFrame, labels: dict[str, str], leak: str, words: Words
) -> Rows:
    mos = edits["mos"].to_numpy(float)
    plots = []
    for series, (name, label) in enumerate(labels.items()):
        predicted = tables[name]["score"].to_numpy(float, na_value=np.nan)
        failed = int(np.isnan(predicted).sum())
        fitted = None if failed == len(predicted) else fit_logistic(predicted, mos)
        svg = scatter(predicted, mos, fitted, series=series, title=f"Predicted against MOS: {label}")
        caption = f"{len(predicted) - failed:,} {words.items}"
        caption += f"; {failed:,} failed and have no dot" if failed else ""
        caption += f". This test split {leak}." if leak else ""
        plots.append({"label": label, "svg": Markup(svg), "caption": caption})
    return plots


def _groups(evaluation: Evaluation, labels: dict[str, str]) -> Rows:
    plots = []
    lowest = min(0.0, evaluation.groups["low"].min())
    for by, table in evaluation.groups.groupby("by", sort=False):
        label = f"by {by}".replace("_", " ")
        svg = bars(table, list(labels), lowest=lowest, title=f"Main score {label}")
        plots.append({"label": label.capitalize(), "svg": Markup(svg)})
    return plots


def _curves(training: pd.DataFrame, validation: pd.DataFrame) -> Rows:
    window = max(1, len(training) // 20)
    bold = f" Bold: mean of the last {window} points." if window > 1 else ""
    wanted = [
        (training, window, "reward", "Reward", f"Band: standard deviation.{bold}"),
        (training, window, "completion_length", "Completion length", f"In tokens.{bold}"),
        (validation, 1, "main_score", "Validation main score", "Choices are made on this split."),
        (training, window, "format_rate", "Format rate", "Share of completions with both parts."),
        (
            training,
            window,
            "floor_share",
            "Share at the floor",
            "Of completions of edits with a MOS, the share at the lowest reward.",
        ),
        (training, window, "score_entropy", "Score entropy", "In bits, at most 3; near 0, all scores are alike."),
        (training, window, "truncated_share", "Truncated share", "Share of completions cut off at the limit."),
    ]
    plots = []
    for table, smooth, column, label, caption in wanted:
        if table.empty or column not in table:
            continue
        steps, values = table["step"].to_numpy(float), table[column].to_numpy(float)
        std = table[f"{column}_std"].to_numpy(float) if f"{column}_std" in table else None
        svg = curve(steps, values, ylabel=label.lower(), title=f"{label} by GRPO step", std=std, smooth=smooth)
        plots.append({"label": label, "svg": Markup(svg), "caption": caption})
    return plots


def _examples(predictions: pd.DataFrame, edits: pd.DataFrame) -> Rows:
    """The best and the worst predictions; failed answers are the worst, ties are sorted by id."""
    table = predictions[["id", "score", "status", "reasoning", "response"]].merge(
        edits[["id", "images", "instruction", "mos"]], on="id"
    )
    table["error"] = (table["score"].astype(float) - table["mos"]).abs().fillna(np.inf)
    ranked = table.sort_values(["error", "id"])
    parts = {"Closest": ranked[:EXAMPLES], "Farthest": ranked[EXAMPLES:][::-1][:EXAMPLES]}
    return [
        {"title": title, "examples": [_example(row) for row in rows.to_dict("records")]}
        for title, rows in parts.items()
        if len(rows)
    ]


def _example(row: Mapping[Hashable, Any]) -> dict[str, Any]:
    failed = not isfinite(row["error"])
    pictures = [data_uri(decode_cell(image), PICTURE_SIDE) for image in row["images"]]
    roles = ("source", "edited") if len(pictures) == 2 else ("generated",)
    return {
        "pictures": dict(zip(roles, pictures, strict=True)),
        "instruction": row["instruction"],
        "mos": row["mos"],
        "predicted": None if failed else row["score"],
        "failure": row["status"].replace("_", " ") if failed else None,
        "text": (row["response"] if failed else row["reasoning"]).strip(),
    }


def _failures(evaluation: Evaluation, tables: dict[str, pd.DataFrame], labels: dict[str, str]) -> Rows:
    rows = []
    for name, label in labels.items():
        statuses = tables[name]["status"].astype(str)
        reasons = statuses[statuses != Status.OK].value_counts().sort_index()
        row: dict[str, Any] = {"label": label, "answers": len(statuses), "failed": int(reasons.sum())}
        row["reasons"] = [f"{reason} {n}".replace("_", " ") for reason, n in reasons.items()]
        row["estimates"] = [evaluation.policies[name][policy] for policy in FAILURE_POLICIES]
        rows.append(row)
    return rows
