"""A critic is put into service, whole or not at all, and taken out again.

    release = promote(repository, decision, params.load(params.Release))
    rollback(repository, params.load(params.Release))

A promotion commits the pipeline's record and the gate's decision, builds a Bento from that very commit, has it
score edits whose scores are known (`critic.service.smoke`), tags the version and moves the tag `critic#champion`
on. What it is about to do is in runs/promotion.json before it does it: if a step fails, or the machine does, all
is taken back, at once or by `recover` when the next one begins.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import bentoml
from bentoml.exceptions import NotFound

from critic import registry
from critic.checkout import JOURNAL, CheckoutError, git, written
from critic.gate import Decision, record
from critic.params import Release as Settings
from critic.registry import Release
from critic.service.packaging import (
    NAME,
    PackageError,
    build_bento,
    built_versions,
    fetch,
    import_critic,
)
from critic.service.smoke import Smoke, SmokeError, golden_edits, try_bento

MODEL = "models/grpo"
Say = Callable[[str], None]


class PromotionError(RuntimeError):
    """A critic wasn't put into service, and the one before it still is; the message says why and what to do."""


def promote(repository: Path, decision: Decision, settings: Settings, say: Say = print) -> Release:
    """Put the critic of a checkout into service.

    Args:
        repository: the checkout, held by the caller (`critic.checkout.held`), clean but for the pipeline's record.
        decision: the gate's, for it.
        settings: `release` of params.yaml.

    Raises:
        PromotionError: a step failed; everything is as it was before.
        CheckoutError: no branch is checked out, or git refuses.
        ValueError: the gate's decision is to refuse.
    """
    if not decision.promote:
        raise ValueError("the gate refuses this critic: see the decision's reasons")
    recover(repository, settings, say)
    require_branch(repository)
    _require_remotes(repository, settings)
    version = registry.next_version(repository)
    with _all_or_nothing(repository, settings, version, say) as journal:
        commit = _commit(repository, decision, f"Promote critic {version}", journal)
        say(f"{version} is commit {commit[:12]}")
        bento = _build(repository, version, commit, settings, journal)
        say(f"Built {bento}")
        smoke = _try(bento, repository, version, settings, say)
        if settings.push is not None:
            _push_data(repository, say)
        journal.before("tags")
        message = (
            f"{decision.summary}\n\n{bento}: ready after {smoke.ready:.0f} s, {smoke.latency:.3f} s an edit, "
            f"{smoke.largest_gap:.2f} points off at most"
        )
        release = registry.register(repository, version, commit, message)
        registry.assign(repository, version, message)
        if settings.push is not None:
            branch = require_branch(repository)
            _push(repository, settings.push, [f"HEAD:refs/heads/{branch}"], registry.tags_of(repository, version))
            say(f"Pushed to {settings.push}")
    say(f"{version} is the champion: bentoml serve {bento}")
    return release


def rollback(repository: Path, settings: Settings, to: str | None = None, say: Say = print) -> Release:
    """Put the champion before the present one into service again, or the version `to`.

    Its Bento is the one that was tried when it was promoted. Only where BentoML's store lacks it, it is built
    again, from its commit and DVC's files.

    Raises:
        PromotionError: there is no such release, its files are gone, or it can't be pushed: nothing has changed.
        CheckoutError: git refuses.
    """
    recover(repository, settings, say)
    current = registry.champion(repository)
    target = _earlier(repository, to)
    if current is not None and target.version == current.version:
        raise PromotionError(f"{target.version} is the champion already")
    bento = find_bento(target.version, settings.variant)
    if bento is None:
        say(f"BentoML's store has no Bento of {target.version}: building it again")
        bento = _rebuild(repository, target, settings)
    tag = registry.assign(
        repository, target.version, f"Rolled back from {current.version if current else 'none'} to {bento}"
    )
    if settings.push is not None:
        try:
            _push(repository, settings.push, [], [tag])
        except PromotionError:
            git(repository, "tag", "-d", tag)
            raise
    say(f"{target.version} is the champion: bentoml serve {bento}")
    return target


def record_refusal(repository: Path, decision: Decision, settings: Settings, say: Say = print) -> Path:
    """Commit the pipeline's record and the gate's decision against its critic; the champion stays as it is.

    Returns:
        The decision as a page.

    Raises:
        CheckoutError: no branch is checked out, or git refuses; nothing is committed then.
    """
    recover(repository, settings, say)
    require_branch(repository)
    page = record(repository, decision)
    git(repository, "add", "--", *_there(repository))
    git(repository, "commit", "--quiet", "-m", f"Refuse a critic\n\n{decision.summary}")
    return page


