"""Each release against its own record: its tags, its commit, its critic in BentoML's store, and its Bentos.

    findings = list(check_releases(repository))

A store has what was released on this machine; a release that it lacks is checked as far as git goes.
"""

import json
import subprocess
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from hashlib import sha256
from io import BytesIO
from pathlib import Path

import bentoml
from bentoml.exceptions import NotFound

from critic.audit.manifests import BESIDE, Manifest, fingerprint, path_of
from critic.audit.records import Record, RecordError
from critic.audit.resolve import MODEL
from critic.audit.verify import Finding, check_chain, check_lock, check_manifest
from critic.release import registry
from critic.release.checkout import CheckoutError, git
from critic.release.registry import Release
from critic.service.packaging import NAME

SERVICE = "critic.service.bento:Critic"
"""What a Bento of this project serves, as bentofile.yaml says."""
REWRITTEN = "bentofile.yaml"
"""By BentoML, which keeps what it said in bento.yaml."""


def check_releases(repository: Path) -> Iterator[Finding]:
    """What doesn't hold of any release; nothing where there is no git."""
    try:
        releases = registry.releases(repository)
    except CheckoutError:
        return
    for release in releases:
        committed = _committed(repository, release.commit)
        yield from _check_tag(repository, release)
        yield from _check_record(repository, release, committed)
        yield from _check_store(repository, release, committed)
    yield from _check_champions(repository)


def _check_tag(repository: Path, release: Release) -> Iterator[Finding]:
    """A release's tag is on the commit that its promotion made, and says so itself."""
    tag = f"{registry.ARTIFACT}@{release.version}"
    subject = git(repository, "show", "-s", "--format=%s", release.commit)
    if subject != f"Promote critic {release.version}":
        yield Finding(
            "release",
            tag,
            f"it is on commit {release.commit[:12]}, “{subject}”, which isn't the promotion of {release.version}",
            "the tag was moved: another critic goes by this version's name",
        )
    message = git(repository, "tag", "--list", "--format=%(contents)", tag)
    if f"{NAME}:{release.version}-" not in message:
        yield Finding(
            "release",
            tag,
            f"its message names no Bento of {release.version}",
            "it wasn't written by `critic promote`: nothing says that this critic passed the gate",
        )
    added = git(repository, "show", "--name-only", "--format=", release.commit, "--", "reports/decisions").split()
    last = max((path for path in added if path.endswith(".json")), default=None)
    if last is None or not _lets_it_in(git(repository, "show", f"{release.commit}:{last}")):
        yield Finding(
            "release",
            tag,
            "its commit has no decision of the gate to promote it",
            "it was released without the gate, or against it",
        )


def _lets_it_in(decision: str) -> bool:
    """Whether the text of a decision of the gate is to promote."""
    try:
        told = json.loads(decision)
    except ValueError:
        return False
    return isinstance(told, dict) and told.get("promote") is True


def _committed(repository: Path, commit: str) -> dict[str, str]:
    """The SHA-256 of each file of a commit."""
    done = subprocess.run(["git", "archive", commit], cwd=repository, capture_output=True, check=True)
    with tarfile.open(fileobj=BytesIO(done.stdout)) as files:
        members = [(member.name, files.extractfile(member)) for member in files if member.isfile()]
        return {name: sha256(file.read()).hexdigest() for name, file in members if file is not None}


def _check_record(repository: Path, release: Release, committed: Mapping[str, str]) -> Iterator[Finding]:
    """What a release's commit itself says: dvc.lock, params.yaml, manifests and code, each against the others."""
    record = Record(repository, release.commit)
    where = f"{registry.ARTIFACT}@{release.version}"
    manifests = {}
    for stage in record.stages:
        path = str(path_of(stage))
        locked = record.locked_md5(stage, path)
        try:
            manifests[stage] = record.manifest(stage)
        except RecordError as error:
            why = "where this release came from can't be told"
            yield Finding("release", where, str(error), why, locked is not None)
            continue
        if locked != record.md5(path):
            yield Finding("release", f"{where} {path}", "dvc.lock names another", "one was changed by hand")
    found = [finding for stage in manifests for finding in check_lock(record, stage)]
    for manifest in manifests.values():
        found += [*check_manifest(record, manifest), *check_chain(record, manifest, manifests)]
        found += _check_code(manifest, committed)
    for finding in found:
        yield replace(finding, check="release", where=f"{where} {finding.where}")


