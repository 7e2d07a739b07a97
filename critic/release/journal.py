"""The journal of a promotion or a rollback, with which it is undone if it fails or is killed, and the remotes.

    with all_or_nothing(repository, "v1.2.0", print) as journal:
        journal.before("model", tag="edit_critic:v1.2.0")
        ...
    recover(repository)    # undo what a killed process left

The journal, runs/promotion.json, names each step before it is done. After a push that may have succeeded, the
remote decides: until it can be reached, the champion is unchanged.
"""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bentoml
from bentoml.exceptions import NotFound

from critic.files import write_json
from critic.release import registry
from critic.release.git import CheckoutError, git
from critic.release.lock import JOURNAL, RELEASES, hold_lock
from critic.release.promotion_gate import DECISIONS
from critic.service.packaging import NAME, PackageError, built_versions
from critic.service.smoke import SmokeError

Log = Callable[[str], None]


class PromotionError(RuntimeError):
    """A critic wasn't put into service, and the champion is unchanged; the message says why and what to do."""


@dataclass
class Journal:
    """The steps of a promotion or a rollback, on the disk; each has its name, `step`, and what undoing it needs.

    `head` is the commit before the first step.
    """

    path: Path
    version: str
    head: str
    steps: list[dict[str, Any]]

    def before(self, step: str, **facts: Any) -> None:
        """Record a step that comes next."""
        self.steps.append({"step": step, **facts})
        write_json(self.path, {"version": self.version, "head": self.head, "steps": self.steps})

    def find(self, step: str) -> dict[str, Any] | None:
        return next((done for done in self.steps if done["step"] == step), None)

    def close(self) -> None:
        """Remove the file: there is nothing left to undo."""
        self.path.unlink(missing_ok=True)


@contextmanager
def all_or_nothing(repository: Path, version: str, log: Log) -> Iterator[Journal]:
    """A journal for the steps in the block, which are undone if the block raises before the release is complete.

    Raises a `PromotionError` if a step failed, or if nobody can tell whether the remote accepted the push.
    """
    journal = Journal(repository / JOURNAL, version, git(repository, "rev-parse", "HEAD"), [])
    try:
        yield journal
    except BaseException as error:
        reason = str(error) or type(error).__name__
        try:
            released = _is_released(repository, journal)
        except PromotionError as unknown:
            _delete_new_tags(repository, journal)
            raise PromotionError(
                f"{reason}. It is unknown whether {version} is in service: {unknown}. Until then the champion is "
                "unchanged"
            ) from error
        if released:
            log(f"{version} is released: {reason} happened after its tags were made")
            journal.close()
            raise
        log(f"Undoing the release of {version}: {reason}")
        undo(repository, journal)
        if isinstance(error, PackageError | SmokeError | OSError | subprocess.SubprocessError):
            raise PromotionError(f"{version} wasn't promoted, the champion is unchanged: {error}") from error
        raise
    journal.close()


def fetch_tags(repository: Path, remote: str) -> None:
    """Fetch the releases of others, and check that git has this remote and DVC a default one."""
    git(repository, "remote", "get-url", remote)
    try:
        git(repository, "fetch", "--quiet", "--tags", remote)
    except CheckoutError as error:
        raise PromotionError(f"can't fetch the releases of {remote}: {error}") from None
    done = _dvc(repository, "config", "core.remote")
    if done.returncode or not done.stdout.strip():
        raise PromotionError(
            f"release.push is {remote} and DVC has no default remote, so the critic's files wouldn't be pushed: "
            "`dvc remote add --default NAME URL`, or set release.push to null"
        )


def push_files(repository: Path) -> None:
    """Push the pipeline's files to DVC's remote."""
    done = _dvc(repository, "push")
    if done.returncode:
        raise PromotionError(f"`dvc push` failed: {done.stderr.strip()[-1000:]}")


