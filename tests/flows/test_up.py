"""Which server `make flows` uses, and which runs a restarted server marks as crashed."""

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from uuid import UUID

import httpx
import pytest
from prefect import flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.settings import get_current_settings
from prefect.states import Pending, Running, State

from critic.release.lock import hold_lock
from flows import started
from flows.events import TAG
from flows.pipeline import GPU
from flows.register import ServerError, answers, register
from flows.up import end_dead_runs

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.usefixtures("prefect")


@flow
def train() -> None:
    pass


def begin(client: SyncPrefectClient, state: State | None = None) -> UUID:
    """Create a run that the server believes to be running, or in another state."""
    return client.create_flow_run(train, tags=[TAG], state=state or Running()).id


def type_of(client: SyncPrefectClient, run: UUID) -> str:
    state = client.read_flow_run(run).state
    assert state is not None
    return state.type.value


def test_a_run_is_noted_in_its_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
        with hold_lock(tmp_path, "retrain crimson-fox"):
            end_dead_runs(tmp_path, home)
        assert type_of(client, ours) == "RUNNING", "the checkout is in use"
        end_dead_runs(tmp_path, home)
        assert (type_of(client, ours), type_of(client, theirs)) == ("CRASHED", "RUNNING")
        assert lease.exists() and started.noted(tmp_path) == set()
        (tmp_path / started.NOTES).write_text(f"{theirs}\n")
        end_dead_runs(tmp_path, home)
        assert type_of(client, theirs) == "CRASHED" and not lease.exists()
        assert client.read_global_concurrency_limit_by_name(GPU).active_slots == 0


def test_a_run_about_to_start_is_ended_and_keeps_no_leases(tmp_path: Path) -> None:
    home = tmp_path / "home"
    (home / "concurrency_leases").mkdir(parents=True)
    (tmp_path / "runs").mkdir()
    with get_client(sync_client=True) as client:
        taken = begin(client, Pending())
        end_dead_runs(tmp_path, home)
        assert type_of(client, taken) == "CRASHED" and not (home / "concurrency_leases").exists()


@contextmanager
def page(content: bytes, status: int = 200) -> Iterator[str]:
    """A web app that answers every request with the same page."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/api"
    server.shutdown()
    server.server_close()
    thread.join()


def free_address() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}/api"


def test_a_server_is_prefect_or_absent_or_an_error() -> None:
    with page(b"true") as url:
        assert answers(url)
    assert not answers(free_address())


def test_a_blocked_server_is_not_taken_for_another_app(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flows.register.HEALTH", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/api"
        with pytest.raises(ServerError, match=f"no answer at {url} within 0.1 s.*kill the server"):
            answers(url)


@pytest.mark.parametrize(("content", "status"), [(b"<h1>Hello</h1>", 200), (b'"ok"', 200), (b"true", 404)])
def test_another_web_app_is_not_taken_for_prefect(content: bytes, status: int) -> None:
    with (
        page(content, status) as url,
        pytest.raises(ServerError, match=f"at {url} is not a Prefect server.*_URL="),
    ):
        answers(url)


def test_the_server_is_never_asked_through_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", free_address())
    with page(b"true") as url:
        assert answers(url)


@pytest.mark.parametrize("command", ["flows.register", "flows.up"])
def test_without_a_usable_server_the_error_is_one_line(command: str, tmp_path: Path) -> None:
    with page(b"hello") as other:
        url = free_address() if command == "flows.register" else other
        given = {**os.environ, "PREFECT_API_URL": url, "PREFECT_HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
        module = [sys.executable, "-m", command]
        run = subprocess.run(module, cwd=ROOT, env=given, capture_output=True, text=True)
    assert run.returncode == 1
    what = f"No Prefect server answers at {url}. Start one: make flows"
    assert (what if command == "flows.register" else f"at {url} is not a Prefect server") in run.stderr
    assert run.stderr.count("\n") == 1


def test_the_deployments_of_another_checkout_are_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[list[str]] = []
    monkeypatch.setattr(
        subprocess, "run", lambda command, **options: calls.append([*command, options["env"]["PWD"]])
    )
    monkeypatch.setattr("flows.register.register_automations", list)
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    monkeypatch.chdir(second)
    url = "http://127.0.0.1:4200/api"
    with get_client(sync_client=True) as client:
        flow_id = client.create_flow_from_name("watch")
        made = client.create_deployment(flow_id, "critic", tags=[TAG], job_variables={"working_dir": str(first)})
        try:
            with pytest.raises(
                ServerError, match=f"another checkout, {first}.*http://127.0.0.1:4201/api make flows"
            ):
                register(url)
            assert calls == []
            register(url, take_over=True)
            first.rename(tmp_path / "moved")
            register(url)
            with pytest.raises(ServerError, match="another checkout"):
                register("http://prefect.example.org:4200/api")  # the folder may exist on another machine
            monkeypatch.chdir(tmp_path / "moved")
            (tmp_path / "first").symlink_to(tmp_path / "moved")
            register(url)
        finally:
            client.delete_deployment(made)
    assert [call[-1] for call in calls] == [str(second), str(second), str(tmp_path / "moved")]


def test_a_server_that_stops_answering_is_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def block() -> list[str]:
        assert get_current_settings().client.max_retries == 2, "each takes a minute"
        raise httpx.ReadTimeout("timed out")

    monkeypatch.setattr(subprocess, "run", lambda *_, **__: None)
    monkeypatch.setattr("flows.register.register_automations", block)
    with pytest.raises(ServerError, match=r"http://127.0.0.1:4200/api does not answer any more.*issues/23055"):
        register("http://127.0.0.1:4200/api")


def test_a_deployment_that_fails_is_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "false")
    with pytest.raises(ServerError, match=r"took only a part: Command .*deploy.* Register again"):
        register("http://127.0.0.1:4200/api")
