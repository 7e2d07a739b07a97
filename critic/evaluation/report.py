"""The report: one HTML page that says how good the critic is and how sure that is, and shows it.

    page = build_report(evaluation, predictions, edits, training=..., validation=..., meta=...)

The page holds its own pictures and styles and needs no script and no network. The same input gives
the same bytes. Words of datasets and models are escaped: they can't become markup.
"""

from base64 import b64encode
from collections.abc import Hashable, Mapping
from io import BytesIO
from math import isfinite
from typing import Any, Literal

import numpy as np
import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from critic.answers import Status
from critic.edits import GENERATED_AXES
from critic.evaluation.evaluate import GROUPINGS, SMALLEST_GROUP, Evaluation, Scores, aligned
from critic.evaluation.figures import bars, curve, scatter
from critic.evaluation.metrics import Estimate, Policy, fit_logistic
from critic.scoring.judges.image_metrics import BASELINES

COLUMNS = {
    "main_score": "Main score",
    "main_score_fitted": "Main score, fitted",
    "plcc": "PLCC",
    "srcc": "SRCC",
    "krcc": "KRCC",
    "mae": "MAE",
    "coverage": "Coverage",
}
LABELS = {"base": "Base", "sft": "SFT", "grpo": "GRPO"}
CEILING = {"panel": "Another panel", "rater": "One rater"}
POLICIES: dict[Policy, str] = {
    "dropped": "left out",
    "worst": "counted as far off as can be",
    "train_mean": "counted as the training mean",
}
GENERATED = ("plcc", "srcc", "main_score")
EXAMPLES = 5
PICTURE_SIDE = 320


def build_report(
    evaluation: Evaluation,
    predictions: dict[str, pd.DataFrame],
    edits: pd.DataFrame,
    *,
    training: pd.DataFrame,
    validation: pd.DataFrame,
    meta: dict[str, str],
    generated: Mapping[str, Mapping[str, Scores]] | None = None,
) -> str:
    """The report as one HTML page.

    Args:
        evaluation: what `compute_metrics` made of the same predictions and edits.
        predictions: one to three models in the order of training, the last being the one under
            report: id, score (null if failed), status, reasoning, response.
        edits: the validated table that was scored: id, source_id, images, instruction, mos.
        training: GRPO by step: step, reward, reward_std, completion_length, format_rate, floor_share,
            score_entropy, truncated_share.
        validation: GRPO on the validation split: step, main_score. Empty tables draw no curve.
        meta: what the page should say of its making, by name (profile, model, contract, params).
        generated: what `measure_generated` found for the same models, if AGIQA-3k was scored.

    Raises:
        ValueError: predictions that don't hold exactly the ids of `edits`.
    """
    tables = {name: aligned(table, edits, name) for name, table in predictions.items()}
    labels = {name: LABELS.get(name, name) for name in tables}
    drawn = {*evaluation.groups["model"][evaluation.groups["value"] != 0]}
    context = {
        **_headline(evaluation, edits, labels),
        "evaluation": evaluation,
        "labels": list(labels.values()),
        "columns": list(COLUMNS.values()),
        "sections": _sections(evaluation, labels),
        "axes": [f"{axis.capitalize()} {COLUMNS[metric]}" for axis in GENERATED_AXES for metric in GENERATED],
        "generated": _generated(generated or {}, labels),
        "headline_policy": POLICIES[evaluation.policy],
        "verdict": evaluation.difference and _verdict(evaluation.difference),
        "scatters": _scatters(tables, edits, labels),
        "groups": _groups(evaluation, labels),
        "bars": [(series, label) for series, (name, label) in enumerate(labels.items()) if name in drawn],
        "smallest_group": SMALLEST_GROUP,
        "curves": _curves(training, validation),
        "examples": _examples(list(tables.values())[-1], edits),
        "policies": list(POLICIES.values()),
        "failures": _failures(evaluation, tables, labels),
        "meta": meta,
    }
    environment = Environment(
        loader=PackageLoader("critic.evaluation"), autoescape=True, undefined=StrictUndefined
    )
    environment.filters |= {"number": _number, "signed": _signed, "interval": _interval}
    return environment.get_template("report.html.jinja").render(context)


