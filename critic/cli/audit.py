"""`critic audit`: where a critic came from, whether its record holds, and whether it comes again."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from critic.audit.verify import Finding

_SHOWN = 20
"""Lines of a long list."""
_IN_A_FILE = 500
"""Columns of a file or pipe, where nothing must be cut."""


@click.group("audit")
def command() -> None:
    """Tell where a critic came from, whether its record holds, and whether it comes again: docs/audit.md.

    SUBJECT is a file or folder that the pipeline makes, a release (v1.2.0), a git revision, a Bento
    (edit_critic:v1.2.0-cpu-1), weights (sha256:...), or a file with an answer of the service (answer.json).
    """


@command.command(
    epilog="""\b
Examples:
  critic audit trace models/grpo
  critic audit trace v1.2.0 --html lineage.html
  curl -s ... /score > answer.json; critic audit trace answer.json"""
)
@click.argument("subject")
@click.option("--full", is_flag=True, help="Whole hashes, all params and all modules.")
@click.option("--mermaid", is_flag=True, help="As a Mermaid flowchart.")
@click.option("--html", "page", type=click.Path(path_type=Path, dir_okay=False), help="Write a page.")
def trace(subject: str, full: bool, mermaid: bool, page: Path | None) -> None:
    """Show what SUBJECT was made of, back to params.yaml and raw rows."""
    from rich.console import Console

    from critic.audit import resolve
    from critic.audit import trace as lineage

    with _told():
        found = resolve.find(Path.cwd(), subject)
        if mermaid:
            click.echo(lineage.as_mermaid(found.record, found.path), nl=False)
            return
        if page is not None:
            partial = page.with_name(f".{page.name}.partial")
            partial.write_text(lineage.as_html(found), encoding="utf-8")
            partial.replace(page)
            click.echo(f"Wrote {page}")
            return
        console = Console(soft_wrap=True, width=None if sys.stdout.isatty() else _IN_A_FILE)
        console.print(lineage.as_tree(found, in_full=full))
        console.print("\nTraining rows")
        for path, digest in lineage.rows(found).items():
            console.print(f"  {path}  sha256 {digest}")
        where = found.record.commit
        console.print(
            f"\nparams.yaml: `git show {where[:12]}:params.yaml`" if where else "\nparams.yaml: this checkout's"
        )


@command.command(
    epilog="""\b
Examples:
  critic audit diff v1.1.0 v1.2.0
  critic audit diff v1.2.0 models/grpo --json"""
)
@click.argument("a")
@click.argument("b")
@click.option("--json", "as_json", is_flag=True, help="As JSON, whole.")
def diff(a: str, b: str, as_json: bool) -> None:
    """Show what differs between two critics, and where their scores do."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from critic.audit import diff, resolve

    with _told():
        old, new = resolve.find(Path.cwd(), a), resolve.find(Path.cwd(), b)
        found = [*diff.differ(old, new)]
        try:
            rows, scores = diff.row_gaps(old.record, new.record), diff.score_gaps(old, new)
        except (FileNotFoundError, KeyError) as error:
            raise click.ClickException(f"{error}: `dvc pull` brings tables that aren't here") from None
    moved = scores[scores["gap"].abs() > 0]
    if as_json:
        content = {
            "differences": [vars(difference) for difference in found],
            "rows": rows,
            "scores": json.loads(moved.to_json(orient="records")),
        }
        click.echo(json.dumps(content, indent=2))
        return
    console = Console()
    if not found and moved.empty:
        console.print(f"{a} and {b} are the same critic, of the same record.")
        return
    table = Table("", "where", a, b)
    for difference in found:
        table.add_row(*map(escape, (difference.kind, difference.where, difference.a[:40], difference.b[:40])))
    console.print(table)
    for name, changes in rows.items():
        told = [f"{len(ids)} {kind} ({', '.join(ids[:3])}…)" for kind, ids in changes.items() if ids]
        console.print(f"{name}: {', '.join(told) or 'the same rows in another order or form'}")
    console.print(
        f"{len(moved)} of {len(scores)} edits of the test that both scored have another score, "
        f"{scores['gap'].abs().mean():.3f} points off on average"
    )
    table = Table("edit", a, b, "gap")
    for row in moved.head(_SHOWN).itertuples():
        table.add_row(escape(str(row.id)), f"{row.score_a:.2f}", f"{row.score_b:.2f}", f"{row.gap:+.2f}")
    console.print(table)


