"""Run Prefect on this machine until Ctrl-C: a server, the deployments of prefect.yaml and a worker.

    make flows                     # or python -m flows.up
    open http://127.0.0.1:4200

The server keeps its database and its log, server.log, in the folder .prefect of this checkout. If PREFECT_API_URL
is set to a server that answers, that one is used and none is started. A server belongs to one checkout.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitUpdate
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.objects import StateType
from prefect.settings import get_current_settings
from prefect.states import Crashed

from critic import loopback, process_tree
from critic.release.git import CheckoutError
from critic.release.lock import hold_lock
from flows import started
from flows.events import TAG, NotifyError
from flows.pipeline import GPU
from flows.register import POOL, ServerError, answers, api_url, register

START = 120.0
"""Seconds within which a server must answer."""


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    os.environ.update(loopback.environment())
    try:
        with ExitStack() as ending:
            _run(api_url(), ending)
    except KeyboardInterrupt:
        return
    except (ServerError, NotifyError) as error:
        raise SystemExit(str(error)) from None


def end_dead_runs(checkout: Path, home: Path) -> None:
    """Mark runs as crashed that the server believes to be running but whose processes are gone.

    After a power cut they would hold the GPU and the place of the next runs for ever. Does nothing while another
    process works in the checkout. Runs of other checkouts and machines are left to their heartbeats. The slots of
    the GPU that they may hold expire within minutes. `home` is the server's own folder (prefect.toml).

    A run that a worker is about to start (PENDING) is marked wherever that is: nothing tells yet where.
    """
    states = [StateType.RUNNING, StateType.PENDING, StateType.PAUSED, StateType.CANCELLING]
    of_ours = FlowRunFilter.model_validate({"tags": {"all_": [TAG]}, "state": {"type": {"any_": states}}})
    with suppress(CheckoutError), hold_lock(checkout, "flows.up"), get_client(sync_client=True) as client:
        ours, elsewhere = started.noted(checkout), 0
        for run in client.read_flow_runs(flow_run_filter=of_ours):
            if run.id not in ours and run.state_type != StateType.PENDING:
                elsewhere += 1
                continue
            client.set_flow_run_state(run.id, Crashed(message="Its process is gone."), force=True)
            print(f"{run.name} was interrupted: marked as crashed")
        if not elsewhere:
            # Leases too: when one expires later, it would free the slot of the run that holds it by then.
            shutil.rmtree(home / "concurrency_leases", ignore_errors=True)
            client.update_global_concurrency_limit(GPU, GlobalConcurrencyLimitUpdate(active_slots=0))
        (checkout / started.NOTES).unlink(missing_ok=True)


def _run(url: str, ending: ExitStack) -> None:
    """Start what isn't running, and wait until one of the processes ends."""
    home = get_current_settings().home
    log = home / "server.log"
    running = []
    if own_server := not answers(url):
        home.mkdir(parents=True, exist_ok=True)
        address = urlsplit(url)
        where = ["--host", address.hostname or "127.0.0.1", "--port", str(address.port or 4200)]
        running.append(_start(ending, "server", "start", *where, log=ending.enter_context(log.open("ab"))))
        _wait(url, running[0], log)
    register(url)
    if own_server:
        end_dead_runs(Path.cwd(), home)
    running.append(_start(ending, "worker", "start", "--pool", POOL))
    print(f"The flows: {url.removesuffix('/api')}", flush=True)
    while all(process.poll() is None for process in running):
        time.sleep(0.5)
    if own_server:
        raise ServerError(f"Prefect's server or its worker has ended: see above, and {log}")
    raise ServerError("Prefect's worker has ended: see above")


def _start(ending: ExitStack, *command: str, log: IO[bytes] | None = None) -> "subprocess.Popen[bytes]":
    args = process_tree.command([sys.executable, "-m", "prefect", *command])
    process = subprocess.Popen(args, start_new_session=True, stdout=log, stderr=log)
    ending.callback(process_tree.end, process)
    return process


def _wait(url: str, server: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + START
    while server.poll() is None and time.monotonic() < deadline:
        with suppress(ServerError):  # it starts
            if answers(url):
                return
        time.sleep(0.25)
    what = f"didn't start at {url} within {START:.0f} s" if server.poll() is None else "ended while it started"
    raise ServerError(f"Prefect's server {what}: see {log}")


if __name__ == "__main__":
    argparse.ArgumentParser(
        prog="python -m flows.up", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    main()
