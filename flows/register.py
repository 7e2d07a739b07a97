"""Tell a Prefect server what there is: work pool, limits, the deployments of prefect.yaml, automations.

    python -m flows.register    # as often as you like

A work pool or limit that is there already stays as somebody has set it.
"""

import argparse
import subprocess
import sys

from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate, WorkPoolCreate
from prefect.exceptions import ObjectNotFound

from flows.events import NotifyError, register_automations
from flows.pipeline import GPU

POOL = "critic"


def main() -> None:
    with get_client(sync_client=True) as client:
        try:
            client.read_work_pool(POOL)
        except ObjectNotFound:
            client.create_work_pool(WorkPoolCreate(name=POOL, type="process"))
        try:
            client.read_global_concurrency_limit_by_name(GPU)
        except ObjectNotFound:
            client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=GPU, limit=1))
    subprocess.run([sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"], check=True)
    try:
        print(f"Automations: {', '.join(register_automations())}")
    except NotifyError as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    main()