@command.command(
    epilog="""\b
Examples:
  critic audit verify
  critic audit verify --statement critic.intoto.json --key auditor.pub"""
)
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@click.option(
    "--statement", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="A signed statement, too."
)
@click.option(
    "--key", type=click.Path(path_type=Path, exists=True), help="The public key that it must be signed by."
)
def verify(as_json: bool, statement: Path | None, key: Path | None) -> None:
    """Check the record of this checkout and of all its releases against what is there, and run nothing.

    Exit code 1: it doesn't hold, and each problem is named. Files are hashed anew, the cache's among them.
    """
    from critic.audit import attestation, releases, resolve
    from critic.audit.verify import Finding
    from critic.audit.verify import verify as check
    from critic.release.checkout import require_at_rest

    if (statement is None) != (key is None):
        raise click.UsageError("--statement and --key go together")
    with _told():
        require_at_rest(Path.cwd())
        found = [*check(Path.cwd()), *releases.check_releases(Path.cwd())]
        if statement is not None and key is not None:
            try:
                envelope = json.loads(statement.read_text())
            except ValueError as error:
                raise click.ClickException(f"{statement} is no JSON: {error}") from None
            signed = attestation.read_envelope(envelope, key)
            try:
                told = attestation.differing(signed, Path.cwd())
                why = f"{told}: the record of this checkout has another" if told else ""
            except resolve.SubjectError as error:
                why = str(error)
            if why:
                means = "this record, or this critic, isn't what was signed"
                found.insert(0, Finding("release", str(statement), why, means))
    problems = [finding for finding in found if finding.is_problem]
    if as_json:
        click.echo(json.dumps([vars(finding) for finding in found], indent=2))
    else:
        _print(found)
    if problems:
        raise SystemExit(1)


@command.command(
    epilog="""\b
Examples:
  critic audit rerun
  critic audit rerun v1.2.0 --keep again
  critic audit rerun --until build --here"""
)
@click.argument("revision", default="HEAD")
@click.option("--until", metavar="STAGE", help="The last stage to run; all before it run as well.")
@click.option("--here", is_flag=True, help="In this environment, not in one made from the lock.")
@click.option("--keep", type=click.Path(path_type=Path), help="Make the clone in this new folder, and keep it.")
@click.option("--json", "as_json", is_flag=True, help="The verdict as JSON, after all else.")
def rerun(revision: str, until: str | None, here: bool, keep: Path | None, as_json: bool) -> None:
    """Make the critic of a commit or release again in a clean clone, and compare it with its record.

    It takes as long as `make setup` and `make repro` together. Exit code 1: it isn't reproduced.
    """
    import tempfile

    from rich.console import Console
    from rich.markdown import Markdown

    from critic.audit.rerun import RerunError
    from critic.audit.rerun import rerun as run
    from critic.audit.resolve import revision_of

    with _told(), tempfile.TemporaryDirectory(prefix="critic-") as scratch:
        clone = keep or Path(scratch) / "clone"
        try:
            verdict = run(
                Path.cwd(), revision_of(Path.cwd(), revision), clone, until=until, here=here, say=click.echo
            )
        except RerunError as error:
            hint = "" if keep else " (--keep FOLDER keeps the clone)"
            raise click.ClickException(f"{error}{hint}") from None
    if as_json:
        click.echo(json.dumps(verdict.as_json(), indent=2))
    else:
        Console().print(Markdown(verdict.markdown()))
    if verdict.outcome == "not reproduced":
        raise SystemExit(1)


