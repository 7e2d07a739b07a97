"""The flows that make critics: train one, decide whether it goes into service, put it there, roll back.

    prefect deployment run retrain/critic --param reason="new raters" --watch
    prefect deployment run evaluate/critic
    prefect deployment run promote/critic
    prefect deployment run rollback/critic --param to=v1.2.0

Each works in the current folder, a checkout. All except a rollback hold its lock (`critic.release.lock`). After
a kill the next run continues from what the checkout has. Slow imports are in the functions that need them.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefect import State, flow, pause_flow_run, task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.input import RunInput
from prefect.logging import get_run_logger
from prefect.runtime import flow_run
from prefect.states import Completed

from critic import params
from critic.ratings import importers
from critic.release.git import require_clean, unfinished
from critic.release.lock import JOURNAL, hold_lock, require_no_dvc
from critic.service.settings import Settings
from flows import events, started
from flows.pipeline import Pipeline, run_pipeline
from flows.watch import moved_revisions

if TYPE_CHECKING:
    from critic.release.promotion_gate import Decision


class Approval(RunInput):
    """The answer of the person who decides, asked for by the UI."""

    approve: bool
    by: str


@flow(name="retrain", on_running=[started.note])
def retrain(reason: str = "by hand", min_ratings: int | None = None, force: bool = False) -> State[Any]:
    """Take in new ratings, run the changed stages of the pipeline, and promote the critic if the gate accepts it.

    Args:
        reason: why the run was started, for its log.
        min_ratings: take in new ratings from this number on; default: `retrain.new_ratings` of params.yaml.
        force: run the gate even if nothing is new.
    """
    logger = get_run_logger()
    logger.info("Reason: %s", reason)
    with _alone() as (repository, lock):
        settings = params.load(params.Retrain)
        news = []
        if left := unfinished(repository):
            news.append(f"an earlier run left {', '.join(left)}")
        if added := take_ratings(repository, settings.new_ratings if min_ratings is None else min_ratings):
            news.append(added)
        moved = moved_revisions(repository)
        pipeline = Pipeline.read(repository)
        news += moved + [f"{stage} has changed: {why}" for stage, why in pipeline.changed.items()]
        for line in news:
            logger.info("New: %s", line)
        if not news and not force:
            return Completed(name="Nothing new", message="No new ratings, no new revision, no changed stage.")
        run_pipeline(pipeline, lock, force={"download"} if moved else ())
        decision = run_gate(repository)
        if decision.promote and settings.approval:
            decision = approved(decision, settings.approval_timeout_hours)
        return _as_flow_state(conclude(repository, decision, return_state=True))


@flow(name="evaluate", on_running=[started.note])
def evaluate() -> State[None]:
    """Score the test split with the checkout's critic again, and show what the gate would decide."""
    with _alone() as (repository, lock):
        run_pipeline(Pipeline.read(repository), lock, force={"evaluate"}, only={"evaluate", "cards"})
        decision = run_gate(repository)
        return Completed(message=f"The critic would be {'promoted' if decision.promote else 'refused'}.")


@flow(name="promote", on_running=[started.note])
def promote() -> State[Any]:
    """Run the gate on the checkout's present critic, and promote or refuse it."""
    with _alone() as (repository, _):
        return _as_flow_state(conclude(repository, run_gate(repository), return_state=True))


@flow(name="rollback", on_running=[started.note])
def rollback(to: str | None = None) -> State[None]:
    """Put the previous champion, or the version `to`, back into service; other runs don't block this one."""
    from critic.release.promotion import rollback as roll_back

    release = roll_back(Path.cwd(), params.load(params.Release), to, get_run_logger().info)
    _send_promoted(release.version, "rolled back by hand")
    return Completed(name="Rolled back", message=f"{release.version} is the champion.")


def _send_promoted(version: str, why: str) -> None:
    events.send(events.PROMOTED, f"critic.release.{version}", version=version, why=why)


def _as_flow_state(state: State[Any]) -> State[Any]:
    """The final state of a flow, named as the state of its last task."""
    return Completed(name=state.name, message=state.message) if state.is_completed() else state


@contextmanager
def _alone() -> Iterator[tuple[Path, int]]:
    """Lock the checkout and undo a killed promotion; gives the checkout and the lock's file descriptor."""
    repository = Path.cwd()
    with hold_lock(repository, f"{flow_run.flow_name} {flow_run.name}") as lock:
        require_no_dvc(repository)
        if (repository / JOURNAL).exists():
            from critic.release.journal import recover

            recover(repository, get_run_logger().info)
        require_clean(repository)
        yield repository, lock


@task
def take_ratings(repository: Path, at_least: int) -> str | None:
    """Make an increment of the new ratings in the feedback store, if there are enough; return its description."""
    from critic.ratings import collect

    collect.track(repository)
    settings = Settings.model_validate({})
    store = settings.feedback_url.get_secret_value()
    waiting = importers.count_new(store, repository)
    if not waiting or waiting < at_least:
        get_run_logger().info("%d new ratings, fewer than the %d that make an increment.", waiting, at_least)
        return None
    made = collect.add(importers.read_store(store, repository, settings.keep_images), repository)
    create_markdown_artifact((made / "report.md").read_text(), key="ratings", description=made.name)
    return f"{waiting} ratings, in {made}"


@task
def run_gate(repository: Path) -> "Decision":
    """Compare the checkout's critic with the champion, and show the decision as a table and as a page."""
    from critic.release import promotion_gate

    decision = promotion_gate.run_gate(repository)
    about = f"The gate; {leak}" if (leak := decision.facts.get("leak")) else "The gate"
    create_table_artifact(decision.as_json()["checks"], key="gate-checks", description=about)
    create_markdown_artifact(decision.markdown(), key="gate-decision", description=decision.summary)
    get_run_logger().info(decision.summary)
    return decision


def approved(decision: "Decision", hours: float) -> "Decision":
    """Pause for `hours` at most until a person resumes the run in the UI; add their answer to the decision."""
    answer = pause_flow_run(wait_for_input=Approval, timeout=int(hours * 3600))
    reason = f"{'Approved' if answer.approve else 'Not approved'} by {answer.by}."
    return replace(decision, promote=answer.approve, reasons=(*decision.reasons, reason))


@task
def conclude(repository: Path, decision: "Decision") -> State[None]:
    """Promote the critic, or record why it was refused."""
    from critic.release import promotion

    logger = get_run_logger()
    if not decision.promote:
        record = promotion.record_refusal(repository, decision, logger.info)
        events.send(events.REFUSED, "critic.release", why=decision.summary)
        return Completed(name="Refused", message=f"{decision.summary} See {record.relative_to(repository)}.")
    release = promotion.promote(repository, decision, params.load(params.Release), logger.info)
    _send_promoted(release.version, decision.summary)
    return Completed(name="Promoted", message=f"{release.version} is the champion. {decision.summary}")
