"""The checkout that critics are made and released in: one at a time, from committed files.

with held(repository, "retrain crimson-fox") as lock:
    require_clean(repository)
"""

import fcntl
import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
from dvc.repo import Repo

LOCK = Path("runs/checkout.lock")
RELEASES = Path("runs/releases.lock")
"""Held for as long as tags are made or moved: minutes, where a training holds the checkout for hours."""
JOURNAL = Path("runs/promotion.json")
"""What a promotion (`critic.release.promotion`) is about to do; there is one only while it lasts, or if it was killed."""
RECORDS = ("data/ratings", "reports/decisions")
"""Folders that are written by machine and kept by git, beside what dvc.yaml says of such."""


class CheckoutError(RuntimeError):
    """Nothing can be made or released in this checkout now; the message says why and what to do."""


class CheckoutInUse(CheckoutError):
    """Somebody else works in this checkout, or releases from it."""


def git(repository: Path, *command: str) -> str:
    """What a command of git says.

    Raises:
        CheckoutError: it failed; the message is git's.
    """
    done = subprocess.run(["git", *command], cwd=repository, capture_output=True, text=True)
    if done.returncode:
        told = (done.stderr or done.stdout).strip()
        raise CheckoutError(f"`git {' '.join(command)}` failed in {repository}: {told}")
    return done.stdout.strip("\n")


@contextmanager
def held(repository: Path, by: str, lock: Path = LOCK) -> Iterator[int]:
    """Hold a checkout, or its `RELEASES`, so that nobody else works in it; gives the file descriptor that does.

    It is held until that is closed everywhere: what a killed process has left running may still have it.

    Args:
        by: who is told to those that come meanwhile.

    Raises:
        CheckoutInUse: somebody else holds it.
    """
    path = repository / lock
    path.parent.mkdir(exist_ok=True)
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise CheckoutInUse(
                f"{file.read().strip() or 'somebody else'} works in {repository}: wait for its end, or end it"
            ) from None
        file.truncate(0)
        file.write(f"{by} (process {os.getpid()})\n")
        file.flush()
        yield file.fileno()


def require_at_rest(repository: Path) -> None:
    """Raises `CheckoutInUse` while DVC works here, whose outputs are half made: it notes who writes what."""
    notes = repository / ".dvc/tmp/rwlock"
    try:
        writers = json.loads(notes.read_text()).get("write", {}).values() if notes.exists() else ()
    except ValueError:
        raise CheckoutInUse(f"DVC is just writing {notes}: try again, or remove it if DVC doesn't run") from None
    for pid in {writer["pid"] for writer in writers}:
        if psutil.pid_exists(pid):
            raise CheckoutInUse(f"DVC works in {repository} (process {pid}): wait for its end, or end it")


def require_clean(repository: Path) -> None:
    """Raises `CheckoutError` if files aren't committed, other than those that the pipeline writes itself.

    What a critic was made of must be in git: a release says which commit it is.
    """
    if foreign := _uncommitted(repository) - written(repository):
        raise CheckoutError(
            f"{repository} has changes that aren't committed: {', '.join(sorted(foreign))}. Commit them, or take "
            "them back, so that the critic that comes of them can be told and made again"
        )


def unfinished(repository: Path) -> list[str]:
    """What the pipeline has written and nobody has committed yet: an earlier run didn't come to its end."""
    return sorted(_uncommitted(repository) & written(repository))


def written(repository: Path) -> set[str]:
    """The files in git that are written by machine: dvc.lock, metrics, and the changed ones in `RECORDS`."""
    with Repo(str(repository)) as repo:
        outs = {os.path.relpath(out.fs_path, repository) for out in repo.index.outs if not out.use_cache}
    return outs | {"dvc.lock", *_uncommitted(repository, *RECORDS)}


def _uncommitted(repository: Path, *within: str) -> set[str]:
    told = git(
        repository, "status", "--porcelain", "-z", "--no-renames", "--untracked-files=all", "--", *(within or ".")
    )
    return {entry[3:] for entry in told.split("\0") if entry}
