"""What `critic score` does: apart from its options, since torch takes seconds to import."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from socket import gethostname
from typing import Any

import click
from PIL import Image
from rich.console import Console
from rich.panel import Panel
from rich.text import Text

from critic.checkpoints import CheckpointError, load_processor
from critic.data.readers.rows import SourceError
from critic.edits import Edit, ImageError, decode_image
from critic.engines.http import ServerError
from critic.engines.load import contract_of, default_dtype, identify, open_engine
from critic.prompts import Contract, ContractError
from critic.results import Mode, Result
from critic.scoring.inputs import Pairs, read_pairs
from critic.scoring.ray_workers import ScaleError, on_workers
from critic.scoring.resumable import OutputError, Tally, results_to_file, score_to_file
from critic.scoring.scorer import Scorer

_BATCHES_AT_ONCE = 4
"""Batches that an engine is given in one call: the longer the call, the less it idles at the call's end."""


@contextmanager
def _told() -> Iterator[None]:
    """What can't be done is told in a line."""
    try:
        yield
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


@dataclass(frozen=True)
class _Critic:
    """A critic and how it scores, as the options say and as workers are sent it; `engine` is for `open_engine`."""

    contract: Contract
    mode: Mode
    samples: int
    temperature: float
    seed: int
    engine: dict[str, Any]

    @classmethod
    def chosen(
        cls, contract: str | None, mode: Mode, samples: int, temperature: float, seed: int, **engine: Any
    ) -> "_Critic":
        found = contract_of(engine["model"], contract, engine["revision"])
        if engine["kind"] != "http":
            engine["dtype"] = engine["dtype"] or default_dtype()
        return cls(found, mode, samples, temperature, seed, engine)

    def open(self) -> Scorer:
        cached = self.mode in ("average", "expected")
        engine = open_engine(contract=self.contract, seed=self.seed, prefix_caching=cached, **self.engine)
        return Scorer(engine, self.contract, self.mode, self.samples, self.temperature, self.seed)

    def settings(self, name: str) -> dict[str, Any]:
        """All that a verdict of the critic of this name depends on."""
        engine = self.engine
        settings = {"model": name, "contract": self.contract.hash, "mode": self.mode, "engine": engine["kind"]}
        if engine["kind"] == "http":
            settings["server"] = engine["model"]
        settings |= {"dtype": engine["dtype"], "max_tokens": engine["max_tokens"]}
        if self.mode == "average":
            settings |= {"samples": self.samples, "temperature": self.temperature, "seed": self.seed}
        return settings


@_told()
def score_one(
    edit: tuple[Path | None, Path | None, str | None], picture: tuple[Path | None, str | None], **how: Any
) -> Result:
    """The verdict on one edit, or on one generated picture: whichever has all of its parts."""
    critic = _Critic.chosen(**how)
    item = _item(*edit, *picture)
    if item.source is None:
        _check_words(critic.contract)
    (verdict,) = critic.open()([item])
    return verdict


@_told()
def score_many(
    path: Path,
    out: Path,
    columns: Mapping[str, str | None],
    *,
    retry_failed: bool,
    limit: int | None,
    workers: int | None,
    cluster: str | None,
    **how: Any,
) -> Tally:
    """Score a table or folder into a file, on so many `workers`, or without any in this process.

    The critic is loaded once it is clear that the file can be written and that there is something left to score.
    """
    if workers:
        path, how["model"] = path.absolute(), _absolute(how["model"])
    critic = _Critic.chosen(**how)
    open_pairs = partial(_open_pairs, critic.contract, path, **columns)
    table, batch_size = open_pairs(), _BATCHES_AT_ONCE * critic.engine["batch_size"]
    if table.generated:
        _check_words(critic.contract)
    if critic.engine["kind"] == "http":
        name = critic.open().engine.name
    else:
        model, revision = critic.engine["model"], critic.engine["revision"]
        load_processor(model, critic.contract, revision)  # an error here rather than when the file is begun
        name = identify(model, revision)
    open_judge = partial(_open_same, name, critic)
    if workers:
        judged = on_workers(open_pairs, open_judge, workers=workers, batch_size=batch_size, address=cluster)
        write = partial(results_to_file, table, judged)
    else:
        write = partial(score_to_file, table, open_judge, batch_size=batch_size)
    return write(out, critic.settings(name), retry_failed=retry_failed, limit=limit)


def _open_pairs(contract: Contract, path: Path, **columns: str | None) -> Pairs:
    """The pairs, their pictures brought to the contract's sizes as they are decoded."""
    return replace(read_pairs(path, **columns), resize=contract.resize)


def _open_same(name: str, critic: _Critic) -> Scorer:
    """The scorer, if it is the critic that the run was begun with: in a worker, or once it is needed."""
    scorer = critic.open()
    if scorer.engine.name != name:
        raise CheckpointError(
            f"on {gethostname()} the critic is {scorer.engine.name}, and not {name}: put the same there"
        )
    return scorer


def _check_words(contract: Contract) -> None:
    if contract.generated_text is None:
        raise ContractError(
            f"contract {contract.name} has no `generated_text`, so its critics can't judge generated pictures: "
            "take a critic whose contract has it, as ie-critic"
        )


def _absolute(name: str) -> str:
    """A path as it can be found from elsewhere; a name that is none as it is."""
    return str(Path(name).absolute()) if Path(name).exists() else name


def _item(
    source: Path | None, edited: Path | None, instruction: str | None, image: Path | None, prompt: str | None
) -> Edit:
    if image is not None:
        return Edit("picture", None, _picture(image), prompt or "")
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


def show(verdict: Result) -> None:
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
