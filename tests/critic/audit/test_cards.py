"""The cards: what they say of the test split."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from critic import files
from critic.audit import manifests
from critic.audit.cards import Facts, data_card, model_card
from critic.evaluation.leak import SplitError, parse_split
from critic.tables import read_parquet

STAGES = ("download", "validate", "build", "sft", "grpo", "evaluate")
LEAK = {"name": "official", "leak": {"edits": 6, "sources": 2}}
FIGURE = re.compile(r"\b0\.\d{3}\b")


@pytest.fixture(scope="module")
def facts(audited: Path) -> Facts:
    """Of a run on minibench."""
    columns = ("source_id", "mos", "edit_type")
    return Facts(
        manifests={stage: manifests.read(audited, stage) for stage in STAGES},
        metrics=json.loads((audited / "reports/metrics.json").read_text()),
        splits={
            split: read_parquet(audited / f"data/validated/{split}.parquet", columns)
            for split in ("train", "validation", "test")
        },
        checks=json.loads((audited / "data/validation.json").read_text()),
        probing=json.loads((audited / "reports/probes.json").read_text()),
    )


@pytest.fixture(scope="module")
def official(facts: Facts) -> Facts:
    """The same, if its test split were a published one that leaks."""
    checks = facts.checks | {"split": LEAK}
    split = parse_split(checks)
    return replace(facts, checks=checks, metrics={name: split.mark(of) for name, of in facts.metrics.items()})


def test_without_a_leak_the_cards_say_that_sources_are_apart(facts: Facts) -> None:
    model, data = (" ".join(str(card).split()) for card in (model_card(facts), data_card(facts)))
    assert "no source image of it was used in training" in model and "is in two splits" in data
    assert "leak" not in model + data


def test_the_card_says_whether_the_critic_looks(facts: Facts) -> None:
    black = {"probe": "black", "must": "fall", "passed": False, "rate": {"value": 0.2, "low": 0.1, "high": 0.3}}
    probing = {"verdict": "The score is blind.", "probes": [black | {"change": {"value": -0.5}}]}
    assert "Does it look?" not in str(model_card(facts))
    card = str(model_card(replace(facts, probing=probing)))
    assert "The score is blind." in card and "| black | fall | 0.20 (0.10 to 0.30) | -0.50 | **no** |" in card


def test_with_a_leak_the_cards_say_so_where_the_figures_are_and_claim_nothing_else(official: Facts) -> None:
    leak = official.split.leak
    assert leak.startswith("leaks source images: 6 of")
    model, data = str(model_card(official)), str(data_card(official))
    _, metadata, text = model.split("---\n", 2)
    with_figures = [section for section in text.split("\n## ") if FIGURE.search(section)]
    assert with_figures and all(leak in section for section in with_figures)
    (index,) = yaml.safe_load(metadata)["model-index"]
    assert index["results"]
    assert all(result["dataset"]["args"]["test split"] == leak for result in index["results"])
    assert leak in data
    assert "was used in training" not in model and "is in two splits" not in data


def test_a_published_split_without_a_leak_is_named_and_nothing_more_is_said(facts: Facts) -> None:
    apart = replace(
        facts, checks=facts.checks | {"split": {"name": "official", "leak": {"edits": 0, "sources": 0}}}
    )
    assert apart.split.leak in str(model_card(apart)) and apart.split.leak in str(data_card(apart))
    assert "hasn't seen" not in str(model_card(apart))


def test_a_report_without_the_split_is_an_error_with_the_stage_to_run(facts: Facts) -> None:
    old = replace(facts, checks={name: of for name, of in facts.checks.items() if name != "split"})
    for card in (model_card, data_card):
        with pytest.raises(SplitError, match="run `dvc repro validate`"):
            card(old)


def test_the_data_card_names_the_files_of_preferences(facts: Facts, tmp_path: Path) -> None:
    (tmp_path / "README.md").touch()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/edits.parquet").write_text("edits")
    digest = files.sha256(tmp_path / "mine/edits.parquet")
    assert "data/preferences" not in str(data_card(facts))
    validated = facts.manifests["validate"]
    inputs = {"inputs": validated.inputs | {"data/preferences": manifests.fingerprint(tmp_path)}}
    learnt = replace(
        facts,
        manifests=facts.manifests | {"validate": validated.model_copy(update=inputs)},
        checks=facts.checks | {"preferences": {"edits": 4, "pairs": 2, "dropped": 0}},
    )
    card = str(data_card(learnt))
    assert card.endswith(
        f"\n\n| preferences | SHA-256 |\n|---|---|\n| data/preferences/mine/edits.parquet | `{digest}` |\n"
    )


@pytest.mark.parametrize(
    ("download", "source"),
    [
        ({"source": "agiqa", "agiqa": {"folder": "A", "split": 7}}, "AGIQA-3k (quality, split 7 of 0 to 9)"),
        ({"source": "minibench", "minibench": {"generated": True}}, "minibench, which the pipeline generates"),
    ],
)
def test_cards_of_a_critic_of_generated_pictures_name_no_edits(
    facts: Facts, download: dict[str, Any], source: str
) -> None:
    manifest = facts.manifests["download"]
    content = {"profiles": {facts.profile: {"download": download}}}
    pictures = replace(
        facts, manifests=facts.manifests | {"download": manifest.model_copy(update={"params": content})}
    )
    model, data = str(model_card(pictures)), str(data_card(pictures))
    assert "# A critic of generated pictures" in model and "# Generated pictures with mean opinion" in data
    assert f"It was trained on {source}" in model and f"Source: {source}." in data
    assert "--image picture.png --prompt" in model and "source.png" not in model
    assert "pictures of" in model and "edits of" not in model
    leaking = replace(pictures, checks=facts.checks | {"split": LEAK | {"of": "prompts"}})
    assert "leaks prompts: 6 of" in (text := str(model_card(leaking)))
    assert "higher than those on new prompts" in text
