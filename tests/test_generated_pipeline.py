"""The whole pipeline on pictures without a source image, at a smoke size: minibench's, with the tiny critic.

python -m pytest -m nightly tests/test_generated_pipeline.py
"""

import json
from pathlib import Path

import pandas as pd
import pytest
import yaml
from smoke import SIZES, Project

from critic.tables import read_parquet

CONTRACT = "assets/tiny-generated.yaml"

pytestmark = [pytest.mark.e2e, pytest.mark.nightly]


def test_a_critic_is_trained_and_measured_on_pictures_without_a_source(tmp_path: Path) -> None:
    project = Project(tmp_path)
    params = yaml.safe_load((tmp_path / "params.yaml").read_text())
    params["profiles"]["tiny"]["prompt"]["contract"] = CONTRACT
    params["profiles"]["tiny"]["download"]["minibench"]["generated"] = True
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    project.dvc("repro")

    metrics = json.loads((tmp_path / "reports/metrics.json").read_text())
    assert {*metrics} == {"base", "sft", "grpo"}
    assert metrics["grpo"]["coverage"]["value"] > 0.5
    test = read_parquet(tmp_path / "data/validated/test.parquet")
    scored = pd.read_parquet(tmp_path / "reports/predictions/grpo.parquet")
    assert list(scored["id"]) == list(test["id"])
    assert {"source_id", "edit_type", "editor", "mos"} <= {*scored}
    report = (tmp_path / "reports/report.html").read_text()
    sources = SIZES["download"]["minibench"]["test_sources"]
    assert f"{len(test)} pictures of {sources} source images" in report
    assert "Blur effect" in report and "PSNR" not in report
    assert 'alt="generated image"' in report
    for model in ("sft", "grpo"):
        assert (tmp_path / f"models/{model}/contract.yaml").read_text() == (tmp_path / CONTRACT).read_text()
    card = (tmp_path / "reports/cards/model.md").read_text()
    assert "# A critic of generated pictures" in card
    assert "--image picture.png --prompt" in card
    assert "# Generated pictures with mean opinion scores" in (tmp_path / "reports/cards/data.md").read_text()
