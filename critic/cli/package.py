"""`critic package`: build a Bento of a critic."""

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
@click.option("--rev", "revision", help="Package the critic of a git revision, from DVC, instead of FOLDER.")
@click.option("--path", default="models/grpo", help="With --rev, read the critic from this path of its dvc.lock.")
@click.option(
    "--variant",
    type=click.Choice(["cpu", "gpu"]),
    default="cpu",
    help="Choose the packages of the container: for a CPU or for NVIDIA GPUs.",
)
@click.option(
    "--arg",
    "arguments",
    multiple=True,
    metavar="NAME=VALUE",
    help="Store a setting of the service in the Bento, see docs/serve.md. The environment overrides it.",
)
@click.option("--no-build", is_flag=True, help="Only import the critic into BentoML's store.")
def command(
    folder: Path | None,
    revision: str | None,
    path: str,
    variant: Literal["cpu", "gpu"],
    arguments: tuple[str, ...],
    no_build: bool,
) -> None:
    """Build a Bento, the service with all its dependencies, of the critic in FOLDER or in a git revision.

    The critic is imported into BentoML's store as edit_critic:VERSION. VERSION is that of the git tag, v1.2.0 of
    critic@v1.2.0, or the start of the hash of the weights. The Bento always serves this version.
    """
    if (folder is None) == (revision is None):
        raise click.UsageError("give either FOLDER or a git revision with --rev")
    settings = dict(argument.partition("=")[::2] for argument in arguments)

    from pydantic import ValidationError

    from critic.service.packaging import build_bento, fetch, import_critic, version_of

    if folder is not None:
        model = import_critic(folder)
    else:
        assert revision is not None
        with TemporaryDirectory(prefix="critic-") as scratch:
            commit = fetch(revision, path, Path(scratch, "critic"))
            model = import_critic(Path(scratch, "critic"), version_of(revision), commit)
    click.echo(f"{model.tag} is in BentoML's store")
    for name, value in model.info.metadata.items():
        click.echo(f"  {name:14}{value!s}")
    if no_build:
        return
    try:
        bento = build_bento(model.tag, variant, settings)
    except ValidationError as error:
        raise click.ClickException(str(error)) from None
    click.echo(f"Built {bento}. Serve it, or build a container image:")
    click.echo(f"  bentoml serve {bento}\n  bentoml containerize {bento}")
