"""`critic score`: one edit, or a file or folder of them."""

import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from socket import gethostname
from typing import Any

import click
from PIL import Image
from rich.console import Console
from rich.panel import Panel
from rich.text import Text

from critic.bulk import OutputError, score_to_file, verdicts_to_file
from critic.checkpoints import CheckpointError, load_processor
from critic.cli.bulk import bulk_options, finish
from critic.cli.model import model_options, open_critic
from critic.edits import Edit, ImageError, decode_image
from critic.engines.http import ServerError
from critic.engines.opening import contract_of, default_dtype, identify
from critic.pairs import Pairs, read_pairs
from critic.prompts import Contract, ContractError
from critic.readers.rows import SourceError
from critic.scale import ScaleError, on_workers
from critic.scoring import MODES, Scorer
from critic.verdicts import Mode, Verdict

_BATCHES_AT_ONCE = 4
"""Batches that an engine is given in one call: the longer the call, the less it idles at the call's end."""


@click.command(
    "score",
    epilog="""\b
Examples:
  critic score -m models/grpo --source cat.png --edited red.png --instruction "make the cat red"
  critic score -m models/grpo pairs.csv --out scores.jsonl
  critic score -m models/grpo pairs.csv --out scores.jsonl --retry-failed
  critic score -m models/grpo edits/ --out scores.jsonl --mode average --samples 8
  critic score -m http://127.0.0.1:8000/v1 --engine http pairs.csv --out scores.jsonl
  critic score -m /shared/grpo /shared/pairs.csv --out scores.jsonl --workers 16 --ray 10.0.0.1:6379""",
)
@click.argument("pairs", required=False, type=click.Path(path_type=Path))
@click.option("--source", type=click.Path(path_type=Path), help="One edit: the picture before.")
@click.option("--edited", type=click.Path(path_type=Path), help="One edit: the picture after.")
@click.option("--instruction", help="One edit: what was asked for.")
@click.option("--out", type=click.Path(path_type=Path), help="The .jsonl file that scores are appended to.")
@model_options
@click.option(
    "--mode",
    type=click.Choice(MODES),
    default="greedy",
    show_default=True,
    help="greedy: the likeliest answer. direct: without reasoning. average: the mean of samples. expected: the "
    "mean over the probabilities of the answer's digits; not with --engine http.",
)
@click.option("--samples", default=8, show_default=True, type=click.IntRange(min=2), help="Of mode average.")
@click.option(
    "--temperature",
    default=1.0,
    show_default=True,
    type=click.FloatRange(0, min_open=True),
    help="Of mode average.",
)
@click.option("--seed", default=0, show_default=True, help="Of mode average.")
@click.option(
    "--workers", default=1, show_default=True, type=click.IntRange(min=1), help="Critics at work at a time."
)
@click.option(
    "--ray",
    "cluster",
    metavar="HOST:PORT",
    help="The Ray cluster whose machines they work on.  [default: this machine]",
)
@bulk_options
def command(
    pairs: Path | None,
    source: Path | None,
    edited: Path | None,
    instruction: str | None,
    out: Path | None,
    mode: Mode,
    samples: int,
    temperature: float,
    seed: int,
    retry_failed: bool,
    limit: int | None,
    workers: int,
    cluster: str | None,
    source_column: str | None,
    edited_column: str | None,
    instruction_column: str | None,
    id_column: str | None,
    **chosen: Any,
) -> None:
    """Score edits from 1 (very bad) to 5 (excellent).

    PAIRS is a .csv, .jsonl or .parquet file with the columns source, edited and instruction, or a folder; see
    docs/score.md. Scores are appended to --out, failures to a file beside it with their reasons; killed, the same
    command goes on where it stopped. Without PAIRS, one edit is scored and shown. Exits with 1 if any edit failed.
    """
    one = (source, edited, instruction)
    if pairs is None and None in one:
        raise click.UsageError("give PAIRS and --out, or --source, --edited and --instruction")
    if pairs is not None and (out is None or any(given is not None for given in one)):
        raise click.UsageError("PAIRS goes with --out, and without --source, --edited and --instruction")
    if mode == "expected" and chosen["engine"] == "http":
        raise click.UsageError(
            "--mode expected needs the probabilities of tokens: take --engine vllm or transformers"
        )
    spread = workers > 1 or cluster is not None
    if spread and (pairs is None or chosen["engine"] == "http"):
        raise click.UsageError(
            "--workers and --ray go with PAIRS and --engine vllm or transformers; "
            "a server is sent as many requests at a time as --batch-size says"
        )
    try:
        contract = contract_of(chosen["model"], chosen.pop("contract"), chosen["revision"])
        if chosen["engine"] != "http":
            chosen["dtype"] = chosen["dtype"] or default_dtype()
        if spread:
            chosen["model"] = _absolute(chosen["model"])
        open_scorer = partial(_open_scorer, chosen, contract, mode, samples, temperature, seed)
        if pairs is None:
            edit = _edit(source, edited, instruction)
            (verdict,) = open_scorer()([edit])
            show(verdict)
            sys.exit(0 if verdict.ok else 1)
        assert out is not None
        open_pairs = partial(
            _open_pairs,
            contract,
            pairs.absolute() if spread else pairs,
            source_column=source_column,
            edited_column=edited_column,
            instruction_column=instruction_column,
            id_column=id_column,
        )
        table, batch_size = open_pairs(), _BATCHES_AT_ONCE * chosen["batch_size"]
        if spread:
            load_processor(chosen["model"], contract, chosen["revision"])  # an error here rather than in workers
            name = identify(chosen["model"], chosen["revision"])
            open_judge = partial(_open_same, name, open_scorer)
            judged = on_workers(open_pairs, open_judge, workers=workers, batch_size=batch_size, address=cluster)
            write = partial(verdicts_to_file, table, judged)
        else:
            scorer = open_scorer()
            name = scorer.engine.name
            write = partial(score_to_file, table, scorer, batch_size=batch_size)
        settings = {"model": name, "contract": contract.hash, "mode": mode, "engine": chosen["engine"]}
        if chosen["engine"] == "http":
            settings["server"] = chosen["model"]
        drawn = {"samples": samples, "temperature": temperature, "seed": seed} if mode == "average" else {}
        settings |= {"dtype": chosen["dtype"], "max_tokens": chosen["max_tokens"], **drawn}
        tally = write(out, settings, retry_failed=retry_failed, limit=limit)
    except (
        SourceError,
        OutputError,
        ContractError,
        CheckpointError,
        ServerError,
        ImageError,
        ScaleError,
    ) as error:
        raise click.ClickException(str(error)) from None
    finish(tally, out)


