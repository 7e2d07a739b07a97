"""Manifests of stages with a base model."""

import shutil
from pathlib import Path

import pytest

from critic import files
from critic.audit import manifests
from critic.audit.verify import verify


def test_the_commit_of_a_base_is_the_fetched_one(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params, hub = checkout / "params.yaml", tmp_path / "hub"
    params.write_text(params.read_text().replace("base: assets/tiny-base", "base: someone/a-base"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(hub))
    run = manifests.begin("sft", checkout)
    run.finish()
    assert manifests.read(checkout, "sft").revisions == {"someone/a-base": manifests.UNKNOWN}
    assert "its commit on the hub is unknown" in [finding.what for finding in verify(checkout)]
    model = hub / "models--someone--a-base"
    for path, text in {"refs/main": "c0ffee", "snapshots/c0ffee/config.json": "{}"}.items():
        (model / path).parent.mkdir(parents=True)
        (model / path).write_text(text)
    run.finish()
    assert manifests.read(checkout, "sft").revisions == {"someone/a-base": "c0ffee"}


def test_a_learnt_contract_is_the_one_among_the_inputs(checkout: Path) -> None:
    params, learnt = checkout / "params.yaml", checkout / "data/validated/contract.yaml"
    params.write_text(params.read_text().replace("contract: tiny", "contract: learnt", 1))
    learnt.write_text("name: learnt")
    manifests.begin("build", checkout).finish()
    contract = manifests.read(checkout, "build").contract
    assert contract == manifests.Contract(name="learnt", sha256=files.sha256(learnt))


def test_a_base_in_a_folder_outside_the_deps_is_refused(checkout: Path) -> None:
    shutil.copytree(checkout / "assets/tiny-base", checkout / "mine")
    params = checkout / "params.yaml"
    params.write_text(params.read_text().replace("base: assets/tiny-base", "base: mine"))
    with pytest.raises(manifests.ManifestError, match="the base model mine is a folder"):
        manifests.begin("sft", checkout)
