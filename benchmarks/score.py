"""How fast edits are scored: each engine alone, and `critic score` against the engine alone.

    python benchmarks/score.py models/grpo data/validated/test.parquet

Prints a table of edits a second. Each way runs in a process of its own, greedily, after one batch to warm up;
pictures are decoded and resized within the time. Of fewer pairs than asked for, the table is gone through again.
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
    parser.add_argument("model", help="the critic's folder")
    parser.add_argument("pairs", type=Path, help="edits to score, as `critic score` takes them")
    parser.add_argument("--edits", type=int, default=400, help="how many (default: 400)")
    parser.add_argument("--batch-size", type=int, default=64, help="requests at a time (default: 64)")
    parser.add_argument("--max-tokens", type=int, default=80, help="tokens that an answer may take (default: 80)")
    parser.add_argument("--way", choices=WAYS, help="time this one, and print JSON")
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
    """Edits a second, by one way."""
    contract = contract_of(given.model)
    kind: Kind = "transformers" if given.way == "transformers" else "vllm"
    engine = open_engine(
        kind, given.model, contract, max_tokens=given.max_tokens, dtype="float32", batch_size=given.batch_size
    )
    scorer = Scorer(engine, contract)
    table = read_pairs(given.pairs)
    scorer(whole(table, 0, given.batch_size))
    ids = [f"{number:05}" for number in range(given.edits)]
    rows = [table.rows[number % len(table)] for number in range(given.edits)]
    pairs = Pairs(table.where, ids, rows, table.folder, table.columns)
    began = time.perf_counter()
    if given.way == "critic score":
        with tempfile.TemporaryDirectory() as folder:
            score_to_file(
                pairs, lambda: scorer, Path(folder) / "scores.jsonl", {}, batch_size=4 * given.batch_size
            )
    else:
        size = given.batch_size if kind == "transformers" else given.edits
        for start in range(0, given.edits, size):
            scorer(whole(pairs, start, size))
    return given.edits / (time.perf_counter() - began)


def whole(pairs: Pairs, start: int, size: int) -> list[Edit]:
    """The edits from row `start` on, of at most `size` rows, those that can be read."""
    read = (pairs[number] for number in range(start, min(start + size, len(pairs))))
    return [edit for edit in read if isinstance(edit, Edit)]


if __name__ == "__main__":
    main()
