"""A critic, an answer of it and its signed record lead back to its training rows; a forged one leads nowhere."""

import json
import shutil
import subprocess
from io import StringIO
from pathlib import Path

import pytest
from audited import commit, dvc
from click.testing import CliRunner
from rich.console import Console

from critic.audit import attestation, diff, manifests, resolve, trace
from critic.audit.coverage import covered
from critic.audit.records import Record, RecordError
from critic.audit.rerun import compare, rerun
from critic.audit.resolve import SubjectError, find, weights_of
from critic.audit.verify import verify
from critic.cli import main
from critic.engines.load import identify

ROOT = Path(__file__).parents[3]


def answer(checkout: Path, path: Path, **changes: str) -> Path:
    """What the service says of an edit."""
    manifest = manifests.read(checkout, "grpo")
    assert manifest.contract is not None
    fields = {"id": "a", "score": 3.4, "model": identify(str(checkout / "models/grpo"))}
    path.write_text(json.dumps(fields | {"contract": manifest.contract.sha256} | changes))
    return path


def test_an_answer_leads_to_the_training_rows(checkout: Path, tmp_path: Path) -> None:
    subject = find(checkout, str(answer(checkout, tmp_path / "answer.json")))
    found = trace.rows(subject)
    assert {*found} == {*trace.ROWS}
    for path, digest in found.items():
        assert manifests.fingerprint(checkout / path).sha256 == digest


def test_so_it_does_when_the_checkout_has_moved_on(checkout: Path, tmp_path: Path) -> None:
    path, before = answer(checkout, tmp_path / "answer.json"), find(checkout, "HEAD")
    params = checkout / "params.yaml"
    params.write_text(params.read_text().replace("learning_rate: 5.0e-05", "learning_rate: 6.0e-05"))
    dvc(checkout, "repro")
    commit(checkout, "Learn faster")
    then, now = find(checkout, str(path)), find(checkout, "models/grpo")
    assert then.record.commit == before.record.commit and now.record.commit is None
    assert trace.rows(then) == trace.rows(now)
    told = [(d.kind, d.where, d.a, d.b) for d in diff.differ(then, now)]
    assert told == [("params", "grpo profiles.tiny.grpo.learning_rate", "5e-05", "6e-05")]
    gaps = diff.score_gaps(then, now)["gap"].abs()
    assert gaps.max() > 0 and gaps.is_monotonic_decreasing
    assert diff.row_gaps(then.record, now.record) == {}


@pytest.mark.parametrize("field", ["model", "contract"])
def test_a_forged_answer_leads_nowhere(field: str, checkout: Path, tmp_path: Path) -> None:
    forged = answer(checkout, tmp_path / "answer.json", **{field: f"sha256:{'0' * 64}"})
    with pytest.raises(SubjectError, match=r"no record of this checkout|its prompt contract was"):
        find(checkout, str(forged))


def test_weights_are_named_as_the_engines_name_them() -> None:
    files = manifests.fingerprint(ROOT / "assets/tiny-base").files
    assert weights_of(files) == identify(str(ROOT / "assets/tiny-base"))


def test_a_critic_that_was_changed_has_no_record(checkout: Path) -> None:
    (checkout / "models/grpo/tokenizer.json").write_text("{}")
    with pytest.raises(SubjectError, match=r"isn't what the stage grpo left here \(tokenizer\.json\)"):
        find(checkout, "models/grpo")


