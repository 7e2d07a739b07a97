"""The base, models/sft, models/grpo and the test split -> reports: metrics, predictions, plots, the report.

    python -m stages.evaluate

Only this stage scores the test split. If that leaks source images or prompts, all that it writes and prints says
so. If data/validated has all of AGIQA-3k, it measures the critics on that too: reports/benchmarks.json has the
figures, and is empty otherwise. Where others have published figures of a benchmark, the report has them too.
"""

from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from critic import params
from critic.checkpoints import load_model, load_processor
from critic.data.generated import as_edits, words
from critic.edits import Edit, edits_from_table
from critic.engines.base import Engine
from critic.engines.transformers import TransformersEngine
from critic.engines.vllm import VllmEngine
from critic.evaluation import published
from critic.evaluation.agreement import measure
from critic.evaluation.bootstrap import jsonable
from critic.evaluation.evaluate import Evaluation, Scores, compute_metrics, measure_generated
from critic.evaluation.ie_critic_r1 import upstream
from critic.evaluation.leak import Split, SplitError, read_split
from critic.evaluation.report import LABELS, build_report
from critic.files import replacing_folder, write_json, write_text
from critic.prompts import Contract, stage_contract
from critic.scoring.judges.image_metrics import baseline_scores
from critic.scoring.scorer import Scorer, predict
from critic.tables import read_parquet

REPORTS = Path("reports")
CURVES = REPORTS / "curves/grpo"
AGIQA = Path("data/validated/agiqa.parquet")


def main() -> None:
    section, model = params.load(params.Evaluate), params.load(params.Model)
    try:
        split = read_split()
    except SplitError as error:
        raise SystemExit(str(error)) from None
    test = read_parquet("data/validated/test.parquet")
    edits = as_edits(test)
    train_mean = float(read_parquet("data/validated/train.parquet", ["mos"])["mos"].mean())
    checkpoints = {"base": model.base, "sft": "models/sft", "grpo": "models/grpo"}
    pictures = read_parquet(AGIQA) if AGIQA.exists() else None
    predictions, on_pictures = {}, {}
    for name, checkpoint in checkpoints.items():
        with closing(engine(checkpoint, name)) as critic:
            predictions[name] = score(critic, name, edits_from_table(test), len(test))
            if pictures is not None:
                on_pictures[name] = score(critic, name, edits_from_table(pictures), len(pictures))
    how: dict[str, Any] = {
        "train_mean": train_mean,
        "failure_policy": section.failure_policy,
        "n_boot": section.n_boot,
        "seed": params.seed(),
    }
    evaluation = compute_metrics(predictions, baseline_scores(edits), edits, **how)
    generated = {} if pictures is None else measure_generated(on_pictures, pictures, **how)
    validation = validation_curve(CURVES / "validation.parquet", train_mean, section)
    compared = beside_published(predictions, test, split, generated)
    page = build_report(
        evaluation,
        predictions,
        edits,
        training=training_curve(CURVES),
        validation=validation,
        meta=facts(test),
        generated=generated,
        split=split,
        published=compared,
        words=words(test),
    )
    write(predictions, evaluation, edits, split, validation, page, on_pictures, generated)
    show(evaluation, split)


def show(evaluation: Evaluation, split: Split) -> None:
    """Print the main scores."""
    for name, metrics in evaluation.models.items():
        main_score = metrics["main_score"]
        line = f"{name:5} main score {main_score.value:.3f} ({main_score.low:.3f} to {main_score.high:.3f})"
        print(split.note(line))
    if gain := evaluation.difference:
        line = f"grpo over sft {gain.value:+.3f} ({gain.low:+.3f} to {gain.high:+.3f}), p = {gain.p:.3f}"
        print(split.note(line))


def score(critic: Engine, name: str, items: Iterable[Edit], total: int) -> pd.DataFrame:
    """A critic's predictions of edits or generated pictures, `total` in all."""
    scorer = Scorer(critic, used_contract())
    batch_size = params.load(params.Evaluate).batch_size
    return predict(scorer, items, total=total, batch_size=batch_size, title=f"scoring with {name}")


def used_contract() -> Contract:
    """The prompt contract of all three models."""
    return stage_contract(params.load(params.Prompt).contract, "models/grpo")


def engine(checkpoint: str, name: str) -> TransformersEngine | VllmEngine:
    """The engine of `evaluate.engine` with a checkpoint loaded."""
    section, model = params.load(params.Evaluate), params.load(params.Model)
    revision = model.revision if name == "base" else None
    processor = load_processor(checkpoint, used_contract(), revision)
    if section.engine == "transformers":
        return TransformersEngine(load_model(checkpoint, model, revision), processor, section.max_tokens)
    return VllmEngine(
        checkpoint,
        dtype=model.dtype,
        max_tokens=section.max_tokens,
        batch_size=section.batch_size,
        seed=params.seed(),
        revision=revision,
        gpu_memory_utilization=section.gpu_memory_utilization,
        tensor_parallel_size=section.tensor_parallel_size,
    )


