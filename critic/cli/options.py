"""Options that several commands have, and what they open."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from critic.bulk import Tally
from critic.engines import Engine
from critic.engines.opening import Kind, contract_of, open_engine
from critic.prompts import Contract

_Command = Callable[..., Any]


def model_options(command: _Command) -> _Command:
    """Which critic, and how it is run."""
    for option in reversed(
        [
            click.option(
                "-m",
                "--model",
                required=True,
                envvar="CRITIC_MODEL",
                show_envvar=True,
                help="The critic: a folder, a name on the hub, or with --engine http the address of a server "
                "up to /v1 (and #NAME if it serves several).",
            ),
            click.option("--revision", help="Of a model on the hub: a commit, tag or branch."),
            click.option(
                "--engine",
                type=click.Choice(["vllm", "transformers", "http"]),
                default="vllm",
                show_default=True,
                help="What runs it.",
            ),
            click.option(
                "--contract",
                help="The prompt contract: a name or a .yaml file.  [default: the one in the model's folder, else "
                "ie-critic]",
            ),
            click.option(
                "--dtype",
                type=click.Choice(["float32", "bfloat16"]),
                help="Of the weights.  [default: bfloat16 on a GPU, else float32]",
            ),
            click.option("--max-tokens", default=1024, show_default=True, help="Tokens that an answer may take."),
            click.option(
                "--batch-size",
                default=64,
                show_default=True,
                type=click.IntRange(min=1),
                help="Requests at a time.",
            ),
        ]
    ):
        command = option(command)
    return command


def bulk_options(command: _Command) -> _Command:
    """Which pairs of a table or folder are scored, and what its columns are called."""
    for option in reversed(
        [
            click.option("--retry-failed", is_flag=True, help="Score again what failed before."),
            click.option("--limit", type=click.IntRange(min=1), help="Only the first so many."),
            click.option("--source-column", help="[default: source]"),
            click.option("--edited-column", help="[default: edited]"),
            click.option("--instruction-column", help="[default: instruction or edit_inst]"),
            click.option("--id-column", help="[default: id, else the row's number]"),
        ]
    ):
        command = option(command)
    return command


def finish(tally: Tally, out: Path) -> None:
    """Say what became of the pairs, and exit with 1 if any is without a score."""
    click.echo(tally.describe())
    if tally.failed or tally.skipped_failures:
        click.echo(f"The failures, with their reasons: {out.with_suffix('.failures.jsonl')}")
        sys.exit(1)


def open_critic(
    *,
    model: str,
    revision: str | None,
    engine: Kind,
    contract: str | None,
    dtype: Any,
    max_tokens: int,
    batch_size: int,
    seed: int = 0,
    prefix_caching: bool = False,
) -> tuple[Engine, Contract]:
    """The engine and the contract that the options of `model_options` ask for."""
    chosen = contract_of(model, contract)
    opened = open_engine(
        engine,
        model,
        chosen,
        max_tokens=max_tokens,
        revision=revision,
        dtype=dtype,
        batch_size=batch_size,
        seed=seed,
        prefix_caching=prefix_caching,
    )
    return opened, chosen
