"""Register everything on a Prefect server: work pool, limits, the deployments of prefect.yaml, automations.

    python -m flows.register    # safe to repeat

An existing work pool or limit keeps its settings. A server belongs to one checkout: the deployments of another one
are only replaced with --take-over.
"""

import argparse
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import httpx
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate, WorkPoolCreate
from prefect.client.schemas.filters import DeploymentFilter
from prefect.exceptions import ObjectAlreadyExists
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, get_current_settings, temporary_settings

from critic import loopback
from flows.events import TAG, NotifyError, register_automations
from flows.pipeline import GPU

POOL = "critic"
HEALTH = 5.0
"""Seconds within which a server must say that it is there."""
BLOCKED = (
    "If it is Prefect with SQLite, it may be blocked (https://github.com/PrefectHQ/prefect/issues/23055): "
    "kill the server and start it again."
)
"""What to do about a server that stopped answering, as Prefect 3.7.7 can when an automation is saved."""


class ServerError(RuntimeError):
    """There is no Prefect server, it doesn't answer or ended, or it isn't this checkout's."""


def main() -> None:
    os.environ.update(loopback.environment())
    parser = argparse.ArgumentParser(
        prog="python -m flows.register",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--take-over", action="store_true", help="Replace the deployments of another checkout.")
    given = parser.parse_args()
    try:
        url = api_url()
        if not answers(url):
            raise ServerError(f"No Prefect server answers at {url}. Start one: make flows")
        register(url, take_over=given.take_over)
    except (ServerError, NotifyError) as error:
        raise SystemExit(str(error)) from None


def api_url() -> str:
    """The API of the server: PREFECT_API_URL, or `api.url` of prefect.toml."""
    url = get_current_settings().api.url
    if url is None:
        what = "There is no PREFECT_API_URL and no prefect.toml with `api.url`"
        raise ServerError(f"{what}. Run this in the project's folder.")
    return url.rstrip("/")


def answers(url: str) -> bool:
    """Whether a Prefect server answers; raises a `ServerError` if something else does."""
    try:
        with httpx.Client(mounts=loopback.MOUNTS, timeout=HEALTH) as http:
            reply = http.get(f"{url}/health")
        if reply.is_success and reply.json() is True:
            return True
        what = f"status {reply.status_code}"
    except httpx.ConnectError:
        return False
    except httpx.TimeoutException:
        raise ServerError(f"There is no answer at {url} within {HEALTH:g} s. {BLOCKED}") from None
    except (httpx.HTTPError, ValueError) as error:
        what = f"{type(error).__name__}: {error}"
    port = (urlsplit(url).port or 4200) + 1
    raise ServerError(
        f"What answers at {url} is not a Prefect server ({what}). Stop it, or use another port, for example: "
        f"PREFECT_API_URL=http://127.0.0.1:{port}/api make flows"
    )


def register(url: str, *, take_over: bool = False) -> None:
    """Register everything on the server at `url`.

    Raises:
        ServerError: it has the deployments of another checkout, and not `take_over`; or it fails.
        NotifyError: see `register_automations`.
    """
    try:
        with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 2}):  # a minute for each
            _register(url, take_over)
    except httpx.TimeoutException:
        raise ServerError(f"The Prefect server at {url} does not answer any more. {BLOCKED}") from None
    except (httpx.HTTPError, subprocess.CalledProcessError) as error:
        raise ServerError(f"The Prefect server at {url} took only a part: {error}. Register again.") from error


def _register(url: str, take_over: bool) -> None:
    with get_client(sync_client=True) as client:
        ours = DeploymentFilter.model_validate({"tags": {"all_": [TAG]}})
        deployed = client.read_deployments(deployment_filter=ours)
        if not take_over:
            _require_this_checkout({str(each.job_variables.get("working_dir")) for each in deployed}, url)
        with suppress(ObjectAlreadyExists):
            client.create_work_pool(WorkPoolCreate(name=POOL, type="process"))
        with suppress(ObjectAlreadyExists):
            client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=GPU, limit=1))
    # prefect.yaml reads PWD, which is another folder if this process was started with a `cwd` of its own.
    environment = {**os.environ, "PWD": str(Path.cwd())}
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"]
    subprocess.run(command, env=environment, check=True)
    print(f"Automations: {', '.join(register_automations())}")


def _require_this_checkout(folders: set[str], url: str) -> None:
    is_here = urlsplit(url).hostname in loopback.HOSTS
    for folder in sorted(folders):
        if Path(folder).resolve() == Path.cwd() or (is_here and not Path(folder).exists()):  # moved or deleted
            continue
        port = (urlsplit(url).port or 4200) + 1
        raise ServerError(
            f"The Prefect server at {url} runs the flows of another checkout, {folder}. Stop it there, or start "
            f"one for this checkout: PREFECT_API_URL=http://127.0.0.1:{port}/api make flows. To use that server "
            "for this checkout instead of the other one: python -m flows.register --take-over"
        )


if __name__ == "__main__":
    main()
