"""`critic audit trace`: the lineage of a critic."""

import sys
from pathlib import Path

import click

_FILE_WIDTH = 500
"""Columns of a file or pipe, so that no line is cut."""


@click.command(
    "trace",
    epilog="""\b
Examples:
  critic audit trace models/grpo
  critic audit trace v1.2.0 --html lineage.html
  curl -s ... /score > answer.json; critic audit trace answer.json""",
)
@click.argument("subject")
@click.option("--full", is_flag=True, help="Show whole hashes, all params and all modules.")
@click.option("--mermaid", is_flag=True, help="Print a Mermaid flowchart.")
@click.option("--html", "page", type=click.Path(path_type=Path, dir_okay=False), help="Write a page to this file.")
def command(subject: str, full: bool, mermaid: bool, page: Path | None) -> None:
    """Show the lineage of SUBJECT, back to params.yaml and raw rows."""
    from rich.console import Console

    from critic import files
    from critic.audit import resolve, trace

    found = resolve.find(Path.cwd(), subject)
    if mermaid:
        click.echo(trace.as_mermaid(found.record, found.path), nl=False)
        return
    if page is not None:
        files.write_text(page, trace.as_html(found))
        click.echo(f"Wrote {page}", err=True)
        return
    console = Console(soft_wrap=True, width=None if sys.stdout.isatty() else _FILE_WIDTH)
    console.print(trace.as_tree(found, full=full))
    console.print("\nTraining rows")
    for path, digest in trace.training_tables(found).items():
        console.print(f"  {path}  sha256 {digest}")
    commit = found.record.commit
    where = f"`git show {commit[:12]}:params.yaml`" if commit else "in this checkout"
    console.print(f"\nparams.yaml: {where}")
