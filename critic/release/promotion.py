"""A critic is put into service, whole or not at all, and taken out again.

    release = promote(repository, decision, params.load(params.Release))
    rollback(repository, params.load(params.Release))

A promotion commits the pipeline's record and the gate's decision, builds a Bento from that very commit, has it
score edits whose scores are known (`critic.service.smoke`), tags the version and moves the tag `critic#champion`
on. What it or a rollback is about to do is in runs/promotion.json before it does it: if a step fails, or the
machine does, all is taken back, at once or by `recover` when the next one begins. Only of a push that a remote
may have taken can't be told until it is asked: the champion is as before until then.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import bentoml
from bentoml.exceptions import NotFound

from critic.params import Release as Settings
from critic.release import registry
from critic.release.checkout import JOURNAL, RELEASES, CheckoutError, git, held, require_clean, written
from critic.release.promotion_gate import Decision, record, require_up_to_date
from critic.release.registry import Release
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
        repository: the checkout, held by the caller (`critic.release.checkout.held`), clean but for the pipeline's record.
        decision: the gate's, for it.
        settings: `release` of params.yaml.

    Raises:
        PromotionError: a step failed; everything is as it was before.
        CheckoutError: no branch is checked out, somebody releases now, or git refuses.
        GateError: the checkout's files have changed since the critic was judged.
        ValueError: the gate's decision is to refuse.
    """
    if not decision.promote:
        raise ValueError("the gate refuses this critic: see the decision's reasons")
    with held(repository, "a promotion", RELEASES):
        _recover(repository, say)
        _require_as_judged(repository)
        _require_remotes(repository, settings)
        _require_champion(repository, decision)
        return _promote(repository, decision, settings, say)


def _promote(repository: Path, decision: Decision, settings: Settings, say: Say) -> Release:
    version = registry.next_version(repository)
    with _all_or_nothing(repository, version, say) as journal:
        commit = _commit(repository, decision, f"Promote critic {version}", journal)
        say(f"{version} is commit {commit[:12]}")
        bento = _build(repository, version, commit, settings, journal)
        say(f"Built {bento}")
        smoke = _try(bento, repository, version, settings, say)
        if settings.push is not None:
            _push_data(repository, say)
        journal.before("tags", known=registry.tags(repository), new=2, push=settings.push)
        message = (
            f"{decision.summary}\n\n{bento}: ready after {smoke.ready:.0f} s, {smoke.latency:.3f} s an edit, "
            f"{smoke.largest_gap:.2f} points off at most"
        )
        release = registry.register(repository, version, commit, message)
        registry.assign(repository, version, message)
        if settings.push is not None:
            _push(repository, settings.push, [f"HEAD:refs/heads/{require_branch(repository)}"], journal)
            say(f"Pushed to {settings.push}")
    say(f"{version} is the champion: bentoml serve {bento}")
    return release


def rollback(repository: Path, settings: Settings, to: str | None = None, say: Say = print) -> Release:
    """Put the champion before the present one into service again, or the version `to`.

    Its Bento is the one that was tried when it was promoted. Only where BentoML's store lacks it, it is built
    again, from its commit and DVC's files. A training that goes on in the checkout isn't waited for.

    Raises:
        PromotionError: there is no such release, its files are gone, or it can't be pushed: nothing has changed.
        CheckoutError: somebody releases now, or git refuses.
    """
    with held(repository, "a rollback", RELEASES):
        _recover(repository, say)
        _require_remotes(repository, settings)
        return _roll_back(repository, settings, to, say)


