"""`critic rate`: what people have said of edits becomes the next increment of data/ratings."""

from pathlib import Path

import click

from critic.cli.options import FILE


@click.command(
    "rate",
    epilog="""\b
Examples:
  critic rate study.csv --dry-run
  critic rate study.csv
  critic rate --feedback sqlite:///feedback.db""",
)
@click.argument("study", required=False, type=FILE)
@click.option(
    "--feedback", "store", help="Instead of a file: the service's feedback store, as CRITIC_FEEDBACK_URL."
)
@click.option("--dry-run", is_flag=True, help="Tell what would come of it, and write nothing.")
def command(study: Path | None, store: str | None, dry_run: bool) -> None:
    """Screen the raters of STUDY, pool their ratings into MOS, and make an increment that `dvc repro` trains on.

    STUDY is a CSV file of a rating a row: rater, score (1 to 5), and source, edited (paths beside the file) and
    instruction, or the id of an edit of the benchmark; if you have them, alignment, fidelity and quality (1 to 5),
    edit_type and editor. docs/ratings.md says who counts. Run it from the project's folder.
    """
    if (study is None) == (store is None):
        raise click.UsageError("name a file of ratings, or a feedback store with --feedback")

    from critic.params import ParamsError
    from critic.ratings.importers import read_store, read_study
    from critic.ratings.increments import IncrementError
    from critic.ratings.merge import add, examine, page
    from critic.ratings.screening import RatingsError
    from critic.ratings.store import FeedbackError
    from critic.release.checkout import CheckoutError, held
    from critic.service.settings import Settings

    repository = Path.cwd()
    try:
        if study is not None:
            heard = read_study(study, repository)
        else:
            heard = read_store(store or "", repository, Settings.model_validate({}).keep_images)
        if heard.ratings.empty:
            click.echo("All of its ratings are in an increment already.")
            return
        _, report = examine(heard, repository)
        click.echo(page(report), nl=False)
        if not dry_run:
            with held(repository, "critic rate"):
                made = add(heard, repository).relative_to(repository)
            click.echo(f"\nMade {made}. Commit it: git add {made}; then `dvc repro` trains on it.")
    except (CheckoutError, RatingsError, IncrementError, FeedbackError, ParamsError) as error:
        raise click.ClickException(str(error)) from None
