"""Each release against its own record: its tags, its commit, its critic in BentoML's store, and its Bentos.

    findings = list(check_releases(repository))

A store has what was released on this machine; a release that it lacks is checked as far as git goes.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import bentoml
from bentoml.exceptions import NotFound

from critic import provenance, registry
from critic.audit.records import Record, RecordError
from critic.audit.subjects import MODEL
from critic.audit.verify import Finding
from critic.checkout import CheckoutError, git
from critic.registry import Release
from critic.service.packaging import NAME


def check_releases(repository: Path) -> Iterator[Finding]:
    """What doesn't hold of any release; nothing where there is no git."""
    try:
        releases = registry.releases(repository)
    except CheckoutError:
        return
    for release in releases:
        yield from _check_tag(repository, release)
        yield from _check_record(repository, release)
        yield from _check_store(repository, release)
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
    changed = git(
        repository, "show", "--name-only", "--format=", release.commit, "--", "reports/decisions"
    ).split()
    decisions = [path for path in changed if path.endswith(".json")]
    verdicts = [json.loads(git(repository, "show", f"{release.commit}:{path}"))["promote"] for path in decisions]
    if verdicts != [True]:
        yield Finding(
            "release",
            tag,
            "its commit has no decision of the gate to promote it",
            "it was released without the gate, or against it",
        )


def _check_record(repository: Path, release: Release) -> Iterator[Finding]:
    """The manifests of a release's commit are those that its dvc.lock names."""
    record = Record(repository, release.commit)
    where = f"{registry.ARTIFACT}@{release.version}"
    for stage in record.stages:
        path = str(provenance.path_of(stage))
        try:
            record.manifest(stage)
        except RecordError as error:
            yield Finding("release", where, str(error), "where this release came from can't be told", False)
            return
        if record.locked_md5(stage, path) != record.md5(path):
            yield Finding("release", f"{where} {path}", "dvc.lock names another", "one was changed by hand")


def _check_store(repository: Path, release: Release) -> Iterator[Finding]:
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
        return
    there = provenance.measure(Path(stored.path)).files
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
            yield from _check_bento(repository, release, bento)


def _check_bento(repository: Path, release: Release, bento: bentoml.Bento) -> Iterator[Finding]:
    if [str(model.tag) for model in bento.info.all_models] != [f"{NAME}:{release.version}"]:
        models = ", ".join(str(model.tag) for model in bento.info.all_models) or "none"
        yield Finding("bento", str(bento.tag), f"its critic is {models}", f"it doesn't serve {release.version}")
    source = Path(bento.path) / "src"
    code = dict(_code(source))
    listed = git(repository, "ls-tree", "-r", "--name-only", release.commit, "--", "critic").splitlines()
    for name in sorted(code.keys() | {*listed}):
        there = code[name].read_bytes() if name in code else None
        try:
            committed = Record(repository, release.commit).read(name)
        except RecordError:
            committed = None
        if there != committed:
            yield Finding(
                "bento",
                f"{bento.tag} {name}",
                "its code isn't that of the release's commit",
                "it may score otherwise than was measured",
            )


def _code(source: Path) -> Iterator[tuple[str, Path]]:
    for path in source.glob("critic/**/*"):
        if path.is_file() and "__pycache__" not in path.parts:
            yield path.relative_to(source).as_posix(), path


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
        message = git(repository, "tag", "--list", "--format=%(contents)", tag)
        if f"{NAME}:{versions[commit]}-" not in message:
            yield Finding(
                "release",
                tag,
                f"it puts {versions[commit]} into service, and its message names no Bento of that",
                "the tag was moved, or wasn't written by `critic promote` or `critic rollback`",
            )
