"""The stages of dvc.yaml as Prefect tasks: each its own, in their order, with its output as it comes.

    run_pipeline(Pipeline.read(repository), lock)

`dvc` itself runs them, so what a stage reads, whether it has changed, and what a killed one goes on from are the
same as by hand.
"""

import os
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
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
"""The global concurrency limit that stages which need a GPU count against."""

_UNCHANGED = "Unchanged"
_NAMED = 3
"""Files that a line names."""
_NETWORK_WAITS = [30.0, 120.0, 600.0]
"""Seconds before each new try of a stage that needs the network."""


@dataclass(frozen=True)
class Stage:
    """A stage of dvc.yaml, the stages that it needs, and what else (`meta: {needs: gpu}`, or network)."""

    name: str
    after: tuple[str, ...]
    needs: str | None


@dataclass(frozen=True)
class Pipeline:
    """A checkout's stages, each after those that it needs, and which of them have changed, in DVC's words."""

    folder: Path
    stages: tuple[Stage, ...]
    changed: Mapping[str, str]

    @classmethod
    def read(cls, folder: Path) -> "Pipeline":
        """As `dvc dag` and `dvc status` tell it."""
        with Repo(str(folder)) as repo:
            graph = repo.index.graph  # from each stage to those that it needs
            stages = tuple(
                Stage(
                    stage.name,
                    tuple(need.name for need in graph[stage] if need.cmd),
                    (stage.meta or {}).get("needs"),
                )
                for stage in nx.dfs_postorder_nodes(graph)
                if stage.cmd
            )
            status = {name.rpartition(":")[2]: _words(why) for name, why in repo.status().items()}
        names = {stage.name for stage in stages}
        return cls(folder, stages, {name: why for name, why in status.items() if name in names})


def _words(changes: Sequence[str | Mapping[str, Mapping[str, object]]]) -> str:
    """What DVC says of a stage, in a line: `changed deps: stages/sft.py, data/sft and 3 more`."""
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
    """Run what has changed, and what depends on it.

    Args:
        lock: the descriptor of `flows.checkout.held`.
        force: stages to run though nothing of theirs has changed.
        only: leave all other stages alone.

    Returns:
        The stages that ran.

    Raises:
        CommandError: a stage failed.
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
            timeout_seconds=params.load(params.Retrain, pipeline.folder / params.FILE).stage_hours * 3600,
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
    """Whether a stage failed for want of a network: see `stages.download`."""
    error = state.result(raise_on_failure=False)
    return isinstance(error, CommandError) and f"exited with {os.EX_TEMPFAIL}" in str(error)


@task
def _run_stage(stage: Stage, folder: Path, lock: int, *, is_due: bool, force: bool) -> State[None]:
    logger = get_run_logger()
    if not is_due:
        logger.info("Nothing that %s reads has changed.", stage.name)
        return Completed(name=_UNCHANGED, message="Nothing that it reads has changed.")
    command = ["dvc", "repro", "--single-item", *(["--force"] if force else []), stage.name]
    progress = _progress(f"stage-{stage.name}".replace("_", "-"), stage.name)
    began = time.monotonic()
    if stage.needs == GPU:
        with concurrency(GPU, strict=True):
            last = run(command, say=logger.info, progress=progress, folder=folder, keep_open=[lock])
    else:
        last = run(command, say=logger.info, progress=progress, folder=folder, keep_open=[lock])
    progress(100.0)
    if f"Stage '{stage.name}' didn't change, skipping" in last:
        return Completed(name=_UNCHANGED, message="What it reads came out as before.")
    return Completed(message=f"Ran for {time.monotonic() - began:.0f} s.")


def _progress(key: str, description: str) -> Callable[[float], None]:
    """A progress bar in the UI, of 0..100 percent. While the server can't be reached it stands still."""
    made = create_progress_artifact(0.0, key=key, description=description)
    assert isinstance(made, UUID)  # outside of coroutines

    def update(percent: float) -> None:
        with suppress(httpx.HTTPError):
            update_progress_artifact(made, progress=percent)

    return update
