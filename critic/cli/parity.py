"""`critic parity`: the gate that engines, batch sizes and orders don't change a score."""

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from critic.engines import Engine, Request, request
from critic.engines.opening import contract_of, open_engine
from critic.engines.server import vllm_server
from critic.pairs import BadPair, read_pairs
from critic.parity import (
    MIN_SAME_SCORE,
    MIN_SAME_TEXT,
    Outcome,
    Parity,
    compare,
    in_batches,
    mixed_sizes,
    shuffled,
)

_Way = Callable[[Engine, Sequence[Request], int], list[Outcome]]


@click.command(
    "parity",
    epilog="""\b
Examples:
  critic parity -m models/grpo --pairs data/validated/test.parquet
  critic parity -m models/grpo --pairs pairs.csv --limit 64 --json parity.json""",
)
@click.option("-m", "--model", required=True, envvar="CRITIC_MODEL", show_envvar=True, help="The critic's folder.")
@click.option("--pairs", required=True, type=click.Path(path_type=Path), help="Edits to score, as `critic score`.")
@click.option("--limit", default=400, show_default=True, help="Take the first so many.")
@click.option("--batch-size", default=32, show_default=True, help="Edits at a time.")
@click.option("--max-tokens", default=1024, show_default=True, help="Tokens that an answer may take.")
@click.option("--json", "report", type=click.Path(path_type=Path), help="Write all differences to this file.")
def command(model: str, pairs: Path, limit: int, batch_size: int, max_tokens: int, report: Path | None) -> None:
    """Score the same edits with every engine, alone and in batches, in order and shuffled.

    The critic is run by transformers, by vLLM in this process and by vLLM behind HTTP, in float32, greedily;
    pictures get mixed sizes. Exits with 1 if an engine agrees with transformers on less than 99 % of the
    texts or 99.5 % of the scores, or one with itself in any other order or batch size. Each difference is listed
    with the nats by which transformers preferred its own token where the texts part: near 0, it was a tie.
    """
    contract = contract_of(model)
    whole = [pair for pair in islice(read_pairs(pairs), limit) if not isinstance(pair, BadPair)]
    if not whole:
        raise click.ClickException(f"{pairs} has no edit that can be read")
    edits = list(mixed_sizes(whole))
    ids = [edit.id for edit in edits]
    requests = [request(contract, edit) for edit in tqdm(edits, desc="reading pictures", unit=" edits")]
    local = open_engine("transformers", model, contract, max_tokens=max_tokens, dtype="float32")

    def run(title: str, engine: Engine, size: int = batch_size, way: _Way = in_batches) -> list[Outcome]:
        click.echo(f"{title} ...", err=True)
        return way(engine, requests, size)

    def against(name: str, reference: list[Outcome], others: list[Outcome]) -> Parity:
        return compare(name, ids, requests, reference, others, local, contract)

    by_local = run("transformers", local)
    results = [
        against("transformers, one at a time", by_local, run("one at a time", local, 1)),
        against("transformers, shuffled", by_local, run("shuffled", local, way=shuffled)),
    ]
    vllm = open_engine("vllm", model, contract, max_tokens=max_tokens, dtype="float32", batch_size=batch_size)
    by_vllm = run("vLLM", vllm)
    results += [
        against("vLLM against transformers", by_local, by_vllm),
        against("vLLM, one at a time", by_vllm, run("one at a time", vllm, 1)),
        against("vLLM, shuffled", by_vllm, run("shuffled", vllm, way=shuffled)),
    ]
    del vllm
    with vllm_server(model, dtype="float32", batch_size=batch_size) as address:
        server = open_engine("http", address, contract, max_tokens=max_tokens, batch_size=batch_size)
        by_server = run("vLLM behind HTTP", server)
    results.append(against("HTTP against transformers", by_local, by_server))
    show(results)
    if report:
        summary = [asdict(r) | {"same_text": r.same_text, "same_score": r.same_score, "ok": r.ok} for r in results]
        report.write_text(json.dumps(summary, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    if not all(result.ok for result in results):
        sys.exit(1)


def show(results: Sequence[Parity]) -> None:
    """The table, and each difference below it."""
    console = Console()
    table = Table("", "edits", "same text", "same score", "largest distance", "")
    for result in results:
        shares = (f"{result.same_text:.2%}", f"{result.same_score:.2%}", f"{result.largest:.2f}")
        table.add_row(result.name, str(result.edits), *shares, "ok" if result.ok else "[bold red]differs[/]")
    console.print(table)
    console.print(
        f"At least {MIN_SAME_TEXT:.1%} of the texts and {MIN_SAME_SCORE:.1%} of the scores must be the same."
    )
    for result in results:
        for difference in result.differences:
            gap = "no text to compare" if difference.gap is None else f"a tie within {difference.gap:.1e} nats"
            console.print(f"{result.name}, edit {difference.id}: {gap}", style="bold")
            console.print(f"  {difference.reference!r}\n  {difference.other!r}", markup=False)