@command.command(
    epilog="""\b
Examples:
  critic audit coverage
  critic audit coverage --profile full --constants"""
)
@click.option("--profile", help="Of params.yaml; the active one if not given.")
@click.option("--constants", is_flag=True, help="List the numbers that stand in code, too.")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def coverage(profile: str | None, constants: bool, as_json: bool) -> None:
    """Change each key of params.yaml in turn, in a copy, and show which stages DVC would run again.

    Exit code 1: a key changes nothing, or no code reads it.
    """
    from rich.console import Console
    from rich.progress import track
    from rich.table import Table

    from critic.audit import coverage as covering

    errors = Console(stderr=True)
    try:
        keys = covering.covered(
            Path.cwd(), profile, lambda names: track(names, "Changing keys", console=errors, transient=True)
        )
    except (KeyError, OSError) as error:
        raise click.ClickException(f"{error}: see dvc.yaml and the profiles of params.yaml") from None
    numbers = covering.constants(Path.cwd()) if constants else []
    if as_json:
        content: dict[str, Any] = {"keys": [{**vars(key), "fault": key.fault} for key in keys]}
        if constants:
            content["constants"] = [vars(number) for number in numbers]
        click.echo(json.dumps(content, indent=2))
    else:
        console = Console()
        table = Table("key", "runs again", "read in")
        for key in keys:
            told = ", ".join(key.stages) or "no stage"
            table.add_row(key.key, f"[red]{key.fault}[/red]" if key.fault else told, ", ".join(key.readers[:3]))
        console.print(table)
        if constants:
            table = Table("constant", "value", "editing it runs again")
            for number in numbers:
                table.add_row(number.where, number.value[:60], ", ".join(number.stages))
            console.print(table)
        faults = sum(key.fault is not None for key in keys)
        console.print(f"{len(keys)} keys, {faults} of them at fault")
    if any(key.fault for key in keys):
        raise SystemExit(1)


@command.command(
    epilog="""\b
Examples:
  critic audit export v1.2.0 --out critic.intoto.json
  critic audit export v1.2.0 --key ~/.ssh/id_ed25519 --out critic.intoto.json"""
)
@click.argument("subject")
@click.option(
    "--key", type=click.Path(path_type=Path, exists=True), help="Sign it with this private key (Ed25519)."
)
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), help="A file; standard output if not given."
)
def export(subject: str, key: Path | None, out: Path | None) -> None:
    """Write SUBJECT's record as an in-toto statement with SLSA provenance, signed if there is a key.

    A key with a password asks for it; CRITIC_KEY_PASSWORD gives it without asking.
    """
    import os

    from critic.audit import attestation, resolve

    with _told():
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
    partial = out.with_name(f".{out.name}.partial")
    partial.write_text(text)
    partial.replace(out)
    click.echo(f"Wrote {out}")


@contextmanager
def _told() -> Iterator[None]:
    """What an audit can't do, without a traceback."""
    from critic import params
    from critic.audit.attestation import SignatureError
    from critic.audit.records import RecordError
    from critic.audit.resolve import SubjectError
    from critic.release.checkout import CheckoutError

    try:
        yield
    except (CheckoutError, RecordError, SubjectError, SignatureError, params.ParamsError) as error:
        raise click.ClickException(str(error)) from None


def _print(found: "list[Finding]") -> None:
    from rich.console import Console
    from rich.markup import escape

    console = Console(soft_wrap=True)
    problems = [finding for finding in found if finding.is_problem]
    for finding in found:
        mark = "[red]problem[/red]" if finding.is_problem else "[dim]note[/dim]"
        console.print(f"{mark} [b]{finding.check}[/b] {escape(finding.where)}: {escape(finding.what)}")
        console.print(f"        {escape(finding.means)}", style="dim")
    if problems:
        console.print(f"{len(problems)} problem{'s' if len(problems) > 1 else ''}: the record doesn't hold.")
    else:
        console.print("The record holds: every file, hash, param and tag is as it says.")
