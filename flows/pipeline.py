"""Run the stages of dvc.yaml as Prefect tasks, in their order, each with its output in its log.

Each task calls `dvc repro` for its stage, so that the result is that of `dvc repro` by hand.
"""

import os
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import networkx as nx
from dvc.repo import Repo
from prefect import State, Task, task
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.client.schemas.objects import TaskRun
from prefect.concurrency.sync import concurrency
from prefect.logging import get_run_logger
from prefect.states import Completed

from critic import params
from flows.processes import CommandError, run

GPU = "gpu"
"""The global concurrency limit of stages that need a GPU."""

_UNCHANGED = "Unchanged"
_NAMED = 3
"""The number of files that a line names."""
_NETWORK_WAITS = [30.0, 120.0, 600.0]
"""Seconds before each retry of a stage that needs the network."""


@dataclass(frozen=True)
class Stage:
    """A stage of dvc.yaml, the stages whose outputs it reads, and its `meta: {needs: gpu}` (or network)."""

    name: str
    after: tuple[str, ...]
    needs: str | None


@dataclass(frozen=True)
class Pipeline:
    """The stages of a checkout in the order to run them, and why each changed one has changed, as DVC says."""

    folder: Path
    stages: tuple[Stage, ...]
    changed: Mapping[str, str]

    @classmethod
    def read(cls, folder: Path) -> "Pipeline":
        """Read dvc.yaml, and compare the checkout with dvc.lock."""
        with Repo(str(folder)) as repo:
            graph = repo.index.graph  # edges go from a stage to those that it reads
            stages = {
                stage.name: Stage(
                    stage.name,
                    after=tuple(need.name for need in graph[stage] if need.cmd),
                    needs=(stage.meta or {}).get("needs"),
                )
                for stage in nx.dfs_postorder_nodes(graph)
                if stage.cmd
            }
            status = {name.rpartition(":")[2]: _words(why) for name, why in repo.status().items()}
        return cls(folder, (*stages.values(),), {name: status[name] for name in status if name in stages})


def _words(changes: Sequence[str | Mapping[str, Mapping[str, object]]]) -> str:
    """A stage's changes in one line: `changed deps: stages/sft.py, data/sft and 3 more`."""
    parts = []
    for change in changes:
        if isinstance(change, str):
            parts.append(change)
            continue
        for kind, paths in change.items():
            named, more = [*paths][:_NAMED], len(paths) - _NAMED
            parts.append(f"{kind}: {', '.join(named)}" + (f" and {more} more" if more > 0 else ""))
    return "; ".join(parts)


def run_pipeline(
    pipeline: Pipeline, lock: int, *, force: Collection[str] = (), only: Collection[str] | None = None
) -> list[str]:
    """Run the stages that have changed, and those that depend on them; return the names of those that ran.

    Args:
        lock: the file descriptor of `critic.release.lock.hold_lock`.
        force: stages to run even if they haven't changed.
        only: the stages that may run; default: all.
    """
    stages = [stage for stage in pipeline.stages if only is None or stage.name in only]
    total = _progress("pipeline", "Stages of dvc.yaml")
    states: dict[str, State[Any]] = {}
    ran: list[str] = []
    for number, stage in enumerate(stages, 1):
        is_due = stage.name in pipeline.changed or stage.name in force or any(need in ran for need in stage.after)
        states[stage.name] = _run_stage.with_options(
            task_run_name=stage.name,
            retries=len(_NETWORK_WAITS) if stage.needs == "network" else 0,
            retry_delay_seconds=_NETWORK_WAITS,
            retry_condition_fn=_may_pass,
            timeout_seconds=params.load(params.Retrain, pipeline.folder / params.FILE).stage_timeout_hours * 3600,
        )(
            stage,
            pipeline.folder,
            lock,
            is_due=is_due,
            force=stage.name in force,
            wait_for=[states[need] for need in stage.after if need in states],
            return_state=True,
        )
        states[stage.name].result()  # raises if it failed
        if states[stage.name].name != _UNCHANGED:
            ran.append(stage.name)
        total(100 * number / len(stages))
    return ran


def _may_pass(task: Task[..., Any], run: TaskRun, state: State[Any]) -> bool:
    """Whether a stage failed because there was no network: see `stages.download`."""
    error = state.result(raise_on_failure=False)
    return isinstance(error, CommandError) and f"exited with {os.EX_TEMPFAIL}" in str(error)


@task
def _run_stage(stage: Stage, folder: Path, lock: int, *, is_due: bool, force: bool) -> State[None]:
    logger = get_run_logger()
    if not is_due:
        logger.info("The inputs of %s have not changed.", stage.name)
        return Completed(name=_UNCHANGED, message="Its inputs have not changed.")
    command = ["dvc", "repro", "--single-item", *(["--force"] if force else []), stage.name]
    progress = _progress(f"stage-{stage.name}".replace("_", "-"), stage.name)
    began = time.monotonic()
    with concurrency(GPU, strict=True) if stage.needs == GPU else nullcontext():
        last = run(command, log=logger.info, progress=progress, folder=folder, keep_open=[lock])
    progress(100.0)
    if f"Stage '{stage.name}' didn't change, skipping" in last:
        return Completed(name=_UNCHANGED, message="Its inputs are the same as before.")
    return Completed(message=f"Ran for {time.monotonic() - began:.0f} s.")


def _progress(key: str, description: str) -> Callable[[float], None]:
    """Create a progress bar in the UI; returns a function that sets it to 0..100 percent if the server answers."""
    artifact = create_progress_artifact(0.0, key=key, description=description)
    assert isinstance(artifact, UUID)  # outside of coroutines

    def update(percent: float) -> None:
        with suppress(httpx.HTTPError):
            update_progress_artifact(artifact, progress=percent)

    return update
