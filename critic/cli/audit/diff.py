"""`critic audit diff`: the differences between two critics."""

import json
from pathlib import Path

import click

_SHOWN = 20
"""Rows shown of a long table."""


@click.command(
    "diff",
    epilog="""\b
Examples:
  critic audit diff v1.1.0 v1.2.0
  critic audit diff v1.2.0 models/grpo --json""",
)
@click.argument("a")
@click.argument("b")
@click.option("--json", "as_json", is_flag=True, help="Print all differences as JSON.")
def command(a: str, b: str, as_json: bool) -> None:
    """Show the differences of two critics and of their scores."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

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
