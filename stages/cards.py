"""Write reports/cards, the model card and the data card, from the record and the evaluation.

    python -m stages.launch cards

Upload models/grpo with reports/cards/model.md as its README.md, data/validated with reports/cards/data.md.
"""

import json
from pathlib import Path

from critic import files
from critic.audit import manifests
from critic.audit.cards import Facts, data_card, model_card
from critic.evaluation.leak import SplitError
from critic.tables import read_parquet

CARDS = Path("reports/cards")
STAGES = ("download", "validate", "build", "sft", "grpo", "evaluate")
SPLITS = ("train", "validation", "test")
COLUMNS = ("source_id", "mos", "edit_type")


def main() -> None:
    facts = Facts(
        manifests={stage: manifests.read(Path.cwd(), stage) for stage in STAGES},
        metrics=json.loads(Path("reports/metrics.json").read_text()),
        splits={split: read_parquet(f"data/validated/{split}.parquet", COLUMNS) for split in SPLITS},
        probing=json.loads(Path("reports/probes.json").read_text()),
        checks=json.loads(Path("data/validation.json").read_text()),
    )
    try:
        cards = {"model.md": model_card(facts), "data.md": data_card(facts)}
    except SplitError as error:
        raise SystemExit(str(error)) from None
    with files.replacing_folder(CARDS) as partial:
        for name, card in cards.items():
            files.write_text(partial / name, f"{card}\n")


if __name__ == "__main__":
    main()
