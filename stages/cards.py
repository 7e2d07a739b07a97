"""The record and the evaluation -> reports/cards: the model's card and the data's.

    python -m stages.launch cards

Upload models/grpo with reports/cards/model.md as its README.md, data/validated with reports/cards/data.md.
"""

import json
import os
import shutil
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq

from critic.audit import manifests
from critic.audit.cards import Facts, data_card, model_card

CARDS = Path("reports/cards")
STAGES = ("download", "validate", "build", "sft", "grpo", "evaluate")
SPLITS = ("train", "validation", "test")
COLUMNS = ("id", "source_id", "mos", "edit_type", "editor")


def main() -> None:
    facts = Facts(
        manifests={stage: manifests.read(Path.cwd(), stage) for stage in STAGES},
        metrics=json.loads(Path("reports/metrics.json").read_text()),
        splits={split: read_split(Path(f"data/validated/{split}.parquet")) for split in SPLITS},
        checks=json.loads(Path("data/validation.json").read_text()),
    )
    partial = CARDS.with_name(f".{CARDS.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    (partial / "model.md").write_text(f"{model_card(facts)}\n", encoding="utf-8")
    (partial / "data.md").write_text(f"{data_card(facts)}\n", encoding="utf-8")
    shutil.rmtree(CARDS, ignore_errors=True)
    os.replace(partial, CARDS)


def read_split(path: Path) -> pd.DataFrame:
    """A validated table without its pictures."""
    there = pq.read_schema(path).names
    return pd.read_parquet(path, columns=[column for column in COLUMNS if column in there])


if __name__ == "__main__":
    main()
