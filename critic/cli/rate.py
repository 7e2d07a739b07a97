"""`critic rate`: make the next increment of data/ratings from human ratings and votes."""

from pathlib import Path

import click

from critic.cli.options import FILE


@click.command(
    "rate",
    epilog="""\b
Examples:
  critic rate study.csv --dry-run
  critic rate study.csv
  critic rate label-studio.json
  critic rate --feedback sqlite:///~/edit-critic-feedback.db""",
)
@click.argument("study", required=False, type=FILE)
@click.option("--feedback", "store", help="Read the service's feedback store instead: its CRITIC_FEEDBACK_URL.")
@click.option("--dry-run", is_flag=True, help="Show the report and write nothing.")
def command(study: Path | None, store: str | None, dry_run: bool) -> None:
    """Screen the raters of STUDY, pool their ratings into MOS, and make an increment for the next `dvc repro`.

    STUDY is a CSV file with one rating per row: rater, score (1 to 5), and source, edited (paths relative to the
    file) and instruction, or the id of an edit of the benchmark. Optional columns are alignment, fidelity, quality
    (1 to 5), edit_type and editor. Or it has one vote on two edits per row: rater, source, edited_a (on the
    left), edited_b, instruction and winner (a, b or tie); optional are editor_a, editor_b, edit_type and seconds.
    Or it is a JSON export of Label Studio or Argilla. Run the command in the project's folder. docs/ratings.md
    explains which raters count, and how votes are pooled.
    """
    if (study is None) == (store is None):
        raise click.UsageError("give either a file of ratings or a feedback store (--feedback)")

    from critic.ratings.collect import add, preview, render
    from critic.ratings.importers import read_store, read_study
    from critic.ratings.store import require_file
    from critic.release.lock import hold_lock
    from critic.service.settings import Settings

    repository = Path.cwd()
    if study is not None:
        batch = read_study(study, repository)
    else:
        require_file(store or "")
        batch = read_store(store or "", repository, Settings.model_validate({}).keep_images)
    if batch.ratings.empty and batch.votes.empty:
        click.echo("The feedback store has no new ratings or votes: all are in an increment already.")
        return
    _, report = preview(batch, repository)
    click.echo(render(report), nl=False)
    if not dry_run:
        with hold_lock(repository, "critic rate"):
            made = add(batch, repository).relative_to(repository)
        click.echo(f"\nMade {made}. Commit it (git add {made}), then `dvc repro` trains on it.")
