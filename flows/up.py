"""Prefect on this machine: a server, the deployments of prefect.yaml and a worker, until Ctrl-C.

    make flows                     # or python -m flows.up
    open http://127.0.0.1:4200

The server keeps its records in .prefect of this folder, and server.log there. With PREFECT_API_URL set to a server
that answers, that one is used and none is started: as many machines as you like may have a worker each.
"""

import argparse
import shutil
import signal
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

import httpx
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitUpdate
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
    FlowRunFilterTags,
)
from prefect.client.schemas.objects import StateType
from prefect.settings import get_current_settings
from prefect.states import Crashed

from critic import process_tree
from critic.release.checkout import CheckoutError, held
from flows import register, started
from flows.events import TAG
from flows.pipeline import GPU

START = 120.0
"""Seconds until a server must answer."""


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    url = get_current_settings().api.url
    if url is None:
        raise SystemExit(
            "there is no api.url in prefect.toml, and PREFECT_API_URL isn't set: run from the project's folder"
        )
    with ExitStack() as ending:
        running = []
        if not _answers(url):
            home = get_current_settings().home
            home.mkdir(parents=True, exist_ok=True)
            log = ending.enter_context((home / "server.log").open("ab"))
            running.append(_start(ending, "server", "start", "--host", _host(url), "--port", _port(url), log=log))
            _wait(url, running[0])
        register.main()
        if running:
            end_dead_runs(Path.cwd(), get_current_settings().home)
        running.append(_start(ending, "worker", "start", "--pool", register.POOL))
        print(f"The flows: {url.removesuffix('/api')}", flush=True)
        try:
            while all(process.poll() is None for process in running):
                time.sleep(0.5)
        except KeyboardInterrupt:
            return
        raise SystemExit("Prefect's server or worker has ended: see above, and .prefect/server.log")


def end_dead_runs(checkout: Path, home: Path) -> None:
    """Tell a server that has just started of runs that it takes for running and whose processes are gone.

    After a power cut they would hold the place of the next ones, and the GPU, for ever. Nothing is told while
    somebody works in the checkout. Runs of other checkouts and machines are left to their heartbeats, and what may
    be theirs of the GPU to the end of its lease, in minutes.

    Args:
        home: the server's own folder, as `home` in prefect.toml.
    """
    states = [StateType.RUNNING, StateType.PENDING, StateType.PAUSED, StateType.CANCELLING]
    of_ours = FlowRunFilter(
        tags=FlowRunFilterTags(all_=[TAG]), state=FlowRunFilterState(type=FlowRunFilterStateType(any_=states))
    )
    with suppress(CheckoutError), held(checkout, "flows.up"), get_client(sync_client=True) as client:
        ours, elsewhere = started.noted(checkout), 0
        for run in client.read_flow_runs(flow_run_filter=of_ours):
            if run.id not in ours and run.state_type != StateType.PENDING:
                elsewhere += 1
                continue
            client.set_flow_run_state(run.id, Crashed(message="Its process is gone."), force=True)
            print(f"{run.name} had been cut off")
        if not elsewhere:
            # Leases too: one that ran out later would take its place from the run that has it by then.
            shutil.rmtree(home / "concurrency_leases", ignore_errors=True)
            client.update_global_concurrency_limit(GPU, GlobalConcurrencyLimitUpdate(active_slots=0))
        started.forget(checkout)


def _start(ending: ExitStack, *command: str, log: IO[bytes] | None = None) -> "subprocess.Popen[bytes]":
    process = subprocess.Popen(
        process_tree.command([sys.executable, "-m", "prefect", *command]),
        start_new_session=True,
        stdout=log,
        stderr=log,
    )
    ending.callback(process_tree.end, process)
    return process


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=5).is_success
    except httpx.HTTPError:
        return False


def _wait(url: str, server: "subprocess.Popen[bytes]") -> None:
    began = time.monotonic()
    while not _answers(url):
        if server.poll() is not None:
            raise SystemExit(f"Prefect's server didn't start on {url}: .prefect/server.log says why")
        if time.monotonic() - began > START:
            raise SystemExit(
                f"Prefect's server doesn't answer at {url} after {START:.0f} s: see .prefect/server.log"
            )
        time.sleep(0.25)


def _host(url: str) -> str:
    return urlsplit(url).hostname or "127.0.0.1"


def _port(url: str) -> str:
    return str(urlsplit(url).port or 4200)


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    main()