def beside_published(
    predictions: dict[str, pd.DataFrame],
    test: pd.DataFrame,
    split: Split,
    generated: dict[str, dict[str, Scores]],
) -> list[published.Comparison]:
    """Our figures beside published ones, of the benchmark if it has any, and of AGIQA-3k if it was scored.

    Figures on a test split of AGIQA-3k are in-domain; those on all its pictures, of a critic trained on another
    benchmark, are not.
    """
    download = params.load(params.Download)
    hub = (download.model_extra or {}).get("hub") if download.source == "hub" else None
    found = []
    mos = test.set_index("id")["mos"]
    if download.source == "agiqa" and download.agiqa is not None and download.agiqa.mos == "quality":
        measured = {
            LABELS[name]: measure(table["score"].to_numpy(float, na_value=np.nan), mos[table["id"]])
            for name, table in predictions.items()
        }
        of_ten = f"{download.agiqa.split} of IE-Critic-R1's ten"
        setting = published.Setting(published.AGIQA_SETTING.benchmark, published.IN_DOMAIN, of_ten)
        found.append(published.compare_published(measured, setting))
    if (benchmark := published.benchmark_of(hub and hub["dataset"])) is not None:
        ours = {
            LABELS[name]: published.of_upstream(upstream([*table["response"]], table["score"], mos[table["id"]]))
            for name, table in predictions.items()
        }
        setting = published.Setting(benchmark, published.UPSTREAM, split.name)
        found.append(published.compare_published(ours, setting))
    if generated:
        quality = {
            LABELS[name]: {metric: estimate.value for metric, estimate in axes["quality"].items()}
            for name, axes in generated.items()
        }
        found.append(published.compare_published(quality, published.AGIQA_SETTING))
    return found


def training_curve(curves: Path) -> pd.DataFrame:
    """GRPO by step: step, reward, reward_std, completion_length (tokens), and the figures of collapse."""
    names = {
        "reward": "reward",
        "reward_std": "reward_std",
        "completions_mean_length": "completion_length",
        "reward_format": "format_rate",
        "reward_floor": "floor_share",
        "reward_score_entropy": "score_entropy",
        "completions_clipped_ratio": "truncated_share",
    }
    folder = curves / "plots/metrics"
    tables = {name: pd.read_csv(folder / f"{logged}.tsv", sep="\t") for logged, name in names.items()}
    columns = {name: table.set_index("step").iloc[:, -1] for name, table in tables.items()}
    return pd.concat(columns, axis=1).reset_index()


def validation_curve(path: Path, train_mean: float, section: params.Evaluate) -> pd.DataFrame:
    """The main score on the validation sample by GRPO step: step, main_score, coverage."""
    rows = []
    for step, table in read_parquet(path).groupby("step"):
        mos, answers = table["mos"].to_numpy(float), table["score"].to_numpy(float, na_value=np.nan)
        scores = measure(answers, mos, section.failure_policy, train_mean)
        rows.append({"step": step, "main_score": scores["main_score"], "coverage": scores["coverage"]})
    return pd.DataFrame(rows)


def facts(test: pd.DataFrame) -> dict[str, str]:
    """What the report says on how it was made."""
    contract, what = used_contract(), words(test)
    return {
        "Profile": params.profile(),
        "Base model": params.load(params.Model).base,
        "Prompt contract": f"{contract.name} version {contract.version}, SHA-256 {contract.hash[:12]}",
        "Engine": f"{params.load(params.Evaluate).engine}, greedy",
        "Test split": f"{len(test)} {what.items} of {test['source_id'].nunique()} {what.sources}",
        "Seed": str(params.seed()),
    }


def write(
    predictions: dict[str, pd.DataFrame],
    evaluation: Evaluation,
    edits: pd.DataFrame,
    split: Split,
    validation: pd.DataFrame,
    page: str,
    on_pictures: dict[str, pd.DataFrame],
    generated: dict[str, dict[str, Scores]],
) -> None:
    """Write every output of the stage. Tables of the test split say in a column `split` what it leaks."""
    leak = {"split": split.leak} if split.leak else {}
    known = [c for c in ("id", "source_id", "edit_type", "editor", "mos") if c in edits]
    with replacing_folder(REPORTS / "predictions") as folder:
        for name, table in predictions.items():
            edits[known].merge(table, on="id").to_parquet(folder / f"{name}.parquet")
        for name, table in on_pictures.items():
            table.to_parquet(folder / f"agiqa-{name}.parquet")
    scatter = pd.concat([table.assign(model=name) for name, table in predictions.items()])
    scatter = scatter.merge(edits[["id", "mos"]], on="id")[["model", "id", "mos", "score"]]
    with replacing_folder(REPORTS / "plots") as folder:
        # DVC would draw a missing score as 0
        scatter.dropna(subset="score").assign(**leak).to_csv(folder / "predictions.csv", index=False)
        validation.to_csv(folder / "validation.csv", index=False)
        evaluation.groups.assign(**leak).to_csv(folder / "groups.csv", index=False)
    metrics = {name: split.mark(figures) for name, figures in jsonable(evaluation.models).items()}
    write_json(REPORTS / "metrics.json", metrics)
    write_json(REPORTS / "benchmarks.json", {"agiqa": jsonable(generated)} if generated else {})
    write_text(REPORTS / "report.html", page)


if __name__ == "__main__":
    main()