def test_the_tree_the_chart_and_the_page_name_each_stage(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(checkout)
    runner = CliRunner()
    tree = runner.invoke(main, ["audit", "trace", "models/grpo"]).output
    assert "requirements/cpu.txt" in tree, "cut to the width of a terminal that there is none of"
    chart = runner.invoke(main, ["audit", "trace", "models/grpo", "--mermaid"]).output
    assert runner.invoke(main, ["audit", "trace", "models/grpo", "--html", "page.html"]).exit_code == 0
    for stage in ("download", "validate", "build", "sft", "grpo"):
        assert f"stage {stage}" in tree and f'(["{stage}"])' in chart
        assert manifests.read(checkout, stage).sha256 in (checkout / "page.html").read_text()


def test_a_card_leads_to_manifests_and_what_they_are_of(checkout: Path) -> None:
    page = trace.as_html(find(checkout, "reports/cards/model.md"))
    assert "reports/provenance/grpo.json" in page and "data/ratings" in page


def test_a_broken_chain_is_told_rather_than_a_wrong_parent(checkout: Path) -> None:
    params = checkout / "params.yaml"
    params.write_text(params.read_text().replace("seed: 7", "seed: 8"))
    dvc(checkout, "repro", "--single-item", "sft")
    subject = find(checkout, "models/grpo")
    with pytest.raises(RecordError, match=r"breaks at models/sft: grpo read another than sft's manifest says"):
        [*subject.record.lineage(subject.path)]


def test_the_commit_of_a_base_is_that_which_was_fetched(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params, hub = checkout / "params.yaml", tmp_path / "hub"
    params.write_text(params.read_text().replace("base: assets/tiny-base", "base: someone/a-base"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(hub))
    begun = manifests.begin("sft", checkout)
    begun.finish()
    assert manifests.read(checkout, "sft").revisions == {"someone/a-base": manifests.UNKNOWN}
    assert "which commit it was isn't known" in [finding.what for finding in verify(checkout)]
    model = hub / "models--someone--a-base"
    for path, text in {"refs/main": "c0ffee", "snapshots/c0ffee/config.json": "{}"}.items():
        (model / path).parent.mkdir(parents=True)
        (model / path).write_text(text)
    begun.finish()
    assert manifests.read(checkout, "sft").revisions == {"someone/a-base": "c0ffee"}


@pytest.mark.parametrize("change", ["a tokenizer", "no JSON"])
def test_a_signed_statement_of_something_else_is_a_problem(
    change: str, checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "key")], check=True)
    monkeypatch.chdir(checkout)
    statement = attestation.make_statement(find(checkout, "models/grpo"))
    command = ["audit", "verify", "--statement", str(tmp_path / "s.json"), "--key", str(tmp_path / "key.pub")]
    (tmp_path / "s.json").write_text(json.dumps(attestation.sign(statement, tmp_path / "key")))
    assert CliRunner().invoke(main, command).exit_code == 0
    if change == "no JSON":
        (tmp_path / "s.json").write_text("{")
        expected = "s.json is no JSON"
    else:
        next(s for s in statement["subject"] if s["name"] == "tokenizer.json")["digest"]["sha256"] = "0" * 64
        (tmp_path / "s.json").write_text(json.dumps(attestation.sign(statement, tmp_path / "key")))
        expected = "tokenizer.json: the record of this checkout has another"
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 1 and expected in result.output


def test_a_signed_record_is_believed_and_a_changed_one_is_not(checkout: Path, tmp_path: Path) -> None:
    for name in ("ours", "theirs"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / name)], check=True)
    statement = attestation.make_statement(find(checkout, "models/grpo"))
    envelope = attestation.sign(statement, tmp_path / "ours")
    assert attestation.read_envelope(envelope, tmp_path / "ours.pub") == statement
    with pytest.raises(attestation.SignatureError, match="somebody else signed it"):
        attestation.read_envelope(envelope, tmp_path / "theirs.pub")
    changed = attestation.sign(statement | {"subject": []}, tmp_path / "ours")
    with pytest.raises(attestation.SignatureError, match="it was changed"):
        attestation.read_envelope(envelope | {"payload": changed["payload"]}, tmp_path / "ours.pub")
    digests = {entry["name"]: entry["digest"]["sha256"] for entry in statement["subject"]}
    assert resolve.weights_of(digests) == identify(str(checkout / "models/grpo"))


