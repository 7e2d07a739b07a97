"""`critic audit verify`: compare the record with the files."""

import json
from pathlib import Path

import click


@click.command(
    "verify",
    epilog="""\b
Examples:
  critic audit verify
  critic audit verify --statement critic.intoto.json --key auditor.pub""",
)
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
@click.option(
    "--statement",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Check this signed statement, too; needs --key.",
)
@click.option(
    "--key", type=click.Path(path_type=Path, exists=True), help="The public key of the statement's signer."
)
def command(as_json: bool, statement: Path | None, key: Path | None) -> None:
    """Compare the record of this checkout and of its releases with the files; no stage is run.

    All files are hashed, those in DVC's cache too. The exit status is 1 if there are problems.
    """
    from rich.console import Console
    from rich.markup import escape

    from critic.audit import attestation, releases, resolve, verify
    from critic.release.lock import require_no_dvc

    if (statement is None) != (key is None):
        raise click.UsageError("--statement and --key go together")
    repository = Path.cwd()
    require_no_dvc(repository)
    found = [*verify.verify(repository), *releases.check_releases(repository)]
    if statement is not None and key is not None:
        try:
            envelope = json.loads(statement.read_text())
        except ValueError as error:
            raise click.ClickException(f"{statement} is not JSON: {error}") from None
        signed = attestation.read_envelope(envelope, key)
        try:
            changed = ", ".join(attestation.changed_claims(signed, repository))
            what = f"{changed}: the record of this checkout has another" if changed else ""
        except resolve.SubjectError as error:
            what = str(error)
        if what:
            means = "the signed critic or its record is another one"
            found.insert(0, verify.Finding("release", str(statement), what, means))
    problems = sum(finding.is_problem for finding in found)
    if as_json:
        click.echo(json.dumps([vars(finding) for finding in found], indent=2))
    else:
        console = Console(soft_wrap=True)
        for finding in found:
            mark = "[red]problem[/red]" if finding.is_problem else "[dim]note[/dim]"
            console.print(f"{mark} [b]{finding.check}[/b] {escape(finding.where)}: {escape(finding.what)}")
            console.print(f"        {escape(finding.means)}", style="dim")
        if problems:
            console.print(f"{problems} problem{'s' if problems > 1 else ''}: the record is inconsistent.")
        else:
            console.print("The record is consistent: it matches all files, params and tags.")
    if problems:
        raise SystemExit(1)