def _roll_back(repository: Path, settings: Settings, to: str | None, say: Say) -> Release:
    current = registry.champion(repository)
    target = _earlier(repository, to)
    if current is not None and target.version == current.version:
        raise PromotionError(f"{target.version} is the champion already")
    bento = find_bento(repository, target.version, settings.variant)
    if bento is None:
        say(f"BentoML's store has no Bento of {target.version}: building it again")
        bento = _rebuild(repository, target, settings)
    with _all_or_nothing(repository, target.version, say) as journal:
        journal.before("tags", known=registry.tags(repository), new=1, push=settings.push)
        told = f"Rolled back from {current.version if current else 'none'} to {bento}"
        registry.assign(repository, target.version, told)
        if settings.push is not None:
            _push(repository, settings.push, [], journal)
    say(f"{target.version} is the champion: bentoml serve {bento}")
    return target


def record_refusal(repository: Path, decision: Decision, say: Say = print) -> Path:
    """Commit the pipeline's record and the gate's decision against its critic; the champion stays as it is.

    Returns:
        The decision as a page.

    Raises:
        CheckoutError: no branch is checked out, somebody releases now, or git refuses; nothing is committed then.
        GateError: the checkout's files have changed since the critic was judged.
    """
    with held(repository, "a refusal", RELEASES):
        _recover(repository, say)
        _require_as_judged(repository)
        known = _decisions(repository)
        page = record(repository, decision)
        try:
            _commit_written(repository, f"Refuse a critic\n\n{decision.summary}")
        except CheckoutError:
            _remove_new(repository, known)
            raise
        return page


def find_bento(repository: Path, version: str, variant: str) -> str | None:
    """A release's Bento in BentoML's store: the one that was tried, or else the newest of this version."""
    start = f"{version}-{variant}-"
    ours = {built for built in built_versions() if built.startswith(start)}
    told = registry.message(repository, version)
    tried = next((built for built in ours if f"{NAME}:{built}:" in told), None)
    newest = max(ours, key=lambda built: int(built.removeprefix(start)), default=None)
    found = tried or newest
    return f"{NAME}:{found}" if found else None


def recover(repository: Path, say: Say = print) -> None:
    """Take back what a promotion or a rollback has left that was killed; nothing if none was.

    Raises:
        PromotionError: a remote may have taken its push, and can't be asked.
        CheckoutError: somebody releases now.
    """
    with held(repository, "a release's taking back", RELEASES):
        _recover(repository, say)


def _recover(repository: Path, say: Say) -> None:
    path = repository / JOURNAL
    if not path.exists():
        return
    journal = _Journal.load(path)
    if _is_released(repository, journal):
        say(f"{journal.version} had been put into service, all but for this note of it")
        journal.close()
        return
    say(f"The putting into service of {journal.version} was cut off: taking it back")
    _undo(repository, journal)


def _is_released(repository: Path, journal: "_Journal") -> bool:
    """Whether its tags are all there or, if they were pushed, the remote has them: they are then here too.

    Raises:
        PromotionError: the remote can't be asked.
    """
    tags = journal.find("tags")
    if tags is None:
        return False
    if tags["push"] is None:
        return len({*registry.tags(repository)} - {*tags["known"]}) == tags["new"]
    pushed = journal.find("push")
    if pushed is None or not _has(repository, tags["push"], pushed["tags"]):
        return False
    for tag, id in pushed["tags"].items():
        git(repository, "update-ref", f"refs/tags/{tag}", id)
    return True


class _Journal:
    """What a promotion or a rollback is about to do, on the disk."""

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

    def find(self, step: str) -> dict[str, Any] | None:
        return next((done for done in self.steps if done["step"] == step), None)

    def close(self) -> None:
        self._path.unlink(missing_ok=True)


@contextmanager
def _all_or_nothing(repository: Path, version: str, say: Say) -> Iterator[_Journal]:
    journal = _Journal(repository / JOURNAL, version, git(repository, "rev-parse", "HEAD"), [])
    try:
        yield journal
    except BaseException as error:
        try:
            released = _is_released(repository, journal)
        except PromotionError as doubt:
            _delete_new_tags(repository, journal)
            raise PromotionError(
                f"{error or type(error).__name__}. Whether {version} is in service can't be told: {doubt}. Until "
                "then the champion is as before"
            ) from error
        if released:
            say(f"{version} is released all the same: {error or type(error).__name__} came after its tags")
            journal.close()
            raise
        say(f"Taking {version} back: {error or type(error).__name__}")
        _undo(repository, journal)
        if isinstance(error, PackageError | SmokeError | OSError | subprocess.SubprocessError):
            raise PromotionError(f"{version} wasn't promoted, and the champion is as before: {error}") from error
        raise
    journal.close()


