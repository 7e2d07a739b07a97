"""The model's card and the data's, from the record and the evaluation alone, so that they can't say otherwise.

    card = model_card(facts)       # huggingface_hub.ModelCard: `card.save("README.md")`, `card.push_to_hub(...)`

Their metadata are the Hugging Face hub's (its documentation, "Model Cards" and "Dataset Cards").
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from huggingface_hub import CardData, DatasetCard, DatasetCardData, EvalResult, ModelCard, ModelCardData, RepoCard
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from critic.audit.manifests import Manifest

TEMPLATES = Path(__file__).parent
MEASURED = {"main_score": "main score", "plcc": "PLCC", "srcc": "SRCC", "krcc": "KRCC", "mae": "MAE"}
"""The metrics of reports/metrics.json that the model's card has, and how it calls them."""
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"))


class CardError(ValueError):
    """A card that can't be made; the message says what its facts lack."""


@dataclass(frozen=True)
class Facts:
    """What cards are made of.

    Attributes:
        manifests: by stage, in the order of the pipeline.
        metrics: reports/metrics.json.
        splits: the validated table of each split, without pictures: id, source_id, mos, and edit_type, editor and
            ratings if the benchmark has them.
        checks: data/validation.json.
    """

    manifests: dict[str, Manifest]
    metrics: dict[str, Any]
    splits: dict[str, pd.DataFrame]
    checks: dict[str, Any]

    @property
    def profile(self) -> str:
        """Of params.yaml."""
        return self.manifests["grpo"].profile

    def scaled(self, stage: str, section: str) -> dict[str, Any]:
        """A section of params.yaml as a stage read it, the profile's part put over the shared one."""
        read = self.manifests[stage].params
        own = read.get("profiles", {}).get(self.profile, {}).get(section, {})
        return {**read.get(section, {}), **own}

    @property
    def source(self) -> str:
        """Where the benchmark came from."""
        section = self.scaled("download", "download")
        match section["source"]:
            case "hub":
                return str(section["hub"]["dataset"])
            case "local":
                return "a benchmark of its makers' own"
            case _:
                return "minibench, which the pipeline makes itself"


def model_card(facts: Facts) -> ModelCard:
    """The card of models/grpo.

    Raises:
        CardError: a metric is missing, or the hub couldn't read the card.
    """
    base = facts.scaled("sft", "model")["base"]
    is_hub = "/" in base and base in facts.manifests["sft"].revisions
    source = facts.scaled("download", "download")
    try:
        scores = facts.metrics["grpo"]
        results = [
            EvalResult(
                task_type="image-text-to-text",
                task_name="Scoring of text-driven image edits",
                dataset_type=source["hub"]["dataset"] if source["source"] == "hub" else source["source"],
                dataset_name=facts.source,
                dataset_split="test",
                dataset_revision=facts.manifests["download"].revisions.get(facts.source),
                metric_type=metric,
                metric_name=name,
                metric_value=round(scores[metric]["value"], 4),
            )
            for metric, name in MEASURED.items()
            if scores[metric]["value"] is not None
        ]
    except KeyError as error:
        raise CardError(f"reports/metrics.json has no {error.args[0]} of the model grpo") from None
    data = ModelCardData(
        language="en",
        license="apache-2.0",
        library_name="transformers",
        pipeline_tag="image-text-to-text",
        tags=["image-editing", "reward-model", "image-quality-assessment", "grpo", "trl"],
        base_model=base if is_hub else None,
        datasets=[facts.source] if source["source"] == "hub" else None,
        metrics=[*MEASURED],
        model_name="edit-critic",
        eval_results=results,
    )
    card = ModelCard(_render("model.md", facts, data.to_yaml()))
    _require_same(card, data)
    return card


def data_card(facts: Facts) -> DatasetCard:
    """The card of data/validated.

    Raises:
        CardError: the hub couldn't read the card.
    """
    number = sum(len(table) for table in facts.splits.values())
    data = DatasetCardData(
        language="en",
        task_categories=["image-text-to-text"],
        pretty_name=f"Text-driven image edits with mean opinion scores: {facts.source}",
        size_categories=next((name for limit, name in _SIZES if number < limit), "100K<n<1M"),
        tags=["image-editing", "mean-opinion-score"],
        configs=[
            {
                "config_name": "default",
                "data_files": [{"split": split, "path": f"{split}.parquet"} for split in facts.splits],
            }
        ],
    )
    card = DatasetCard(_render("data.md", facts, data.to_yaml()))
    _require_same(card, data)
    return card


def summary(table: pd.DataFrame) -> dict[str, str]:
    """A split in figures: edits, source images, and their MOS."""
    mos = table["mos"]
    return {
        "edits": f"{len(table):,}",
        "source images": f"{table['source_id'].nunique():,}",
        "MOS": f"{mos.mean():.2f} ± {mos.std():.2f}",
        "from": f"{mos.min():.2f}",
        "to": f"{mos.max():.2f}",
    }


def _require_same(card: RepoCard, written: CardData) -> None:
    """Raises `CardError` if the hub's own reader doesn't read what was written."""
    if card.data.to_yaml() != written.to_yaml():
        raise CardError(f"the {type(card).__name__} doesn't come back as it was written: its metadata are damaged")


def _render(template: str, facts: Facts, metadata: str) -> str:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template(template).render(
        facts=facts, metadata=metadata.strip(), measured=MEASURED, summary=summary
    )
