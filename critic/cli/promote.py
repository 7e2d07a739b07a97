"""`critic promote`: the checkout's critic goes into service, if the gate lets it."""

from pathlib import Path

import click


@click.command(
    "promote",
    epilog="""\b
Examples:
  critic promote --dry-run
  critic promote""",
)
@click.option(
    "--dry-run", is_flag=True, help="Tell what the gate says, and change nothing. Exit code 1: it refuses."
)
def command(dry_run: bool) -> None:
    """Compare the critic of this checkout with the champion on the same test, and put it into service if it is
    surely better: commit, Bento, a trial of that, and the tags of the release, all or nothing.

    A refusal is committed too, with its reasons, in reports/decisions. `gate` and `release` of params.yaml are its
    settings; docs/operations.md tells the rest.
    """
    from rich.console import Console
    from rich.markdown import Markdown

    from critic import params
    from critic.release import promotion
    from critic.release.checkout import CheckoutError, held, require_at_rest, require_clean
    from critic.release.promotion_gate import GateError, judge

    repository = Path.cwd()
    try:
        settings = params.load(params.Release, repository / params.FILE)
        with held(repository, "critic promote"):
            require_at_rest(repository)
            if not dry_run:
                promotion.recover(repository, click.echo)
                require_clean(repository)
            decision = judge(repository)
            Console().print(Markdown(decision.markdown()))
            if decision.promote and not dry_run:
                promotion.promote(repository, decision, settings, click.echo)
            elif not dry_run:
                page = promotion.record_refusal(repository, decision, click.echo)
                click.echo(f"Refused: {page.relative_to(repository)} says why.")
    except (CheckoutError, GateError, promotion.PromotionError, params.ParamsError) as error:
        raise click.ClickException(str(error)) from None
    if not decision.promote:
        raise SystemExit(1)
