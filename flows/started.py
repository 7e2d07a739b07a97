"""The flow runs started in this checkout: `make flows` marks those that a power cut interrupted as crashed."""

from pathlib import Path
from typing import Any
from uuid import UUID

from prefect import Flow, State
from prefect.client.schemas.objects import FlowRun

NOTES = Path("runs/flow-runs.txt")
"""One id per line."""


def note(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:
    """Write down a run that starts in the current folder, a checkout."""
    NOTES.parent.mkdir(exist_ok=True)
    with NOTES.open("a") as file:
        file.write(f"{flow_run.id}\n")


def noted(checkout: Path) -> set[UUID]:
    """The runs that have started in a checkout since the notes were deleted."""
    path = checkout / NOTES
    return {UUID(line) for line in path.read_text().split()} if path.exists() else set()