def _undo(repository: Path, journal: _Journal) -> None:
    for step in reversed(journal.steps):
        match step["step"]:
            case "tags":
                _delete_new_tags(repository, journal)
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


def _delete_new_tags(repository: Path, journal: _Journal) -> None:
    """Those that weren't there before; a champion's before its version's, without which it would be nobody's."""
    tags = journal.find("tags")
    for tag in reversed(registry.tags(repository)):
        if tags is not None and tag not in tags["known"]:
            git(repository, "tag", "-d", tag)


def _commit(repository: Path, decision: Decision, title: str, journal: _Journal) -> str:
    journal.before("commit", decisions=_decisions(repository))
    record(repository, decision)
    _commit_written(repository, f"{title}\n\n{decision.summary}")
    return git(repository, "rev-parse", "HEAD")


def _commit_written(repository: Path, message: str) -> None:
    """Commit what is written by machine, and nothing else that somebody may have staged meanwhile."""
    known = {*git(repository, "ls-files", "-z").split("\0")}
    paths = sorted(path for path in written(repository) if path in known or (repository / path).exists())
    git(repository, "add", "--", *paths)
    try:
        git(repository, "commit", "--quiet", "-m", message, "--", *paths)
    except CheckoutError:
        git(repository, "reset", "--quiet", "--", *paths)
        raise


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


def _require_as_judged(repository: Path) -> None:
    """That the checkout is what the gate saw: hours of a person's thinking may lie between."""
    require_branch(repository)
    require_clean(repository)
    require_up_to_date(repository)


def _require_champion(repository: Path, decision: Decision) -> None:
    champion = registry.champion(repository)
    now = champion and champion.version
    if now != decision.champion:
        raise PromotionError(
            f"the champion is {now} by now, and the gate compared with {decision.champion}: judge again"
        )


def _require_remotes(repository: Path, settings: Settings) -> None:
    """That there is where to push to, if anywhere, and that what others released there is known here."""
    if settings.push is None:
        return
    git(repository, "remote", "get-url", settings.push)
    try:
        git(repository, "fetch", "--quiet", "--tags", settings.push)
    except CheckoutError as error:
        raise PromotionError(f"{settings.push} can't be asked what others have released: {error}") from None
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


def _push(repository: Path, remote: str, branches: list[str], journal: _Journal) -> None:
    """Push the tags that are new, with their branch, all or none of them."""
    tags = journal.find("tags")
    assert tags is not None
    new = {
        tag: git(repository, "rev-parse", f"refs/tags/{tag}")
        for tag in registry.tags(repository)
        if tag not in tags["known"]
    }
    journal.before("push", tags=new)
    try:
        git(repository, "push", "--quiet", "--atomic", remote, *branches, *(f"refs/tags/{tag}" for tag in new))
    except CheckoutError as error:
        raise PromotionError(f"{remote} hasn't taken it: {error}") from None


def _has(repository: Path, remote: str, tags: Mapping[str, str]) -> bool:
    """Whether a remote has these very tags, of which the names may be another's."""
    try:
        told = git(repository, "ls-remote", remote, *(f"refs/tags/{tag}" for tag in tags))
    except CheckoutError as error:
        raise PromotionError(
            f"{remote} may have taken its push and can't be asked; the next promotion, refusal or rollback asks "
            f"again ({error})"
        ) from None
    return {*told.splitlines()} >= {f"{id}\trefs/tags/{tag}" for tag, id in tags.items()}
