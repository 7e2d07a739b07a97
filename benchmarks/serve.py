"""Measure the service's overhead: the same edits sent to a bare vLLM server and to the service.

    python benchmarks/serve.py models/grpo data/validated/test.parquet
    python benchmarks/serve.py models/grpo data/validated/test.parquet --copies 1 2 --json runs/serve.json

Three routes, in turns: vLLM's /v1/chat/completions, the service's (the same bytes), and the service's /score,
which also decodes, checks and resizes the pictures. Prints the median latency of single requests, and the rate of
concurrent ones. With `--copies 1 2`, both servers are measured with one copy of the critic, and then with two.

Without a GPU, vLLM binds the workers of several copies to cores: here each copy's to one of its own. The benchmark
keeps all other processes off these, and so needs one core more.
"""

import argparse
import asyncio
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from unittest.mock import patch

import httpx
import psutil
import torch
from tqdm import tqdm

from critic import loopback
from critic.edits import Edit
from critic.engines.base import request
from critic.engines.http import with_pictures
from critic.engines.load import contract_of
from critic.engines.server import vllm_server
from critic.files import write_json
from critic.pictures import png
from critic.scoring.inputs import read_pairs

Ask = Callable[[httpx.AsyncClient, int], Awaitable[httpx.Response]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="The critic's folder.")
    parser.add_argument("pairs", type=Path, help="The edits to score, in a form that `critic score` takes.")
    parser.add_argument("--edits", type=int, default=256, help="Edits of a round (default: 256).")
    parser.add_argument("--clients", type=int, default=64, help="Concurrent requests (default: 64).")
    parser.add_argument("--rounds", type=int, default=5, help="Rounds for each route (default: 5).")
    parser.add_argument("--max-tokens", type=int, default=80, help="Maximum tokens in an answer (default: 80).")
    parser.add_argument(
        "--copies", type=int, nargs="+", default=[1], help="Copies of the critic in each server (default: 1)."
    )
    parser.add_argument("--json", type=Path, help="Write all figures to this file.")
    given = parser.parse_args()
    if 1 < max(given.copies) >= (cores := os.cpu_count() or 1) and not torch.cuda.is_available():
        parser.error(f"{max(given.copies)} copies take a CPU core each and others need one: there are {cores}")
    contract = contract_of(given.model)
    edits = [edit for edit in read_pairs(given.pairs) if isinstance(edit, Edit)]
    chats = [
        {
            "model": "critic",
            "messages": with_pictures(request(contract, edit)),
            "max_tokens": given.max_tokens,
            "temperature": 0,
            "repetition_penalty": 1.0,
            "top_k": -1,
        }
        for edit in edits
    ]
    forms: list[dict[str, Any]] = [
        {
            "data": {"instruction": edit.instruction},
            "files": {part: png(image) for part, image in zip(("source", "edited"), edit.pair, strict=True)},
        }
        for edit in edits
    ]

    def chat(base: str, name: str) -> Ask:
        return lambda client, n: client.post(f"{base}/v1/chat/completions", json={**chats[n], "model": name})

    def score(base: str) -> Ask:
        return lambda client, n: client.post(f"{base}/score", **forms[n])

    found = {}
    for copies in given.copies:
        with (
            own_cores(copies),
            serve(given.model, given.max_tokens, copies) as service,
            vllm_server(given.model, dtype="float32", data_parallel_size=copies) as vllm,
        ):
            bare = vllm.removesuffix("/v1")

            routes: dict[str, Ask] = {
                "vLLM": chat(bare, given.model),
                "service /v1": chat(service, "critic"),
                "service /score": score(service),
            }
            if copies > 1 and not torch.cuda.is_available():
                keep_off_the_workers(copies)
            found[copies] = asyncio.run(measure(routes, len(edits), given))
    show(found)
    if given.json:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        write_json(given.json, found)


@contextmanager
def own_cores(copies: int) -> Iterator[None]:
    """Without a GPU, let vLLM bind each of several copies of the critic to a core of its own, until the exit."""
    if copies == 1 or torch.cuda.is_available():
        yield
        return
    given = os.sched_getaffinity(0)
    try:
        with patch.dict(os.environ, VLLM_CPU_OMP_THREADS_BIND="|".join(map(str, range(copies)))):
            yield
    finally:
        os.sched_setaffinity(0, given)