def find_bento(version: str, variant: str) -> str | None:
    """The newest Bento of a release in BentoML's store."""
    start = f"{version}-{variant}-"
    numbers = [int(built.removeprefix(start)) for built in built_versions() if built.startswith(start)]
    return f"{NAME}:{start}{max(numbers)}" if numbers else None


def recover(repository: Path, settings: Settings, say: Say = print) -> None:
    """Take back what a promotion has left that was killed; nothing if none was.

    Raises:
        PromotionError: it was killed in its push, and the remote can't be asked whether that came through.
    """
    path = repository / JOURNAL
    if not path.exists():
        return
    journal = _Journal.load(path)
    if _is_released(repository, settings, journal):
        say(f"{journal.version} had been promoted, all but for this note of it")
        journal.close()
        return
    say(f"A promotion of {journal.version} was cut off: taking it back")
    _undo(repository, journal)


def _is_released(repository: Path, settings: Settings, journal: "_Journal") -> bool:
    """Whether a promotion had come through: both tags are there and, if they are to be, on the remote.

    Raises:
        PromotionError: the remote can't be asked.
    """
    tags = registry.tags_of(repository, journal.version)
    if not journal.has("tags") or len(tags) < 2:
        return False
    return settings.push is None or _has(repository, settings.push, tags)


class _Journal:
    """What a promotion is about to do, on the disk."""

    def __init__(self, path: Path, version: str, head: str, steps: list[dict[str, Any]]):
        self._path, self.version, self.head, self.steps = path, version, head, steps

    @classmethod
    def load(cls, path: Path) -> "_Journal":
        content = json.loads(path.read_text())
        return cls(path, content["version"], content["head"], content["steps"])

    def before(self, step: str, **facts: Any) -> None:
        """Called before each step."""
        self.steps.append({"step": step, **facts})
        self._path.parent.mkdir(exist_ok=True)
        partial = self._path.with_suffix(".partial")
        with partial.open("w") as file:
            json.dump({"version": self.version, "head": self.head, "steps": self.steps}, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, self._path)

    def has(self, step: str) -> bool:
        return any(done["step"] == step for done in self.steps)

    def close(self) -> None:
        self._path.unlink(missing_ok=True)


@contextmanager
def _all_or_nothing(repository: Path, settings: Settings, version: str, say: Say) -> Iterator[_Journal]:
    journal = _Journal(repository / JOURNAL, version, git(repository, "rev-parse", "HEAD"), [])
    try:
        yield journal
    except BaseException as error:
        released = False
        with suppress(PromotionError):  # a remote that can't be asked is taken for one that hasn't taken it
            released = _is_released(repository, settings, journal)
        if released:
            say(f"{version} is released all the same: {error or type(error).__name__} came after its tags")
            journal.close()
            raise
        say(f"Taking the promotion of {version} back: {error or type(error).__name__}")
        _undo(repository, journal)
        if isinstance(error, PackageError | SmokeError | OSError | subprocess.SubprocessError):
            raise PromotionError(f"{version} wasn't promoted, and the champion is as before: {error}") from error
        raise
    journal.close()


def _undo(repository: Path, journal: _Journal) -> None:
    for step in reversed(journal.steps):
        match step["step"]:
            case "tags":
                for tag in registry.tags_of(repository, journal.version):
                    git(repository, "tag", "-d", tag)
            case "bento":
                for built in built_versions() - {*step["kept"]}:
                    if built.startswith(f"{journal.version}-"):
                        bentoml.delete(f"{NAME}:{built}")
            case "model":
                _delete_model(step["tag"])
            case "commit":
                head = git(repository, "rev-parse", "HEAD")
                if head != journal.head and git(repository, "rev-parse", "HEAD^") == journal.head:
                    git(repository, "reset", "--quiet", "--mixed", journal.head)
                _remove_new(repository, step["decisions"])
    journal.close()


def _commit(repository: Path, decision: Decision, title: str, journal: _Journal) -> str:
    journal.before("commit", decisions=_decisions(repository))
    record(repository, decision)
    git(repository, "add", "--", *_there(repository))
    git(repository, "commit", "--quiet", "-m", f"{title}\n\n{decision.summary}")
    return git(repository, "rev-parse", "HEAD")


def _there(repository: Path) -> list[str]:
    """What is to be committed: written by machine, and there or gone from where git had it."""
    known = {*git(repository, "ls-files", "-z").split("\0")}
    return sorted(path for path in written(repository) if path in known or (repository / path).exists())


def _decisions(repository: Path) -> list[str]:
    return sorted(path.name for path in (repository / "reports/decisions").glob("*"))


