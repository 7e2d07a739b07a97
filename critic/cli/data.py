"""`critic data`: preference benchmarks and other people's MOS sets in this project's layout."""

from pathlib import Path

import click

from critic.cli.options import FILE
from critic.data.preferences import BENCHMARKS

_FOLDER = click.Path(file_okay=False, path_type=Path)
_LIST = "\n".join(f"  {name}: {one.summary}" for name, one in BENCHMARKS.items())


@click.group("data")
def command() -> None:
    """Read preference benchmarks and MOS sets that have another layout than this project's.

    See docs/evaluate.md and docs/data.md.
    """


@command.command(
    "preferences",
    help=f"""Write a preference benchmark as edits to score and pairs to evaluate.

    FOLDER gets edits.parquet, which `critic score` and `critic judge` take, pairs.jsonl for
    `critic eval --preferences`, and origin.json, which says where they come from and what was left out.

    \b
    The benchmarks:
{_LIST.replace("  ", "      ")}
    """,
    epilog="""\b
Examples:
  critic data preferences editreward-bench --out prefs/editreward
  critic data preferences genai-bench --from genai-bench/ --out prefs/genai
  critic data preferences table --from pairs.csv --out prefs/mine""",
)
@click.argument("benchmark", type=click.Choice([*BENCHMARKS]))
@click.option(
    "--from",
    "source",
    type=click.Path(exists=True, path_type=Path),
    help="A folder with the files of the data set as the hub has them, or the file.  [default: the hub]",
)
@click.option(
    "--revision", help="The commit, tag or branch on the hub.  [default: one that was looked up, or main]"
)
@click.option("--out", "folder", type=_FOLDER, required=True, help="The FOLDER to write to.")
def preferences(benchmark: str, source: Path | None, revision: str | None, folder: Path) -> None:
    of = BENCHMARKS[benchmark]
    if source and revision:
        raise click.UsageError("--revision is of the hub: give either --from or --revision")
    if source is None and of.dataset is None:
        raise click.UsageError(f"{benchmark} is read from a file: give --from")
    from importlib import import_module  # slow imports

    from critic.data.preferences.pairs import write_pairs
    from critic.data.readers.hub import Snapshot, fetch

    if source is None:
        origin = fetch(str(of.dataset), revision or of.revision)
        name = f"{origin.dataset} at {origin.commit}"
    else:
        origin, name = Snapshot(str(source), "", "", source), str(source)
    read = import_module(f"critic.data.preferences.{of.module}").read
    found = write_pairs(folder, benchmark if benchmark != "table" else None, read(origin), name)
    left_out = "".join(f"; left out: {n:,} with {reason}" for reason, n in found["left_out"].items())
    click.echo(f"{folder}: {found['pairs']:,} pairs of {found['edits']:,} edits from {name}{left_out}")
    click.echo(
        f"Score {folder / 'edits.parquet'}, then: critic eval SCORES --preferences {folder / 'pairs.jsonl'}\n"
        "Or train on them: docs/data.md#preferences"
    )


@command.command(
    "import",
    epilog="""\b
Examples:
  critic data import study/ --map map.yaml --out data/study
  critic data import all.csv --map map.yaml --out data/study""",
)
@click.argument("source", type=click.Path(exists=True, path_type=Path))
@click.option(
    "--map", "map_file", type=FILE, required=True, help="The .yaml file that names the columns and the scale."
)
@click.option("--out", "folder", type=_FOLDER, required=True, help="The FOLDER to write to.")
def import_(source: Path, map_file: Path, folder: Path) -> None:
    """Write a MOS set as a benchmark that `download.source: local` reads.

    SOURCE is a folder of train, test and, optionally, validation (.csv or .parquet), or one such file with a
    column for the split. The map names the columns and the scale of the MOS, which goes linearly onto 1 to 5:

    \b
      scale: [0, 100]
      columns:
        source: src
        edited: out
        instruction: prompt
        mos: [quality, alignment]
        mos_quality: quality
        mos_alignment: alignment

    The mos of several columns is their mean. A MOS outside the scale stops the command with an error that names
    the row. docs/data.md has the names of the columns.
    """
    from critic.data.mos_import import import_benchmark  # slow imports

    rows = import_benchmark(source, map_file, folder)
    click.echo(f"{folder}: " + ", ".join(f"{n:,} edits in {split}" for split, n in rows.items()))
