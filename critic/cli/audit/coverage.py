"""`critic audit coverage`: the stages that run again when a key of params.yaml changes."""

import json
from pathlib import Path
from typing import Any

import click


@click.command(
    "coverage",
    epilog="""\b
Examples:
  critic audit coverage
  critic audit coverage --profile full --constants""",
)
@click.option("--profile", help="The profile of params.yaml to check instead of the active one.")
@click.option("--constants", is_flag=True, help="List the numbers in constants of the code, too.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def command(profile: str | None, constants: bool, as_json: bool) -> None:
    """Show which stages each key of params.yaml makes DVC run again.

    The exit status is 1 if a key changes nothing or no code reads it.
    """
    from rich.console import Console
    from rich.progress import track
    from rich.table import Table

    from critic.audit import coverage

    errors = Console(stderr=True)
    try:
        keys = coverage.param_coverage(
            Path.cwd(), profile, lambda names: track(names, "Changing keys", console=errors, transient=True)
        )
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
