"""`critic contract`: learn the prompt contract of a critic that was trained elsewhere."""

import shlex
from pathlib import Path

import click

from critic.cli.options import OUT


@click.group("contract")
def command() -> None:
    """Make prompt contracts: the text, chat template and picture sizes that a critic was trained on.

    See docs/score.md.
    """


@command.command(
    "learn",
    epilog="""\b
Examples:
  critic contract learn Coobiw/IE-Bench-CoT-mixed
  critic contract learn set.json --model models/other-critic --out critic/contracts/other.yaml
  critic contract learn set.json --model models/small-critic --min-pixels 3136 --max-pixels 50176""",
)
@click.argument("sft_set", metavar="SET")
@click.option("--revision", default="main", help="The commit, tag or branch of a SET on the hub.")
@click.option(
    "-m",
    "--model",
    default="Coobiw/IE-Critic-R1-7B",
    help="The critic: a folder, or a name on the hub. Only its tokenizer and processor files are read.",
)
@click.option("--model-revision", default="main", help="The commit, tag or branch of a model on the hub.")
@click.option(
    "--min-pixels",
    type=click.IntRange(min=1),
    help="Enlarge pictures of a smaller area, in pixels.  [default: 262144]",
)
@click.option(
    "--max-pixels",
    type=click.IntRange(min=1),
    help="Reduce pictures of a larger area, in pixels.  [default: 1048576]",
)
@click.option(
    "--out",
    type=OUT,
    help="The .yaml file to write.  [default: the model's name with .yaml, in this folder]",
)
def learn(
    sft_set: str,
    revision: str,
    model: str,
    model_revision: str,
    min_pixels: int | None,
    max_pixels: int | None,
    out: Path | None,
) -> None:
    """Learn a contract from the SFT set that a critic was trained on.

    SET is a data set on the hub (downloaded whole), as owner/name, or a .json, .jsonl or .parquet file (without
    its pictures), in a layout of docs/data.md. Every row holds the prompt with another instruction. The command
    finds the text around the instruction, for answers with and without reasoning, and takes the chat template and
    the start of the answer from the model's own files. The default limits of the pictures' area are those with
    which IE-Critic-R1 was trained: the files of a model have the limits of its base.

    The contract renders every row of SET byte for byte. Rows that it can't render are listed with the first
    difference: those with another prompt, and those whose instruction holds special tokens, which contracts never
    pass on.
    """
    if (min_pixels is None) != (max_pixels is None):
        raise click.UsageError("give both --min-pixels and --max-pixels, or neither")
    out = Path(f"{Path(model).name}.yaml") if out is None else out
    if out.suffix != ".yaml":
        raise click.UsageError(f"--out {out} must end with .yaml, or no command finds it by its path")

    from critic.data import learnt_contract  # slow imports
    from critic.data.readers.hub import fetch
    from critic.data.readers.rationales import read_file, read_snapshot
    from critic.files import write_text

    chosen = None if min_pixels is None or max_pixels is None else (min_pixels, max_pixels)
    if Path(sft_set).suffix in (".json", ".jsonl", ".parquet") or Path(sft_set).exists():
        origin, table = sft_set, read_file(Path(sft_set), images=False)
    else:
        snapshot = fetch(sft_set, revision)
        origin, table = f"{sft_set} at {snapshot.commit}", read_snapshot(snapshot, images=False)
    template = learnt_contract.read_template(model, model_revision)
    learnt = learnt_contract.learn(table, template, name=out.stem, origin=origin, pixels=chosen)
    write_text(out, learnt.contract.text)

    rows = ", ".join(f"{count} in mode {mode}" for mode, count in learnt.rows.items())
    exact = len(table) - len(learnt.failures)
    click.echo(f"{out} renders {exact} of {len(table)} rows byte for byte ({rows})")
    for line in learnt.failures:
        click.echo(f"  not {line}")
    for note in learnt.notes:
        click.echo(f"Check: {note}. If not, add a column edit_inst to the set.")
    click.echo(f"Chat template and prefill ({learnt.contract.prefill!r}) from the files of {model}")
    source = "from --min-pixels and --max-pixels" if chosen else "with which IE-Critic-R1 was trained"
    click.echo(f"Pictures of {learnt.contract.min_pixels} to {learnt.contract.max_pixels} pixels, {source}")
    if not chosen and template.pixels not in (None, learnt_contract.UPSTREAM_PIXELS):
        others = "{} to {}".format(*template.pixels)
        click.echo(f"  The files of {model} have {others}: choose with --min-pixels and --max-pixels")
    score = ["critic", "score", "-m", model, "--contract", str(out), "--source", "source.png"]
    score += ["--edited", "edited.png", "--instruction", "make the cat red"]
    score += ["--revision", model_revision] * (model_revision != "main")
    click.echo(f"Score an edit with it:\n  {shlex.join(score)}")
