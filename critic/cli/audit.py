"""`critic audit`: trace a critic to its data and code, verify its record, and reproduce it."""

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from critic import files
from critic.cli.options import FILE, OUT

_FILE_WIDTH = 500
"""Columns of a file or pipe, so that no line is cut."""
_SHOWN = 20
"""Rows shown of a long table."""


@click.group("audit")
def command() -> None:
    """Trace a critic to its data and code, verify its record, and reproduce it: see docs/audit.md.

    SUBJECT is a file or folder that the pipeline writes, a release (v1.2.0), a git revision, a Bento
    (edit_critic:v1.2.0-cpu-1), weights (sha256:...), or a file with an answer of the service (answer.json).
    """


@command.command(
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
@click.option("--html", "page", type=OUT, help="Write a page to this file.")
def trace(subject: str, full: bool, mermaid: bool, page: Path | None) -> None:
    """Show the lineage of SUBJECT, back to params.yaml and raw rows."""
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


@command.command(
    "diff",
    epilog="""\b
Examples:
  critic audit diff v1.1.0 v1.2.0
  critic audit diff v1.2.0 models/grpo --json""",
)
@click.argument("a")
@click.argument("b")
@click.option("--json", "as_json", is_flag=True, help="Print all differences as JSON.")
def diff(a: str, b: str, as_json: bool) -> None:
    """Show the differences of two critics and of their scores."""
    from critic.audit import diff, resolve

    old, new = resolve.find(Path.cwd(), a), resolve.find(Path.cwd(), b)
    differences = [*diff.differences(old, new)]
    try:
        rows, scores = diff.row_gaps(old.record, new.record), diff.score_gaps(old, new)
    except (FileNotFoundError, KeyError) as error:
        raise click.ClickException(f"{error}: run `dvc pull` to get missing tables") from None
    changed = scores[scores["gap"].abs() > 0]
    if as_json:
        content = {
            "differences": [vars(difference) for difference in differences],
            "rows": rows,
            "scores": json.loads(changed.to_json(orient="records")),
        }
        click.echo(json.dumps(content, indent=2))
        return
    console = Console()
    if not differences and changed.empty:
        console.print(f"{a} and {b} are the same critic, with the same record.")
        return
    table = Table("kind", "where", a, b)
    for difference in differences:
        table.add_row(*map(escape, (difference.kind, difference.where, difference.a[:40], difference.b[:40])))
    console.print(table)
    for name, changes in rows.items():
        parts = [f"{len(ids)} {kind} ({', '.join(ids[:3])}…)" for kind, ids in changes.items() if ids]
        console.print(f"{name}: {', '.join(parts) or 'the same rows in another order or format'}")
    console.print(
        f"{len(changed)} of {len(scores)} test edits that both scored have another score; the mean absolute "
        f"difference is {scores['gap'].abs().mean():.3f} points"
    )
    table = Table("edit", a, b, "gap")
    for row in changed.head(_SHOWN).itertuples():
        table.add_row(escape(str(row.id)), f"{row.score_a:.2f}", f"{row.score_b:.2f}", f"{row.gap:+.2f}")
    console.print(table)


@command.command(
    "verify",
    epilog="""\b
Examples:
  critic audit verify
  critic audit verify --statement critic.intoto.json --key auditor.pub""",
)
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
@click.option("--statement", type=FILE, help="Check this signed statement, too; needs --key.")
@click.option("--key", type=FILE, help="The public key of the statement's signer.")
def verify(as_json: bool, statement: Path | None, key: Path | None) -> None:
    """Compare the record of this checkout and of its releases with the files; no stage is run.

    All files are hashed, those in DVC's cache too. The exit status is 1 if there are problems.
    """
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


@command.command(
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
def rerun(revision: str, until: str | None, here: bool, keep: Path | None, as_json: bool) -> None:
    """Reproduce a critic in a clean clone and compare it.

    This takes as long as `make setup` and `make repro` together. The exit status is 1 if it isn't reproduced.
    """
    import tempfile

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


@command.command(
    "coverage",
    epilog="""\b
Examples:
  critic audit coverage
  critic audit coverage --profile full --constants""",
)
@click.option("--profile", help="The profile of params.yaml to check instead of the active one.")
@click.option("--constants", is_flag=True, help="List the numbers in constants of the code, too.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def coverage(profile: str | None, constants: bool, as_json: bool) -> None:
    """Show which stages each key of params.yaml makes DVC run again.

    The exit status is 1 if a key changes nothing or no code reads it.
    """
    from critic.audit import coverage

    try:
        keys = coverage.param_coverage(Path.cwd(), profile)
    except (KeyError, OSError) as error:
        raise click.ClickException(f"{error}: see dvc.yaml and the profiles of params.yaml") from None
    numbers = coverage.constants(Path.cwd()) if constants else []
    faults = sum(key.fault is not None for key in keys)
    if as_json:
        content: dict[str, Any] = {"keys": [{**vars(key), "fault": key.fault} for key in keys]}
        if constants:
            content["constants"] = [vars(number) for number in numbers]
        click.echo(json.dumps(content, indent=2))
    else:
        console = Console()
        table = Table("key", "runs again", "read in")
        for key in keys:
            stages = ", ".join(key.stages) or "no stage"
            table.add_row(key.key, f"[red]{key.fault}[/red]" if key.fault else stages, ", ".join(key.readers[:3]))
        console.print(table)
        if constants:
            table = Table("constant", "value", "editing it runs again")
            for number in numbers:
                table.add_row(number.where, number.value[:60], ", ".join(number.stages))
            console.print(table)
        console.print(f"{len(keys)} keys, {faults} with a fault")
    if faults:
        raise SystemExit(1)


@command.command(
    "export",
    epilog="""\b
Examples:
  critic audit export v1.2.0 --out critic.intoto.json
  critic audit export v1.2.0 --key ~/.ssh/id_ed25519 --out critic.intoto.json""",
)
@click.argument("subject")
@click.option("--key", type=FILE, help="Sign the statement with this private Ed25519 key.")
@click.option("--out", type=OUT, help="Write to this file instead of standard output.")
def export(subject: str, key: Path | None, out: Path | None) -> None:
    """Write the record as an in-toto statement, signed if you give a key.

    The password of the key is read from CRITIC_KEY_PASSWORD, or else asked for if the key has one.
    """
    from critic.audit import attestation, resolve

    content = attestation.make_statement(resolve.find(Path.cwd(), subject))
    if key is not None:
        password = os.environ.get("CRITIC_KEY_PASSWORD")
        try:
            content = attestation.sign(content, key, password.encode() if password else None)
        except attestation.SignatureError as error:
            if password or "assword" not in str(error):
                raise
            password = click.prompt("Password of the key", hide_input=True, err=True)
            content = attestation.sign(content, key, str(password).encode())
    text = json.dumps(content, indent=1, sort_keys=True) + "\n"
    if out is None:
        click.echo(text, nl=False)
        return
    files.write_text(out, text)
    click.echo(f"Wrote {out}", err=True)
