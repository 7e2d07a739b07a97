"""What every command has in common: help and errors in options come at once, before anything slow is imported."""

import shlex
import subprocess
import sys

import pytest

from critic.cli import _COMMANDS

HEAVY = {"torch", "transformers", "datasets", "vllm", "pandas", "scipy", "numpy"}
RUN = """
import sys
from critic.cli import main
try:
    main(sys.argv[1:], prog_name="critic")
finally:
    print(*sys.modules)
"""
WRONG = [
    "score",
    "score -m critic",
    "score -m critic pairs.csv --out scores.jsonl --source cat.png",
    "score -m critic pairs.csv --out scores.jsonl --temperature 2.1",
    "score -m critic pairs.csv --out scores.jsonl --temperature 0",
    "score -m critic pairs.csv --out scores.jsonl --max-tokens 0",
    "score -m critic pairs.csv --out scores.jsonl --timeout 0",
    "score -m critic pairs.csv --out scores.jsonl --engine http --workers 2",
    f"eval {__file__} --against {__file__} --policy train_mean",
    f"compare {__file__} --against {__file__}",
    f"rank {__file__} --pairs {__file__} --by id",
    "parity -m critic --pairs pairs.csv --max-tokens 0",
    "judge psnr pairs.csv",
    "contract learn set.json --min-pixels 4",
    "contract learn set.json --out contract",
    "judge viescore pairs.csv --out scores.jsonl -m http://127.0.0.1/v1 --max-tokens 0",
]


def run(line: str, code: int) -> set[str]:
    """The packages that a command has imported when it ends, with this exit status."""
    done = subprocess.run([sys.executable, "-c", RUN, *shlex.split(line)], capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    return {name.partition(".")[0] for name in done.stdout.splitlines()[-1].split()}


MORE = ("contract learn", "judge psnr", "judge viescore", "judge editscore")


@pytest.mark.parametrize("line", ["", *_COMMANDS, *MORE])
def test_help_waits_for_nothing_slow(line: str) -> None:
    assert not run(f"{line} --help", 0) & HEAVY


@pytest.mark.parametrize("line", WRONG)
def test_a_wrong_option_is_told_before_anything_slow_is_imported(line: str) -> None:
    assert not run(line, 2) & HEAVY
