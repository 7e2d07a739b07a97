"""`critic audit rerun`: reproduce a critic and compare it with its record."""

import json
from dataclasses import asdict
from pathlib import Path

import click


@click.command(
    "rerun",
    epilog="""\b
Examples:
  critic audit rerun
  critic audit rerun v1.2.0 --keep again
  critic audit rerun --until build --here""",
)
@click.argument("revision", default="HEAD")
@click.option("--until", metavar="STAGE", help="The last stage to run, after all stages that it needs.")
@click.option("--here", is_flag=True, help="Run in this environment instead of a new one from the lock file.")
@click.option("--keep", type=click.Path(path_type=Path), help="Make the clone in this new folder, and keep it.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON, after the pipeline's output.")
def command(revision: str, until: str | None, here: bool, keep: Path | None, as_json: bool) -> None:
    """Reproduce a critic in a clean clone and compare it.

    This takes as long as `make setup` and `make repro` together. The exit status is 1 if it isn't reproduced.
    """
    import tempfile

    from rich.console import Console
    from rich.markdown import Markdown

    from critic.audit import rerun
    from critic.audit.resolve import revision_of

    with tempfile.TemporaryDirectory(prefix="critic-") as scratch:
        repository, clone = Path.cwd(), keep or Path(scratch) / "clone"
        try:
            report = rerun.rerun(
                repository, revision_of(repository, revision), clone, until=until, here=here, log=click.echo
            )
        except rerun.RerunError as error:
            hint = "" if keep else " (--keep FOLDER keeps the clone)"
            raise click.ClickException(f"{error}{hint}") from None
    if as_json:
        click.echo(json.dumps(asdict(report), indent=2))
    else:
        Console().print(Markdown(report.markdown()))
    if report.outcome == "not reproduced":
        raise SystemExit(1)
