"""The base, models/sft, models/grpo and the test split -> reports: metrics, predictions, plots, the page.

    python -m stages.evaluate

The only stage that reads the test split. If data/validated has AGIQA-3k, the critics are measured on it too:
reports/benchmarks.json has the figures, and is empty otherwise.
"""

import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from critic import params
from critic.checkpoints import load_model, load_processor
from critic.edits import Edit, edits_from_table, read_table
from critic.engines.base import Engine
from critic.engines.transformers import TransformersEngine
from critic.engines.vllm import VllmEngine
from critic.evaluation.evaluate import Evaluation, Scores, compute_metrics, measure_generated, plain
from critic.evaluation.metrics import apply_policy, measure
from critic.evaluation.report import build_report
from critic.prompts import load_contract
from critic.scoring.judges.image_metrics import baseline_scores
from critic.scoring.scorer import Scorer, predict

REPORTS = Path("reports")
CURVES = REPORTS / "curves/grpo"
AGIQA = Path("data/validated/agiqa.parquet")


def main() -> None:
    section, model = params.load(params.Evaluate), params.load(params.Model)
    edits = read_table("data/validated/test.parquet")
    train_mean = float(read_table("data/validated/train.parquet")["mos"].mean())
    checkpoints = {"base": model.base, "sft": "models/sft", "grpo": "models/grpo"}
    pictures = read_table(AGIQA) if AGIQA.exists() else None
    predictions, on_pictures = {}, {}
    for name, checkpoint in checkpoints.items():
        critic = engine(checkpoint, name)
        predictions[name] = score(critic, name, edits_from_table(edits), len(edits))
        if pictures is not None:
            on_pictures[name] = score(critic, name, edits_from_table(pictures), len(pictures))
        del critic  # before the next is made: a vLLM engine that goes takes the process's parallel state with it
    evaluation = compute_metrics(
        predictions,
        baseline_scores(edits),
        edits,
        train_mean=train_mean,
        policy=section.policy,
        n_boot=section.n_boot,
        seed=params.seed(),
    )
    generated = None
    if pictures is not None:
        generated = measure_generated(
            on_pictures,
            pictures,
            train_mean=train_mean,
            policy=section.policy,
            n_boot=section.n_boot,
            seed=params.seed(),
        )
    training = training_curve(CURVES)
    validation = validation_curve(CURVES / "validation.parquet", train_mean, section)
    page = build_report(
        evaluation,
        predictions,
        edits,
        training=training,
        validation=validation,
        meta=facts(edits),
        generated=generated,
    )
    write(predictions, evaluation, edits, validation, page, on_pictures, generated or {})
    for name, metrics in evaluation.models.items():
        main_score = metrics["main_score"]
        print(f"{name:5} main score {main_score.value:.3f} ({main_score.low:.3f} to {main_score.high:.3f})")
    if gain := evaluation.difference:
        print(f"grpo over sft {gain.value:+.3f} ({gain.low:+.3f} to {gain.high:+.3f}), p = {gain.p:.3f}")


def score(critic: Engine, name: str, items: Iterable[Edit], total: int) -> pd.DataFrame:
    """A critic's predictions of edits or generated pictures, `total` in all."""
    prompt = params.load(params.Prompt)
    scorer = Scorer(critic, load_contract(prompt.contract), use_problem=prompt.user_text == "dataset")
    batch_size = params.load(params.Evaluate).batch_size
    return predict(scorer, items, total=total, batch_size=batch_size, title=f"scoring with {name}")


def engine(checkpoint: str, name: str) -> Engine:
    """The engine of `evaluate.engine` with a checkpoint loaded."""
    section, model = params.load(params.Evaluate), params.load(params.Model)
    revision = model.revision if name == "base" else None
    processor = load_processor(checkpoint, load_contract(params.load(params.Prompt).contract), revision)
    if section.engine == "transformers":
        return TransformersEngine(
            load_model(checkpoint, model, revision), processor, section.max_completion_tokens
        )
    return VllmEngine(
        checkpoint,
        dtype=model.dtype,
        max_tokens=section.max_completion_tokens,
        batch_size=section.batch_size,
        seed=params.seed(),
        revision=revision,
        gpu_memory_utilization=section.gpu_memory_utilization,
        tensor_parallel_size=section.tensor_parallel_size,
    )


