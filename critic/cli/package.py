"""`critic package`: a critic from a folder or from git and DVC, into BentoML's store and into a Bento."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import click


@click.command(
    "package",
    epilog="""\b
Examples:
  critic package models/grpo
  critic package --rev critic@v1.2.0 --variant gpu --arg tensor_parallel_size=2
  critic package --rev HEAD~3 --path models/sft --no-build""",
)
@click.argument("folder", required=False, type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--rev", "revision", help="Instead of a folder: a git revision, whose critic DVC has.")
@click.option("--path", default="models/grpo", show_default=True, help="Of --rev: where its dvc.lock has it.")
@click.option(
    "--variant", type=click.Choice(["cpu", "gpu"]), default="cpu", show_default=True, help="What it will run on."
)
@click.option(
    "--arg",
    "arguments",
    multiple=True,
    metavar="NAME=VALUE",
    help="A setting of the service for the Bento to carry, as in docs/serve.md; the environment goes before it.",
)
@click.option("--no-build", is_flag=True, help="Import the critic into BentoML's store, and no more.")
def command(
    folder: Path | None,
    revision: str | None,
    path: str,
    variant: Literal["cpu", "gpu"],
    arguments: tuple[str, ...],
    no_build: bool,
) -> None:
    """Make a Bento of the critic in FOLDER, or of the one of a git revision: the service with all that it needs.

    The critic is imported into BentoML's store as edit_critic:VERSION, where VERSION is that of the tag, as v1.2.0
    of critic@v1.2.0, or else the start of the hash of its weights. The Bento serves that one, whatever comes
    later.
    """
    if (folder is None) == (revision is None):
        raise click.UsageError("name a folder, or a git revision with --rev")
    settings = dict(argument.partition("=")[::2] for argument in arguments)

    from pydantic import ValidationError

    from critic.checkpoints import CheckpointError
    from critic.prompts import ContractError
    from critic.service.packaging import PackageError, build_bento, fetch, import_critic, version_of

    try:
        with TemporaryDirectory(prefix="critic-") as scratch:
            if folder is not None:
                model = import_critic(folder)
            else:
                assert revision is not None
                folder = Path(scratch) / "critic"
                commit = fetch(revision, path, folder)
                model = import_critic(folder, version_of(revision), commit)
        click.echo(f"{model.tag} is in BentoML's store")
        for name, value in model.info.metadata.items():
            click.echo(f"  {name:14}{value!s}")
        if no_build:
            return
        bento = build_bento(model.tag, variant, settings)
    except (CheckpointError, ContractError, PackageError, ValidationError) as error:
        raise click.ClickException(str(error)) from None
    click.echo(f"Built {bento}. Serve it, or make an image of it:")
    click.echo(f"  bentoml serve {bento}\n  bentoml containerize {bento}")