def _number(value: float, digits: int = 3) -> str:
    return f"{value:.{digits}f}".replace("-", "\N{MINUS SIGN}")


def _signed(value: float) -> str:
    return f"{'+' if value > 0 else ''}{_number(value)}"


def _interval(estimate: Estimate) -> str:
    return f"{_number(estimate.low)} to {_number(estimate.high)}"


def _headline(evaluation: Evaluation, edits: pd.DataFrame, labels: dict[str, str]) -> dict[str, Any]:
    """The title, which says what was found, the sentence under it and the numbers to remember."""
    *_, (name, label) = labels.items()
    main, coverage = (evaluation.models[name][metric] for metric in ("main_score", "coverage"))
    title = f"{label} judges edits with a main score of {_number(main.value, 2)}"
    facts = [(f"{label} main score", _number(main.value), f"95% interval {_interval(main)}")]
    if gain := evaluation.difference:
        before, label_before = list(labels.items())[-2]
        finding = {
            "better": f"{label} judges edits better than {label_before}",
            "worse": f"{label} judges edits worse than {label_before}",
            "level": f"This test can't tell {label} from {label_before}",
        }[_verdict(gain)]
        scores = [_number(evaluation.models[n]["main_score"].value, 2) for n in (name, before)]
        title = f"{finding}: {' against '.join(scores)}"
        over = f"{label} over {label_before}"
        facts.append((over, _signed(gain.value), f"95% interval {_interval(gain)}"))
    best, classic = max(
        (scores["main_score"].value, BASELINES[metric].label) for metric, scores in evaluation.baselines.items()
    )
    lead = (
        f"On {len(edits):,} unseen edits of {edits['source_id'].nunique():,} source images, "
        f"{label} agrees with people at a main score of {_number(main.value)}, where 1 is perfect "
        f"and 0 is chance. The best classic metric, {classic}, reaches {_number(best)}"
    )
    if evaluation.ceiling:
        panel = _number(evaluation.ceiling["panel"]["main_score"].value)
        lead += f"; another panel of people would reach {panel}"
        facts.append(("Human ceiling", panel, "main score of another panel"))
    facts.append(("Coverage", f"{coverage.value:.1%}", f"of {label}'s answers hold a score"))
    return {"title": title, "lead": f"{lead}.", "facts": facts}


def _verdict(difference: Estimate) -> Literal["better", "worse", "level"]:
    if difference.low > 0:
        return "better"
    return "worse" if difference.high < 0 else "level"


def _sections(evaluation: Evaluation, labels: dict[str, str]) -> list[dict[str, Any]]:
    """The table: titled sections of rows, an `Estimate` or None for each of `COLUMNS` in a row."""

    def row(label: str, scores: Scores, series: int | None = None) -> dict[str, Any]:
        cells = [scores.get(metric) for metric in COLUMNS]
        known = [cell if cell and isfinite(cell.value) else None for cell in cells]
        return {"label": label, "series": series, "estimates": known}

    models = [row(label, evaluation.models[name], series) for series, (name, label) in enumerate(labels.items())]
    baselines = [row(BASELINES[name].label, s) for name, s in evaluation.baselines.items()]
    ceiling = [row(CEILING[name], s) for name, s in evaluation.ceiling.items()]
    sections = [("Trained critics", models), ("Classic metrics", baselines), ("People", ceiling)]
    return [{"title": title, "rows": rows} for title, rows in sections if rows]


def _generated(generated: Mapping[str, Mapping[str, Scores]], labels: dict[str, str]) -> list[dict[str, Any]]:
    """Rows of AGIQA-3k's table: each model's estimates of both axes."""
    return [
        {
            "label": labels[name],
            "estimates": [axes[axis][metric] for axis in GENERATED_AXES for metric in GENERATED],
        }
        for name, axes in generated.items()
    ]


