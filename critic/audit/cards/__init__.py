"""The model card and the data card, written from the record and the evaluation alone.

    card = model_card(facts)       # huggingface_hub.ModelCard: `card.save("README.md")`, `card.push_to_hub(...)`

Their metadata follow the Hugging Face hub's documentation, "Model Cards" and "Dataset Cards".
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
from huggingface_hub import CardData, DatasetCard, DatasetCardData, EvalResult, ModelCard, ModelCardData, RepoCard
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from critic.audit.manifests import Manifest
from critic.data.generated import EDITS, Words
from critic.evaluation.leak import Split, parse_split
from critic.evaluation.metrics import SHOWN

TEMPLATES = Path(__file__).parent
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"))
_SOURCES = {"minibench": "minibench, which the pipeline generates", "local": "a local benchmark"}
_Card = TypeVar("_Card", bound=RepoCard)


class CardError(ValueError):
    """A card that can't be written; the message says what is missing."""


@dataclass(frozen=True)
class Facts:
    """The content of the cards: manifests by stage, in order, and the files metrics.json and probes.json of
    reports/ and data/validation.json.

    `splits` is the validated table of each split: source_id, mos, and edit_type if the benchmark has it.
    """

    manifests: dict[str, Manifest]
    metrics: dict[str, Any]
    splits: dict[str, pd.DataFrame]
    checks: dict[str, Any]
    probing: dict[str, Any]

    @property
    def profile(self) -> str:
        """The profile of params.yaml."""
        return self.manifests["grpo"].profile

    def section(self, stage: str, name: str) -> dict[str, Any]:
        """A section of params.yaml as a stage read it: shared values, and over them those of the profile."""
        read = self.manifests[stage].params
        return {**read.get(name, {}), **read.get("profiles", {}).get(self.profile, {}).get(name, {})}

    @property
    def split(self) -> Split:
        """How the test split was made, and its leak."""
        return parse_split(self.checks)

    @property
    def words(self) -> Words:
        """What the rows of the benchmark are called."""
        download = self.section("download", "download")
        source = download["source"]
        if source == "agiqa":
            return Words("picture", "pictures", "prompts")
        made = (download.get(source) or {}).get("generated", False)
        return Words("picture", "pictures", EDITS.sources) if made else EDITS

    @property
    def source(self) -> str:
        """The name of the benchmark."""
        download = self.section("download", "download")
        source = str(download["source"])
        if source == "agiqa":
            part = download["agiqa"]
            return f"AGIQA-3k ({part.get('mos', 'quality')}, split {part['split']} of 0 to 9)"
        return str(download["hub"]["dataset"]) if source == "hub" else _SOURCES.get(source, source)


def model_card(facts: Facts) -> ModelCard:
    """The card of models/grpo.

    Raises:
        CardError: a metric is missing, or the hub can't read the card.
        SplitError: data/validation.json doesn't say how the test split was made, here and in `data_card`.
    """
    leak = facts.split.leak
    base = facts.section("sft", "model")["base"]
    is_hub = "/" in base and base in facts.manifests["sft"].revisions
    source = facts.section("download", "download")["source"]
    try:
        scores = facts.metrics["grpo"]
        results = [
            EvalResult(
                task_type="image-text-to-text",
                task_name=f"Scoring of {_kind(facts)}",
                dataset_type=facts.source if source == "hub" else source,
                dataset_name=facts.source,
                dataset_split="test",
                dataset_revision=facts.manifests["download"].revisions.get(facts.source),
                dataset_args={"test split": leak} if leak else None,
                metric_type=name,
                metric_name=metric.label,
                metric_value=round(scores[name]["value"], 4),
            )
            for name, metric in SHOWN.items()
            if scores[name]["value"] is not None
        ]
    except KeyError as error:
        raise CardError(
            f"reports/metrics.json has no {error.args[0]} of the model grpo: `dvc repro evaluate`"
        ) from None
    data = ModelCardData(
        language="en",
        license="apache-2.0",
        library_name="transformers",
        pipeline_tag="image-text-to-text",
        tags=[_tag(facts), "reward-model", "image-quality-assessment", "grpo", "trl"],
        base_model=base if is_hub else None,
        datasets=[facts.source] if source == "hub" else None,
        metrics=[*SHOWN],
        model_name="edit-critic",
        eval_results=results,
    )
    return _card(ModelCard, "model.md", facts, data)


def data_card(facts: Facts) -> DatasetCard:
    """The card of data/validated; raises a `CardError` as `model_card`."""
    number = sum(len(table) for table in facts.splits.values())
    files = [{"split": split, "path": f"{split}.parquet"} for split in facts.splits]
    data = DatasetCardData(
        language="en",
        task_categories=["image-text-to-text"],
        pretty_name=f"{_kind(facts).capitalize()} with mean opinion scores: {facts.source}",
        size_categories=next((name for limit, name in _SIZES if number < limit), "100K<n<1M"),
        tags=[_tag(facts), "mean-opinion-score"],
        configs=[{"config_name": "default", "data_files": files}],
    )
    return _card(DatasetCard, "data.md", facts, data)


def summary(table: pd.DataFrame, words: Words = EDITS) -> dict[str, str]:
    """A split in numbers: edits and source images, as `words` has them, and MOS (mean ± std, lowest, highest)."""
    mos = table["mos"]
    return {
        words.items: f"{len(table):,}",
        words.sources: f"{table['source_id'].nunique():,}",
        "MOS": f"{mos.mean():.2f} ± {mos.std():.2f}",
        "lowest": f"{mos.min():.2f}",
        "highest": f"{mos.max():.2f}",
    }


def _kind(facts: Facts) -> str:
    return "text-driven image edits" if facts.words == EDITS else "generated pictures"


def _tag(facts: Facts) -> str:
    return "image-editing" if facts.words == EDITS else "text-to-image"


def _card(kind: type[_Card], template: str, facts: Facts, data: CardData) -> _Card:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    values = {"facts": facts, "metadata": data.to_yaml().strip(), "metrics": SHOWN}
    values |= {"summary": partial(summary, words=facts.words), "edits": facts.words == EDITS, "words": facts.words}
    card = kind(environment.get_template(template).render(values))
    if card.data.to_yaml() != data.to_yaml():
        raise CardError(f"the hub's reader gets other metadata from the {kind.__name__} than were written")
    return card
