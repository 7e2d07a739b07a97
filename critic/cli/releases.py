"""`critic releases`: list the released critics and the champion."""

import json
from dataclasses import asdict
from pathlib import Path

import click


@click.command(
    "releases",
    epilog="""\b
Examples:
  critic releases
  critic releases --json
  bento=$(critic releases --bento) && bentoml serve $bento
  MLFLOW_TRACKING_URI=http://mlflow.example:5000 critic releases --mlflow""",
)
@click.option("--bento", is_flag=True, help="Print only the champion's Bento in BentoML's store on this machine.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
@click.option("--mlflow", is_flag=True, help="Log this record and all releases to MLflow, and move its champion.")
def command(bento: bool, as_json: bool, mlflow: bool) -> None:
    """List the releases of this checkout, the newest last, and show which one is the champion.

    A release is a git tag critic@VERSION; the tag critic#champion#N with the highest N marks the champion, the
    critic in service.
    """
    from rich.console import Console
    from rich.table import Table

    from critic import params
    from critic.release import registry
    from critic.release.git import CheckoutError, git
    from critic.release.promotion import find_bento

    repository = Path.cwd()
    if mlflow:
        from critic.release.mlflow_mirror import mirror

        mirror(repository, click.echo)
        return
    champion = registry.champion(repository)
    if bento:
        if champion is None:
            raise click.ClickException("there is no champion yet: run `critic promote`")
        variant = params.load(params.Release).variant
        found = find_bento(repository, champion.version, variant)
        if found is None:
            raise click.ClickException(
                f"BentoML's store has no Bento of {champion.version}: build it with `critic package --rev "
                f"critic@{champion.version} --variant {variant}`"
            )
        click.echo(found)
        return
    rows = []
    for release in registry.releases(repository):
        try:
            metrics = json.loads(git(repository, "show", f"{release.commit}:reports/metrics.json"))
            score = metrics["grpo"]["main_score"]["value"]
            leak = metrics["grpo"].get("split", {}).get("note", "")
        except (CheckoutError, KeyError, ValueError):
            score, leak = None, ""
        day = git(repository, "show", "-s", "--format=%cs", release.commit)
        shown = {"day": day, "main_score": score, "champion": release == champion}
        rows.append(asdict(release) | shown | ({"test_split": leak} if leak else {}))
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    if not rows:
        click.echo("There is no release yet: `critic promote` releases the critic of this checkout.")
        return
    table = Table("version", "commit", "day", "main score", "")
    for row in rows:
        score = "" if row["main_score"] is None else f"{row['main_score']:.3f}"
        score += f" (test split {row['test_split']})" if "test_split" in row else ""
        mark = "champion" if row["champion"] else ""
        table.add_row(row["version"], row["commit"][:12], row["day"], score, mark)
    Console().print(table)