def _scatters(
    tables: dict[str, pd.DataFrame], edits: pd.DataFrame, labels: dict[str, str]
) -> list[dict[str, Any]]:
    mos = edits["mos"].to_numpy(float)
    plots = []
    for series, (name, label) in enumerate(labels.items()):
        predicted = tables[name]["score"].to_numpy(float, na_value=np.nan)
        failed = int(np.isnan(predicted).sum())
        fitted = None if failed == len(predicted) else fit_logistic(predicted, mos)
        title = f"Predicted against MOS: {label}"
        svg = scatter(predicted, mos, fitted, series=series, title=title)
        shown = f"{len(predicted) - failed:,} edits"
        caption = f"{shown}; {failed:,} failed and have no dot" if failed else shown
        plots.append({"label": label, "svg": Markup(svg), "caption": caption})
    return plots


def _groups(evaluation: Evaluation, labels: dict[str, str]) -> list[dict[str, Any]]:
    plots = []
    lowest = min(0.0, evaluation.groups["low"].min())
    for by in GROUPINGS:
        table = evaluation.groups[evaluation.groups["by"] == by]
        if not table.empty:
            label = f"By {by.replace('_', ' ')}"
            title = f"Main score {label.lower()}"
            svg = bars(table, list(labels), lowest=lowest, xlabel="main score", title=title)
            plots.append({"label": label, "svg": Markup(svg)})
    return plots


def _curves(training: pd.DataFrame, validation: pd.DataFrame) -> list[dict[str, Any]]:
    window = max(1, len(training) // 20)
    bold = f" Bold: mean of the last {window} points." if window > 1 else ""
    wanted = [
        (training, window, "reward", "Reward", f"Band: standard deviation.{bold}"),
        (training, window, "completion_length", "Completion length", f"In tokens.{bold}"),
        (validation, 1, "main_score", "Validation main score", "Choices are made on this split."),
        (training, window, "format_rate", "Format rate", "Completions with both parts, of 1."),
        (training, window, "floor_share", "Share at the floor", "Completions too far off to tell, of 1."),
        (training, window, "score_entropy", "Score entropy", "In bits, of 3; near 0 all scores are alike."),
        (training, window, "truncated_share", "Truncated share", "Completions cut off, of 1."),
    ]
    plots = []
    for table, smooth, column, label, caption in wanted:
        if table.empty:
            continue
        svg = curve(
            table["step"].to_numpy(float),
            table[column].to_numpy(float),
            ylabel=label.lower(),
            title=f"{label} by GRPO step",
            spread=table[f"{column}_std"].to_numpy(float) if f"{column}_std" in table else None,
            smooth=smooth,
        )
        plots.append({"label": label, "svg": Markup(svg), "caption": caption})
    return plots


def _examples(predictions: pd.DataFrame, edits: pd.DataFrame) -> list[dict[str, Any]]:
    """The best and the worst predictions; failures are the worst, ties go by id."""
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
    return {
        "pictures": [_picture(image["bytes"]) for image in row["images"]],
        "instruction": row["instruction"],
        "mos": row["mos"],
        "predicted": None if failed else row["score"],
        "failure": row["status"].replace("_", " ") if failed else None,
        "words": (row["response"] if failed else row["reasoning"]).strip(),
    }


def _picture(encoded: bytes) -> str:
    """A data URI of the picture, at most `PICTURE_SIDE` pixels a side."""
    image = Image.open(BytesIO(encoded)).convert("RGB")
    image.thumbnail((PICTURE_SIDE, PICTURE_SIDE))
    buffer = BytesIO()
    image.save(buffer, format="JPEG", quality=92, subsampling=0)
    return f"data:image/jpeg;base64,{b64encode(buffer.getvalue()).decode()}"


def _failures(
    evaluation: Evaluation, tables: dict[str, pd.DataFrame], labels: dict[str, str]
) -> list[dict[str, Any]]:
    rows = []
    for name, label in labels.items():
        statuses = tables[name]["status"].astype(str)
        reasons = statuses[statuses != Status.OK].value_counts().sort_index()
        rows.append(
            {
                "label": label,
                "answers": len(statuses),
                "failed": int(reasons.sum()),
                "reasons": [f"{reason} {n}".replace("_", " ") for reason, n in reasons.items()],
                "estimates": [evaluation.policies[name][policy] for policy in POLICIES],
            }
        )
    return rows