def push(repository: Path, remote: str, branches: list[str], journal: Journal) -> None:
    """Push the new tags and branches, all or none; raises a `PromotionError` if the remote doesn't accept them."""
    new = {tag: git(repository, "rev-parse", f"refs/tags/{tag}") for tag in _new_tags(repository, journal)}
    journal.before("push", tags=new)
    try:
        git(repository, "push", "--quiet", "--atomic", remote, *branches, *(f"refs/tags/{tag}" for tag in new))
    except CheckoutError as error:
        raise PromotionError(f"{remote} didn't accept the push: {error}") from None


def recover(repository: Path, log: Log = print) -> None:
    """Undo what a killed promotion or rollback left, if one was killed.

    A `PromotionError` says that the remote may have accepted its push and can't be reached.
    """
    with hold_lock(repository, "the recovery of a release", RELEASES):
        recover_locked(repository, log)


def recover_locked(repository: Path, log: Log) -> None:
    """`recover` for a caller that holds the lock `RELEASES`."""
    path = repository / JOURNAL
    if not path.exists():
        return
    journal = Journal(path, **json.loads(path.read_text()))
    if _is_released(repository, journal):
        log(f"The release of {journal.version} was complete; only its journal was left")
        journal.close()
        return
    log(f"The release of {journal.version} was interrupted: undoing it")
    undo(repository, journal)


def undo(repository: Path, journal: Journal) -> None:
    """Undo the steps of a journal, the last first, and remove it."""
    for step in reversed(journal.steps):
        match step["step"]:
            case "tags":
                _delete_new_tags(repository, journal)
            case "bento":
                for built in built_versions() - {*step["kept"]}:
                    if built.startswith(f"{journal.version}-"):
                        bentoml.delete(f"{NAME}:{built}")
            case "model":
                with suppress(NotFound):
                    bentoml.models.delete(step["tag"])
            case "commit":
                head = git(repository, "rev-parse", "HEAD")
                if head != journal.head and git(repository, "rev-parse", "HEAD^") == journal.head:
                    git(repository, "reset", "--quiet", "--mixed", journal.head)
                remove_new_decisions(repository, step["decisions"])
    journal.close()


def decisions(repository: Path) -> list[str]:
    """The names of the gate's decisions in a checkout."""
    return sorted(path.name for path in (repository / DECISIONS).glob("*"))


def remove_new_decisions(repository: Path, known: list[str]) -> None:
    """Remove the decisions that aren't among the known ones."""
    for name in {*decisions(repository)} - {*known}:
        (repository / DECISIONS / name).unlink()


def _is_released(repository: Path, journal: Journal) -> bool:
    """Whether all tags of a release exist; those that were pushed: on the remote, and then they are made here."""
    tags = journal.find("tags")
    if tags is None:
        return False
    if tags["push"] is None:
        return len({*registry.tags(repository)} - {*tags["known"]}) == tags["new"]
    pushed = journal.find("push")
    if pushed is None or not _has_tags(repository, tags["push"], pushed["tags"]):
        return False
    for tag, id in pushed["tags"].items():
        git(repository, "update-ref", f"refs/tags/{tag}", id)
    return True


def _has_tags(repository: Path, remote: str, tags: dict[str, str]) -> bool:
    """Whether a remote has these tags with the same object ids; another's tags may have the same names."""
    try:
        refs = git(repository, "ls-remote", remote, *(f"refs/tags/{tag}" for tag in tags))
    except CheckoutError as error:
        raise PromotionError(
            f"{remote} can't be reached and may have accepted the push; the next promotion, refusal or rollback "
            f"checks again ({error})"
        ) from None
    return {*refs.splitlines()} >= {f"{id}\trefs/tags/{tag}" for tag, id in tags.items()}


def _delete_new_tags(repository: Path, journal: Journal) -> None:
    """Delete the champion's tag before the version's: a champion without a version is an error."""
    for tag in reversed(_new_tags(repository, journal)):
        git(repository, "tag", "-d", tag)


def _new_tags(repository: Path, journal: Journal) -> list[str]:
    """The tags made since the journal's step "tags", none before that step."""
    step = journal.find("tags")
    return [] if step is None else [tag for tag in registry.tags(repository) if tag not in step["known"]]


def _dvc(repository: Path, *command: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, "-m", "dvc", *command], cwd=repository, capture_output=True, text=True)
