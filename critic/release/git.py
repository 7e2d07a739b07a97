"""The git side of a checkout: run git, and list the files that aren't committed."""

import os
import subprocess
from pathlib import Path

from dvc.repo import Repo

GENERATED = ("data/ratings", "reports/decisions")
"""Folders that commands and flows write and git keeps, in addition to the pipeline's own files."""


class CheckoutError(RuntimeError):
    """Nothing can be made or released in this checkout now; the message says why and what to do."""


def git(repository: Path, *command: str) -> str:
    """Run a git command and return its output; a `CheckoutError` with git's message if it fails."""
    done = subprocess.run(["git", *command], cwd=repository, capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr or done.stdout).strip()
        raise CheckoutError(f"`git {' '.join(command)}` failed in {repository}: {reason}")
    return done.stdout.strip("\n")


def require_branch(repository: Path) -> str:
    """The name of the branch that is checked out."""
    try:
        return git(repository, "symbolic-ref", "--short", "--quiet", "HEAD")
    except CheckoutError:
        raise CheckoutError(
            f"no branch is checked out in {repository}, and a release is a commit on one: `git switch BRANCH`"
        ) from None


def require_clean(repository: Path) -> None:
    """Raise a `CheckoutError` unless all files are committed, except those that the pipeline writes.

    A release names a commit, so everything that the critic was made from must be in git.
    """
    if changed := uncommitted(repository) - generated(repository):
        raise CheckoutError(
            f"{repository} has uncommitted changes: {', '.join(sorted(changed))}. Commit or revert them, so that "
            "the critic can be reproduced from git"
        )


def unfinished(repository: Path) -> list[str]:
    """The pipeline's files that an earlier run wrote and didn't commit."""
    return sorted(uncommitted(repository) & generated(repository))


def generated(repository: Path) -> set[str]:
    """The files in git that programs write: dvc.lock, uncached outputs, and the changed files in `GENERATED`."""
    with Repo(str(repository)) as repo:
        outs = {os.path.relpath(out.fs_path, repository) for out in repo.index.outs if not out.use_cache}
    return outs | {"dvc.lock", *uncommitted(repository, *GENERATED)}


def uncommitted(repository: Path, *within: str) -> set[str]:
    """The files that differ from the last commit, new ones included, in the whole checkout or `within` folders."""
    options = ("--porcelain", "-z", "--no-renames", "--untracked-files=all")
    status = git(repository, "status", *options, "--", *(within or "."))
    return {entry[3:] for entry in status.split("\0") if entry}
