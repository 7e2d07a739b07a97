"""What an audit is about, and the record that has it.

    subject = find(repository, "models/grpo")                # a file or folder of this checkout
    subject = find(repository, "v1.2.0")                     # a release; also critic@v1.2.0, or any git revision
    subject = find(repository, "edit_critic:v1.2.0-cpu-1")   # a Bento, or a critic of BentoML's store
    subject = find(repository, "answer.json")                # what the service, or `critic score`, said of an edit
    subject = find(repository, "sha256:4f1e…")               # weights, as answers name them

Weights are looked for in this checkout, then in all commits that git has, the newest first.
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
from critic.audit.records import Record, RecordError
from critic.release import registry
from critic.release.checkout import CheckoutError, git

MODEL = "models/grpo"
"""What is released."""
_WEIGHTS = re.compile(r"sha256:[0-9a-f]{64}")
_BENTO = re.compile(r"edit_critic:(?P<version>\S+)")


class SubjectError(ValueError):
    """What was asked about can't be found; the message says where it was looked for."""


@dataclass(frozen=True)
class Subject:
    """An output of a record, and how it was asked for, in a line for people."""

    record: Record
    path: str
    told: str


def find(repository: Path, asked: str) -> Subject:
    """
    Args:
        repository: the checkout.
        asked: one of the above.

    Raises:
        SubjectError: nothing of that name has a record here.
        RecordError: a record is there and can't be read.
    """
    path = Path(asked)
    if _WEIGHTS.fullmatch(asked):
        return _by_weights(repository, asked, asked)
    if (bento := _BENTO.fullmatch(asked)) is not None:
        return _by_bento(repository, bento["version"])
    if (repository / path).exists() and (made := _of_checkout(repository, repository / path)) is not None:
        return made
    if path.is_dir():
        return _by_weights(repository, weights_of(manifests.fingerprint(path).files), f"the critic in {path}")
    if path.is_file():
        if path.suffix == ".json":
            return _by_answer(repository, path)
        raise SubjectError(f"{path} is no output of a stage of this checkout, and no answer (.json)")
    try:
        revision = revision_of(repository, asked)
        return Subject(Record.of(repository, revision), MODEL, f"{MODEL} of {revision}")
    except RecordError:
        raise SubjectError(
            f"{asked} is no file, release, git revision, Bento or weights (sha256:...) that is known here: "
            "`critic releases` lists releases, `bentoml list` Bentos"
        ) from None


def revision_of(repository: Path, asked: str) -> str:
    """A release by its version, or else a git revision, as git takes it.

    Raises:
        RecordError: there is neither.
    """
    for revision in (f"{registry.ARTIFACT}@{asked}", asked):
        try:
            Record.of(repository, revision)
        except RecordError:
            continue
        return revision
    raise RecordError(f"{repository} has no release or revision {asked}")


def weights_of(files: dict[str, str]) -> str:
    """What `critic.engines.load.identify` says of a folder, from its files' hashes.

    Raises:
        SubjectError: it holds no weights as .safetensors.
    """
    names = [
        *sorted(name for name in files if name.endswith(".safetensors") and "/" not in name),
        *(name for name in ("config.json", "generation_config.json") if name in files),
    ]
    if not names or not names[0].endswith(".safetensors"):
        raise SubjectError("there are no weights (.safetensors) in it, so it is no critic")
    return "sha256:" + sha256("".join(f"{name} {files[name]}\n" for name in names).encode()).hexdigest()


def records(repository: Path) -> Iterator[Record]:
    """That of the checkout, then of each commit that changed a manifest, the newest first."""
    yield Record.of(repository)
    try:
        commits = git(repository, "log", "--all", "--format=%H", "--", str(manifests.FOLDER)).split()
    except CheckoutError:
        return
    for commit in commits:
        yield Record(repository, commit)


def _of_checkout(repository: Path, path: Path) -> Subject | None:
    """An output of the checkout, as its manifest has it; None of other files."""
    try:
        within = path.resolve().relative_to(repository.resolve()).as_posix()
    except ValueError:
        return None
    record = Record.of(repository)
    maker = record.maker(within)
    if maker is None:
        return None
    out = next(out for out in maker.outputs if within == out or within.startswith(f"{out}/"))
    found, recorded = manifests.fingerprint(repository / out), maker.outputs[out]
    if found.sha256 != recorded.sha256:
        changed = ", ".join(found.differing(recorded)) or out
        raise SubjectError(
            f"{out} isn't what the stage {maker.stage} left here ({changed}), so its record says nothing of it: "
            "`critic audit verify` tells more"
        )
    return Subject(record, out, within)


def _by_weights(repository: Path, weights: str, told: str, commit: str | None = None) -> Subject:
    """The newest record of a model with these weights, that of `commit` before all others."""
    known = [Record(repository, commit)] if commit else []
    for record in [*known, *records(repository)]:
        for manifest in reversed([*_manifests(record)]):
            for path, output in manifest.outputs.items():
                is_model = any(name.endswith(".safetensors") for name in output.files)
                if is_model and weights_of(output.files) == weights:
                    return Subject(record, path, told)
    raise SubjectError(
        f"no record of this checkout, nor of any commit that git has here, is of {told} ({weights[:19]}): fetch "
        "the branch and the tags that it was released with"
    )


def _manifests(record: Record) -> Iterator[Manifest]:
    """Those of a record that can be read."""
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
            raise SubjectError(f"BentoML's store on this machine has no {name}, or no critic in it") from None
    metadata: dict[str, Any] = dict(critic.info.metadata)
    there = manifests.fingerprint(Path(critic.path)).files
    weights = weights_of({name: digest for name, digest in there.items() if name != "model.yaml"})
    return _by_weights(repository, weights, name, metadata.get("commit"))


def _by_answer(repository: Path, path: Path) -> Subject:
    """An answer of the service, or a line of `critic score`: a JSON object with `model`."""
    try:
        answer = json.loads(path.read_text())
        weights, id, score = answer["model"], answer.get("id", ""), answer.get("score")
    except (ValueError, KeyError, AttributeError, TypeError):
        raise SubjectError(
            f"{path} is no answer of the service: one is a JSON object with `model` in it, as POST /score gives it"
        ) from None
    if not isinstance(weights, str) or not _WEIGHTS.fullmatch(weights):
        raise SubjectError(f"{path} was answered by {weights}, which is no critic of this project's pipeline")
    version = answer.get("version", "")
    told = f"{score if score is not None else 'no score'} for {id or 'an edit'}" + (
        f" by {version}" if version else ""
    )
    subject = _by_weights(repository, weights, told)
    contract, manifest = answer.get("contract"), subject.record.maker(subject.path)
    if manifest is not None and manifest.contract is not None and contract not in (None, manifest.contract.sha256):
        raise SubjectError(
            f"{path} says that its prompt contract was {contract}, and these weights were trained under "
            f"{manifest.contract.sha256}: it was changed, or isn't from a service of this project"
        )
    return subject
