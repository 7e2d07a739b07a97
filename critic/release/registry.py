"""The released critics and the champion, as git tags in GTO's format.

    champion(repository)          # Release(version="v1.2.0", commit="3f9c…")
    releases(repository)          # all of them, the oldest first

The tag `critic@v1.2.0` is on the commit whose dvc.lock has that version of the artifact `critic` of dvc.yaml. The
tag `critic#champion#7` puts the critic of its commit into service; the tag with the highest number counts, so that
no tag is ever moved. Tags are annotated: `git show critic@v1.2.0` says why it was released.
"""

from dataclasses import dataclass
from pathlib import Path

import gto.api
from gto.exceptions import GTOException
from gto.versions import SemVer

from critic.release.git import CheckoutError, git

ARTIFACT = "critic"
CHAMPION = "champion"


@dataclass(frozen=True)
class Release:
    """A version, such as v1.2.0, and its commit."""

    version: str
    commit: str


def releases(repository: Path) -> list[Release]:
    """All versions, the oldest first."""
    found = []
    for tag in git(repository, "tag", "--list", f"{ARTIFACT}@*").split():
        version = tag.removeprefix(f"{ARTIFACT}@")
        if SemVer.is_valid(version):
            found.append(Release(version, git(repository, "rev-list", "-n1", tag)))
    return sorted(found, key=lambda release: SemVer(release.version))


def champion(repository: Path) -> Release | None:
    """The release in service, None before the first one."""
    stack = champions(repository)
    return stack[-1] if stack else None


def champions(repository: Path) -> list[Release]:
    """The release in service, last, after the earlier ones that rollbacks lead to.

    A rollback removes all that came after its target. Raises a `CheckoutError` if a champion has no version.
    """
    by_commit = {release.commit: release for release in releases(repository)}
    stack: list[Release] = []
    for tag in _assignments(repository):
        commit = git(repository, "rev-list", "-n1", tag)
        if commit not in by_commit:
            raise CheckoutError(f"the tag {tag} is on commit {commit[:12]}, which has no version: delete the tag")
        release = by_commit[commit]
        stack = stack[: stack.index(release)] if release in stack else stack
        stack.append(release)
    return stack


def next_version(repository: Path) -> str:
    """The version of the next release: the newest one with its minor number increased."""
    known = releases(repository)
    return SemVer(known[-1].version).bump_minor().version if known else "v1.0.0"


def register(repository: Path, version: str, commit: str, message: str) -> Release:
    """Tag a commit as a version."""
    try:
        gto.api.register(str(repository), ARTIFACT, commit, version=version, message=message)
    except GTOException as error:
        raise CheckoutError(f"{version} can't be registered: {error}") from None
    return Release(version, commit)


def assign(repository: Path, version: str, message: str) -> None:
    """Make a version the champion, with a new tag."""
    try:
        gto.api.assign(str(repository), ARTIFACT, CHAMPION, version=version, message=message, force=True)
    except GTOException as error:
        raise CheckoutError(f"{version} can't be made the champion: {error}") from None


def tags(repository: Path) -> list[str]:
    """The tags of all versions, the oldest first, then of all champions."""
    versions = [f"{ARTIFACT}@{release.version}" for release in releases(repository)]
    return [*versions, *_assignments(repository)]


def message(repository: Path, tag: str) -> str:
    """The message of a tag, "" if there is no such tag."""
    return git(repository, "tag", "--list", "--format=%(contents)", tag)


def _assignments(repository: Path) -> list[str]:
    tags = git(repository, "tag", "--list", "--sort=version:refname", f"{ARTIFACT}#{CHAMPION}#*").split()
    return [tag for tag in tags if tag.rpartition("#")[2].isdigit()]
