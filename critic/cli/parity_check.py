"""The work of `critic parity`, apart from its options, since torch is slow to import."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Literal, cast

import click
import torch
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from critic.edits import Edit
from critic.engines.base import Engine, Request, request
from critic.engines.load import contract_of, open_engine
from critic.engines.server import vllm_server
from critic.engines.vllm import VllmEngine
from critic.files import write_json
from critic.scoring.inputs import read_pairs
from critic.scoring.parity import (
    MIN_SAME_SCORE,
    MIN_SAME_TEXT,
    Outcome,
    Parity,
    compare_outcomes,
    in_batches,
    mixed_sizes,
    shuffled,
)
from critic.tables import TableError

_SHARE = 0.4
"""The share of a GPU's memory for each vLLM; the model in transformers needs the rest."""
_Way = Callable[[Engine, Sequence[Request], int], list[Outcome]]


def run(
    model: str,
    contract_name: str | None,
    pairs: Path,
    dtype: Literal["float32", "bfloat16"],
    limit: int,
    batch_size: int,
    max_tokens: int,
) -> list[Parity]:
    """Compare each way of running a critic with its reference."""
    contract = contract_of(model, contract_name)
    table = replace(read_pairs(pairs), resize=contract.resize)
    whole = [pair for pair in islice(table, limit) if isinstance(pair, Edit)]
    if not whole:
        raise TableError(f"{pairs} has no edit that can be read: see its rows with `critic score`")
    ids = [edit.id for edit in whole]
    edits = tqdm(mixed_sizes(whole), desc="reading pictures", unit=" edits", total=len(whole))
    requests = [request(contract, edit) for edit in edits]

    opened = partial(
        open_engine,
        contract=contract,
        max_tokens=max_tokens,
        dtype=dtype,
        batch_size=batch_size,
        gpu_memory_utilization=_SHARE if torch.cuda.is_available() else None,
    )
    local = opened("transformers", model)

    def run(title: str, engine: Engine, size: int = batch_size, way: _Way = in_batches) -> list[Outcome]:
        click.echo(f"{title} ...", err=True)
        return way(engine, requests, size)

    def against(name: str, reference: list[Outcome], others: list[Outcome]) -> Parity:
        return compare_outcomes(name, ids, requests, reference, others, local, contract)

    by_local = run("transformers", local)
    results = [
        against("transformers, one at a time", by_local, run("one at a time", local, 1)),
        against("transformers, shuffled", by_local, run("shuffled", local, way=shuffled)),
    ]
    vllm = cast(VllmEngine, opened("vllm", model))
    by_vllm = run("vLLM", vllm)
    results += [
        against("vLLM against transformers", by_local, by_vllm),
        against("vLLM, one at a time", by_vllm, run("one at a time", vllm, 1)),
        against("vLLM, shuffled", by_vllm, run("shuffled", vllm, way=shuffled)),
    ]
    vllm.close()  # frees its memory for the server
    with vllm_server(model, dtype=dtype, batch_size=batch_size, gpu_memory_utilization=_SHARE) as address:
        by_server = run("vLLM behind HTTP", opened("http", address))
    results.append(against("HTTP against transformers", by_local, by_server))
    return results


def write(results: Sequence[Parity], path: Path) -> None:
    """Write the shares and all differences to a JSON file."""
    shares = ("same_text", "same_score", "ok")
    summary = [asdict(result) | {name: getattr(result, name) for name in shares} for result in results]
    write_json(path, summary, ensure_ascii=False)


def show(results: Sequence[Parity]) -> None:
    """Print the table, then each difference."""
    console = Console()
    table = Table("", "edits", "same text", "same score", "largest difference", "")
    for result in results:
        shares = (f"{result.same_text:.2%}", f"{result.same_score:.2%}", f"{result.largest:.2f}")
        table.add_row(result.name, str(result.edits), *shares, "ok" if result.ok else "[bold red]differs[/]")
    console.print(table)
    console.print(
        f"At least {MIN_SAME_TEXT:.1%} of the texts and {MIN_SAME_SCORE:.1%} of the scores must be the same."
    )
    for result in results:
        for difference in result.differences:
            gap = "unknown gap" if difference.gap is None else f"a gap of {difference.gap:.1e} nats"
            console.print(f"{result.name}, edit {difference.id}: {gap}", style="bold")
            console.print(f"  {difference.reference!r}\n  {difference.other!r}", markup=False)
