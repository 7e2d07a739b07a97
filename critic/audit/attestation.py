"""The record of a critic as an in-toto statement with SLSA provenance, signed or not.

    statement = make_statement(find(repository, "v1.2.0"))
    envelope = sign(statement, Path("~/.ssh/id_ed25519").expanduser())
    read_envelope(envelope, Path("auditor/id_ed25519.pub"))    # the statement, or SignatureError

The statement is of in-toto's Attestation Framework v1 (in-toto.io/Statement/v1) with SLSA's provenance v1
(slsa.dev/provenance/v1) as its predicate; its subjects are the critic's files. The envelope is DSSE v1.0.
Any key will do that `ssh-keygen` or `openssl` makes of the kind Ed25519.
"""

import base64
import json
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
    load_ssh_private_key,
    load_ssh_public_key,
)

from critic.audit.records import RecordError
from critic.audit.resolve import Subject, find, weights_of

STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "https://slsa.dev/provenance/v1"
BUILD = "tag:edit-critic,2026:dvc-stage/v1"
"""What the predicate's parameters mean: those of a stage of this project's dvc.yaml."""
PAYLOAD = "application/vnd.in-toto+json"


class SignatureError(ValueError):
    """An envelope or key that can't be used or believed; the message says why."""


def make_statement(subject: Subject) -> dict[str, Any]:
    """The statement about a subject.

    Raises:
        RecordError: no stage made it.
        SubjectError: it is no critic: there are no weights in it.
    """
    steps = [*subject.record.lineage(subject.path)]
    made, maker = steps[0].material, steps[0].maker
    if maker is None:
        raise RecordError(f"no stage made {subject.path}")
    files = made.files
    weights_of(files)
    materials = [{"uri": step.path, "digest": {"sha256": step.material.sha256}} for step in steps[1:]]
    code = {path: digest for step in steps if step.maker for path, digest in step.maker.code.items()}
    sources = [{"uri": path, "digest": {"sha256": digest}} for path, digest in sorted(code.items())]
    hub = [
        {"uri": f"https://huggingface.co/{name}", "digest": {"gitCommit": commit}}
        for step in steps
        if step.maker
        for name, commit in step.maker.revisions.items()
    ]
    if subject.record.commit is not None:
        sources.insert(0, {"uri": "git+file:.", "digest": {"gitCommit": subject.record.commit}})
    manifests = {step.maker.stage: step.maker for step in steps if step.maker}
    return {
        "_type": STATEMENT,
        "subject": [{"name": name, "digest": {"sha256": digest}} for name, digest in files.items()],
        "predicateType": PREDICATE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD,
                "externalParameters": {"stage": maker.stage, "command": maker.command, "profile": maker.profile},
                "internalParameters": {
                    stage: {"params": manifest.params, "environment": manifest.environment.model_dump()}
                    for stage, manifest in manifests.items()
                },
                "resolvedDependencies": [*sources, *hub, *materials],
            },
            "runDetails": {
                "builder": {"id": "tag:edit-critic,2026:stages.launch/v1"},
                "byproducts": [
                    {"name": f"reports/provenance/{stage}.json", "digest": {"sha256": manifest.sha256}}
                    for stage, manifest in manifests.items()
                ],
            },
        },
    }


def sign(statement: dict[str, Any], key: Path, password: bytes | None = None) -> dict[str, Any]:
    """A statement in a signed envelope.

    Raises:
        SignatureError: the key can't be read, wants a password, or is of another kind.
    """
    private = _private(key, password)
    payload = json.dumps(statement, sort_keys=True).encode()
    signature = private.sign(_to_be_signed(payload))
    public = private.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    return {
        "payloadType": PAYLOAD,
        "payload": base64.b64encode(payload).decode(),
        "signatures": [{"keyid": public, "sig": base64.b64encode(signature).decode()}],
    }


def read_envelope(envelope: dict[str, Any], key: Path) -> dict[str, Any]:
    """The statement in an envelope that the owner of a public key has signed.

    Raises:
        SignatureError: that isn't so, or it is no envelope of such a statement.
    """
    public = _public(key)
    try:
        if envelope["payloadType"] != PAYLOAD:
            raise SignatureError(f"its payload is {envelope['payloadType']}, and {PAYLOAD} is read")
        payload = base64.b64decode(envelope["payload"], validate=True)
        signatures = [base64.b64decode(entry["sig"], validate=True) for entry in envelope["signatures"]]
    except (KeyError, TypeError, ValueError) as error:
        raise SignatureError(f"it is no DSSE envelope: {error!r}") from None
    for signature in signatures:
        try:
            public.verify(signature, _to_be_signed(payload))
        except InvalidSignature:
            continue
        statement: dict[str, Any] = json.loads(payload)
        if statement.get("_type") != STATEMENT or statement.get("predicateType") != PREDICATE:
            raise SignatureError("it is signed, and holds no SLSA provenance")
        return statement
    raise SignatureError(f"no signature of it is by {key}: it was changed, or somebody else signed it")


def differing(statement: dict[str, Any], repository: Path) -> str:
    """What of a statement the record that git has here of the same critic says otherwise; nothing if it agrees.

    Raises:
        SubjectError: no record here is of its critic.
        RecordError: that can't be read.
    """
    signed = {entry["name"]: entry["digest"]["sha256"] for entry in statement["subject"]}
    recorded = make_statement(find(repository, weights_of(signed)))
    ours = {entry["name"]: entry["digest"]["sha256"] for entry in recorded["subject"]}
    told = sorted(name for name in signed.keys() | ours.keys() if signed.get(name) != ours.get(name))
    then, now = (_claims(one) for one in (statement, recorded))
    told += sorted(name for name in then.keys() | now.keys() if then.get(name) != now.get(name))
    return ", ".join(told)


def _claims(statement: dict[str, Any]) -> dict[str, Any]:
    """What a statement says of how a critic was made, by name, but for the commit that it was told from."""
    definition, details = statement["predicate"]["buildDefinition"], statement["predicate"]["runDetails"]
    named = {entry["name"]: entry["digest"] for entry in details["byproducts"]}
    read = {entry["uri"]: entry["digest"] for entry in definition["resolvedDependencies"]}
    read.pop("git+file:.", None)
    ran = {f"{stage}'s params or environment": said for stage, said in definition["internalParameters"].items()}
    return named | read | ran | definition["externalParameters"]


def _to_be_signed(payload: bytes) -> bytes:
    """DSSE's pre-authentication encoding (secure-systems-lab/dsse, protocol.md)."""
    kind = PAYLOAD.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def _private(path: Path, password: bytes | None) -> Ed25519PrivateKey:
    try:
        text = path.read_bytes()
        load = load_ssh_private_key if b"OPENSSH PRIVATE KEY" in text else load_pem_private_key
        key = load(text, password)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise SignatureError(f"{path} can't be read as a private key: {error}") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise SignatureError(f"{path} isn't of the kind Ed25519: `ssh-keygen -t ed25519` makes one that is")
    return key


def _public(path: Path) -> Ed25519PublicKey:
    try:
        text = path.read_bytes()
        key = load_ssh_public_key(text) if text.startswith(b"ssh-") else load_pem_public_key(text)
    except (OSError, ValueError, UnsupportedAlgorithm) as error:
        raise SignatureError(f"{path} can't be read as a public key: {error}") from None
    if not isinstance(key, Ed25519PublicKey):
        raise SignatureError(f"{path} isn't of the kind Ed25519")
    return key
