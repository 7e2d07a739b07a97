"""`critic judge`: score a file or folder of edits with another judge than the critic."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from critic.cli.options import COLUMNS, bulk_options, finish
from critic.scoring.judges import Kind, kinds


class _Judges(click.Group):
    """A command for each judge in critic/scoring/judges/."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(kinds())

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        kind = kinds().get(cmd_name)
        return None if kind is None else _command(cmd_name, kind)


@click.group(
    "judge",
    cls=_Judges,
    epilog="""\b
Examples:
  critic judge ssim pairs.csv --out ssim.jsonl
  critic judge viescore pairs.csv --out viescore.jsonl -m http://127.0.0.1:8000/v1
  critic judge editscore edits/ --out editscore.jsonl""",
)
def command() -> None:
    """Score edits with another judge, so that it can be measured as the critic is.

    PAIRS, --out and the file of failures are those of `critic score`. The score in the file is from 1 to 5, higher
    is better; `raw` keeps the judge's own number, in the range that is given here. See docs/score.md.
    """


def _command(name: str, kind: Kind) -> click.Command:
    mapped = "linearly" if kind.scale.linear else "in the same order, see docs/score.md"

    @click.command(
        name,
        help=f"{kind.summary}\n\nIts own range: {kind.scale}. It is mapped onto 1 to 5 {mapped}.",
        short_help=f"{kind.summary} [{kind.scale}]",
    )
    @click.argument("pairs", type=click.Path(path_type=Path))
    @click.option(
        "--out",
        required=True,
        type=click.Path(path_type=Path),
        help="The .jsonl file to which scores are appended.",
    )
    @bulk_options
    def score(pairs: Path, out: Path, retry_failed: bool, limit: int | None, **options: Any) -> None:
        from critic.scoring.inputs import read_pairs  # slow imports, after the checks of the options
        from critic.scoring.resumable import score_to_file

        table = read_pairs(pairs, **{name: options.pop(name) for name in COLUMNS})
        if table.generated:
            raise click.ClickException(
                f"{pairs} holds pictures that were made from text: these judges score edits only"
            )
        judge = kind.open(**options)
        tally = score_to_file(
            replace(table, resize=judge.resize),
            lambda: judge,
            out,
            {"judge": judge.name, **judge.settings},
            batch_size=judge.batch_size,
            retry_failed=retry_failed,
            limit=limit,
        )
        finish(tally, out)

    score.params[2:2] = kind.options
    return score