def _check_code(manifest: Manifest, committed: Mapping[str, str]) -> Iterator[Finding]:
    for name, digest in manifest.code.items():
        if committed.get(name) != digest and name != BESIDE:
            yield Finding(
                "code", name, f"{manifest.stage} ran with another", "its code isn't what made this critic"
            )


def _check_store(repository: Path, release: Release, committed: Mapping[str, str]) -> Iterator[Finding]:
    """A release's critic in BentoML's store, file by file, and the code in its Bentos."""
    try:
        stored = bentoml.models.get(f"{NAME}:{release.version}")
    except NotFound:
        yield Finding(
            "bento",
            f"{NAME}:{release.version}",
            "BentoML's store on this machine hasn't it",
            f"`critic rollback --to {release.version}` would build it again",
            False,
        )
        return
    metadata = dict(stored.info.metadata)
    if metadata.get("commit") != release.commit:
        yield Finding(
            "bento",
            str(stored.tag),
            f"it was imported from commit {metadata.get('commit')!r}, and the release is {release.commit[:12]}",
            "the tag was moved, or the store has another critic by this name",
        )
    try:
        recorded = Record(repository, release.commit).manifest("grpo").outputs[MODEL]
    except (RecordError, KeyError):
        yield Finding("bento", str(stored.tag), "no manifest tells its files", "it can't be checked", False)
        return
    there = fingerprint(Path(stored.path)).files
    names = there.keys() - {"model.yaml"} | recorded.files.keys()
    for name in sorted(name for name in names if there.get(name) != recorded.files.get(name)):
        yield Finding(
            "bento",
            f"{stored.tag} {name}",
            "it isn't the file that was trained" if name in recorded.files else "no stage left such a file",
            "what this Bento serves isn't the critic of its record",
        )
    for bento in bentoml.list(NAME):
        if str(bento.tag.version).startswith(f"{release.version}-"):
            yield from _check_bento(release, bento, committed)


def _check_bento(release: Release, bento: bentoml.Bento, committed: Mapping[str, str]) -> Iterator[Finding]:
    if [str(model.tag) for model in bento.info.all_models] != [f"{NAME}:{release.version}"]:
        models = ", ".join(str(model.tag) for model in bento.info.all_models) or "none"
        yield Finding("bento", str(bento.tag), f"its critic is {models}", f"it doesn't serve {release.version}")
    if bento.info.service != SERVICE:
        yield Finding(
            "bento", str(bento.tag), f"it serves {bento.info.service}, and not {SERVICE}", "other code answers"
        )
    source = Path(bento.path) / "src"
    there = {path.relative_to(source).as_posix(): path for path in source.rglob("*") if path.is_file()}
    wanted = {name for name in committed if name.startswith("critic/")}
    for name in sorted((there.keys() | wanted) - {REWRITTEN}):
        found = fingerprint(there[name]).sha256 if name in there else None
        if found != committed.get(name):
            yield Finding(
                "bento",
                f"{bento.tag} {name}",
                "its code isn't that of the release's commit",
                "it may score otherwise than was measured",
            )


def _check_champions(repository: Path) -> Iterator[Finding]:
    """Each tag that put a critic into service names that critic's version."""
    try:
        registry.champions(repository)
    except CheckoutError as error:
        yield Finding(
            "release", f"{registry.ARTIFACT}#{registry.CHAMPION}", str(error), "who is in service is unclear"
        )
        return
    versions = {release.commit: release.version for release in registry.releases(repository)}
    for tag in git(repository, "tag", "--list", f"{registry.ARTIFACT}#{registry.CHAMPION}#*").split():
        commit = git(repository, "rev-list", "-n1", tag)
        if not tag.rpartition("#")[2].isdigit():
            yield Finding("release", tag, "its name has no number", "it puts nobody into service: delete it")
            continue
        message = git(repository, "tag", "--list", "--format=%(contents)", tag)
        if f"{NAME}:{versions[commit]}-" not in message:
            yield Finding(
                "release",
                tag,
                f"it puts {versions[commit]} into service, and its message names no Bento of that",
                "the tag was moved, or wasn't written by `critic promote` or `critic rollback`",
            )
