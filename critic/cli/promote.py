"""`critic promote`: run the gate on the checkout's critic, and put it into service if the gate agrees."""

from pathlib import Path

import click


@click.command(
    "promote",
    epilog="""\b
Examples:
  critic promote --dry-run
  critic promote""",
)
@click.option("--dry-run", is_flag=True, help="Show the gate's decision and change nothing. Exit code 1: refused.")
def command(dry_run: bool) -> None:
    """Promote the critic of this checkout if it is better than the champion on the same test split.

    A promotion makes a commit, builds and tests a Bento, and tags the release; if a step fails, all is undone. A
    refusal is committed too, with its reasons, in reports/decisions. `gate` and `release` in params.yaml hold the
    settings; docs/operations.md has the details.
    """
    from rich.console import Console
    from rich.markdown import Markdown

    from critic import params
    from critic.release import journal, promotion
    from critic.release.git import require_clean
    from critic.release.lock import hold_lock, require_no_dvc
    from critic.release.promotion_gate import run_gate

    repository = Path.cwd()
    settings = params.load(params.Release)
    with hold_lock(repository, "critic promote"):
        require_no_dvc(repository)
        if not dry_run:
            journal.recover(repository, click.echo)
            require_clean(repository)
        decision = run_gate(repository)
        Console().print(Markdown(decision.markdown()))
        if decision.promote and not dry_run:
            promotion.promote(repository, decision, settings, click.echo)
        elif not dry_run:
            page = promotion.record_refusal(repository, decision, click.echo)
            click.echo(f"Refused; the reasons are in {page.relative_to(repository)}.")
    if not decision.promote:
        raise SystemExit(1)
