"""The record that has what the user asks about.

    subject = find(repository, "models/grpo")                # a file or folder of this checkout
    subject = find(repository, "v1.2.0")                     # a release; also critic@v1.2.0, or any git revision
    subject = find(repository, "edit_critic:v1.2.0-cpu-1")   # a Bento, or a critic in BentoML's store
    subject = find(repository, "answer.json")                # an answer of the service or of `critic score`
    subject = find(repository, "sha256:4f1e…")               # weights, as named in answers

Weights are looked for in this checkout, then in all commits in git, newest first.
"""

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from critic.audit import manifests
from critic.audit.manifests import Manifest
from critic.audit.records import Record, RecordError, differing, is_within
from critic.release import registry
from critic.release.git import CheckoutError, git

MODEL = "models/grpo"
"""The model that is released."""
_WEIGHTS = re.compile(r"sha256:[0-9a-f]{64}")
_BENTO = re.compile(r"edit_critic:(?P<version>\S+)")


class SubjectError(ValueError):
    """What was asked about has no record; the message says where it was looked for."""


@dataclass(frozen=True)
class Subject:
    """An output of a record, and a label for it: what was asked about."""

    record: Record
    path: str
    label: str


def find(repository: Path, name: str) -> Subject:
    """The subject of a name, see above."""
    path = Path(name)
    if _WEIGHTS.fullmatch(name):
        return _by_weights(repository, name, name)
    if (bento := _BENTO.fullmatch(name)) is not None:
        return _by_bento(repository, bento["version"])
    if (repository / path).exists() and (made := _of_checkout(repository, repository / path)) is not None:
        return made
    if path.is_dir():
        return _by_weights(repository, weights_of(manifests.fingerprint(path).files), f"the critic in {path}")
    if path.is_file():
        if path.suffix == ".json":
            return _by_answer(repository, path)
        raise SubjectError(f"{path} is neither an output of a stage of this checkout nor an answer (.json)")
    try:
        revision = revision_of(repository, name)
        return Subject(Record.of(repository, revision), MODEL, f"{MODEL} of {revision}")
    except RecordError:
        if name == MODEL:
            raise SubjectError(f"{name} isn't here yet: run `make repro`") from None
        raise SubjectError(
            f"{name} is not a file, release, git revision, Bento or weights (sha256:...): `critic releases` lists "
            "the releases, `bentoml list` the Bentos"
        ) from None


def revision_of(repository: Path, name: str) -> str:
    """The git revision of a release's version, or the name itself if it is a git revision."""
    for revision in (f"{registry.ARTIFACT}@{name}", name):
        with suppress(RecordError):
            Record.of(repository, revision)
            return revision
    raise RecordError(f"{repository} has no release or revision {name}")


def weights_of(files: dict[str, str]) -> str:
    """The id that `critic.engines.load.identify` gives a model folder, from its files' SHA-256 by path."""
    names = [
        *sorted(name for name in files if name.endswith(".safetensors") and "/" not in name),
        *(name for name in ("config.json", "generation_config.json") if name in files),
    ]
    if not names or not names[0].endswith(".safetensors"):
        raise SubjectError("it has no weights (.safetensors), so it is not a critic")
    return "sha256:" + sha256("".join(f"{name} {files[name]}\n" for name in names).encode()).hexdigest()


def _of_checkout(repository: Path, path: Path) -> Subject | None:
    """The subject of a file in the checkout, None if no stage made the file."""
    try:
        within = path.resolve().relative_to(repository.resolve()).as_posix()
    except ValueError:
        return None
    record = Record.of(repository)
    maker = record.maker(within)
    if maker is None:
        return None
    out = next(out for out in maker.outputs if is_within(within, out))
    found, recorded = manifests.fingerprint(repository / out), maker.outputs[out]
    if found.sha256 != recorded.sha256:
        changed = ", ".join(differing(found.files, recorded.files)) or out
        raise SubjectError(
            f"{out} was changed after the stage {maker.stage} made it ({changed}), so its record doesn't apply: "
            "`critic audit verify` shows the details"
        )
    return Subject(record, out, within)


def _by_weights(repository: Path, weights: str, label: str, commit: str | None = None) -> Subject:
    """The record of a model with these weights: of `commit`, the checkout, or the newest commit that has one."""
    records = [*([Record(repository, commit)] if commit else []), Record.of(repository)]
    with suppress(CheckoutError):
        commits = git(repository, "log", "--all", "--format=%H", "--", str(manifests.FOLDER)).split()
        records += [Record(repository, one) for one in commits]
    for record in records:
        for manifest in reversed([*_manifests(record)]):
            for path, output in manifest.outputs.items():
                is_model = any(name.endswith(".safetensors") for name in output.files)
                if is_model and weights_of(output.files) == weights:
                    return Subject(record, path, label)
    raise SubjectError(
        f"no record of this checkout or of a commit in git has the weights {weights[:19]} ({label}): fetch the "
        "branch and the tags of their release"
    )


def _manifests(record: Record) -> Iterator[Manifest]:
    """The manifests of a record that can be read."""
    with suppress(RecordError):
        for stage in record.stages:
            with suppress(RecordError):
                yield record.manifest(stage)


def _by_bento(repository: Path, version: str) -> Subject:
    import bentoml  # takes a second
    from bentoml.exceptions import NotFound

    name = f"edit_critic:{version}"
    try:
        critic = bentoml.models.get(name)
    except NotFound:
        try:
            critic = bentoml.models.get(str(bentoml.get(name).info.all_models[0].tag))
        except (NotFound, IndexError):
            raise SubjectError(
                f"BentoML's store on this machine has no {name}, or that has no critic: see `bentoml list`"
            ) from None
    metadata: dict[str, Any] = dict(critic.info.metadata)
    files = manifests.fingerprint(Path(critic.path)).files
    weights = weights_of({path: digest for path, digest in files.items() if path != "model.yaml"})
    return _by_weights(repository, weights, name, metadata.get("commit"))


def _by_answer(repository: Path, path: Path) -> Subject:
    """The critic that gave an answer: a JSON object with `model`, from the service or a line of `critic score`."""
    try:
        answer = json.loads(path.read_text())
        weights, id, score = answer["model"], answer.get("id", ""), answer.get("score")
    except (ValueError, KeyError, AttributeError, TypeError):
        raise SubjectError(
            f"{path} is not an answer of the service: give a JSON object with `model`, as POST /score returns"
        ) from None
    if not isinstance(weights, str) or not _WEIGHTS.fullmatch(weights):
        raise SubjectError(f"{path} is an answer of {weights}, which this project's pipeline didn't make")
    version = answer.get("version", "")
    label = f"{'no score' if score is None else score} for {id or 'an edit'}{f' by {version}' if version else ''}"
    subject = _by_weights(repository, weights, label)
    contract, manifest = answer.get("contract"), subject.record.maker(subject.path)
    if manifest is not None and manifest.contract is not None and contract not in (None, manifest.contract.sha256):
        raise SubjectError(
            f"{path} names the prompt contract {contract}, but these weights were trained with "
            f"{manifest.contract.sha256}: the answer was edited, or another service gave it"
        )
    return subject
