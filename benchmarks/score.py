"""Measure the speed of each engine alone, and of `critic score`.

    python benchmarks/score.py models/grpo data/validated/test.parquet

Prints edits per second. Each way runs in its own process, greedily, after one batch to warm up. The time includes
decoding and resizing. If the table has fewer pairs than --edits, they are used several times.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tqdm import tqdm

from critic.edits import Edit
from critic.engines.load import Kind, contract_of, open_engine
from critic.scoring.inputs import Pairs, read_pairs
from critic.scoring.resumable import score_to_file
from critic.scoring.scorer import Scorer

WAYS = ("transformers", "vllm", "critic score")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="The critic's folder.")
    parser.add_argument("pairs", type=Path, help="The pairs to score, as in `critic score`.")
    parser.add_argument("--edits", type=int, default=400, help="The number of edits (default: 400).")
    parser.add_argument("--batch-size", type=int, default=64, help="Requests at a time (default: 64).")
    parser.add_argument(
        "--max-tokens", type=int, default=80, help="Completion tokens for one answer (default: 80)."
    )
    parser.add_argument("--way", choices=WAYS, help="Measure only this way, and print JSON.")
    given = parser.parse_args()
    if given.way:
        print(json.dumps(measure(given)))
        return
    rates = {}
    for way in tqdm(WAYS, desc="ways"):
        command = [sys.executable, __file__, *sys.argv[1:], "--way", way]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        rates[way] = json.loads(output.splitlines()[-1])
    print(f"{given.edits} edits, at most {given.batch_size} at a time")
    for way, rate in rates.items():
        print(f"  {way:<16} {rate:6.2f} edits/s")


def measure(given: argparse.Namespace) -> float:
    """Edits per second of one way."""
    contract = contract_of(given.model)
    kind: Kind = "transformers" if given.way == "transformers" else "vllm"
    engine = open_engine(
        kind, given.model, contract, max_tokens=given.max_tokens, dtype="float32", batch_size=given.batch_size
    )
    scorer = Scorer(engine, contract)
    table = read_pairs(given.pairs)
    scorer(readable(table, 0, given.batch_size))
    ids = [f"{number:05}" for number in range(given.edits)]
    rows = [table.rows[number % len(table)] for number in range(given.edits)]
    pairs = Pairs(table.where, ids, rows, table.folder, table.columns)
    started = time.perf_counter()
    if given.way == "critic score":
        with tempfile.TemporaryDirectory() as folder:
            score_to_file(
                pairs, lambda: scorer, Path(folder) / "scores.jsonl", {}, batch_size=4 * given.batch_size
            )
    else:
        size = given.batch_size if kind == "transformers" else given.edits
        for start in range(0, given.edits, size):
            scorer(readable(pairs, start, size))
    return given.edits / (time.perf_counter() - started)


def readable(pairs: Pairs, start: int, size: int) -> list[Edit]:
    """The readable edits of at most `size` rows from row `start`."""
    read = (pairs[number] for number in range(start, min(start + size, len(pairs))))
    return [edit for edit in read if isinstance(edit, Edit)]


if __name__ == "__main__":
    main()
