"""The base, models/sft, models/grpo and the test split -> reports: metrics, predictions, plots, the report.

    python -m stages.evaluate

Only this stage scores the test split. If that leaks source images or prompts, all that it writes and prints says
so. If data/validated has all of AGIQA-3k, it measures the critics on that too: reports/benchmarks.json has the
figures, and is empty otherwise. Where others have published figures of a benchmark, the report has them too, and
where reports/seeds.json is about this training, what other seeds bring.

models/grpo is probed (docs/probe.md) on edits of the validation split, since the test split is scored once:
reports/probes.json says whether its scores move as they must.

With `evaluate.data_parallel_size` above 1, so many engines score side by side, each in a process and on GPUs of
its own, and each a part of the edits.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

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
from critic.evaluation.probing import Probing, measure_probes
from critic.evaluation.report import LABELS, build_report
from critic.evaluation.seeds import FILE as SEEDS
from critic.evaluation.seeds import read_seeds
from critic.evaluation.sub_scores import SubScores, measure_sub_scores
from critic.files import replacing_folder, write_json, write_text
from critic.prompts import Contract, stage_contract
from critic.scoring.inputs import table_pairs
from critic.scoring.judges.image_metrics import baseline_scores
from critic.scoring.probes import PROBES, probe
from critic.scoring.scorer import Scorer, predict
from critic.tables import TableError, read_parquet

REPORTS = Path("reports")
CURVES = REPORTS / "curves/grpo"
TEST = Path("data/validated/test.parquet")
VALIDATION = Path("data/validated/validation.parquet")
AGIQA = Path("data/validated/agiqa.parquet")


def main() -> None:
    section, model = params.load(params.Evaluate), params.load(params.Model)
    try:
        split = read_split()
    except SplitError as error:
        raise SystemExit(str(error)) from None
    seeds = read_seeds(SEEDS)
    test = read_parquet(TEST)
    edits = as_edits(test)
    train_mean = float(read_parquet("data/validated/train.parquet", ["mos"])["mos"].mean())
    checkpoints = {"base": model.base, "sft": "models/sft", "grpo": "models/grpo"}
    pictures = read_parquet(AGIQA) if AGIQA.exists() else None
    tables = [TEST] if pictures is None else [TEST, AGIQA]
    predictions: dict[str, pd.DataFrame] = {}
    on_pictures: dict[str, pd.DataFrame] = {}
    for name, (of_test, *of_pictures) in score_by_each(checkpoints, tables, section):
        predictions[name] = of_test
        if of_pictures:
            (on_pictures[name],) = of_pictures
    write_predictions(predictions, edits, on_pictures)
    how: dict[str, Any] = {
        "train_mean": train_mean,
        "failure_policy": section.failure_policy,
        "n_boot": section.n_boot,
        "seed": params.seed(),
    }
    evaluation = compute_metrics(predictions, baseline_scores(edits), edits, **how)
    generated = {} if pictures is None else measure_generated(on_pictures, pictures, **how)
    stated = measure_sub_scores(predictions, edits, n_boot=section.n_boot, seed=params.seed())
    validation = validation_curve(CURVES / "validation.parquet", train_mean, section)
    compared = beside_published(predictions, test, split, generated)
    probing = probe_critic(section)
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
        sub_scores=stated,
        probing=probing,
        seeds=seeds if seeds.are_of(params.seed(), evaluation.models) else None,
        words=words(test),
    )
    write(predictions, evaluation, edits, split, validation, page, generated, stated, probing)
    show(evaluation, split)
    print(f"probes of grpo, on the validation split: {probing.verdict}")


def show(evaluation: Evaluation, split: Split) -> None:
    """Print the main scores."""
    for name, metrics in evaluation.models.items():
        main_score = metrics["main_score"]
        line = f"{name:5} main score {main_score.value:.3f} ({main_score.low:.3f} to {main_score.high:.3f})"
        print(split.note(line))
    for gain, metric in ((evaluation.difference, "main score"), (evaluation.error_difference, "mae")):
        if gain:
            line = f"grpo over sft {gain.value:+.3f} in {metric} ({gain.low:+.3f} to {gain.high:+.3f})"
            print(split.note(f"{line}, p = {gain.p:.3f}"))


def score_by_each(
    checkpoints: Mapping[str, str], tables: list[Path], section: params.Evaluate
) -> Iterator[tuple[str, list[pd.DataFrame]]]:
    """Each critic's name and its predictions of each table, in the table's order.

    Raises:
        SystemExit: there are GPUs, but not enough for the engines.
    """
    size, each, gpus = section.data_parallel_size, section.tensor_parallel_size, torch.cuda.device_count()
    if gpus and size * each > gpus:
        raise SystemExit(
            f"evaluate has data_parallel_size {size} and tensor_parallel_size {each} in params.yaml, which takes "
            f"{size * each} GPUs, and {gpus} are visible: lower one of the two"
        )
    if size == 1:
        for name, checkpoint in checkpoints.items():
            yield name, score_part(name, checkpoint, tables, 1, 0)
        return
    processes = get_context("spawn")
    numbers = processes.SimpleQueue()
    for number in range(size):
        numbers.put(number)
    with ProcessPoolExecutor(size, processes, take_gpus, (numbers, each)) as pool:
        for name, checkpoint in checkpoints.items():
            parts = [*pool.map(partial(score_part, name, checkpoint, tables, size), range(size))]
            together = [pd.concat(of_table).set_index("id") for of_table in zip(*parts, strict=True)]
            ids = [read_parquet(table, ["id"])["id"] for table in tables]
            yield name, [found.loc[order].reset_index() for found, order in zip(together, ids, strict=True)]


def take_gpus(numbers: "SimpleQueue[int]", each: int) -> None:
    """Let this process see only its own GPUs, `each` of the visible ones."""
    number = numbers.get()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else [*map(str, range((number + 1) * each))]
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(names[number * each : (number + 1) * each])


def score_part(name: str, checkpoint: str, tables: list[Path], parts: int, part: int) -> list[pd.DataFrame]:
    """A critic's predictions of a part of each table, by an engine in this process. The first part has a bar."""
    title = f"scoring with {name}" if parts == 1 else f"scoring with {name}, part 1 of {parts}"
    found = []
    with closing(engine(checkpoint, name)) as critic:
        for path in tables:
            table = read_parquet(path)
            start, end = (len(table) * number // parts for number in (part, part + 1))
            shown = title if part == 0 else None
            found.append(score(critic, shown, edits_from_table(table[start:end]), end - start))
    return found


def score(critic: Engine, title: str | None, items: Iterable[Edit], total: int) -> pd.DataFrame:
    """A critic's predictions of edits or generated pictures, `total` in all; `title` is that of the bar."""
    scorer = Scorer(critic, used_contract())
    batch_size = params.load(params.Evaluate).batch_size
    return predict(scorer, items, total=total, batch_size=batch_size, title=title)


def probe_critic(section: params.Evaluate) -> Probing:
    """Whether the scores of models/grpo move as they must when edits of the validation split are changed.

    A split whose edits have no other source image, or no other instruction, isn't probed with other edits; the log
    says so.
    """
    table = read_parquet(VALIDATION)
    pairs = replace(table_pairs(table), resize=used_contract().resize)
    sources = [*table["source_id"]]
    chosen = partial(probe, pairs, [*table["mos"]], sources, edits=section.probe_edits, seed=params.seed())
    try:
        probed = chosen()
    except TableError as error:
        alone = [name for name, one in PROBES.items() if not one.needs_other]
        print(f"The critic is probed by {', '.join(alone)} alone: {error}")
        probed = chosen(names=alone)
    items = (edit for number in range(len(probed)) if isinstance(edit := probed[number], Edit))
    with closing(engine("models/grpo", "grpo")) as critic:
        found = score(critic, "probing grpo", items, len(probed))
    scores = dict(zip(found["id"], found["score"].to_numpy(float, na_value=np.nan), strict=True))
    return measure_probes(scores, probed.ids, probed.sources, n_boot=section.n_boot, seed=params.seed())


def used_contract() -> Contract:
    """The prompt contract of all three models."""
    return stage_contract(params.load(params.Prompt).contract, "models/grpo")


def engine(checkpoint: str, name: str) -> TransformersEngine | VllmEngine:
    """The engine of `evaluate.engine` with a checkpoint loaded."""
    section, model = params.load(params.Evaluate), params.load(params.Model)
    revision = model.revision if name == "base" else None
    contract = used_contract()
    processor = load_processor(checkpoint, contract, revision)
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
        max_model_len=section.max_model_len,
        pixels=contract.pixels,
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
    """GRPO by step: step, reward, reward_std, completion_length (tokens), and the figures of collapse.

    Without edits with a MOS there is no floor_share; a step without any has none (NaN).
    """
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
    if not (folder / "reward_accuracy.tsv").exists():
        del names["reward_floor"]
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


def write_predictions(
    predictions: dict[str, pd.DataFrame], edits: pd.DataFrame, on_pictures: dict[str, pd.DataFrame]
) -> None:
    """Write every score, before anything that can fail is done with them."""
    known = [c for c in ("id", "source_id", "edit_type", "editor", "mos") if c in edits]
    with replacing_folder(REPORTS / "predictions") as folder:
        for name, table in predictions.items():
            edits[known].merge(table, on="id").to_parquet(folder / f"{name}.parquet")
        for name, table in on_pictures.items():
            table.to_parquet(folder / f"agiqa-{name}.parquet")


def write(
    predictions: dict[str, pd.DataFrame],
    evaluation: Evaluation,
    edits: pd.DataFrame,
    split: Split,
    validation: pd.DataFrame,
    page: str,
    generated: dict[str, dict[str, Scores]],
    stated: SubScores,
    probing: Probing,
) -> None:
    """Write the stage's other outputs. Tables of the test split say in a column `split` what it leaks."""
    leak = {"split": split.leak} if split.leak else {}
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
    write_json(REPORTS / "sub_scores.json", split.mark(jsonable(vars(stated))))
    write_json(REPORTS / "probes.json", jsonable(probing) | {"verdict": probing.verdict})
    write_text(REPORTS / "report.html", page)


if __name__ == "__main__":
    main()
