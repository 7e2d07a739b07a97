"""Promotion and rollback: put a critic into service completely, or change nothing.

A promotion commits the pipeline's files and the gate's decision, builds a Bento from that commit, has it score
edits whose scores are known (`critic.service.smoke`), tags the version and moves the tag `critic#champion`. If a
step fails, all is undone (`critic.release.journal`).
"""

from pathlib import Path
from tempfile import TemporaryDirectory

import bentoml
from bentoml.exceptions import NotFound

from critic.files import OutputError
from critic.params import Release as Settings
from critic.release import registry
from critic.release.git import CheckoutError, generated, git, require_branch, require_clean
from critic.release.journal import (
    Journal,
    Log,
    PromotionError,
    all_or_nothing,
    decisions,
    fetch_tags,
    push,
    push_files,
    recover_locked,
    remove_new_decisions,
)
from critic.release.lock import RELEASES, hold_lock
from critic.release.mlflow_mirror import follow
from critic.release.promotion_gate import MODEL, Decision, record, require_up_to_date
from critic.release.registry import Release
from critic.service.packaging import NAME, PackageError, build_bento, built_versions, fetch, import_critic
from critic.service.smoke import Smoke, SmokeError, smoke_edits, try_bento


def promote(repository: Path, decision: Decision, settings: Settings, log: Log = print) -> Release:
    """Put the critic of a checkout into service.

    The caller holds the lock of the checkout (`critic.release.lock`), which is clean except for the pipeline's
    files.

    Raises:
        PromotionError: a step failed; everything is as before.
        CheckoutError: no branch is checked out, another process releases now, or git refuses.
        GateError: the checkout's files have changed since the gate's decision.
    """
    if not decision.promote:
        raise ValueError("the gate refuses this critic: see the decision's reasons")
    with hold_lock(repository, "a promotion", RELEASES):
        recover_locked(repository, log)
        _require_unchanged(repository)
        if settings.push is not None:
            fetch_tags(repository, settings.push)
        champion = registry.champion(repository)
        if (now := champion and champion.version) != decision.champion:
            raise PromotionError(
                f"the champion is now {now}, and the gate compared with {decision.champion}: run the gate again"
            )
        return _promote(repository, decision, settings, log)


def _promote(repository: Path, decision: Decision, settings: Settings, log: Log) -> Release:
    version = registry.next_version(repository)
    with all_or_nothing(repository, version, log) as journal:
        journal.before("commit", decisions=decisions(repository))
        record(repository, decision)
        commit = _commit(repository, f"Promote critic {version}\n\n{decision.summary}")
        log(f"{version} is commit {commit[:12]}")
        bento = _build(repository, version, commit, settings, journal)
        log(f"Built {bento}")
        smoke = _try(bento, repository, version, settings, log)
        if settings.push is not None:
            log("Pushing the pipeline's files to DVC's remote")
            push_files(repository)
        journal.before("tags", known=registry.tags(repository), new=2, push=settings.push)
        message = (
            f"{decision.summary}\n\n{bento}: ready after {smoke.ready:.0f} s, {smoke.latency:.3f} s per edit, "
            f"scores at most {smoke.largest_gap:.2f} points from the expected ones"
        )
        release = registry.register(repository, version, commit, message)
        registry.assign(repository, version, message)
        if settings.push is not None:
            push(repository, settings.push, [f"HEAD:refs/heads/{require_branch(repository)}"], journal)
            log(f"Pushed to {settings.push}")
    log(f"{version} is the champion: bentoml serve {bento}")
    follow(repository, log)
    return release


def record_refusal(repository: Path, decision: Decision, log: Log = print) -> Path:
    """Commit the pipeline's files and the gate's refusal; returns the path of its page. The champion is unchanged.

    Raises:
        CheckoutError, GateError, OutputError: as for `promote`, or the decision can't be written; nothing is
        committed.
    """
    with hold_lock(repository, "a refusal", RELEASES):
        recover_locked(repository, log)
        _require_unchanged(repository)
        known = decisions(repository)
        try:
            page = record(repository, decision)
            _commit(repository, f"Refuse a critic\n\n{decision.summary}")
        except (CheckoutError, OutputError):
            remove_new_decisions(repository, known)
            raise
    follow(repository, log)
    return page


