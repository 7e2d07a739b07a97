"""Which runs were started in this checkout, so that a server that comes back can be told of those that are gone.

@flow(name="watch", on_running=[started.note])
"""

from pathlib import Path
from typing import Any
from uuid import UUID

from prefect import Flow, State
from prefect.client.schemas.objects import FlowRun

NOTES = Path("runs/flow-runs.txt")
"""An id a line."""


def note(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:
    """Put a run down that begins in the present folder, a checkout."""
    NOTES.parent.mkdir(exist_ok=True)
    with NOTES.open("a") as file:
        file.write(f"{flow_run.id}\n")


def noted(checkout: Path) -> set[UUID]:
    """The runs that have begun in a checkout since `forget`."""
    path = checkout / NOTES
    return {UUID(line) for line in path.read_text().split()} if path.exists() else set()


def forget(checkout: Path) -> None:
    """Forget them."""
    (checkout / NOTES).unlink(missing_ok=True)
