"""`critic rollback`: put an earlier critic into service again."""

from pathlib import Path

import click


@click.command(
    "rollback",
    epilog="""\b
Examples:
  critic rollback
  critic rollback --to v1.2.0""",
)
@click.option("--to", metavar="VERSION", help="Roll back to this release instead of the previous champion.")
def command(to: str | None) -> None:
    """Put the previous champion into service again, with the Bento that was tested when it was promoted.

    The tag critic#champion moves and nothing is deleted: `critic rollback --to` the newer version reverts the
    rollback. A training may run in the checkout at the same time.
    """
    from critic import params
    from critic.release.promotion import rollback

    rollback(Path.cwd(), params.load(params.Release), to, click.echo)
