"""The flow that starts a retraining when there is a reason. It runs every 15 minutes.

The reasons are enough new ratings, a new revision of a data set on the hub, and drift: of the scores in service
(from the service's `/metrics`) or of the instructions (from the feedback store), against the champion's test.
"""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
from prefect import State, flow, task
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import DeploymentFilter, FlowFilter, FlowRunFilter
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.deployments import run_deployment
from prefect.logging import get_run_logger
from prefect.states import Completed

from critic import loopback, params
from critic.data.hub_revisions import moved
from critic.ratings import importers
from critic.ratings.store import Feedback
from critic.release.lock import CheckoutInUse
from critic.service.settings import Settings
from critic.tables import read_parquet
from flows import events, started

if TYPE_CHECKING:
    from critic.release.drift import Drift

RETRAIN = "retrain/critic"
CHECKSUMS = Path("data/raw/checksums.json")
_AGAIN = timedelta(hours=24)
"""No retraining starts for this long after a failed or cancelled one. Drift starts one at most this often."""
_WINDOW = timedelta(days=30)
"""Instructions from this time are compared with those of the test."""


@flow(name="watch", on_running=[started.note])
def watch(service: str | None = None) -> State[None]:
    """Start a retraining if there is a reason.

    Args:
        service: the address of the critic's service, such as http://127.0.0.1:3000. Without it the scores are not
            checked for drift. CRITIC_API_KEY is its API key.
    """
    repository = Path.cwd()
    section = params.load(params.Retrain, repository / params.FILE)
    reasons = moved_revisions(repository)
    store = Settings.model_validate({}).feedback_url.get_secret_value()
    if (waiting := importers.count_new(store, repository)) >= section.new_ratings:
        reasons.append(f"{waiting} new ratings")
    measured = look_for_drift(repository, service, store)
    drifts = [drift for drift in measured if drift.exceeds(section.psi_threshold)]
    if not reasons and not drifts:
        return Completed(name="Nothing new", message=f"{waiting} new ratings, no drift.")
    if why := _held_back(drift_alone=not reasons):
        return Completed(name="Held back", message=why)
    for drift in drifts:
        events.send(events.DRIFTED, "critic.service", why=str(drift))
    reason = "; ".join([*reasons, *map(str, drifts)])
    run = run_deployment(
        RETRAIN,
        parameters={"reason": reason, **({"min_ratings": 1} if drifts else {})},
        tags=[events.DRIFTED] if drifts else [],
        timeout=0,
        as_subflow=False,
    )
    assert isinstance(run, FlowRun)
    return Completed(name="Started", message=f"{run.name}: {reason}")


@task(retries=2, retry_delay_seconds=[5, 30])
def moved_revisions(repository: Path) -> list[str]:
    """A line for each data set whose branch or tag has a newer commit than the one that was downloaded."""
    return moved(params.load(params.Download, repository / params.FILE), repository / CHECKSUMS)


@task
def look_for_drift(repository: Path, service: str | None, store: str) -> "list[Drift]":
    """Compare the scores and instructions in service with those of the champion's test."""
    from dvc.api import DVCFileSystem

    from critic.release import drift, registry

    logger = get_run_logger()
    champion = registry.champion(repository)
    if champion is None:
        logger.info("There is no champion yet, so drift is not measured.")
        return []
    files = DVCFileSystem(str(repository), rev=champion.commit)
    with files.open(test := "data/validated/test.parquet") as file:
        lengths = read_parquet(test, ["instruction"], file)["instruction"].str.len().tolist()
    with files.open(predictions := "reports/predictions/grpo.parquet") as file:
        scores = read_parquet(predictions, ["score"], file)["score"].dropna().tolist()
    since = datetime.now(UTC) - _WINDOW
    given = {(r.source_sha256, r.edited_sha256, r.instruction) for r in Feedback(store).rows() if r.at >= since}
    edges = drift.deciles(lengths)
    served = drift.histogram([float(len(instruction)) for *_, instruction in given], edges)
    tested = drift.histogram(lengths, edges)
    found = [drift.measure_drift("length of instructions", tested=tested, served=served)]
    if service is not None:
        service, key = service.rstrip("/"), os.environ.get("CRITIC_API_KEY")
        try:
            with httpx.Client(mounts=loopback.MOUNTS) as http:
                reply = http.get(f"{service}/metrics", headers={"Authorization": f"Bearer {key}"} if key else None)
            reply.raise_for_status()
            tested, served = drift.histogram(scores), drift.served_scores(reply.text)
            found.append(drift.measure_drift("scores", tested=tested, served=served))
        except (httpx.HTTPError, ValueError) as error:
            logger.warning("Drift of the scores is not measured: %s/metrics can't be read: %s", service, error)
    measured = [each for each in found if each is not None]
    for each in measured:
        logger.info(str(each))
    return measured


def _held_back(*, drift_alone: bool) -> str | None:
    """Why no retraining may start now, or None."""
    if runs := _retrainings(state={"type": {"any_": [StateType.RUNNING, StateType.PENDING, StateType.PAUSED]}}):
        return f"{runs[0].name} is running."
    recent = {"after_": datetime.now(UTC) - _AGAIN}
    runs = [  # without those that found the checkout in use: Prefect's message has the exception's name
        run
        for run in _retrainings(start_time=recent)
        if run.state is None or CheckoutInUse.__name__ not in (run.state.message or "")
    ]
    if runs and runs[0].state_type in (StateType.FAILED, StateType.CANCELLED):
        return f"{runs[0].name} failed or was cancelled in the last 24 h. Check its logs, then start one by hand."
    if drift_alone and (runs := _retrainings(start_time=recent, tags={"all_": [events.DRIFTED]})):
        return f"{runs[0].name} was started for drift in the last 24 h."
    return None


def _retrainings(**conditions: Any) -> list[FlowRun]:
    """The retrainings that meet the conditions of a `FlowRunFilter`, newest first."""
    flow_name, _, name = RETRAIN.partition("/")
    with get_client(sync_client=True) as client:
        return client.read_flow_runs(
            flow_filter=FlowFilter.model_validate({"name": {"any_": [flow_name]}}),
            deployment_filter=DeploymentFilter.model_validate({"name": {"any_": [name]}}),
            flow_run_filter=FlowRunFilter.model_validate(conditions),
            sort=FlowRunSort.START_TIME_DESC,
        )
