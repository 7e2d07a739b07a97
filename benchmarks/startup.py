"""Time what each start pays: the commands, imports, `dvc repro` with nothing to do, and the size of the install.

    python benchmarks/startup.py
    python benchmarks/startup.py --json runs/startup.json

Each command runs in turns with the others; seconds are medians, and each has a ratio to an empty Python. DVC is
timed in this checkout, whose dvc.lock must be up to date. The size is that of the packages of this Python.
"""

import argparse
import statistics
import subprocess
import sys
import sysconfig
import time
from collections import defaultdict
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from tqdm import tqdm

from critic.files import write_json

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
EMPTY = "python -c pass"
COMMANDS = {
    EMPTY: [sys.executable, "-c", "pass"],
    "import critic.client": [sys.executable, "-c", "import critic.client"],
    "import torch": [sys.executable, "-c", "import torch"],
    "import trl": [sys.executable, "-c", "from trl import GRPOTrainer"],
    "import vllm": [sys.executable, "-c", "from vllm import LLM"],
    "critic --help": [str(BIN / "critic"), "--help"],
    "critic score --help": [str(BIN / "critic"), "score", "--help"],
    "dvc repro, nothing to do": [str(BIN / "dvc"), "repro"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="Runs of each command (default: 5).")
    parser.add_argument("--json", type=Path, help="Write all figures to this file.")
    given = parser.parse_args()
    if subprocess.run([str(BIN / "dvc"), "status", "--quiet"], cwd=ROOT).returncode:
        raise SystemExit("dvc.lock is out of date, so `dvc repro` would train. Run `dvc repro` first.")
    seconds = measure(COMMANDS, given.rounds)
    print("| | s | ratio |\n|---|---:|---:|")
    for name, took in seconds.items():
        print(f"| {name} | {took:.2f} | {took / seconds[EMPTY]:.0f} |")
    sizes = installed()
    total = sum(sizes.values())
    print("\n| package | MB | share |\n|---|---:|---:|")
    for name, size in [(f"all {len(sizes)}", total), *[*sizes.items()][:8]]:
        print(f"| {name} | {size / 1e6:.0f} | {size / total:.0%} |")
    if given.json:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        write_json(given.json, {"seconds": seconds, "bytes": sizes})


def measure(commands: dict[str, list[str]], rounds: int) -> dict[str, float]:
    """Median seconds of each command, in turns, after one round that fills the caches of files."""
    spent: dict[str, list[float]] = defaultdict(list)
    for number in tqdm(range(rounds + 1), desc="rounds"):
        for name, command in commands.items():
            began = time.perf_counter()
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
            if done.returncode or "Running stage" in done.stdout:
                raise SystemExit(
                    f"`{' '.join(command)}` failed or had something to do:\n{done.stdout}{done.stderr}"
                )
            if number:
                spent[name].append(time.perf_counter() - began)
    return {name: statistics.median(times) for name, times in spent.items()}


def installed() -> dict[str, int]:
    """Bytes of the files of each installed package, the largest first."""
    sizes: dict[str, int] = {}
    for package in distributions(path=[sysconfig.get_path("purelib")]):
        files: Any = [Path(str(file.locate())) for file in package.files or []]
        sizes[package.name] = sum(file.stat().st_size for file in files if file.is_file())
    return dict(sorted(sizes.items(), key=lambda item: -item[1]))


if __name__ == "__main__":
    main()
