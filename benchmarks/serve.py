"""What the service costs: the same edits asked of a bare vLLM server, and of the service before one like it.

    python benchmarks/serve.py models/grpo data/validated/test.parquet

Three ways, in turns: vLLM's /v1/chat/completions, the service's (the same bytes), and the service's /score, which
also reads, checks and resizes the pictures. Prints the median latency of one request at a time, and the rate of
many.

Without a GPU, vLLM binds its worker to some cores; all else is kept off these here. Where the system is left to
place it, the rate on two cores is anything from 30 to 90 a second, for each of the three.
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

import httpx
import psutil
import torch
from tqdm import tqdm

from critic.edits import Edit
from critic.engines.base import request
from critic.engines.http import png, with_pictures
from critic.engines.load import contract_of
from critic.engines.server import vllm_server
from critic.scoring.inputs import read_pairs

Ask = Callable[[httpx.AsyncClient, int], Awaitable[httpx.Response]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="the critic's folder")
    parser.add_argument("pairs", type=Path, help="edits to score, as `critic score` takes them")
    parser.add_argument("--edits", type=int, default=256, help="in a round of many at a time (default: 256)")
    parser.add_argument("--clients", type=int, default=64, help="how many at a time (default: 64)")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each way (default: 5)")
    parser.add_argument("--max-tokens", type=int, default=80, help="tokens that an answer may take (default: 80)")
    given = parser.parse_args()
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

    with serve(given.model, given.max_tokens) as service, vllm_server(given.model, dtype="float32") as vllm:
        bare = vllm.removesuffix("/v1")

        def chat(base: str, name: str) -> Ask:
            return lambda client, n: client.post(f"{base}/v1/chat/completions", json={**chats[n], "model": name})

        ways: dict[str, Ask] = {
            "vLLM": chat(bare, given.model),
            "service /v1": chat(service, "critic"),
            "service /score": lambda client, n: client.post(f"{service}/score", **forms[n]),
        }
        if not torch.cuda.is_available():
            keep_off_the_workers()
        asyncio.run(compare(ways, len(edits), given))


def keep_off_the_workers() -> None:
    """Have this process and its children, but vLLM's workers, run on the cores that no worker is bound to."""
    processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
    workers = [process for process in processes if "VLLM::Worker" in " ".join(process.cmdline())]
    bound = {core for worker in workers for core in os.sched_getaffinity(worker.pid)}
    free = set(range(os.cpu_count() or 1)) - bound
    if not workers or not free:
        raise SystemExit("vLLM's workers are bound to no cores of their own: unset VLLM_CPU_OMP_THREADS_BIND")
    for process in processes:
        if process not in workers:
            for thread in process.threads():
                with suppress(ProcessLookupError):
                    os.sched_setaffinity(thread.id, free)


async def compare(ways: dict[str, Ask], edits: int, given: argparse.Namespace) -> None:
    latencies: dict[str, list[float]] = {way: [] for way in ways}
    rates: dict[str, list[float]] = {way: [] for way in ways}
    with tqdm(total=(1 + given.rounds) * len(ways), desc="rounds") as bar:
        for turn in range(1 + given.rounds):
            for way, ask in ways.items():
                # A client a turn: vLLM closes connections that were idle for 5 s, maybe as they are used again.
                async with httpx.AsyncClient(timeout=600) as client:
                    alone = [await many(client, ask, [n], edits, 1) for n in range(turn * 16, turn * 16 + 16)]
                    begun = time.perf_counter()
                    await many(client, ask, range(given.edits), edits, given.clients)
                    rate = given.edits / (time.perf_counter() - begun)
                if turn > 0:  # the first warms up
                    latencies[way] += [seconds for (seconds,) in alone]
                    rates[way].append(rate)
                bar.update()
    bare_latency, bare_rate = statistics.median(latencies["vLLM"]), statistics.median(rates["vLLM"])
    print(f"{'':<16} {'median latency':>16} {f'rate of {given.clients} clients':>22}")
    for way in ways:
        latency, rate = statistics.median(latencies[way]), statistics.median(rates[way])
        print(
            f"{way:<16} {latency * 1000:7.1f} ms {latency / bare_latency:4.2f}x"
            f" {rate:13.2f}/s {rate / bare_rate:4.2f}x"
        )


async def many(
    client: httpx.AsyncClient, ask: Ask, numbers: Sequence[int], edits: int, clients: int
) -> list[float]:
    """Seconds that each took."""
    gate = asyncio.Semaphore(clients)

    async def one(number: int) -> float:
        async with gate:
            begun = time.perf_counter()
            (await ask(client, number % edits)).raise_for_status()
            return time.perf_counter() - begun

    return await asyncio.gather(*map(one, numbers))


@contextmanager
def serve(model: str, max_tokens: int) -> Iterator[str]:
    """The service's address, once it is ready."""
    with socket.socket() as free, tempfile.TemporaryDirectory() as folder:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        environment = {
            **os.environ,
            "CRITIC_MODEL": str(Path(model).absolute()),
            "CRITIC_MAX_TOKENS": str(max_tokens),
            "CRITIC_FEEDBACK_URL": f"sqlite:///{folder}/feedback.db",
        }
        command = ["-m", "bentoml", "serve", "critic.service.bento:Critic", "--port", str(port)]
        process = subprocess.Popen([sys.executable, *command], env=environment, stdout=subprocess.DEVNULL)
        try:
            while not ready(f"http://127.0.0.1:{port}/readyz"):
                if process.poll() is not None:
                    raise SystemExit("the service ended: see above")
                time.sleep(0.5)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait()


def ready(address: str) -> bool:
    try:
        return httpx.get(address).is_success
    except httpx.HTTPError:
        return False


if __name__ == "__main__":
    main()
