"""`critic probe`: does a critic look at the pictures and the instruction?"""

import shlex
import sys
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from critic.cli import options
from critic.cli.tables import cell, console, show_table
from critic.files import write_json
from critic.scoring.judges import kinds

if TYPE_CHECKING:  # pandas, SciPy and torch are slow to import, and --help doesn't need them
    from critic.cli.scoring import Ready
    from critic.evaluation.probing import Probing
    from critic.scoring.inputs import Pairs

NAMES = (
    *("swapped", "other_edit", "unedited", "black", "noise", "blur", "jpeg_5", "jpeg_20", "jpeg_50"),
    *("mirrored", "paraphrased", "asks_for_5"),
)


@click.command(
    "probe",
    epilog="""\b
Examples:
  critic probe -m models/grpo data/validated/validation.parquet --out probes.jsonl
  critic probe -m models/7b pairs.csv --out probes.jsonl --edits 300 --json probes.json
  critic probe --judge ssim pairs.csv --out ssim.jsonl
  critic probe --judge "viescore -m http://127.0.0.1:8000/v1" pairs.csv --out viescore.jsonl""",
)
@click.argument("pairs", type=click.Path(path_type=Path))
@click.option(
    "--out", required=True, type=options.OUT, help="The .jsonl file to which scores of changed edits are appended."
)
@options.model_option(options.WHICH, required=False)
@click.option("--judge", help="Another judge than a critic: a command of `critic judge`, with its options.")
@click.option(
    "--edits", default=100, type=options.COUNT, metavar="N", help="Probe N well and N badly rated edits."
)
@click.option("--ignore-mos", is_flag=True, help="Probe every edit in every way, whatever its MOS.")
@click.option(
    "--probe",
    "names",
    type=click.Choice(NAMES),
    multiple=True,
    help="Change edits in this way only. Can be given several times.",
)
@click.option(
    "--tolerance",
    default=0.5,
    type=click.FloatRange(0),
    help="Points by which a score may move and count as the same.",
)
@options.engine_options
@options.mode_options
@options.retry_failed
@options.column_options
@options.json_file
@options.n_boot
@click.option("--seed", default=0, help="Seed of the choice of edits, of samples, and of the bootstrap.")
def command(
    pairs: Path,
    out: Path,
    judge: str | None,
    edits: int,
    ignore_mos: bool,
    names: tuple[str, ...],
    tolerance: float,
    retry_failed: bool,
    json_file: Path | None,
    n_boot: int,
    **how: Any,
) -> None:
    """Test whether scores move as they must when edits are changed.

    PAIRS is a table as `critic score` takes it, with people's opinions in a column mos (1 to 5). Well rated edits,
    with a MOS of at least 3.5, are spoilt in several ways: their score must fall. Changes without a meaning must
    leave it where it is, and an instruction that asks for a 5 must not raise it. Without the column mos, all edits
    are taken for well rated ones; at least 10 source images are needed.

    After a kill, the same command continues where it stopped. The exit code is 1 if a probe fails. docs/probe.md
    describes the probes.
    """
    if judge is None and not how["model"]:
        raise click.UsageError("give -m, a critic, or --judge")
    other = None if judge is None else _judge(judge, of_critic={*how} - {"seed", *options.COLUMNS})
    from critic.cli.scoring import ready_critic
    from critic.evaluation.bootstrap import jsonable
    from critic.evaluation.probing import measure_probes
    from critic.evaluation.score_tables import read_scores
    from critic.scoring.inputs import read_pairs
    from critic.scoring.probes import probe
    from critic.scoring.resumable import score_to_file

    table = read_pairs(pairs, **{name: how.pop(name) for name in options.COLUMNS})
    if other and table.generated:
        raise click.ClickException(f"{pairs} holds pictures that were made from text: judges score edits only")
    ready = other or ready_critic(**how)
    seed, chosen = how["seed"], names or NAMES
    mos, sources = _opinions(table)
    mos = None if ignore_mos else mos
    found = probe(replace(table, resize=ready.resize), mos, sources, edits=edits, seed=seed, names=chosen)
    settings = {"edits": edits, "ignore_mos": ignore_mos, "probes": sorted(chosen), "seed": seed} | dict(
        ready.settings
    )
    tally = score_to_file(found, ready.open, out, settings, batch_size=ready.batch_size, retry_failed=retry_failed)
    click.echo(tally.describe())
    scores = read_scores(out)
    probing = measure_probes(scores, found.ids, found.sources, tolerance=tolerance, n_boot=n_boot, seed=seed)
    if json_file:
        write_json(json_file, jsonable(probing) | {"tolerance": tolerance, "verdict": probing.verdict})
    show(probing, is_rated=mos is not None)
    sys.exit(1 if probing.constant is not None or probing.failed else 0)


def show(probing: "Probing", *, is_rated: bool) -> None:
    """Print the figures of `critic.evaluation.probing.measure_probes`."""
    rows = [
        (
            found.probe,
            found.must,
            f"{found.n:,}",
            f"{found.failed:,}",
            cell(found.rate, 2),
            cell(found.change, 2, signed=True),
            f"{found.same:.0%}",
            {True: "passed", False: "FAILED", None: "too few"}[found.passed],
        )
        for found in probing.probes
    ]
    columns = ["", "score must", "edits", "no score", "moved so", "points", "same", ""]
    note = "" if is_rated else "No MOS was used: all edits count as well rated. "
    title = f"{probing.edits:,} edits of {probing.sources:,} source images, changed"
    out = console()
    show_table(out, title, columns, rows, f"{note}In brackets: 95 % intervals over source images.")
    out.print(probing.verdict)


def _judge(command: str, of_critic: Collection[str]) -> "Ready":
    """The judge of a command of `critic judge`, which leaves no meaning to options of a critic, by name."""
    from critic.cli.scoring import Ready

    context = click.get_current_context()
    given = [
        option.opts[-1]
        for option in context.command.params
        if option.name in of_critic and context.get_parameter_source(option.name) is ParameterSource.COMMANDLINE
    ]
    if given:
        raise click.UsageError(f"{', '.join(given)} is of a critic: leave it out, or --judge")
    try:
        name, *words = shlex.split(command) or [""]
    except ValueError as error:
        raise click.UsageError(f"--judge {command!r} can't be read: {error}") from None
    if name not in kinds():
        raise click.UsageError(f"there is no judge {name!r}: choose {', '.join(kinds())}")
    kind = kinds()[name]
    judge = kind.open(**click.Command(name, params=[*kind.options]).make_context(f"--judge {name}", words).params)
    return Ready(lambda: judge, judge.resize, {"judge": judge.name, **judge.settings}, judge.batch_size)


def _opinions(pairs: "Pairs") -> tuple[list[float] | None, list[str] | None]:
    """The MOS and the source image of each pair, as far as their table has them."""
    from critic import tables
    from critic.scoring.inputs import read_columns

    table = read_columns(pairs, ["mos", "source_id"])
    tables.filled(table, table.columns)
    sources = [*table["source_id"].map(str)] if "source_id" in table else None
    return [*tables.numbers(table, "mos", 1, 5)] if "mos" in table else None, sources
