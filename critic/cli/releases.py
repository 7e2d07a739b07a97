"""`critic releases`: the critics that were released, and the one in service."""

import json
from pathlib import Path

import click


@click.command(
    "releases",
    epilog="""\b
Examples:
  critic releases
  critic releases --json
  bento=$(critic releases --bento) && bentoml serve $bento""",
)
@click.option("--bento", is_flag=True, help="Only the champion's Bento, of BentoML's store on this machine.")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def command(bento: bool, as_json: bool) -> None:
    """List the releases of this checkout, the newest last, and say which one is in service.

    A release is a git tag critic@VERSION; the tag critic#champion#N of the highest N is on the one in service.
    """
    from rich.console import Console
    from rich.table import Table

    from critic import params
    from critic.release import promotion, registry
    from critic.release.checkout import CheckoutError, git

    repository = Path.cwd()
    try:
        champion = registry.champion(repository)
        if bento:
            variant = params.load(params.Release, repository / params.FILE).variant
            found = promotion.find_bento(repository, champion.version, variant) if champion else None
            if found is None:
                raise click.ClickException(
                    "there is no champion yet: `critic promote` makes one"
                    if champion is None
                    else f"BentoML's store has no Bento of {champion.version}: `critic package --rev "
                    f"critic@{champion.version} --variant {variant}` builds it"
                )
            click.echo(found)
            return
        rows = []
        for release in registry.releases(repository):
            try:
                metrics = json.loads(git(repository, "show", f"{release.commit}:reports/metrics.json"))
                score = metrics["grpo"]["main_score"]["value"]
            except (CheckoutError, KeyError, ValueError):
                score = None
            rows.append(
                {
                    "version": release.version,
                    "commit": release.commit,
                    "day": git(repository, "show", "-s", "--format=%cs", release.commit),
                    "main_score": score,
                    "champion": champion is not None and release.version == champion.version,
                }
            )
    except (CheckoutError, params.ParamsError) as error:
        raise click.ClickException(str(error)) from None
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    if not rows:
        click.echo(
            "Nothing is released yet: `critic promote` releases the critic of this checkout, if it is good."
        )
        return
    table = Table("version", "commit", "day", "main score", "")
    for row in rows:
        score = row["main_score"]
        table.add_row(
            row["version"],
            row["commit"][:12],
            row["day"],
            "" if score is None else f"{score:.3f}",
            "champion" if row["champion"] else "",
        )
    Console().print(table)
