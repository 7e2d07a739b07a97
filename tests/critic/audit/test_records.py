"""The record of a commit whose modules have other paths than today's is read from that commit."""

import json
from hashlib import md5, sha256
from pathlib import Path

import bentoml
import pytest
import yaml
from audited import commit, dvc
from bentoml.exceptions import NotFound

from critic.audit import attestation, manifests, trace
from critic.audit.records import Record, RecordError
from critic.audit.releases import check_releases
from critic.audit.rerun import tolerance_of
from critic.audit.resolve import find, weights_of
from critic.release.git import git

CODE = {
    "sft": ("critic/provenance.py", "critic/training.py", "stages/sft.py"),
    "grpo": ("critic/provenance.py", "critic/rewards.py", "critic/training.py", "stages/grpo.py"),
}
INPUTS = {"sft": ("assets/base.txt", None), "grpo": ("models/sft", "sft")}
ENVIRONMENT = {
    "gpus": [],
    "packages": {"lock": None, "otherwise": {}, "sha256": None},
    "processor": "AMD EPYC",
    "python": "3.11.7",
    "system": "Linux x86_64",
    "threads": 2,
    "variables": {},
}


def digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()


def model(stage: str) -> dict:
    files = {"config.json": digest("{}"), "model.safetensors": digest(stage)}
    folder = digest("".join(f"{files[name]}  {name}\n" for name in sorted(files)))
    return {"bytes": 10, "files": files, "manifest": None, "sha256": folder, "stage": None}


def write_stage(folder: Path, stage: str) -> dict:
    """Write a manifest in the format of the flat modules; returns the stage's entry of dvc.lock."""
    path, maker = INPUTS[stage]
    made = manifests.path_of("sft")
    text = {
        "bytes": 4,
        "files": {},
        "manifest": digest((folder / made).read_text()) if maker else None,
        "sha256": model("sft")["sha256"] if maker else digest("base"),
        "stage": maker,
    }
    code = (*CODE[stage], "critic/params.py")
    manifest = {
        "code": {name: digest((folder / name).read_text()) for name in code},
        "command": f"python -m stages.launch {stage}",
        "contract": None,
        "environment": ENVIRONMENT,
        "format": 1,
        "inputs": {path: text},
        "outputs": {f"models/{stage}": model(stage)},
        "params": {"seed": 7},
        "profile": "tiny",
        "revisions": {},
        "stage": stage,
    }
    written = folder / manifests.path_of(stage)
    written.parent.mkdir(parents=True, exist_ok=True)
    written.write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n")
    locked = md5(written.read_bytes()).hexdigest()
    return {
        "cmd": manifest["command"],
        "deps": [{"path": name, "md5": "0" * 32} for name in (*CODE[stage], path)],
        "params": {"params.yaml": {"seed": 7}},
        "outs": [
            {"path": f"models/{stage}", "md5": f"{'0' * 32}.dir"},
            {"path": str(manifests.path_of(stage)), "md5": locked},
        ],
    }


@pytest.fixture
def flat(tmp_path: Path) -> Path:
    """A release of flat modules, which the next commit moved into rooms and trained again."""
    folder = tmp_path / "flat"
    for name in {*CODE["sft"], *CODE["grpo"], "critic/params.py", "reports/decisions/0001-promoted.json"}:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps({"promote": True, "path": name}))
    (folder / "params.yaml").write_text(
        "seed: 7\nprofile: tiny\nprofiles: {tiny: {audit: {tolerance: 0.05}, sft: {epochs: 2}}}\n"
    )
    stages = {
        stage: {
            "cmd": f"python -m stages.launch {stage}",
            "deps": [*CODE[stage], INPUTS[stage][0]],
            "params": ["seed"],
            "outs": [f"models/{stage}", {str(manifests.path_of(stage)): {"cache": False}}],
        }
        for stage in CODE
    }
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}, sort_keys=False))
    lock = {stage: write_stage(folder, stage) for stage in CODE}
    (folder / "dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": lock}, sort_keys=False))
    git(folder, "init", "--quiet", "--initial-branch", "main")
    git(folder, "config", "user.name", "Ann")
    git(folder, "config", "user.email", "ann@example.org")
    commit(folder, "Promote critic v1.0.0")
    git(folder, "tag", "-a", "critic@v1.0.0", "-m", "edit_critic:v1.0.0-cpu-1")
    (folder / "critic/training").mkdir()
    for old, new in {"training": "setup", "rewards": "rewards"}.items():
        (folder / f"critic/{old}.py").rename(folder / f"critic/training/{new}.py")
    (folder / "critic/provenance.py").unlink()
    for stage in CODE:
        (folder / manifests.path_of(stage)).unlink()
    commit(folder, "Move the modules into rooms")
    return folder


def test_a_release_of_other_modules_has_a_record(flat: Path) -> None:
    record = Record.of(flat, "critic@v1.0.0")
    assert [step.path for step in record.lineage("models/grpo")] == [
        "models/grpo",
        "models/sft",
        "assets/base.txt",
    ]
    assert "critic/rewards.py" in record.manifest("grpo").code
    with pytest.raises(RecordError, match=r"this checkout has no reports/provenance/grpo\.json: run `dvc repro`"):
        Record.of(flat).manifest("grpo")


def test_it_is_found_by_version_and_by_weights_and_traced(flat: Path) -> None:
    subject = find(flat, "v1.0.0")
    assert find(flat, weights_of(model("grpo")["files"])).record == subject.record
    assert "critic/provenance.py" in trace.as_html(subject)
    assert "grpo --> m0" in trace.as_mermaid(subject.record, subject.path)
    sources = attestation.make_statement(subject)["predicate"]["buildDefinition"]["resolvedDependencies"]
    assert "critic/rewards.py" in [source["uri"] for source in sources]


def test_it_is_checked_with_its_own_code(flat: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def get(tag: str) -> None:
        raise NotFound(tag)

    monkeypatch.setattr(bentoml.models, "get", get)
    found = [*check_releases(flat)]
    assert [(finding.check, finding.is_problem) for finding in found] == [("bento", False)], found


def test_params_with_old_names_give_the_tolerance_of_its_rerun(flat: Path) -> None:
    assert tolerance_of(Record.of(flat, "critic@v1.0.0")) == 0.05


def test_a_revision_that_does_not_exist_is_an_error(flat: Path) -> None:
    with pytest.raises(RecordError, match="has no revision v9"):
        Record.of(flat, "v9")


def test_a_broken_chain_is_an_error(checkout: Path) -> None:
    params = checkout / "params.yaml"
    params.write_text(params.read_text().replace("seed: 7", "seed: 8"))
    dvc(checkout, "repro", "--single-item", "sft")
    subject = find(checkout, "models/grpo")
    with pytest.raises(RecordError, match="breaks at models/sft: grpo read a version that isn't in sft's"):
        [*subject.record.lineage(subject.path)]


def test_manifests_outside_a_lineage_may_be_missing(checkout: Path) -> None:
    (checkout / manifests.path_of("cards")).unlink()
    assert len([*find(checkout, "models/grpo").record.lineage("models/grpo")]) > 5
