"""Signed statements are accepted; changed ones, and those of other records, are not."""

import json
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from critic.audit import attestation, manifests, resolve
from critic.audit.resolve import SubjectError, find
from critic.cli import main
from critic.engines.load import identify


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
        expected = "s.json is not JSON"
    else:
        next(s for s in statement["subject"] if s["name"] == "tokenizer.json")["digest"]["sha256"] = "0" * 64
        (tmp_path / "s.json").write_text(json.dumps(attestation.sign(statement, tmp_path / "key")))
        expected = "tokenizer.json: the record of this checkout has another"
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 1 and expected in result.output


def test_a_signed_record_is_accepted_and_a_changed_one_is_not(checkout: Path, tmp_path: Path) -> None:
    for name in ("ours", "theirs"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / name)], check=True)
    statement = attestation.make_statement(find(checkout, "models/grpo"))
    envelope = attestation.sign(statement, tmp_path / "ours")
    assert attestation.read_envelope(envelope, tmp_path / "ours.pub") == statement
    with pytest.raises(attestation.SignatureError, match="somebody else signed it"):
        attestation.read_envelope(envelope, tmp_path / "theirs.pub")
    changed = attestation.sign(statement | {"subject": []}, tmp_path / "ours")
    with pytest.raises(attestation.SignatureError, match="the envelope was changed"):
        attestation.read_envelope(envelope | {"payload": changed["payload"]}, tmp_path / "ours.pub")
    digests = {entry["name"]: entry["digest"]["sha256"] for entry in statement["subject"]}
    assert resolve.weights_of(digests) == identify(str(checkout / "models/grpo"))


def test_a_statement_covers_the_whole_record(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(checkout)
    statement = attestation.make_statement(find(checkout, "models/grpo"))
    assert attestation.changed_claims(statement, checkout) == []
    path = checkout / manifests.path_of("download")
    content = json.loads(path.read_text())
    content["environment"]["python"] = "2.7"
    path.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")
    assert attestation.changed_claims(statement, checkout) == [
        "download's params or environment",
        "reports/provenance/download.json",
    ]


def test_only_critics_get_a_statement(checkout: Path) -> None:
    with pytest.raises(SubjectError, match="it is not a critic"):
        attestation.make_statement(find(checkout, "data/sft"))


def test_the_signed_bytes_are_those_of_dsse() -> None:
    """As the example in DSSE's protocol.md, with this project's payload type."""
    assert attestation._to_be_signed(b"hello world") == b"DSSEv1 28 application/vnd.in-toto+json 11 hello world"
