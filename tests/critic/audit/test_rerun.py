"""A rerun reproduces a critic and finds forged records."""

import json
from pathlib import Path

import pytest
from audited import commit, dvc

from critic.audit import manifests
from critic.audit.records import Record
from critic.audit.rerun import compare_records, rerun


@pytest.mark.parametrize("claim", ["seed", "code", "an input that was brought", "the contract"])
def test_a_rerun_finds_false_claims_of_a_record(claim: str, checkout: Path, audited: Path) -> None:
    """Everything else is identical."""
    path = checkout / manifests.path_of("build" if claim != "an input that was brought" else "download")
    content = json.loads(path.read_text())
    match claim:
        case "seed":
            content["params"]["seed"] = 8
        case "code":
            content["code"]["stages/build.py"] = "0" * 64
        case "an input that was brought":
            content["inputs"]["data/ratings"].update(sha256="0" * 64, files={})
        case "the contract":
            content["contract"]["name"] = "another"
    manifest = manifests.Manifest.model_validate(content)
    path.write_text(manifest.text())
    report = compare_records(Record.of(checkout), Record.of(audited), [manifest.stage], 0.05)
    assert report.outcome == "not reproduced" and "differs from what the same commit gives" in report.why


def test_a_later_edit_of_params_py_is_reproduced(checkout: Path, audited: Path) -> None:
    path = checkout / manifests.path_of("build")
    content = json.loads(path.read_text())
    content["code"][manifests.PARAMS_MODULE] = "0" * 64
    path.write_text(manifests.Manifest.model_validate(content).text())
    assert compare_records(Record.of(checkout), Record.of(audited), ["build"], 0.05).outcome == "reproduced"


def test_a_rerun_reproduces_every_byte(audited: Path, tmp_path: Path) -> None:
    report = rerun(audited, "HEAD", tmp_path / "again", here=True)
    assert report.outcome == "reproduced" and report.first is None and not report.environment


def test_a_rerun_finds_a_consistent_forgery(checkout: Path, tmp_path: Path) -> None:
    """Weights, manifest, dvc.lock and commit agree, so only a rerun shows it."""
    (checkout / "models/sft/model.safetensors").write_text("better weights")
    path = checkout / manifests.path_of("sft")
    content = json.loads(path.read_text())
    content["outputs"]["models/sft"] = manifests.fingerprint(checkout / "models/sft").model_dump()
    path.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")
    dvc(checkout, "commit", "--force", "sft")
    commit(checkout, "Nothing to see here")
    report = rerun(checkout, "HEAD", tmp_path / "again", until="sft", here=True)
    assert report.outcome == "not reproduced"
    assert report.first == "sft: models/sft/model.safetensors"