def _remove_new(repository: Path, known: list[str]) -> None:
    for name in {*_decisions(repository)} - {*known}:
        (repository / "reports/decisions" / name).unlink()


def _build(repository: Path, version: str, commit: str, settings: Settings, journal: _Journal) -> str:
    tag = f"{NAME}:{version}"
    try:
        bentoml.models.get(tag)
    except NotFound:
        journal.before("model", tag=tag)
    with TemporaryDirectory(prefix="critic-") as scratch:
        folder = Path(scratch) / "critic"
        fetch(commit, MODEL, folder, repository)
        model = import_critic(folder, version, commit)
    journal.before("bento", kept=sorted(built_versions()))
    return build_bento(model.tag, settings.variant, {}, repository)


def _try(bento: str, repository: Path, version: str, settings: Settings, say: Say) -> Smoke:
    golden = golden_edits(repository, settings.golden)
    smoke = try_bento(bento, golden, version=f"{NAME}:{version}", tolerance=settings.tolerance, say=say)
    if smoke.latency > settings.max_latency:
        raise SmokeError(
            f"{bento} takes {smoke.latency:.2f} s an edit (median of {len(golden)}), and release.max_latency "
            f"is {settings.max_latency:.2f} s"
        )
    say(f"{bento} scored {len(golden)} edits as it should, {smoke.latency:.3f} s each")
    return smoke


def _rebuild(repository: Path, release: Release, settings: Settings) -> str:
    """Its Bento, from its commit's own code."""
    with TemporaryDirectory(prefix="critic-") as scratch:
        source, folder = Path(scratch) / "source", Path(scratch) / "critic"
        git(repository, "worktree", "add", "--quiet", "--detach", str(source), release.commit)
        try:
            fetch(release.commit, MODEL, folder, repository)
            model = import_critic(folder, release.version, release.commit)
            return build_bento(model.tag, settings.variant, {}, source)
        except PackageError as error:
            raise PromotionError(f"{release.version} can't be put into service again: {error}") from error
        finally:
            git(repository, "worktree", "remove", "--force", str(source))


def _earlier(repository: Path, version: str | None) -> Release:
    """The release of a version, or the one that was the champion before the present one."""
    if version is None:
        if len(stack := registry.champions(repository)) < 2:
            raise PromotionError("there is no champion before the present one to go back to")
        return stack[-2]
    known = {release.version: release for release in registry.releases(repository)}
    if version not in known:
        raise PromotionError(f"there is no release {version}: there are {', '.join(known) or 'none'}")
    return known[version]


def _delete_model(tag: str) -> None:
    with suppress(NotFound):
        bentoml.models.delete(tag)


def require_branch(repository: Path) -> str:
    """The branch that is checked out; raises `CheckoutError` if none is."""
    try:
        return git(repository, "symbolic-ref", "--short", "--quiet", "HEAD")
    except CheckoutError:
        raise CheckoutError(f"no branch is checked out in {repository}: a release is a commit on one") from None


def _require_remotes(repository: Path, settings: Settings) -> None:
    if settings.push is None:
        return
    git(repository, "remote", "get-url", settings.push)
    done = _dvc(repository, "config", "core.remote")
    if done.returncode or not done.stdout.strip():
        raise PromotionError(
            f"release.push is {settings.push}, and DVC has no remote of its own, so others would get a critic "
            "without its files: `dvc remote add --default NAME URL`, or set release.push to null"
        )


def _push_data(repository: Path, say: Say) -> None:
    say("Pushing the pipeline's files to DVC's remote")
    done = _dvc(repository, "push")
    if done.returncode:
        raise PromotionError(f"DVC's remote can't be reached or is full: {done.stderr.strip()[-1000:]}")


def _dvc(repository: Path, *command: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, "-m", "dvc", *command], cwd=repository, capture_output=True, text=True)


def _push(repository: Path, remote: str, branches: list[str], tags: list[str]) -> None:
    try:
        git(repository, "push", "--quiet", "--atomic", remote, *branches, *_refs(tags))
    except CheckoutError as error:
        raise PromotionError(f"{remote} hasn't taken it, so nothing is released: {error}") from None


def _has(repository: Path, remote: str, tags: list[str]) -> bool:
    try:
        told = git(repository, "ls-remote", remote, *_refs(tags))
    except CheckoutError as error:
        raise PromotionError(
            f"a promotion was cut off in its push, and {remote} can't be asked whether it has it: try again when "
            f"it can ({error})"
        ) from None
    return all(f"refs/tags/{tag}" in told for tag in tags)


def _refs(tags: list[str]) -> list[str]:
    return [f"refs/tags/{tag}" for tag in tags]
