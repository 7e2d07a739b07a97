"""A server that starts again is told of the runs that went down with it, and of no others."""

from pathlib import Path
from uuid import UUID

import pytest
from prefect import flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.states import Running

from critic.release.checkout import held
from flows import started
from flows.events import TAG
from flows.pipeline import GPU
from flows.up import end_dead_runs

pytestmark = pytest.mark.usefixtures("prefect")


@flow
def train() -> None:
    pass


def begin(client: SyncPrefectClient) -> UUID:
    """A run that the server takes for running."""
    return client.create_flow_run(train, tags=[TAG], state=Running()).id


def type_of(client: SyncPrefectClient, run: UUID) -> str:
    state = client.read_flow_run(run).state
    assert state is not None
    return state.type.value


def test_a_run_puts_itself_down_in_its_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    seen: list[set[UUID]] = []

    @flow(on_running=[started.note])
    def watch() -> None:
        seen.append(started.noted(tmp_path))

    watch()
    assert len(seen[0]) == 1


def test_runs_of_this_checkout_are_ended_and_those_of_others_keep_what_they_hold(tmp_path: Path) -> None:
    home = tmp_path / "home"
    lease = home / "concurrency_leases/1.json"
    lease.parent.mkdir(parents=True)
    lease.write_text("{}")
    with get_client(sync_client=True) as client:
        ours, theirs = begin(client), begin(client)
        (tmp_path / "runs").mkdir()
        (tmp_path / started.NOTES).write_text(f"{ours}\n")
        with held(tmp_path, "retrain crimson-fox"):
            end_dead_runs(tmp_path, home)
        assert type_of(client, ours) == "RUNNING", "somebody is at work here"
        end_dead_runs(tmp_path, home)
        assert (type_of(client, ours), type_of(client, theirs)) == ("CRASHED", "RUNNING")
        assert lease.exists() and started.noted(tmp_path) == set()
        (tmp_path / started.NOTES).write_text(f"{theirs}\n")
        end_dead_runs(tmp_path, home)
        assert type_of(client, theirs) == "CRASHED" and not lease.exists()
        assert client.read_global_concurrency_limit_by_name(GPU).active_slots == 0
