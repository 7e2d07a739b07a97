"""Which critics were released, and which one is in service: git tags, as GTO writes and reads them.

    champion(repository)          # Release(version="v1.2.0", commit="3f9c…")
    releases(repository)          # all of them, the oldest first

A version is the tag `critic@v1.2.0` on the commit whose dvc.lock has the critic, the artifact `critic` of
dvc.yaml. The tag `critic#champion#7` puts the critic of its commit into service; the one of the highest number
counts, so history is never rewritten. Tags are annotated: `git show critic@v1.2.0` tells why.
"""

from dataclasses import dataclass
from pathlib import Path

import gto.api
from gto.exceptions import GTOException
from gto.versions import SemVer

from critic.release.checkout import CheckoutError, git

ARTIFACT = "critic"
CHAMPION = "champion"


@dataclass(frozen=True)
class Release:
    """A version, as v1.2.0, and the commit that it is."""

    version: str
    commit: str


def releases(repository: Path) -> list[Release]:
    """All versions, the oldest first.

    Raises:
        CheckoutError: that is no git repository.
    """
    found = []
    for tag in git(repository, "tag", "--list", f"{ARTIFACT}@*").split():
        version = tag.removeprefix(f"{ARTIFACT}@")
        if SemVer.is_valid(version):
            found.append(Release(version, git(repository, "rev-list", "-n1", tag)))
    return sorted(found, key=lambda release: SemVer(release.version))


def champion(repository: Path) -> Release | None:
    """The release that is in service.

    Raises:
        CheckoutError: as `releases`.
    """
    stack = champions(repository)
    return stack[-1] if stack else None


def champions(repository: Path) -> list[Release]:
    """The release in service, last, after those that it can be rolled back to, one after another.

    A rollback takes all off that came after the release that it went back to.

    Raises:
        CheckoutError: as `releases`, or a champion's commit has no version.
    """
    by_commit = {release.commit: release for release in releases(repository)}
    stack: list[Release] = []
    for tag in _assignments(repository):
        commit = git(repository, "rev-list", "-n1", tag)
        if commit not in by_commit:
            raise CheckoutError(f"the tag {tag} is on a commit without a version, {commit[:12]}: delete it")
        release = by_commit[commit]
        stack = stack[: stack.index(release)] if release in stack else stack
        stack.append(release)
    return stack


def next_version(repository: Path) -> str:
    """The version of the next release: of the newest the minor number goes up."""
    known = releases(repository)
    return SemVer(known[-1].version).bump_minor().version if known else "v1.0.0"


def register(repository: Path, version: str, commit: str, message: str) -> Release:
    """Tag a commit as a version.

    Raises:
        CheckoutError: GTO or git refuses.
    """
    try:
        gto.api.register(str(repository), ARTIFACT, commit, version=version, message=message)
    except GTOException as error:
        raise CheckoutError(f"{version} can't be registered: {error}") from None
    return Release(version, commit)


def assign(repository: Path, version: str, message: str) -> str:
    """Make a version the champion; gives the tag that does.

    Raises:
        CheckoutError: GTO or git refuses.
    """
    try:
        gto.api.assign(str(repository), ARTIFACT, CHAMPION, version=version, message=message, force=True)
    except GTOException as error:
        raise CheckoutError(f"{version} can't be made the champion: {error}") from None
    return _assignments(repository)[-1]


def tags(repository: Path) -> list[str]:
    """All tags of versions, the oldest first, and then of champions."""
    versions = [f"{ARTIFACT}@{release.version}" for release in releases(repository)]
    return [*versions, *_assignments(repository)]


def message(repository: Path, version: str) -> str:
    """What the tag of a version tells; nothing if there is none."""
    return git(repository, "tag", "--list", "--format=%(contents)", f"{ARTIFACT}@{version}")


def _assignments(repository: Path) -> list[str]:
    tags = git(repository, "tag", "--list", f"{ARTIFACT}#{CHAMPION}#*").split()
    return sorted(
        (tag for tag in tags if tag.rpartition("#")[2].isdigit()), key=lambda t: int(t.rpartition("#")[2])
    )
