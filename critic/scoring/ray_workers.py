"""Score pairs with several workers, on this machine or on a Ray cluster.

Ray Data's `map_batches` sends row numbers to actors. Each actor opens the pairs and the critic itself, once, and
decodes the pictures of its own rows, so that only row numbers and results travel. The paths of pairs and critic
must lead to the same files on every machine. Results come back in the order of the rows. Ray restarts an actor
that died, on another machine if its machine is gone, and gives it the same batch again.

`ray.data.llm` is not used: its vLLM processor makes one completion for each row with a vLLM version that it pins,
sends pictures through the object store, and would need a pipeline for each mode that sends a second request.
"""

import logging
import os
import socket
from collections.abc import Callable, Generator, Sequence
from typing import Any
from warnings import catch_warnings

import pyarrow as pa

from critic.results import Result, score_batch
from critic.scoring.inputs import Pairs
from critic.scoring.resumable import ScoreBatch, ScoreRows

_RETRIES = 3
"""Retries of a batch whose worker died; a limit, because a pair may kill every worker that gets it."""


class WorkerError(RuntimeError):
    """Workers that can't be started or that failed; the message says why and what to do."""


def on_workers(
    open_pairs: Callable[[], Pairs],
    open_judge: Callable[[], ScoreBatch],
    *,
    workers: int,
    batch_size: int,
    address: str | None = None,
) -> ScoreRows:
    """A function for `critic.scoring.resumable.results_to_file` that lets workers score rows.

    If the cluster has GPUs, each worker gets one; if not, the cores are divided among the workers.

    Args:
        open_pairs, open_judge: called in each worker, so they must pickle; paths in them must be absolute.
        workers: how many to start; those without free resources wait while the others work.
        batch_size: rows for a worker at a time.
        address: HOST:PORT of a running cluster; None starts one on this machine, closed to others, until the end.

    Raises:
        WorkerError: ray isn't installed. The function raises it if there is no such cluster, or a worker can't be
            started or failed.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    try:
        import ray
    except ImportError:
        raise WorkerError("several workers need Ray: pip install 'edit-critic[ray]'") from None

    def score_rows(rows: Sequence[int]) -> Generator[list[Result], None, None]:
        if not rows:
            return
        _connect(address)
        try:
            for batch in _map(rows, batch_size, workers, open_pairs, open_judge).iter_batches(batch_size=None):
                yield [Result.from_json(line.decode()) for line in batch["result"]]
        except ray.exceptions.RayError as error:
            raise WorkerError(
                f"a worker failed; its machine needs the pairs and the critic at the same paths as here: {error}"
            ) from error
        finally:
            ray.shutdown()

    return score_rows


def _map(rows: Sequence[int], batch_size: int, workers: int, *openers: Callable[[], Any]) -> Any:
    """A Ray data set of the rows' results, in order, one block for each batch."""
    import ray

    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)  # it warns that no progress is shown
    batches = [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]
    with catch_warnings(action="ignore", category=ray.util.annotations.RayDeprecationWarning):
        return ray.data.from_arrow([pa.table({"row": batch}) for batch in batches]).map_batches(
            _Worker,
            fn_constructor_args=openers,
            batch_size=None,  # a whole block
            compute=ray.data.ActorPoolStrategy(size=workers),
            max_task_retries=_RETRIES,  # deprecated, but there is no other option yet
            **_share(workers),
        )


class _Worker:
    """An actor with its own pairs and judge."""

    def __init__(self, open_pairs: Callable[[], Pairs], open_judge: Callable[[], ScoreBatch]):
        self.pairs, self.judge = open_pairs(), open_judge()

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        results = score_batch([self.pairs[row] for row in batch["row"].tolist()], self.judge)
        return {"result": [result.to_json().encode("utf-8", "replace") for result in results]}


def _connect(address: str | None) -> None:
    import ray

    try:
        if address is None:
            ray._private.ray_constants.ENABLE_RAY_CLUSTER = False  # nothing else keeps it on the loopback
            ray.init("local", include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        else:
            host, _, port = address.rpartition(":")
            socket.create_connection((host, int(port)), timeout=10).close()  # Ray itself would wait forever
            ray.init(address, log_to_driver=False, logging_level="ERROR")
    except (OSError, RuntimeError, ValueError) as error:
        where = (
            f"at {address} can be used: it must be HOST:PORT of the cluster's head, with its token if it needs one"
            if address
            else "can be started here"
        )
        raise WorkerError(f"no Ray cluster {where} ({error})") from error


def _share(workers: int) -> dict[str, int]:
    """The resources that each worker reserves, so that all workers fit."""
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
    if any(node.get("GPU") for node in nodes):
        return {"num_gpus": 1}
    on_each = -(-workers // len(nodes))
    return {"num_cpus": max(1, int(min(node["CPU"] for node in nodes)) // on_each)}
