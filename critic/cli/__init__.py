"""`critic`: score edits, and tell how far a critic can be believed.

critic score pairs.csv --model models/grpo --out scores.jsonl
critic eval scores.jsonl --against data/validated/test.parquet
critic compare a.jsonl b.jsonl --against data/validated/test.parquet
critic rank scores.jsonl --pairs pairs.csv --by editor
"""

import click

from critic.cli.compare import compare
from critic.cli.evaluate import evaluate
from critic.cli.rank import rank


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
def main() -> None:
    """Score text-driven image edits, and tell how far a critic can be believed."""


main.add_command(evaluate)
main.add_command(compare)
main.add_command(rank)