def keep_off_the_workers(copies: int) -> None:
    """Move this process and its children, except vLLM's workers, to the cores that no worker is bound to."""
    free = set(range(copies, os.cpu_count() or 1))
    for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
        if "VLLM::Worker" not in " ".join(process.cmdline()):
            for thread in process.threads():
                with suppress(ProcessLookupError):
                    os.sched_setaffinity(thread.id, free)


async def measure(routes: dict[str, Ask], edits: int, given: argparse.Namespace) -> dict[str, dict[str, float]]:
    """The median seconds of a request alone, and the median rate per second of concurrent ones, of each route."""
    latencies: dict[str, list[float]] = {route: [] for route in routes}
    rates: dict[str, list[float]] = {route: [] for route in routes}
    with tqdm(total=(1 + given.rounds) * len(routes), desc="rounds") as bar:
        for turn in range(1 + given.rounds):
            for route, ask in routes.items():
                # A new client per turn: vLLM closes connections after 5 idle seconds, maybe just as they are used.
                async with httpx.AsyncClient(timeout=600, mounts=loopback.MOUNTS) as client:
                    alone = [await many(client, ask, [n], edits, 1) for n in range(turn * 16, turn * 16 + 16)]
                    begun = time.perf_counter()
                    await many(client, ask, range(given.edits), edits, given.clients)
                    rate = given.edits / (time.perf_counter() - begun)
                if turn > 0:  # the first turn is a warm-up
                    latencies[route] += [seconds for (seconds,) in alone]
                    rates[route].append(rate)
                bar.update()
    return {
        route: {"latency": statistics.median(latencies[route]), "rate": statistics.median(rates[route])}
        for route in routes
    }


def show(found: dict[int, dict[str, dict[str, float]]]) -> None:
    """Print a row for each route and number of copies, with ratios to vLLM alone in the first of these numbers."""
    bare = next(iter(found.values()))["vLLM"]
    print("| copies | | latency, ms | ratio | answers/s | ratio |\n|---:|---|---:|---:|---:|---:|")
    for copies, routes in found.items():
        for route, own in routes.items():
            slower, faster = own["latency"] / bare["latency"], own["rate"] / bare["rate"]
            print(
                f"| {copies} | {route} | {own['latency'] * 1000:.1f} | {slower:.2f} | "
                f"{own['rate']:.1f} | {faster:.2f} |"
            )


async def many(
    client: httpx.AsyncClient, ask: Ask, numbers: Sequence[int], edits: int, clients: int
) -> list[float]:
    """Send requests, `clients` at a time. Returns the seconds of each."""
    semaphore = asyncio.Semaphore(clients)

    async def one(number: int) -> float:
        async with semaphore:
            begun = time.perf_counter()
            (await ask(client, number % edits)).raise_for_status()
            return time.perf_counter() - begun

    return await asyncio.gather(*map(one, numbers))


@contextmanager
def serve(model: str, max_tokens: int, copies: int) -> Iterator[str]:
    """Run the service. Yields its address, once it is ready."""
    with socket.socket() as free, tempfile.TemporaryDirectory() as folder:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        environment = {
            **os.environ,
            "CRITIC_MODEL": str(Path(model).absolute()),
            "CRITIC_MAX_TOKENS": str(max_tokens),
            "CRITIC_DATA_PARALLEL_SIZE": str(copies),
            "CRITIC_FEEDBACK_URL": f"sqlite:///{folder}/feedback.db",
        }
        command = ["-m", "bentoml", "serve", "critic.service.bento:Critic", "--port", str(port)]
        process = subprocess.Popen([sys.executable, *command], env=environment, stdout=subprocess.DEVNULL)
        try:
            while not ready(f"http://127.0.0.1:{port}/readyz"):
                if process.poll() is not None:
                    raise SystemExit("the service ended, see its log above")
                time.sleep(0.5)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait()


def ready(address: str) -> bool:
    try:
        return httpx.get(address, trust_env=False).is_success
    except httpx.HTTPError:
        return False


if __name__ == "__main__":
    main()
