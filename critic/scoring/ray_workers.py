"""Score pairs on several workers, of this machine or of a Ray cluster.

    open_judge = partial(open_scorer, "models/grpo")                # is called once in each worker
    judged = on_workers(partial(read_pairs, Path("/shared/pairs.csv")), open_judge, workers=4, batch_size=256)
    results_to_file(pairs, judged, Path("scores.jsonl"), settings)

Ray Data's `map_batches` sends the numbers of rows to actors. Each opens the pairs and the critic itself, once, and
decodes the pictures of its own rows, so that what travels is numbers one way and verdicts the other. The paths of
pairs and critic must lead to the same files on every machine.

Verdicts come back in the order of the rows. Ray starts an actor that died again, elsewhere if its machine is gone,
and gives it the batch that it had.

Not by `ray.data.llm`, whose vLLM processor makes one completion a row, by a vLLM that it pins: pictures would go
through the object store, and modes that ask again after an answer would need a pipeline each. `map_batches` runs
the same `Scorer` as one process does, with either engine.
"""

import logging
import os
import socket
from collections.abc import Callable, Generator, Sequence
from typing import Any
from warnings import catch_warnings

import pyarrow as pa

from critic.results import Result
from critic.scoring.inputs import Pairs
from critic.scoring.resumable import Judge, Judged, judge_batch

_RETRIES = 3
"""Times that a batch is given out again after its worker died, lest a pair that kills workers do so forever."""


class ScaleError(RuntimeError):
    """Workers that can't be had or can't work; the message says why and what to do."""


def on_workers(
    open_pairs: Callable[[], Pairs],
    open_judge: Callable[[], Judge],
    *,
    workers: int,
    batch_size: int,
    address: str | None = None,
) -> Judged:
    """What `critic.scoring.resumable.results_to_file` asks for verdicts: a function of rows that lets workers score them.

    Where there are GPUs, each worker has one; else the cores are divided among the workers.

    Args:
        open_pairs, open_judge: called in each worker, so they must pickle; paths in them must be absolute.
        workers: that are started; those that find no place wait for one, while the others work.
        batch_size: rows that a worker is given at a time.
        address: of a running cluster; None starts one on this machine that listens to nobody else, and stops it.

    Raises, when it is called:
        ScaleError: ray isn't installed, there is no such cluster, or a worker can't be started or failed.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    try:
        import ray
    except ImportError:
        raise ScaleError("several workers need Ray: pip install 'edit-critic[ray]'") from None

    def judged(rows: Sequence[int]) -> Generator[list[Result], None, None]:
        if not rows:
            return
        _connect(address)
        try:
            for batch in _map(rows, batch_size, workers, open_pairs, open_judge).iter_batches(batch_size=None):
                yield [Result.from_json(line.decode()) for line in batch["verdict"]]
        except ray.exceptions.RayError as error:
            raise ScaleError(
                f"a worker failed, to which pairs and critic must be at the same paths as here: {error}"
            ) from error
        finally:
            ray.shutdown()

    return judged


def _map(rows: Sequence[int], batch_size: int, workers: int, *openers: Callable[[], Any]) -> Any:
    """A Ray data set of the rows' verdicts, a block a batch, in order."""
    import ray

    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)  # which would say that it shows none
    batches = [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]
    with catch_warnings(action="ignore", category=ray.util.annotations.RayDeprecationWarning):
        return ray.data.from_arrow([pa.table({"row": batch}) for batch in batches]).map_batches(
            _Worker,
            fn_constructor_args=openers,
            batch_size=None,  # a whole block
            compute=ray.data.ActorPoolStrategy(size=workers),
            max_task_retries=_RETRIES,  # which has no successor yet
            **_share(workers),
        )


class _Worker:
    """An actor: its pairs and its judge."""

    def __init__(self, open_pairs: Callable[[], Pairs], open_judge: Callable[[], Judge]):
        self.pairs, self.judge = open_pairs(), open_judge()

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        verdicts = judge_batch([self.pairs[row] for row in batch["row"].tolist()], self.judge)
        return {"verdict": [verdict.to_json().encode("utf-8", "replace") for verdict in verdicts]}


def _connect(address: str | None) -> None:
    import ray

    try:
        if address is None:
            ray._private.ray_constants.ENABLE_RAY_CLUSTER = False  # the only switch that keeps it to the loopback
            ray.init("local", include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        else:
            host, _, port = address.rpartition(":")
            socket.create_connection((host, int(port)), timeout=10).close()  # Ray would wait for it without end
            ray.init(address, log_to_driver=False, logging_level="ERROR")
    except (OSError, RuntimeError, ValueError) as error:
        where = (
            f"at {address}, which must be HOST:PORT of its head, or without its token"
            if address
            else "could be started here"
        )
        raise ScaleError(f"no Ray cluster {where}: {error}") from error


def _share(workers: int) -> dict[str, int]:
    """What each worker reserves, so that so many find a place."""
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
    if any(node.get("GPU") for node in nodes):
        return {"num_gpus": 1}
    on_each = -(-workers // len(nodes))
    return {"num_cpus": max(1, int(min(node["CPU"] for node in nodes)) // on_each)}