def _open_pairs(contract: Contract, path: Path, **columns: str | None) -> Pairs:
    """The pairs, their pictures brought to the contract's sizes as they are decoded."""
    return replace(read_pairs(path, **columns), resize=contract.resize)


def _open_scorer(
    chosen: dict[str, Any], contract: Contract, mode: Mode, samples: int, temperature: float, seed: int
) -> Scorer:
    engine = open_critic(**chosen, contract=contract, seed=seed, prefix_caching=mode in ("average", "expected"))
    return Scorer(engine, contract, mode, samples, temperature, seed)


def _open_same(name: str, open_scorer: Callable[[], Scorer]) -> Scorer:
    """In a worker: the scorer, if it is the critic that the run was begun with."""
    scorer = open_scorer()
    if scorer.engine.name != name:
        raise CheckpointError(
            f"on {gethostname()} the critic is {scorer.engine.name}, and not {name}: put the same there"
        )
    return scorer


def _absolute(name: str) -> str:
    """A path as it can be found from elsewhere; a name that is none as it is."""
    return str(Path(name).absolute()) if Path(name).exists() else name


def _edit(source: Path | None, edited: Path | None, instruction: str | None) -> Edit:
    assert source is not None
    assert edited is not None
    return Edit("edit", _picture(source), _picture(edited), instruction or "")


def _picture(path: Path) -> Image.Image:
    try:
        return decode_image({"bytes": path.read_bytes(), "path": path.name})
    except OSError as error:
        raise ImageError(f"{path} can't be read: {error.strerror}") from None
    except ImageError as error:
        raise ImageError(f"{path}: {error}") from None


def show(verdict: Verdict) -> None:
    """One verdict, for people."""
    console = Console(highlight=False)
    if not verdict.ok:
        console.print(f"[bold red]no score[/] ({verdict.status})", end=" ")
        console.print(verdict.detail, markup=False)
        return
    spread = "" if verdict.spread is None else f" \N{PLUS-MINUS SIGN} {verdict.spread:.2f}"
    console.print(f"[bold]{verdict.score:.2f}[/]{spread} of 5 ({verdict.mode})")
    for axis, score in verdict.sub_scores.items():
        console.print(f"  {axis:<9} {score:.1f}")
    if verdict.reasoning:
        console.print(Panel(Text(verdict.reasoning), title="reasoning", title_align="left"))
