"""The work of `critic score`, apart from its options, since torch is slow to import."""

from collections.abc import Callable, Mapping
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
from critic.edits import Edit
from critic.engines.load import contract_of, default_dtype, identify, open_engine
from critic.pictures import PictureError, decode
from critic.prompts import Contract, ContractError, load_contract
from critic.results import Mode, Result
from critic.scoring.inputs import Pairs, read_pairs
from critic.scoring.ray_workers import on_workers
from critic.scoring.resumable import ScoreBatch, Tally, results_to_file, score_to_file
from critic.scoring.scorer import Scorer
from critic.tables import TableError

_BATCHES_AT_ONCE = 4
"""Batches for an engine in one call; with longer calls it idles less at their ends."""


@dataclass(frozen=True)
class _Critic:
    """A critic and its way of scoring, from the options; workers get a copy. `engine` is for `open_engine`."""

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
        if engine["kind"] != "http":
            found = contract_of(engine["model"], contract, engine["revision"])
            engine["dtype"] = engine["dtype"] or default_dtype(engine["kind"], engine["model"], engine["revision"])
        elif contract is None:
            raise ContractError("a server doesn't give its prompt contract: name it, as --contract ie-critic")
        else:
            found = load_contract(contract)
        return cls(found, mode, samples, temperature, seed, engine)

    def open(self) -> Scorer:
        engine = open_engine(contract=self.contract, seed=self.seed, **self.engine)
        return Scorer(engine, self.contract, self.mode, self.samples, self.temperature, self.seed)

    def settings(self, name: str) -> dict[str, Any]:
        """Everything that a result of the critic of this name depends on."""
        engine = self.engine
        settings = {"model": name, "contract": self.contract.hash, "mode": self.mode, "engine": engine["kind"]}
        if engine["kind"] == "http":
            settings["server"] = engine["model"]
        settings |= {"dtype": engine["dtype"], "max_tokens": engine["max_tokens"]}
        if self.mode == "average":
            settings |= {"samples": self.samples, "temperature": self.temperature, "seed": self.seed}
        return settings


@dataclass(frozen=True)
class Ready:
    """A judge that was checked, and is opened when there is something to score.

    `resize`, `settings` and `batch_size` are for the pairs and for `score_to_file`.
    """

    open: Callable[[], ScoreBatch]
    resize: Callable[[Image.Image], Image.Image] | None
    settings: Mapping[str, Any]
    batch_size: int


def ready_critic(**how: Any) -> Ready:
    """The critic of the options."""
    return _ready(_Critic.chosen(**how))


def _ready(critic: _Critic) -> Ready:
    if critic.engine["kind"] == "http":
        name = critic.open().engine.name
    else:
        model, revision = critic.engine["model"], critic.engine["revision"]
        load_processor(model, critic.contract, revision)  # its errors come before the file is created
        name = identify(model, revision)
    batch_size = _BATCHES_AT_ONCE * critic.engine["batch_size"]
    _say_notice(critic.contract)
    return Ready(partial(_open_same, name, critic), critic.contract.resize, critic.settings(name), batch_size)


def score_one(source: Path | None, edited: Path, instruction: str, **how: Any) -> Result:
    """Score one edit, or without a source one generated picture."""
    critic = _Critic.chosen(**how)
    _say_notice(critic.contract)
    if source is None:
        _check_generated(critic.contract)
        item = Edit("picture", None, _picture(edited), instruction)
    else:
        item = Edit("edit", _picture(source), _picture(edited), instruction)
    (result,) = critic.open()([item])
    return result


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
    """Score a table or folder into a file, with `workers` processes, or in this process if it is None.

    The critic is loaded after the checks of the file, and only if there is something left to score.
    """
    if workers:
        path = path.absolute()
        if Path(how["model"]).exists():
            how["model"] = str(Path(how["model"]).absolute())
    critic = _Critic.chosen(**how)
    open_pairs = partial(_open_pairs, critic.contract, path, **columns)
    table = open_pairs()
    if table.generated:
        _check_generated(critic.contract)
    ready = _ready(critic)
    if workers:
        score_rows = on_workers(
            open_pairs, ready.open, workers=workers, batch_size=ready.batch_size, address=cluster
        )
        write = partial(results_to_file, table, score_rows)
    else:
        write = partial(score_to_file, table, ready.open, batch_size=ready.batch_size)
    return write(out, ready.settings, retry_failed=retry_failed, limit=limit)


def _open_pairs(contract: Contract, path: Path, **columns: str | None) -> Pairs:
    return replace(read_pairs(path, **columns), resize=contract.resize)


def _open_same(name: str, critic: _Critic) -> Scorer:
    """The scorer, checked to be the critic that the run started with. A worker may find another one."""
    scorer = critic.open()
    if scorer.engine.name != name:
        raise CheckpointError(
            f"on {gethostname()} the critic is {scorer.engine.name}, not {name}: put the same critic there"
        )
    return scorer


def _say_notice(contract: Contract) -> None:
    if contract.notice:
        click.echo(contract.notice, err=True)


def _check_generated(contract: Contract) -> None:
    if contract.generated_text is None:
        raise ContractError(
            f"contract {contract.name} has no `generated_text`, so its critics can't score generated pictures: "
            "choose a critic whose contract has one, as ie-critic"
        )


def _picture(path: Path) -> Image.Image:
    try:
        return decode(path.read_bytes())
    except OSError as error:
        raise TableError(f"{path} can't be read: {error.strerror}") from None
    except PictureError as error:
        raise PictureError(error.code, f"{path}: {error}") from None


def show(result: Result) -> None:
    """Print one result."""
    console = Console(highlight=False)
    if not result.ok:
        console.print(f"[bold red]no score[/] ({result.status})", end=" ")
        console.print(result.detail, markup=False)
        return
    spread = "" if result.spread is None else f" \N{PLUS-MINUS SIGN} {result.spread:.2f}"
    console.print(f"[bold]{result.score:.2f}[/]{spread} of 5 ({result.mode})")
    for axis, score in result.sub_scores.items():
        console.print(f"  {axis:<9} {score:.1f}")
    if result.reasoning:
        console.print(Panel(Text(result.reasoning), title="reasoning", title_align="left"))
