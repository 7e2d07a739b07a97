"""`critic rollback`: the champion before this one goes into service again."""

from pathlib import Path

import click


@click.command(
    "rollback",
    epilog="""\b
Examples:
  critic rollback
  critic rollback --to v1.2.0""",
)
@click.option("--to", metavar="VERSION", help="Another release than the champion before this one.")
def command(to: str | None) -> None:
    """Put an earlier critic into service again, with the Bento that was tried when it was promoted.

    Nothing is deleted: the tag critic#champion moves on, and `critic rollback --to` of the newer version takes the
    rollback back. A training that runs in the checkout isn't waited for.
    """
    from critic import params
    from critic.release import promotion
    from critic.release.checkout import CheckoutError

    repository = Path.cwd()
    try:
        promotion.rollback(repository, params.load(params.Release, repository / params.FILE), to, click.echo)
    except (CheckoutError, promotion.PromotionError, params.ParamsError) as error:
        raise click.ClickException(str(error)) from None
