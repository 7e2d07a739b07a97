"""The life of a critic: trained anew, examined, put into service if it is better, taken back.

    prefect deployment run retrain/critic --param reason="new raters" --watch
    prefect deployment run evaluate/critic
    prefect deployment run promote/critic
    prefect deployment run rollback/critic --param to=v1.2.0

Each works in the folder that it is started in, a checkout, and all but a rollback alone (`critic.release.checkout`). One
that is killed leaves the checkout so that the next one goes on from there. What only some of them need is imported
where they do: it takes seconds.
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
from critic.release.checkout import JOURNAL, held, require_clean, unfinished
from critic.service.settings import Settings
from flows import events, started
from flows.pipeline import Pipeline, run_pipeline
from flows.watch import moved_revisions

if TYPE_CHECKING:
    from critic.release.promotion_gate import Decision


class Approval(RunInput):
    """What the person who is asked says."""

    approve: bool
    by: str


@flow(name="retrain", on_running=[started.note])
def retrain(reason: str = "by hand", min_ratings: int | None = None, force: bool = False) -> State[Any]:
    """Take in new ratings, run what has changed of the pipeline, and promote its critic if the gate lets it.

    Args:
        reason: why, for those who read the run later.
        min_ratings: take new ratings if there are so many; else `retrain.new_ratings` of params.yaml.
        force: judge the critic again though nothing is new.
    """
    logger = get_run_logger()
    logger.info("Why: %s", reason)
    with _alone() as (repository, lock):
        settings = params.load(params.Retrain)
        news = []
        if left := unfinished(repository):
            news.append(f"an earlier run has left {', '.join(left)}")
        if taken := take_ratings(repository, settings.new_ratings if min_ratings is None else min_ratings):
            news.append(taken)
        moved = moved_revisions(repository)
        pipeline = Pipeline.read(repository)
        news += moved + [f"{stage} has changed: {why}" for stage, why in pipeline.changed.items()]
        for line in news:
            logger.info("New: %s", line)
        if not news and not force:
            return Completed(name="Nothing new", message="No new ratings or revisions, and no stage has changed.")
        run_pipeline(pipeline, lock, force={"download"} if moved else ())
        decision = judge(repository)
        if decision.promote and settings.approval:
            decision = approved(decision, settings.approval_hours)
        return _ended(conclude(repository, decision, return_state=True))


@flow(name="evaluate", on_running=[started.note])
def evaluate() -> State[None]:
    """Score the test split with the checkout's critic again, and show what the gate would say."""
    with _alone() as (repository, lock):
        run_pipeline(Pipeline.read(repository), lock, force={"evaluate"}, only={"evaluate", "cards"})
        decision = judge(repository)
        return Completed(message=f"It would be {'promoted' if decision.promote else 'refused'}.")


@flow(name="promote", on_running=[started.note])
def promote() -> State[Any]:
    """Judge the checkout's critic as it is, and promote it if the gate lets it."""
    with _alone() as (repository, _):
        return _ended(conclude(repository, judge(repository), return_state=True))


@flow(name="rollback", on_running=[started.note])
def rollback(to: str | None = None) -> State[None]:
    """Put the champion before this one into service again, or the version `to`, whatever else runs."""
    from critic.release import promotion

    release = promotion.rollback(Path.cwd(), params.load(params.Release), to, get_run_logger().info)
    events.promoted(release.version, "rolled back by hand")
    return Completed(name="Rolled back", message=f"{release.version} is the champion.")


def _ended(state: State[Any]) -> State[Any]:
    """A task's last state as the flow's, under the same name."""
    if not state.is_completed():
        return state
    return Completed(name=state.name, message=state.message)


@contextmanager
def _alone() -> Iterator[tuple[Path, int]]:
    """The checkout, and the descriptor that holds it, after what a killed promotion has left is taken back."""
    repository = Path.cwd()
    with held(repository, f"{flow_run.flow_name} {flow_run.name}") as lock:
        if (repository / JOURNAL).exists():
            from critic.release import promotion

            promotion.recover(repository, get_run_logger().info)
        require_clean(repository)
        yield repository, lock


@task
def take_ratings(repository: Path, at_least: int) -> str | None:
    """Make an increment of the feedback store's new ratings, if there are enough: what it is, in words."""
    from critic.ratings import merge

    merge.keep(repository)
    settings = Settings.model_validate({})
    store = settings.feedback_url.get_secret_value()
    waiting = importers.waiting(store, repository)
    if not waiting or waiting < at_least:
        get_run_logger().info("%d new ratings: %d are wanted.", waiting, at_least)
        return None
    if (made := merge.collect(store, repository, settings.keep_images)) is None:
        return None
    create_markdown_artifact((made / "report.md").read_text(), key="ratings", description=f"{made.name}")
    return f"{waiting} ratings, in {made}"


@task
def judge(repository: Path) -> "Decision":
    """Compare the checkout's critic with the champion, and show the decision as a table and a page."""
    from critic.release import promotion_gate

    decision = promotion_gate.judge(repository)
    create_table_artifact(decision.as_json()["checks"], key="gate-checks", description="The gate")
    create_markdown_artifact(decision.markdown(), key="gate-decision", description=decision.summary)
    get_run_logger().info(decision.summary)
    return decision


def approved(decision: "Decision", hours: float) -> "Decision":
    """Wait until somebody resumes the run in the UI, and says whether the critic may be promoted."""
    said = pause_flow_run(wait_for_input=Approval, timeout=int(hours * 3600))
    if said.approve:
        return replace(decision, reasons=(*decision.reasons, f"Approved by {said.by}."))
    return replace(decision, promote=False, reasons=(*decision.reasons, f"Not approved by {said.by}."))


@task
def conclude(repository: Path, decision: "Decision") -> State[None]:
    """Promote, or write down why not."""
    from critic.release import promotion

    logger = get_run_logger()
    if not decision.promote:
        record = promotion.record_refusal(repository, decision, logger.info)
        return Completed(name="Refused", message=f"{decision.summary} See {record.relative_to(repository)}.")
    release = promotion.promote(repository, decision, params.load(params.Release), logger.info)
    events.promoted(release.version, decision.summary)
    return Completed(name="Promoted", message=f"{release.version} is the champion. {decision.summary}")
