"""Options that say which critic scores and how it is run: what `critic.engines.load.open_engine` is given."""

from collections.abc import Callable
from typing import Any

import click

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
                "kind",
                type=click.Choice(["vllm", "transformers", "http"]),
                default="vllm",
                show_default=True,
                help="What runs it.",
            ),
            click.option(
                "--contract",
                help="The prompt contract: a name or a .yaml file.  [default: the one in the model's folder]",
            ),
            click.option(
                "--dtype",
                type=click.Choice(["float32", "bfloat16"]),
                help="Of the weights.  [default: bfloat16 on a GPU, else float32]",
            ),
            click.option(
                "--max-tokens",
                default=1024,
                show_default=True,
                type=click.IntRange(min=1),
                help="Tokens that an answer may take.",
            ),
            click.option(
                "--batch-size",
                default=64,
                show_default=True,
                type=click.IntRange(min=1),
                help="Requests at a time.",
            ),
            click.option("--key-variable", help="Of --engine http: the environment variable with the API key."),
            click.option(
                "--timeout",
                default=120.0,
                show_default=True,
                type=click.FloatRange(0, min_open=True),
                help="Of --engine http: seconds an attempt may take.",
            ),
        ]
    ):
        command = option(command)
    return command
