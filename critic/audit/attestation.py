"""The record of a critic as an in-toto statement with SLSA provenance, signed or unsigned.

    statement = make_statement(find(repository, "v1.2.0"))
    envelope = sign(statement, Path("~/.ssh/id_ed25519").expanduser())
    read_envelope(envelope, Path("auditor/id_ed25519.pub"))    # the statement, or SignatureError

The statement follows in-toto's Attestation Framework v1 (in-toto.io/Statement/v1), with SLSA provenance v1
(slsa.dev/provenance/v1) as its predicate and the critic's files as its subjects. The envelope is DSSE v1.0. Keys
are Ed25519, as `ssh-keygen` or `openssl` makes them.
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

from critic.audit.manifests import path_of
from critic.audit.records import RecordError, differing
from critic.audit.resolve import Subject, find, weights_of

STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "https://slsa.dev/provenance/v1"
BUILD = "tag:edit-critic,2026:dvc-stage/v1"
"""The type of the predicate's parameters: those of a stage in this project's dvc.yaml."""
PAYLOAD = "application/vnd.in-toto+json"
_COMMIT = "git+file:."


class SignatureError(ValueError):
    """A key that can't be used, or an envelope that can't be trusted; the message says why."""


def make_statement(subject: Subject) -> dict[str, Any]:
    """The statement about a subject, which must be a critic."""
    steps = [*subject.record.lineage(subject.path)]
    made, maker = steps[0].material, steps[0].maker
    if maker is None:
        raise RecordError(f"no stage made {subject.path}")
    weights_of(made.files)
    manifests = {step.maker.stage: step.maker for step in steps if step.maker}
    code = {path: digest for manifest in manifests.values() for path, digest in manifest.code.items()}
    sources = [{"uri": path, "digest": {"sha256": digest}} for path, digest in sorted(code.items())]
    if subject.record.commit is not None:
        sources.insert(0, {"uri": _COMMIT, "digest": {"gitCommit": subject.record.commit}})
    revisions = [
        {"uri": f"https://huggingface.co/{name}", "digest": {"gitCommit": commit}}
        for manifest in manifests.values()
        for name, commit in manifest.revisions.items()
    ]
    materials = [{"uri": step.path, "digest": {"sha256": step.material.sha256}} for step in steps[1:]]
    return {
        "_type": STATEMENT,
        "subject": [{"name": name, "digest": {"sha256": digest}} for name, digest in made.files.items()],
        "predicateType": PREDICATE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD,
                "externalParameters": {"stage": maker.stage, "command": maker.command, "profile": maker.profile},
                "internalParameters": {
                    stage: {"params": manifest.params, "environment": manifest.environment.model_dump()}
                    for stage, manifest in manifests.items()
                },
                "resolvedDependencies": [*sources, *revisions, *materials],
            },
            "runDetails": {
                "builder": {"id": "tag:edit-critic,2026:stages.launch/v1"},
                "byproducts": [
                    {"name": str(path_of(stage)), "digest": {"sha256": manifest.sha256}}
                    for stage, manifest in manifests.items()
                ],
            },
        },
    }


def sign(statement: dict[str, Any], key: Path, password: bytes | None = None) -> dict[str, Any]:
    """A DSSE envelope with the signed statement."""
    private = _private(key, password)
    payload = json.dumps(statement, sort_keys=True).encode()
    public = private.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    return {
        "payloadType": PAYLOAD,
        "payload": base64.b64encode(payload).decode(),
        "signatures": [{"keyid": public, "sig": base64.b64encode(private.sign(_to_be_signed(payload))).decode()}],
    }


def read_envelope(envelope: dict[str, Any], key: Path) -> dict[str, Any]:
    """The statement in an envelope, if the owner of a public key signed it."""
    public = _public(key)
    try:
        kind, payload = envelope["payloadType"], base64.b64decode(envelope["payload"], validate=True)
        signatures = [base64.b64decode(entry["sig"], validate=True) for entry in envelope["signatures"]]
    except (KeyError, TypeError, ValueError) as error:
        raise SignatureError(f"this is not a DSSE envelope: {error!r}") from None
    if kind != PAYLOAD:
        raise SignatureError(f"the payload type is {kind}, not {PAYLOAD}")
    for signature in signatures:
        try:
            public.verify(signature, _to_be_signed(payload))
        except InvalidSignature:
            continue
        statement: dict[str, Any] = json.loads(payload)
        if statement.get("_type") != STATEMENT or statement.get("predicateType") != PREDICATE:
            raise SignatureError("the signature is valid, but the payload is not SLSA provenance")
        return statement
    raise SignatureError(f"no signature is by {key}: the envelope was changed, or somebody else signed it")


def changed_claims(statement: dict[str, Any], repository: Path) -> list[str]:
    """The names of what a statement says and git's record of the same critic contradicts."""
    signed = {entry["name"]: entry["digest"]["sha256"] for entry in statement["subject"]}
    recorded = make_statement(find(repository, weights_of(signed)))
    ours = {entry["name"]: entry["digest"]["sha256"] for entry in recorded["subject"]}
    return differing(signed, ours) + differing(_claims(statement), _claims(recorded))


def _claims(statement: dict[str, Any]) -> dict[str, Any]:
    """What a statement says about how the critic was made, by name, except the commit."""
    definition, details = statement["predicate"]["buildDefinition"], statement["predicate"]["runDetails"]
    byproducts = {entry["name"]: entry["digest"] for entry in details["byproducts"]}
    inputs = {entry["uri"]: entry["digest"] for entry in definition["resolvedDependencies"]}
    inputs.pop(_COMMIT, None)
    runs = {
        f"{stage}'s params or environment": values for stage, values in definition["internalParameters"].items()
    }
    return byproducts | inputs | runs | definition["externalParameters"]


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
        raise SignatureError(f"{path} isn't an Ed25519 key: make one with `ssh-keygen -t ed25519`")
    return key


def _public(path: Path) -> Ed25519PublicKey:
    try:
        text = path.read_bytes()
        key = load_ssh_public_key(text) if text.startswith(b"ssh-") else load_pem_public_key(text)
    except (OSError, ValueError, UnsupportedAlgorithm) as error:
        raise SignatureError(f"{path} can't be read as a public key: {error}") from None
    if not isinstance(key, Ed25519PublicKey):
        raise SignatureError(f"{path} isn't an Ed25519 key")
    return key
