"""`critic`: score edits, and tell how far a critic can be believed.

critic score pairs.csv --model models/grpo --out scores.jsonl
"""

import click


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
def main() -> None:
    """Score text-driven image edits, and tell how far a critic can be believed."""
