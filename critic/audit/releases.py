"""Each release, compared with its record: its tags, its commit, its critic in BentoML's store, and its Bentos.

BentoML's store on this machine may lack a release; then only its tags and its commit are checked.
"""

import json
import marshal
import subprocess
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from hashlib import md5, sha256
from importlib.util import MAGIC_NUMBER, source_from_cache
from io import BytesIO
from pathlib import Path

import bentoml
from bentoml.exceptions import NotFound

from critic import files
from critic.audit.manifests import PARAMS_MODULE, fingerprint, path_of
from critic.audit.records import Record, RecordError, differing
from critic.audit.resolve import MODEL
from critic.audit.verify import Finding, check_chain, check_lock, check_manifest
from critic.release import registry
from critic.release.git import CheckoutError, git
from critic.release.registry import Release
from critic.service.packaging import NAME

SERVICE = "critic.service.bento:Critic"
"""The service in a Bento of this project, as in bentofile.yaml."""
REWRITTEN = "bentofile.yaml"
"""BentoML rewrites this file; bento.yaml has its content."""


def check_releases(repository: Path) -> Iterator[Finding]:
    """The findings about all releases; none if the checkout is not a git repository."""
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
    """Check that a release's tag is on the commit of its promotion."""
    tag = f"{registry.ARTIFACT}@{release.version}"
    subject = git(repository, "show", "-s", "--format=%s", release.commit)
    if subject != f"Promote critic {release.version}":
        what = f"its commit {release.commit[:12]}, “{subject}”, isn't the promotion of {release.version}"
        yield Finding("release", tag, what, "the tag was moved: the version names another critic")
    if f"{NAME}:{release.version}-" not in registry.message(repository, tag):
        what = f"its message names no Bento of {release.version}"
        means = "`critic promote` didn't write it: nothing shows that this critic passed the gate"
        yield Finding("release", tag, what, means)
    added = git(repository, "show", "--name-only", "--format=", release.commit, "--", "reports/decisions").split()
    last = max((path for path in added if path.endswith(".json")), default=None)
    try:
        decision = json.loads(git(repository, "show", f"{release.commit}:{last}")) if last else None
    except ValueError:
        decision = None
    if not isinstance(decision, dict) or decision.get("promote") is not True:
        what = "its commit has no decision of the gate to promote it"
        yield Finding("release", tag, what, "it was released without the gate or against its decision")


def _committed(repository: Path, commit: str) -> dict[str, str]:
    """The SHA-256 of each file in a commit."""
    done = subprocess.run(["git", "archive", commit], cwd=repository, capture_output=True, check=True)
    with tarfile.open(fileobj=BytesIO(done.stdout)) as archive:
        members = [(member.name, archive.extractfile(member)) for member in archive if member.isfile()]
        return {name: sha256(file.read()).hexdigest() for name, file in members if file is not None}


def _check_record(repository: Path, release: Release, committed: Mapping[str, str]) -> Iterator[Finding]:
    """Compare dvc.lock, params.yaml, manifests and code in a release's commit with each other."""
    record = Record(repository, release.commit)
    where = f"{registry.ARTIFACT}@{release.version}"
    manifests = {}
    for stage in record.stages:
        path = str(path_of(stage))
        outs = record.lock.get(stage, {}).get("outs", [])
        locked = next((item.get("md5") for item in outs if item["path"] == path), None)
        try:
            manifests[stage] = record.manifest(stage)
        except RecordError as error:
            yield Finding(
                "release", where, str(error), "the origin of this release is unknown", locked is not None
            )
            continue
        if locked != md5(record.read(path), usedforsecurity=False).hexdigest():
            yield Finding("release", f"{where} {path}", "dvc.lock has another hash", "one was edited by hand")
    found: list[Finding] = []
    for stage, manifest in manifests.items():
        found += check_lock(record, stage)
        found += [*check_manifest(record, manifest), *check_chain(record, manifest, manifests)]
        for name, digest in manifest.code.items():
            if committed.get(name) != digest and name != PARAMS_MODULE:
                means = "the code of the commit didn't make this critic"
                found.append(Finding("code", name, f"{stage} ran with another version of it", means))
    for finding in found:
        yield replace(finding, check="release", where=f"{where} {finding.where}")