def rollback(repository: Path, settings: Settings, to: str | None = None, log: Log = print) -> Release:
    """Put the previous champion into service again, or the version `to`.

    Its Bento is the one that was tested when it was promoted. If BentoML's store doesn't have it, it is built
    again from the release's commit and DVC's files. A training may run in the checkout at the same time.

    Raises:
        PromotionError: no such release, its files are missing, or it can't be pushed; nothing has changed.
        CheckoutError: another process releases now, or git refuses.
    """
    with hold_lock(repository, "a rollback", RELEASES):
        recover_locked(repository, log)
        if settings.push is not None:
            fetch_tags(repository, settings.push)
        current = registry.champion(repository)
        target = _target(repository, to)
        if current is not None and target.version == current.version:
            raise PromotionError(f"{target.version} is already the champion")
        bento = find_bento(repository, target.version, settings.variant)
        if bento is None:
            log(f"BentoML's store has no Bento of {target.version}: building it again")
            bento = _rebuild(repository, target, settings)
        with all_or_nothing(repository, target.version, log) as journal:
            journal.before("tags", known=registry.tags(repository), new=1, push=settings.push)
            message = f"Rolled back from {current.version if current else 'none'} to {bento}"
            registry.assign(repository, target.version, message)
            if settings.push is not None:
                push(repository, settings.push, [], journal)
    log(f"{target.version} is the champion: bentoml serve {bento}")
    follow(repository, log)
    return target


def find_bento(repository: Path, version: str, variant: str) -> str | None:
    """A release's Bento in BentoML's store: the one that was tested, else the newest one of this version."""
    start = f"{version}-{variant}-"
    ours = {built for built in built_versions() if built.startswith(start)}
    message = registry.message(repository, f"{registry.ARTIFACT}@{version}")
    tested = next((built for built in ours if f"{NAME}:{built}:" in message), None)
    newest = max(ours, key=lambda built: int(built.removeprefix(start)), default=None)
    found = tested or newest
    return f"{NAME}:{found}" if found else None


def _require_unchanged(repository: Path) -> None:
    """Check that the checkout is what the gate saw: an approval may take hours."""
    require_branch(repository)
    require_clean(repository)
    require_up_to_date(repository)


def _commit(repository: Path, message: str) -> str:
    """Commit the generated files only, whatever else is staged; returns the commit."""
    known = {*git(repository, "ls-files", "-z").split("\0")}
    paths = sorted(path for path in generated(repository) if path in known or (repository / path).exists())
    git(repository, "add", "--", *paths)
    try:
        git(repository, "commit", "--quiet", "-m", message, "--", *paths)
    except CheckoutError:
        git(repository, "reset", "--quiet", "--", *paths)
        raise
    return git(repository, "rev-parse", "HEAD")


def _build(repository: Path, version: str, commit: str, settings: Settings, journal: Journal) -> str:
    tag = f"{NAME}:{version}"
    try:
        bentoml.models.get(tag)
    except NotFound:
        journal.before("model", tag=tag)
    model = _import(repository, version, commit)
    journal.before("bento", kept=sorted(built_versions()))
    return build_bento(model, settings.variant, {}, repository)


def _import(repository: Path, version: str, commit: str) -> bentoml.Tag:
    """Put the critic of a commit into BentoML's store; returns its tag."""
    with TemporaryDirectory(prefix="critic-") as scratch:
        folder = Path(scratch, "critic")
        fetch(commit, MODEL, folder, repository)
        return import_critic(folder, version, commit).tag


def _try(bento: str, repository: Path, version: str, settings: Settings, log: Log) -> Smoke:
    edits = smoke_edits(repository, settings.smoke_edits)
    smoke = try_bento(bento, edits, version=f"{NAME}:{version}", tolerance=settings.tolerance, log=log)
    if smoke.latency > settings.max_latency:
        raise SmokeError(
            f"{bento} takes {smoke.latency:.2f} s per edit (median of {len(edits)}), more than "
            f"release.max_latency, {settings.max_latency:.2f} s"
        )
    log(f"{bento} gave {len(edits)} edits the expected scores, in {smoke.latency:.3f} s each")
    return smoke


def _rebuild(repository: Path, release: Release, settings: Settings) -> str:
    """Build a release's Bento from the code of its commit."""
    with TemporaryDirectory(prefix="critic-") as scratch:
        source = Path(scratch, "source")
        git(repository, "worktree", "add", "--quiet", "--detach", str(source), release.commit)
        try:
            model = _import(repository, release.version, release.commit)
            return build_bento(model, settings.variant, {}, source)
        except PackageError as error:
            raise PromotionError(f"the Bento of {release.version} can't be built again: {error}") from error
        finally:
            git(repository, "worktree", "remove", "--force", str(source))


def _target(repository: Path, version: str | None) -> Release:
    """The release of a version, None for the previous champion."""
    if version is None:
        if len(stack := registry.champions(repository)) < 2:
            raise PromotionError("there is no previous champion to roll back to")
        return stack[-2]
    known = {release.version: release for release in registry.releases(repository)}
    if version not in known:
        raise PromotionError(f"there is no release {version}; there are {', '.join(known) or 'none'}")
    return known[version]
