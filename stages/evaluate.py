"""The base, models/sft, models/grpo and the test split -> reports: metrics, predictions, plots, the report.

    python -m stages.evaluate

Only this stage scores the test split. If data/validated has AGIQA-3k, it measures the critics on that too:
reports/benchmarks.json has the figures, and is empty otherwise.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from critic import params
from critic.checkpoints import load_model, load_processor
from critic.edits import Edit, edits_from_table
from critic.engines.base import Engine
from critic.engines.transformers import TransformersEngine
from critic.engines.vllm import VllmEngine
from critic.evaluation.agreement import measure
from critic.evaluation.bootstrap import jsonable
from critic.evaluation.evaluate import Evaluation, Scores, compute_metrics, measure_generated
from critic.evaluation.report import build_report
from critic.files import replacing_folder, write_json, write_text
from critic.prompts import load_contract
from critic.scoring.judges.image_metrics import baseline_scores
from critic.scoring.scorer import Scorer, predict
from critic.tables import read_parquet

REPORTS = Path("reports")
CURVES = REPORTS / "curves/grpo"
AGIQA = Path("data/validated/agiqa.parquet")


def main() -> None:
    section, model = params.load(params.Evaluate), params.load(params.Model)
    edits = read_parquet("data/validated/test.parquet")
    train_mean = float(read_parquet("data/validated/train.parquet", ["mos"])["mos"].mean())
    checkpoints = {"base": model.base, "sft": "models/sft", "grpo": "models/grpo"}
    pictures = read_parquet(AGIQA) if AGIQA.exists() else None
    predictions, on_pictures = {}, {}
    for name, checkpoint in checkpoints.items():
        critic = engine(checkpoint, name)
        predictions[name] = score(critic, name, edits_from_table(edits), len(edits))
        if pictures is not None:
            on_pictures[name] = score(critic, name, edits_from_table(pictures), len(pictures))
        del critic  # first: a vLLM engine that is deleted destroys the parallel state of the process
    how: dict[str, Any] = {
        "train_mean": train_mean,
        "failure_policy": section.failure_policy,
        "n_boot": section.n_boot,
        "seed": params.seed(),
    }
    evaluation = compute_metrics(predictions, baseline_scores(edits), edits, **how)
    generated = {} if pictures is None else measure_generated(on_pictures, pictures, **how)
    validation = validation_curve(CURVES / "validation.parquet", train_mean, section)
    shown: dict[str, Any] = {"training": training_curve(CURVES), "validation": validation, "meta": facts(edits)}
    page = build_report(evaluation, predictions, edits, generated=generated, **shown)
    write(predictions, evaluation, edits, validation, page, on_pictures, generated)
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


def facts(edits: pd.DataFrame) -> dict[str, str]:
    """What the report says on how it was made."""
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
    """Write every output of the stage."""
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
        scatter.dropna(subset="score").to_csv(folder / "predictions.csv", index=False)
        validation.to_csv(folder / "validation.csv", index=False)
        evaluation.groups.to_csv(folder / "groups.csv", index=False)
    write_json(REPORTS / "metrics.json", jsonable(evaluation.models))
    write_json(REPORTS / "benchmarks.json", {"agiqa": jsonable(generated)} if generated else {})
    write_text(REPORTS / "report.html", page)


if __name__ == "__main__":
    main()