def _check_store(repository: Path, release: Release, committed: Mapping[str, str]) -> Iterator[Finding]:
    """Check a release's critic in BentoML's store, file by file, and its Bentos."""
    name = f"{NAME}:{release.version}"
    try:
        stored = bentoml.models.get(name)
    except NotFound:
        fix = f"`critic rollback --to {release.version}` would build it again"
        yield Finding("bento", name, "it isn't in BentoML's store on this machine", fix, False)
        return
    if (commit := dict(stored.info.metadata).get("commit")) != release.commit:
        what = f"it was imported from commit {commit!r}, but the release is {release.commit[:12]}"
        means = "the tag was moved, or another critic has this name in the store"
        yield Finding("bento", str(stored.tag), what, means)
    try:
        recorded = Record(repository, release.commit).manifest("grpo").outputs[MODEL]
    except (RecordError, KeyError):
        yield Finding("bento", str(stored.tag), "no manifest lists its files", "it can't be checked", False)
        return
    stored_files = {k: v for k, v in fingerprint(Path(stored.path)).files.items() if k != "model.yaml"}
    for file in differing(stored_files, recorded.files):
        what = "it isn't the file that was trained" if file in recorded.files else "no stage made this file"
        yield Finding("bento", f"{stored.tag} {file}", what, "this Bento doesn't serve the critic of its record")
    for bento in bentoml.list(NAME):
        if str(bento.tag.version).startswith(f"{release.version}-"):
            yield from _check_bento(release, bento, committed)


def _check_bento(release: Release, bento: bentoml.Bento, committed: Mapping[str, str]) -> Iterator[Finding]:
    tag, models = str(bento.tag), [str(model.tag) for model in bento.info.all_models]
    if models != [f"{NAME}:{release.version}"]:
        what = f"its critic is {', '.join(models) or 'missing'}"
        yield Finding("bento", tag, what, f"it doesn't serve {release.version}")
    if bento.info.service != SERVICE:
        yield Finding(
            "bento", tag, f"it serves {bento.info.service}, not {SERVICE}", "other code answers requests"
        )
    source = Path(bento.path) / "src"
    paths = [path for path in source.rglob("*") if path.is_file() and not _is_compiled(path)]
    found = {path.relative_to(source).as_posix(): files.sha256(path) for path in paths}
    wanted = {name: digest for name, digest in committed.items() if name in found or name.startswith("critic/")}
    for name in differing(found, wanted):
        if name != REWRITTEN:
            what = "its code isn't that of the release's commit"
            yield Finding("bento", f"{tag} {name}", what, "its scores may differ from the measured ones")


def _is_compiled(path: Path) -> bool:
    """Whether a file is bytecode that this Python makes of the module beside it when a Bento is served."""
    try:
        module = Path(source_from_cache(str(path)))
        found = path.read_bytes()
        made = compile(module.read_bytes(), str(module), "exec", dont_inherit=True)
        return found[:4] == MAGIC_NUMBER and bool(marshal.loads(found[16:]) == made)
    except (OSError, ValueError, EOFError, TypeError, SyntaxError):
        return False


def _check_champions(repository: Path) -> Iterator[Finding]:
    """Check that each tag of a champion names the version that it is on."""
    champion = f"{registry.ARTIFACT}#{registry.CHAMPION}"
    try:
        registry.champions(repository)
    except CheckoutError as error:
        yield Finding("release", champion, str(error), "which critic is in service is unclear")
        return
    versions = {release.commit: release.version for release in registry.releases(repository)}
    for tag in git(repository, "tag", "--list", f"{champion}#*").split():
        if not tag.rpartition("#")[2].isdigit():
            yield Finding("release", tag, "its name has no number", "it has no effect: delete it")
            continue
        version = versions[git(repository, "rev-list", "-n1", tag)]
        if f"{NAME}:{version}-" not in registry.message(repository, tag):
            what = f"it puts {version} into service, but its message names no Bento of {version}"
            means = "the tag was moved, or `critic promote` or `critic rollback` didn't write it"
            yield Finding("release", tag, what, means)
