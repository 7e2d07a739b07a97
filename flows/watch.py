"""Whether there is reason to train the critic anew; started every quarter of an hour.

Reasons are ratings past a threshold, a data set that has moved on the hub, and drift: of the scores that the
service gives (from its `/metrics`) or of the instructions that it is given (from the feedback store), against the
test that the champion passed.
"""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
from prefect import State, flow, task
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterName,
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterStartTime,
    FlowRunFilterState,
    FlowRunFilterStateType,
    FlowRunFilterTags,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.deployments import run_deployment
from prefect.logging import get_run_logger
from prefect.states import Completed
from prefect.types import DateTime

from critic import params
from critic.data.hub_revisions import moved
from critic.ratings import importers
from critic.ratings.store import Feedback
from critic.release.checkout import CheckoutInUse
from critic.service.settings import Settings
from flows import events, started

if TYPE_CHECKING:
    from critic.release.drift import Drift

RETRAIN = "retrain/critic"
CHECKSUMS = Path("data/raw/checksums.json")
_AGAIN = timedelta(hours=24)
"""After a retraining that failed or was cancelled, or that drift has started: what would start the next one is the
same then."""
_WINDOW = timedelta(days=30)
"""How old the instructions are that count."""


@flow(name="watch", on_running=[started.note])
def watch(service: str | None = None) -> State[None]:
    """Start a retraining if there is reason to.

    Args:
        service: where the critic is served, as http://127.0.0.1:3000; without it scores aren't looked at.
            CRITIC_API_KEY is its key, if it wants one.
    """
    repository = Path.cwd()
    section = params.load(params.Retrain, repository / params.FILE)
    reasons = moved_revisions(repository)
    store = Settings.model_validate({}).feedback_url.get_secret_value()
    if (waiting := importers.waiting(store, repository)) >= section.new_ratings:
        reasons.append(f"{waiting} new ratings")
    drifts = [found for found in look_for_drift(repository, service, store) if found.is_drift(section.drift)]
    if not reasons and not drifts:
        return Completed(name="Nothing new", message=f"{waiting} new ratings, no drift.")
    if why := _held_back(drift_alone=not reasons):
        return Completed(name="Held back", message=why)
    for found in drifts:
        events.drifted(str(found))
    told = "; ".join([*reasons, *map(str, drifts)])
    run = run_deployment(
        RETRAIN,
        parameters={"reason": told, **({"min_ratings": 1} if drifts else {})},
        tags=[events.DRIFTED] if drifts else [],
        timeout=0,
        as_subflow=False,
    )
    assert isinstance(run, FlowRun)
    return Completed(name="Started", message=f"{run.name}: {told}")


@task(retries=2, retry_delay_seconds=[5, 30])
def moved_revisions(repository: Path) -> list[str]:
    """Data sets whose branch or tag stands for another commit than the one that was read, in words."""
    return moved(params.load(params.Download, repository / params.FILE), repository / CHECKSUMS)


@task
def look_for_drift(repository: Path, service: str | None, store: str) -> "list[Drift]":
    """How far served scores and instructions are from those of the champion's test."""
    import pandas as pd
    from dvc.api import DVCFileSystem

    from critic.release import drift, registry

    logger = get_run_logger()
    champion = registry.champion(repository)
    if champion is None:
        logger.info("There is no champion to compare with.")
        return []
    files = DVCFileSystem(str(repository), rev=champion.commit)
    with files.open("data/validated/test.parquet") as file:
        lengths = pd.read_parquet(file, columns=["instruction"])["instruction"].str.len().tolist()
    with files.open("reports/predictions/grpo.parquet") as file:
        scores = pd.read_parquet(file, columns=["score"])["score"].dropna().tolist()
    since = datetime.now(UTC) - _WINDOW
    given = {(r.source_sha256, r.edited_sha256, r.instruction) for r in Feedback(store).rows() if r.at >= since}
    edges = drift.deciles(lengths)
    found = [
        drift.compare(
            "length of instructions",
            tested=drift.histogram(lengths, edges),
            served=drift.histogram([float(len(instruction)) for *_, instruction in given], edges),
        )
    ]
    if service is not None:
        key = os.environ.get("CRITIC_API_KEY")
        try:
            reply = httpx.get(f"{service}/metrics", headers={"Authorization": f"Bearer {key}"} if key else None)
            reply.raise_for_status()
            served = drift.served_scores(reply.text)
            found.append(drift.compare("scores", tested=drift.histogram(scores), served=served))
        except (httpx.HTTPError, ValueError) as error:
            logger.warning("The scores of %s can't be looked at: %s", service, error)
    there = [one for one in found if one is not None]
    for one in there:
        logger.info(str(one))
    return there


def _held_back(*, drift_alone: bool) -> str | None:
    """Why no retraining is to be started now."""
    working = FlowRunFilterState(
        type=FlowRunFilterStateType(any_=[StateType.RUNNING, StateType.PENDING, StateType.PAUSED])
    )
    if runs := _retrainings(FlowRunFilter(state=working)):
        return f"{runs[0].name} is at it."
    recent = FlowRunFilterStartTime(after_=DateTime.now(UTC) - _AGAIN)
    runs = [run for run in _retrainings(FlowRunFilter(start_time=recent)) if not _came_too_early(run)]
    if runs and runs[0].state_type in (StateType.FAILED, StateType.CANCELLED):
        return f"{runs[0].name} came to no end within a day: look why, and start the next one by hand."
    by_drift = FlowRunFilter(start_time=recent, tags=FlowRunFilterTags(all_=[events.DRIFTED]))
    if drift_alone and (runs := _retrainings(by_drift)):
        return f"{runs[0].name} was started for drift within a day."
    return None


def _came_too_early(run: FlowRun) -> bool:
    """Whether it failed for somebody who worked in the checkout: Prefect's message has the exception's name."""
    return run.state is not None and CheckoutInUse.__name__ in (run.state.message or "")


def _retrainings(which: FlowRunFilter) -> list[FlowRun]:
    """The newest first."""
    flow_name, _, name = RETRAIN.partition("/")
    with get_client(sync_client=True) as client:
        return client.read_flow_runs(
            flow_filter=FlowFilter(name=FlowFilterName(any_=[flow_name])),
            deployment_filter=DeploymentFilter(name=DeploymentFilterName(any_=[name])),
            flow_run_filter=which,
            sort=FlowRunSort.START_TIME_DESC,
        )
