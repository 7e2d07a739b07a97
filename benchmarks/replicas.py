"""Check the service under load: many clients with large batches, two copies of the critic, one of them killed.

    python benchmarks/replicas.py models/grpo data/validated/test.parquet
    python benchmarks/replicas.py models/grpo data/validated/test.parquet --clients 8 --batch 32 --mode direct

One client scores all edits first. Then all clients send their batches at once, each with edits in an order of its
own, by `critic.client`. They do it again, and one copy is killed meanwhile, which ends vLLM: the service restarts
it. The first client must get answers, most of them with a score, and each other result must be what it got for
this edit. Prints the edits per second; ends with an error if a result is missing or another one, or if the service
doesn't recover.

Answers are compared by their text. On a GPU the other requests in a batch can change a text: set
VLLM_BATCH_INVARIANT=1 there.
"""

import argparse
import asyncio
import random
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import httpx
import psutil

from critic.client import AsyncCritic
from critic.client.schemas import Scored
from critic.edits import Edit
from critic.files import write_json
from critic.pictures import png
from critic.results import MODES, Failure
from critic.scoring.inputs import read_pairs

sys.path.insert(0, str(Path(__file__).parent))

from serve import own_cores, serve


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="The critic's folder.")
    parser.add_argument("pairs", type=Path, help="The edits to score, in a form that `critic score` takes.")
    parser.add_argument("--clients", type=int, default=64, help="Clients at a time (default: 64).")
    parser.add_argument("--batch", type=int, default=256, help="Edits of each client (default: 256).")
    parser.add_argument("--copies", type=int, default=2, help="Copies of the critic (default: 2).")
    parser.add_argument("--mode", choices=MODES, default="greedy", help="How to score (default: greedy).")
    parser.add_argument("--max-tokens", type=int, default=80, help="Maximum tokens in an answer (default: 80).")
    parser.add_argument("--deadline", type=float, default=3600, help="Seconds for a request (default: 3600).")
    parser.add_argument("--json", type=Path, help="Write all figures to this file.")
    given = parser.parse_args()
    edits = [edit for edit in read_pairs(given.pairs) if isinstance(edit, Edit)][: given.batch]
    with own_cores(given.copies), serve(given.model, given.max_tokens, given.copies) as address:
        found = asyncio.run(check(address, edits, given))
    print("| | edits | seconds | edits/s |\n|---|---:|---:|---:|")
    for load, (number, seconds) in found.items():
        print(f"| {load} | {number} | {seconds:.1f} | {number / seconds:.1f} |")
    if given.json:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        write_json(given.json, {load: {"edits": n, "seconds": seconds} for load, (n, seconds) in found.items()})


async def check(address: str, edits: Sequence[Edit], given: argparse.Namespace) -> dict[str, tuple[int, float]]:
    """The number of edits and the seconds of each load. Raises `SystemExit` for a wrong result."""
    files = [(png(source), png(edited), edit.instruction) for edit in edits for source, edited in [edit.pair]]

    async def ask(client: int) -> list[tuple[int, Scored]]:
        """A client's results, each with the number of its edit."""
        order = [place % len(edits) for place in range(given.batch)] if client else [*range(len(edits))]
        random.Random(client).shuffle(order)
        ids = [f"{client}-{place}-{number}" for place, number in enumerate(order)]
        async with AsyncCritic(address, deadline=given.deadline, timeout=given.deadline) as critic:
            results = await critic.score_batch([files[number] for number in order], ids=ids, mode=given.mode)
        if [result.id for result in results] != ids:
            raise SystemExit(f"client {client}: the results aren't in the order of the edits")
        return [*zip(order, results, strict=True)]

    async def load(name: str, clients: Sequence[int]) -> list[tuple[int, Scored]]:
        begun = time.perf_counter()
        answers = [answer for own in await asyncio.gather(*map(ask, clients)) for answer in own]
        found[name] = len(answers), time.perf_counter() - begun
        wrong = [
            f"edit {number}: {result.status} {result.detail} {result.raw!r}, expected {known[number]}"
            for number, result in answers
            if known and (result.status, result.raw) != known[number]
        ]
        if wrong:
            raise SystemExit(
                f"{name}: {len(wrong)} of {len(answers)} results are wrong:\n" + "\n".join(wrong[:20])
            )
        return answers

    found: dict[str, tuple[int, float]] = {}
    known: dict[int, tuple[str, str]] = {}
    known |= expected(await load("one client", [0]))
    print(f"{len({*known.values()})} different answers to {len(edits)} edits")
    clients, name = range(1, given.clients + 1), f"{given.clients} clients"
    await load(name, clients)
    again = asyncio.create_task(load(f"{name}, a copy killed", clients))
    await asyncio.sleep(found[name][1] / 2)
    children = psutil.Process().children(recursive=True)
    engines = [child for child in children if "VLLM::EngineCore" in " ".join(child.cmdline())]
    if len(engines) != given.copies or again.done():
        raise SystemExit(f"there are {len(engines)} copies to kill one of, expected {given.copies}, under load")
    engines[-1].kill()
    await again
    if await losses(address) != 1:
        raise SystemExit("vLLM wasn't lost exactly once, see the log")
    await load("one client, afterwards", [0])
    return found


def expected(answers: Sequence[tuple[int, Scored]]) -> dict[int, tuple[str, str]]:
    """The status and the text of each edit, by its number.

    Raises:
        SystemExit: an edit has no answer, or half of the answers or more have no score.
    """
    failed = [f"edit {number}: {one.status} {one.detail}" for number, one in answers if one.status in {*Failure}]
    if failed:
        raise SystemExit(f"one client: {len(failed)} edits have no answer:\n" + "\n".join(failed[:20]))
    scored = sum(one.status == "ok" for _, one in answers)
    if 2 * scored <= len(answers):
        raise SystemExit(f"one client: {scored} of {len(answers)} answers have a score, too few to compare")
    return {number: (one.status, one.raw) for number, one in answers}


async def losses(address: str) -> float:
    async with httpx.AsyncClient(trust_env=False) as client:
        text = (await client.get(f"{address}/metrics")).text
    return sum(map(float, re.findall(r"^critic_engine_losses_total(?:\{.*\})? (\S+)$", text, re.MULTILINE)))


if __name__ == "__main__":
    main()
