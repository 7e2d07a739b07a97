"""When `watch` starts no retraining although there is a reason."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from prefect import State
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowFilter, FlowFilterName
from prefect.states import Cancelled, Completed, Failed, Running

from critic.release.lock import hold_lock
from flows.events import DRIFTED
from flows.retrain import retrain
from flows.watch import _held_back

pytestmark = pytest.mark.usefixtures("prefect")
InUse = Callable[[Path], AbstractContextManager[Any]]


class Retrainings:
    def __init__(self, client: SyncPrefectClient):
        self.client = client
        self.deployment = client.create_deployment(client.create_flow_from_name("retrain"), "critic")

    def add(self, *states: State, tags: tuple[str, ...] = ()) -> None:
        """Add a run that went through these states."""
        run = self.client.create_flow_run_from_deployment(self.deployment, tags=[*tags]).id
        for state in states:
            self.client.set_flow_run_state(run, state, force=True)

    def remove(self) -> None:
        for run in self.client.read_flow_runs(flow_filter=FlowFilter(name=FlowFilterName(any_=["retrain"]))):
            self.client.delete_flow_run(run.id)


@pytest.fixture
def retrainings() -> Iterator[Retrainings]:
    with get_client(sync_client=True) as client:
        made = Retrainings(client)
        yield made
        made.remove()


def test_a_completed_run_does_not_hold_back(retrainings: Retrainings) -> None:
    assert _held_back(drift_alone=True) is None
    retrainings.add(Running(), Completed(name="Refused"))
    assert _held_back(drift_alone=True) is None


def test_a_running_one_holds_back(retrainings: Retrainings) -> None:
    retrainings.add(Running())
    assert "is running" in str(_held_back(drift_alone=False))


@pytest.mark.parametrize("end", [Failed(message="no space left"), Cancelled()])
def test_a_recent_failure_holds_back(retrainings: Retrainings, end: State) -> None:
    retrainings.add(Running(), end)
    assert "failed or was cancelled in the last 24 h" in str(_held_back(drift_alone=False))


def test_drift_starts_one_a_day(retrainings: Retrainings) -> None:
    retrainings.add(Running(), Completed(), tags=(DRIFTED,))
    assert "was started for drift" in str(_held_back(drift_alone=True))
    assert _held_back(drift_alone=False) is None


@contextmanager
def dvc_writes(repository: Path) -> Iterator[None]:
    """As DVC says it, for this process."""
    locks = repository / ".dvc/tmp/rwlock"
    locks.parent.mkdir(parents=True)
    locks.write_text(json.dumps({"write": {"models/sft": {"pid": os.getpid(), "cmd": "dvc repro"}}}))
    yield


@pytest.mark.parametrize(
    ("in_use", "by"),
    [(partial(hold_lock, holder="ann's critic rate"), "ann's critic rate (process"), (dvc_writes, "DVC (process")],
)
def test_a_failure_because_of_a_checkout_in_use_does_not_hold_back(
    retrainings: Retrainings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_use: InUse, by: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with in_use(tmp_path):
        state = retrain(return_state=True)
    assert state.is_failed() and f"is in use by {by}" in str(state.message)
    retrainings.add(Running(), state)
    assert _held_back(drift_alone=False) is None