def training_curve(curves: Path) -> pd.DataFrame:
    """GRPO by step: step, reward, reward_std, completion_length (tokens), and what `critic.training.collapse` watches."""
    names = {
        "reward": "reward",
        "reward_std": "reward_std",
        "completions_mean_length": "completion_length",
        "reward_format": "format_rate",
        "reward_floor": "floor_share",
        "reward_score_entropy": "score_entropy",
        "completions_clipped_ratio": "truncated_share",
    }
    columns = []
    for logged, column in names.items():
        table = pd.read_csv(curves / f"plots/metrics/{logged}.tsv", sep="\t")
        columns.append(table.set_index("step").iloc[:, -1].rename(column))
    return pd.concat(columns, axis=1).reset_index()


def validation_curve(path: Path, train_mean: float, section: params.Evaluate) -> pd.DataFrame:
    """The main score on the validation sample by GRPO step: step, main_score, coverage."""
    rows = []
    for step, table in read_table(path).groupby("step"):
        mos, answers = table["mos"].to_numpy(float), table["score"].to_numpy(float, na_value=np.nan)
        scores = measure(apply_policy(answers, mos, section.policy, train_mean), mos)
        rows.append(
            {"step": step, "main_score": scores["main_score"], "coverage": float(np.isfinite(answers).mean())}
        )
    return pd.DataFrame(rows)


def facts(edits: pd.DataFrame) -> dict[str, str]:
    """What the page says of its making."""
    contract = load_contract(params.load(params.Prompt).contract)
    return {
        "Profile": params.profile(),
        "Base model": params.load(params.Model).base,
        "Prompt contract": f"{contract.name} version {contract.version}, SHA-256 {contract.hash[:12]}",
        "Engine": f"{params.load(params.Evaluate).engine}, greedy",
        "Test split": f"{len(edits)} edits of {edits['source_id'].nunique()} source images",
        "Seed": str(params.seed()),
    }


def write(
    predictions: dict[str, pd.DataFrame],
    evaluation: Evaluation,
    edits: pd.DataFrame,
    validation: pd.DataFrame,
    page: str,
    on_pictures: dict[str, pd.DataFrame],
    generated: dict[str, dict[str, Scores]],
) -> None:
    """All that the stage leaves, made in a scratch folder first."""
    partial = REPORTS / ".partial"
    shutil.rmtree(partial, ignore_errors=True)
    for folder in ("predictions", "plots"):
        (partial / folder).mkdir(parents=True)
    known = [c for c in ("id", "source_id", "edit_type", "editor", "mos") if c in edits]
    for name, table in predictions.items():
        edits[known].merge(table, on="id").to_parquet(partial / f"predictions/{name}.parquet")
    for name, table in on_pictures.items():
        table.to_parquet(partial / f"predictions/agiqa-{name}.parquet")
    scatter = pd.concat([table.assign(model=name) for name, table in predictions.items()])
    scatter = scatter.merge(edits[["id", "mos"]], on="id")[["model", "id", "mos", "score"]]
    scatter.dropna(subset="score").to_csv(partial / "plots/predictions.csv", index=False)  # DVC draws nothing as 0
    validation.to_csv(partial / "plots/validation.csv", index=False)
    evaluation.groups.to_csv(partial / "plots/groups.csv", index=False)
    (partial / "metrics.json").write_text(json.dumps(evaluation.to_metrics(), indent=2) + "\n")
    agiqa = {name: {axis: plain(scores) for axis, scores in axes.items()} for name, axes in generated.items()}
    benchmarks = {"agiqa": agiqa} if agiqa else {}
    (partial / "benchmarks.json").write_text(json.dumps(benchmarks, indent=2) + "\n")
    (partial / "report.html").write_text(page, encoding="utf-8")
    for made in partial.iterdir():
        target = REPORTS / made.name
        if target.is_dir():
            shutil.rmtree(target)
        os.replace(made, target)
    partial.rmdir()


if __name__ == "__main__":
    main()