def test_a_statement_is_of_the_whole_record_and_not_of_the_weights_alone(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(checkout)
    statement = attestation.make_statement(find(checkout, "models/grpo"))
    assert attestation.differing(statement, checkout) == ""
    path = checkout / manifests.path_of("download")
    content = json.loads(path.read_text())
    content["environment"]["python"] = "2.7"
    path.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")
    assert attestation.differing(statement, checkout) == (
        "download's params or environment, reports/provenance/download.json"
    )


def test_only_critics_are_signed_for(checkout: Path) -> None:
    with pytest.raises(SubjectError, match="it is no critic"):
        attestation.make_statement(find(checkout, "data/sft"))


def test_the_signed_bytes_are_those_of_dsse() -> None:
    """As the example in DSSE's protocol.md, with this project's payload type."""
    assert attestation._to_be_signed(b"hello world") == b"DSSEv1 28 application/vnd.in-toto+json 11 hello world"


def test_an_answer_with_markup_in_it_is_shown_as_it_is(checkout: Path, tmp_path: Path) -> None:
    path = answer(checkout, tmp_path / "answer.json", id="cat[/b]")
    shown = StringIO()
    Console(file=shown, width=200).print(trace.as_tree(find(checkout, str(path))))
    assert "cat[/b]" in shown.getvalue()


def test_what_isnt_in_a_lineage_may_be_missing(checkout: Path) -> None:
    (checkout / manifests.path_of("cards")).unlink()
    assert len([*find(checkout, "models/grpo").record.lineage("models/grpo")]) > 5


def test_a_base_in_a_folder_that_nothing_watches_is_refused(checkout: Path) -> None:
    shutil.copytree(checkout / "assets/tiny-base", checkout / "mine")
    params = checkout / "params.yaml"
    params.write_text(params.read_text().replace("base: assets/tiny-base", "base: mine"))
    with pytest.raises(manifests.ProvenanceError, match="the base model mine is a folder"):
        manifests.begin("sft", checkout)


@pytest.mark.parametrize("claim", ["seed", "code", "an input that was brought", "the contract"])
def test_a_rerun_holds_a_record_to_what_it_claims(claim: str, checkout: Path, audited: Path) -> None:
    """All else agrees, to the byte."""
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
    verdict = compare(Record.of(checkout), Record.of(audited), [manifest.stage], 0.05)
    assert verdict.outcome == "not reproduced" and "isn't what the same commit gives" in verdict.why


def test_a_later_edit_of_the_module_beside_all_stages_is_reproduced(checkout: Path, audited: Path) -> None:
    path = checkout / manifests.path_of("build")
    content = json.loads(path.read_text())
    content["code"][manifests.BESIDE] = "0" * 64
    path.write_text(manifests.Manifest.model_validate(content).text())
    assert compare(Record.of(checkout), Record.of(audited), ["build"], 0.05).outcome == "reproduced"


def test_a_rerun_reproduces_every_byte(audited: Path, tmp_path: Path) -> None:
    verdict = rerun(audited, "HEAD", tmp_path / "again", here=True)
    assert verdict.outcome == "reproduced" and verdict.first is None and not verdict.environment


def test_a_rerun_finds_what_was_forged_throughout(checkout: Path, tmp_path: Path) -> None:
    """Weights, manifest, dvc.lock and commit agree, so nothing but making it again can tell."""
    (checkout / "models/sft/model.safetensors").write_text("better weights")
    path = checkout / manifests.path_of("sft")
    content = json.loads(path.read_text())
    content["outputs"]["models/sft"] = manifests.fingerprint(checkout / "models/sft").model_dump()
    path.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")
    dvc(checkout, "commit", "--force", "sft")
    commit(checkout, "Nothing to see here")
    verdict = rerun(checkout, "HEAD", tmp_path / "again", until="sft", here=True)
    assert verdict.outcome == "not reproduced"
    assert verdict.first == "sft: models/sft/model.safetensors"


def test_every_param_reruns_a_stage_or_is_read_by_the_flows() -> None:
    assert [key.key for key in covered(ROOT) if key.fault] == []


def test_a_param_that_nothing_reads_is_at_fault(checkout: Path) -> None:
    text = (checkout / "params.yaml").read_text()
    (checkout / "params.yaml").write_text(text.replace("gate:\n", "gate:\n  wish: 1\n"))
    faults = {key.key: key.fault for key in covered(checkout)}
    assert faults["gate.wish"] == "no code reads it"
    assert faults["grpo.beta"] == "no code reads it"  # nor does the training that stands in here
    assert faults["gate.margin"] is None
